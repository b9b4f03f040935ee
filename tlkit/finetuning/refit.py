"""Trains the classifier of a run again, on its training and validation images together.

The model that was trained without the validation images is judged by them. The one that is delivered learns from them
too. It is trained in the same way, on more images, so what was measured is rather too low for it than too high.

A head that is solved also learns from test images that the run drew itself, since they were set aside for a network,
which was not taken. They judge the same model as the validation images do. A network never learns from them, and
neither does anything from test images that were given.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.checkpoints import Checkpoints
from tlkit.finetuning.build import Trained, as_saved, build
from tlkit.finetuning.fit import training_deadline, training_examples
from tlkit.finetuning.prepare import Prepared
from tlkit.models.classifier import with_head
from tlkit.plan.plan import Plan
from tlkit.progress import Clock, log
from tlkit.training.resume import resumable
from tlkit.training.train import refit_head, train
from tlkit.words import counted

_WHY_NOT = "a training was cut short or ended where it began, or the caches have no room for its features"


@dataclass(frozen=True)
class Refitted:
    """A classifier that was trained on training and validation images, and maybe on test images that were drawn.

    Attributes:
        head: Kernel and bias of its last layer, if it differs in these alone from the model that is judged.
        model: The whole model, as it is saved, if it differs in more.
        out_of_fold: As in `tlkit.training.solve.Refit`.
        images_computed: How many images ran through frozen layers for it.
        splits: What it learned from.
        folds: Of how many folds' models it is the mean; 0 if it is not (see `tlkit.finetuning.folds`).
    """

    head: tuple[np.ndarray, np.ndarray] | None = None
    model: keras.Model | None = None
    out_of_fold: np.ndarray | None = None
    images_computed: int = 0
    splits: tuple[str, ...] = ("train", "validation")
    folds: int = 0

    def delivered(self, judged: keras.Model) -> keras.Model:
        """The classifier. judged: as it is saved, trained without the validation images."""
        return self.model if self.head is None else with_head(judged, *self.head)


def refit(
    plan: Plan, trained: Trained, prepared: Prepared, clock: Clock, checkpoints: Checkpoints | None = None
) -> Refitted | None:
    """Train the classifier again, on training and validation images, if the job wants it. None if not.

    By default a solved head is refitted, in a few seconds. Where one was not asked for and is not possible, nothing is
    said; where it was asked for, the history notes why not.
    """
    asked, recipe = plan.job.refit, plan.recipe
    assert recipe is not None
    solved = len(recipe.stages) == 1 and recipe.stages[0].solver != "gradient"
    if asked is False or (asked is None and not solved):
        return None
    with clock.timed("refit"):
        found = _solved(plan, trained, prepared) if solved else _trained(plan, trained, prepared, clock, checkpoints)
    if found is None and asked:
        trained.history.note(f"the model was not trained on the validation images too: {_WHY_NOT}")
    return found


def _solved(plan: Plan, trained: Trained, prepared: Prepared) -> Refitted | None:
    strength, dataset = trained.history.rows[-1]["strength"], prepared.dataset
    if strength is None:  # the caches had no room for the features, so the head was trained
        return None
    assert plan.recipe is not None
    parts = dataset.part("train"), dataset.part("validation")
    drawn = dataset.part("test") if plan.drew_test else None
    kind = "training and validation image" if drawn is None else "training, validation and test image"
    log.info(f"refitting  the head on all {counted(sum(map(len, parts)) + len(drawn or ()), kind)}")
    settings = {"strength": strength, "seed": prepared.job.seed, "more": drawn}
    found = refit_head(trained.model, prepared.backbone, plan.recipe, *parts, **settings)
    if found is None:
        return None
    splits = ("train", "validation") if drawn is None else ("train", "validation", "test")
    return Refitted((found.head.kernel, found.head.bias), out_of_fold=found.out_of_fold, splits=splits)


def _trained(
    plan: Plan, trained: Trained, prepared: Prepared, clock: Clock, checkpoints: Checkpoints | None
) -> Refitted | None:
    """Train a new model by the same schedule to its end, and interpolate its weights where the first one's were."""
    recipe = plan.recipe
    assert recipe is not None
    *before, last = recipe.stages
    if trained.history.cut_short:
        return None
    if last.interpolate == "chosen":
        if not trained.history.position:  # the weights at the start of the stage were the best
            return None
        last = dataclasses.replace(last, interpolate=trained.history.position)
    stages = tuple(dataclasses.replace(stage, patience=None) for stage in (*before, last))
    fixed = dataclasses.replace(recipe, stages=stages, monitor="last")
    everything = training_examples(prepared.dataset, recipe, "train", "validation")
    validation = prepared.dataset.part("validation")
    log.info(f"refitting  on all {counted(len(everything), 'training and validation image')}")
    restart = trained.history.restart
    model = build(prepared, recipe.head, plan.precision, restart=restart)
    deadline = training_deadline(clock.deadline, model, prepared.dataset, plan.job.report)
    place = resumable(checkpoints, "refit")
    settings: dict[str, Any] = {"seed": plan.job.seed + restart, "deadline": deadline, "callbacks": place}
    again = train(model, prepared.backbone, fixed, everything, validation, **settings)
    if again.cut_short:
        return None
    return Refitted(model=as_saved(model, prepared.backbone, plan), images_computed=again.images_computed)
