"""Decides whether a job draws test images from its data, and says so.

Validation images choose between a network and a linear head, where its weights are kept, and which recipe it has, so
their accuracy is too good. Cross-fitting corrects that for linear heads, whose choice takes seconds to repeat, and not
for networks. So where a network may be trained, some images are set aside before anything is learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.data.dataset import Dataset
from tlkit.finetuning.resolve import Resolved
from tlkit.strategy.recipes import choose_recipe
from tlkit.strategy.tuning import why_not_tuned
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.runs.lineage import Lineage

FEWEST = 500  # images from which test images are drawn
# With an accuracy of 90 %, half of the 95 % interval is 6.9 points with the 75 test images of 500, 3.4 with 300 of
# 2,000 and 1.5 with 1,500 of 10,000. From there more would not tell much more, and 5 % give 2.6 points or less. The
# share has one step and no cap, since it moves images out of test when it falls.
SHARE, LARGE_SHARE, LARGE = 0.15, 0.05, 10_000
# Fewer test images than this, or of fewer units, are not worth what they take from training: 8 points and more.
FEWEST_DRAWN, FEWEST_UNITS = 50, 20


@dataclass(frozen=True)
class HeldOut:
    """A data set with the test images that were drawn, if any.

    share: Of the images; 0 if none were drawn. sentences: What the plan says about it. pairs: The near duplicates that
    were looked for, as in `Dataset.near_duplicates`; None if none were.
    """

    dataset: Dataset
    share: float = 0.0
    sentences: tuple[str, ...] = ()
    pairs: np.ndarray | None = None

    def evidence(self) -> dict[str, Any]:
        return {"test_share": self.share} if self.share else {}


def hold_out(dataset: Dataset, resolved: Resolved, seen: Lineage) -> HeldOut:
    """Draw test images if the job asks for it, or if it leaves that open and there are enough images.

    dataset: Not split yet. seen: What the initial weights were trained on and chosen by, which is never drawn.
    """
    job, table = resolved.job, dataset.images.table
    if job.test is None and len(dataset) < FEWEST:
        return HeldOut(dataset)
    if (table["split"] == "test").any() or not (job.test or trains_network(resolved, dataset)):
        return HeldOut(dataset)
    if job.test == 0:
        told = "no test images are drawn, because `test` is 0: the validation images also choose the model"
        return HeldOut(dataset, sentences=(told,) if len(dataset) >= FEWEST else ())
    share = job.test or (SHARE if len(dataset) < LARGE else LARGE_SHARE)
    pairs = dataset.near_duplicates(for_test=True)
    drawn = dataset.draw_test(share, seed=job.seed, pairs=pairs, seen=seen.trained_on | seen.chosen_by)
    count, units = drawn.count("test"), len(np.unique(drawn.images.part("test").groups()))
    if job.test is None and (count < FEWEST_DRAWN or units < FEWEST_UNITS):
        return HeldOut(dataset, 0, (_too_few(count, units, job.from_run is not None),), pairs)
    if not count:
        return HeldOut(dataset, 0, ("no test images are drawn, because none of so few images could be",), pairs)
    told = (
        f"{counted(count, 'test image')} {'is' if count == 1 else 'are'} drawn ({share:.0%}, by content and seed) and "
        "looked at once, at the end"
    )
    without = len(set(table["label"]) - set(drawn.images.part("test").table["label"]))
    if without:
        told += f"; {counted(without, 'small class', 'small classes')} {'has' if without == 1 else 'have'} none"
    return HeldOut(drawn, share, (told,), pairs)


def _too_few(count: int, units: int, from_run: bool) -> str:
    """Why no test images are drawn, in words."""
    found = f"only {counted(count, 'image')}" + (f" of {counted(units, 'group')}" if units < count else "")
    why = ", since earlier runs were trained on or chosen by the others" if from_run else ""
    return f"no test images are drawn, because {found} could be{why}: the validation images also choose the model"


def trains_network(resolved: Resolved, dataset: Dataset) -> bool:
    """Whether a recipe that trains by gradient descent may be taken."""
    job, recipe, share = resolved.job, resolved.recipe, resolved.job.validation
    given = dataset.count("validation")
    validation = given or int(len(dataset) * (1 - SHARE) * share)
    if job.by_tournament:
        return any(one.blocks_to_unfreeze for one in resolved.backbones) and not why_not_tuned(job, validation)
    if recipe is None:
        recipe, _ = choose_recipe(len(dataset) - (given or int(len(dataset) * share)), job.similar)
    return any(stage.solver == "gradient" for stage in recipe.stages)
