"""Which recipe, and why: by a tournament on the person's own images, or by their number and what the person says of similarity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tlkit.features.table import feature_table
from tlkit.plan.decision import Decision
from tlkit.plan.recipe import Head, Recipe
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.recipes import RECIPES
from tlkit.strategy.axes import profile
from tlkit.strategy.tournament import Outcome, Tournament

if TYPE_CHECKING:
    import keras

    from tlkit.backbones import Backbone
    from tlkit.data.examples import Examples
    from tlkit.plan.job import Job


LARGE = 1000  # training images from which a set counts as large
MINUTES, SECONDS_PER_IMAGE, MOST_MINUTES = 1.0, 0.2, 30.0  # what a tournament may take


def choose_recipe(training_images: int, similar: bool | None = None) -> tuple[Recipe, Decision]:
    """The recipe for a data set, and the decision with its evidence for the plan.

    training_images: how many. similar: whether the pictures are like ImageNet's (photographs of things, animals,
    scenes); None = not said, taken as similar, and the decision says so.

    >>> choose_recipe(390)[0].name
    'small_similar'
    """
    size = "large" if training_images >= LARGE else "small"
    kind = "different" if similar is False else "similar"
    recipe = RECIPES[f"{size}_{kind}"]
    said = "assumed, because `similar` was not given" if similar is None else "as you said"
    why = (
        f"{training_images:,} training images are {size} (the border is {LARGE:,}); "
        f"{kind} to ImageNet is {said}; similarity was not measured"
    )
    evidence = {"training_images": training_images, "large_from": LARGE, "similar": similar}
    return recipe, Decision("recipe", recipe.name, why, evidence)


def decide_by_tournament(
    build: Callable[[Head], keras.Model],
    backbone: Backbone,
    pool: Examples,
    training: int,
    job: Job,
    deadline: Deadline = NO_DEADLINE,
) -> tuple[Outcome, list[Decision]]:
    """Measure the two axes, let the strategies compete, and give the winner with the decisions and their evidence for the plan.

    build, pool, training: see `tlkit.features.table.feature_table`; `build` gives a classifier for a head, its weights fresh. job: its seed, epochs and batch
    size (of fine-tuning stages, None: by the number of images), and what it says of similarity. deadline: half of the time until then
    may be taken; without one, a minute and a fifth of a second per image, at most 30.
    """
    limit = min(MINUTES + SECONDS_PER_IMAGE * len(pool) / 60, MOST_MINUTES)
    if deadline != NO_DEADLINE:
        limit = max(deadline.left, 0.0) / 2 / 60
    deadline = Deadline.after(60 * limit)
    log.info(f"deciding  a tournament of strategies on held-out images, {limit:.1f} minutes at most")
    tapped = build(Head(taps="all"))
    table = feature_table(tapped, backbone, pool, training, seed=job.seed, batch_size=job.batch_size or 32)
    if table is None:
        recipe, decision = choose_recipe(training, job.similar)
        why = f"the cache has no room for features (`cache_gb`), so no tournament was held; {decision.why}"
        return Outcome(recipe, why, []), [replace(decision, why=why)]
    axes = profile(tapped, backbone, table, pool, seed=job.seed)
    outcome = Tournament(
        build, backbone, table, pool, job.seed, deadline, job.epochs, job.batch_size, axes["similar"]
    ).run()
    size = "large" if training >= LARGE else "small"
    kind = {True: "similar", False: "different", None: "not known to be different"}[axes["similar"]]
    evidence = {"contenders": outcome.contenders, "minutes_at_most": round(limit, 2)}
    return outcome, [
        Decision("measured", f"{size}, {kind}", "; ".join(axes["sentences"]), axes),
        Decision("recipe", outcome.recipe.name, outcome.why, evidence),
    ]
