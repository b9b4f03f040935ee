"""Chooses a recipe, and says why: by a tournament on the user's images, or by their number and similarity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from tlkit.evaluation.criterion import is_imbalanced
from tlkit.features.table import feature_table
from tlkit.models.inference import seconds_per_image
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.decision import Decision
from tlkit.plan.job import AUTO
from tlkit.plan.recipe import Head, Recipe
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.recipes import RECIPES
from tlkit.strategy.axes import profile
from tlkit.strategy.tournament import FEWEST_TO_MEND, Outcome, Tournament
from tlkit.strategy.tuning import BEST_COST, expected_seconds, tuning_recipe, upper_blocks, why_not_tuned
from tlkit.words import counted, roughly

if TYPE_CHECKING:
    import keras

    from tlkit.backbones import Backbone
    from tlkit.checkpoints import Checkpoints
    from tlkit.data.examples import Examples
    from tlkit.plan.job import Job


STEP = "decide"  # what the time of a tournament is counted as, see `tlkit.progress.Clock`
LARGE = 1000  # training images from which a set counts as large
MINUTES, SECONDS_PER_IMAGE, MOST_MINUTES = 1.0, 1.0, 60.0  # time limit of a tournament: a base, more per image, a cap
PATIENCE = 8  # times this limit, with the effort "best"


def choose_recipe(training_images: int, similar: bool | None = None) -> tuple[Recipe, Decision]:
    """Choose a recipe by the size of the data set and its similarity to ImageNet.

    Args:
        training_images: Their number.
        similar: Whether the images are similar to ImageNet's (photographs of things, animals, scenes). None: not
            given; similar is assumed, and the decision says so.

    Returns:
        The recipe, and the decision with its evidence for the plan.

    >>> choose_recipe(390)[0].name
    'small_similar'
    """
    size = "large" if training_images >= LARGE else "small"
    kind = "different" if similar is False else "similar"
    recipe = RECIPES[f"{size}_{kind}"]
    source = "is assumed, because `similar` was not given" if similar is None else "was given"
    why = (
        f"{counted(training_images, 'training image')}, a {size} data set (large: {LARGE:,} or more); "
        f"that it is {'different from' if kind == 'different' else 'similar to'} ImageNet {source}, not measured"
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
    augmentation: Callable[[], Augmentation] = Augmentation,
    checkpoints: Checkpoints | None = None,
) -> tuple[Outcome, list[Decision]]:
    """Measure the two axes and let the strategies compete.

    Args:
        build: Makes a classifier for a head, with fresh pretrained weights.
        backbone: The backbone of these classifiers.
        pool: The training images, then the validation images.
        training: How many of them are training images.
        job: See `Tournament`. Its `similar` counts only if no tournament can be held.
        deadline: The tournament may take half of the time that is left until then, and leaves what the delivery needs.
            Without a deadline: one minute plus 1 second per image, 60 minutes at most; with the effort "best" 8 times
            that.
        augmentation: Returns the augmentation of fine-tuning. It is called only if fine-tuning takes part.
        checkpoints: Of the run, which a tournament that was stopped goes on from. Its time counts.

    Returns:
        The winner, and the decisions with their evidence for the plan.
    """
    limit, spent = minutes_at_most(len(pool), job, deadline), 0.0
    if checkpoints is not None:
        limit = checkpoints.once("tournament-limit", lambda: {"minutes": limit})["minutes"]
        spent = checkpoints.spent().get(STEP, 0.0)
    deadline = Deadline.after(60 * limit - spent)
    log.info(f"deciding  by a tournament of strategies on held-out images, {limit:.1f} minutes at most")
    tapped = build(Head(taps="all"))
    table = feature_table(tapped, backbone, pool, training, seed=job.seed, batch_size=job.batch_size or 32)
    if table is None:
        recipe, decision = choose_recipe(training, job.similar)
        why = "no tournament was held, because the cache (`cache_gb`) or the memory has no room for features"
        why = f"{why}; {decision.why}"
        return Outcome(recipe, why, []), [replace(decision, why=why)]
    axes = profile(tapped, backbone, table, pool, seed=job.seed)
    similar = axes["similar"]
    outcome = Tournament(build, backbone, table, pool, job, augmentation, deadline, similar, checkpoints).run()
    size = "large" if training >= LARGE else "small"
    kind = {True: "similar", False: "different", None: "not known to be different"}[axes["similar"]]
    evidence = {"contenders": outcome.contenders, "minutes_at_most": round(limit, 2)}
    if outcome.estimate is not None:
        evidence["cross_fitted"] = asdict(outcome.estimate)
    decisions = [
        Decision("measured", f"{size}, {kind}", "; ".join(axes["sentences"]), axes),
        Decision("recipe", outcome.recipe.name, outcome.why, evidence),
    ]
    return outcome, [*decisions, *_about_balance(outcome.recipe, job, table.labels)]


def _about_balance(recipe: Recipe, job: Job, labels: np.ndarray) -> list[Decision]:
    """What was done about classes of different sizes; nothing if they do not differ much and nothing was asked for."""
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    chosen = "prior" if recipe.prior_shift else "weights" if recipe.class_weights else "none"
    if job.balance is not None:
        return [Decision("balance", chosen, "it was asked for")]
    if not is_imbalanced(labels):
        return []
    sizes = f"the largest class has {counts.max():,} images and the smallest {counts.min():,}"
    criterion = "" if job.metric else ", so each class counts equally in the choice of the recipe"
    why = (
        "the model predicts as if all classes were equally common, which held-out images show to be better"
        if recipe.prior_shift
        else "predicting as if all classes were equally common was not better on held-out images"
    )
    evidence = {"largest": int(counts.max()), "smallest": int(counts.min())}
    return [Decision("balance", chosen, f"{sizes}{criterion}; {why}", evidence)]


def minutes_at_most(images: int, job: Job, deadline: Deadline) -> float:
    """The time limit of a tournament in minutes. images: of the training and validation splits."""
    if deadline != NO_DEADLINE:
        left = deadline.left
        return max(min(left / 2, left - delivery_seconds(images, job.report)), 0.0) / 60
    return min(MINUTES + SECONDS_PER_IMAGE * images / 60, MOST_MINUTES) * (PATIENCE if job.effort == "best" else 1)


def delivery_seconds(images: int, report: bool) -> float:
    """What the export, its proof and the report take on two cores, about, without the predictions for the proof.

    Measured for the report: 5 s with 600 images, 22 s with 3,781. images: of all splits.
    """
    return 25 + (5 + 0.005 * images if report else 0)


def foresee_tournament(
    build: Callable[[Head], keras.Model],
    backbone: Backbone,
    training: int,
    validation: int,
    job: Job,
    deadline: Deadline = NO_DEADLINE,
) -> Decision:
    """Say before a tournament which strategies would take part, and what each would cost.

    The costs are estimates from a timed forward pass. training, validation: numbers of images. The other arguments: see
    `decide_by_tournament`.
    """
    each = seconds_per_image(build(Head()))
    images, limit = training + validation, minutes_at_most(training + validation, job, deadline)
    sentences = [f"linear heads on the features of {counted(images, 'image')}: {roughly(each * images)}"]
    if why := why_not_tuned(job, validation):
        sentences.append(f"no fine-tuning: {why}")
    else:
        recipe = tuning_recipe("fine-tune", upper_blocks(backbone.blocks_to_unfreeze), training, job)
        seconds = expected_seconds(recipe, each * training)
        epochs = counted(recipe.stages[-1].epochs, "epoch")
        sentences.append(
            f"fine-tuning of the upper blocks, {epochs} of {counted(training, 'image')}: {roughly(seconds)}; left out "
            f"if the leading head gets fewer than {FEWEST_TO_MEND} of {counted(validation, 'validation image')} wrong"
        )
        if job.effort == "best":
            sentences.append(f"three variations of it: {roughly(BEST_COST * seconds)} more")
        sentences.append(
            f"if that would take longer than the limit of {limit:.1f} minutes: the top two, or a linear head"
        )
    why = "a tournament decides when the run begins: " + "; ".join(sentences)
    return Decision("recipe", AUTO, why, {"sentences": ["a tournament decides when the run begins", *sentences]})
