"""Trains the classifier of a run within the time limit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tlkit.checkpoints import Checkpoints
from tlkit.data.dataset import decode_images
from tlkit.finetuning.build import Decided, Trained, build
from tlkit.finetuning.prepare import Prepared
from tlkit.models.inference import seconds_per_image
from tlkit.progress import NO_DEADLINE, Clock, Deadline
from tlkit.runs.reading import parity_sample
from tlkit.strategy.recipes import delivery_seconds
from tlkit.training.own_callbacks import report_rows
from tlkit.training.restarts import train_best
from tlkit.training.resume import resumable

if TYPE_CHECKING:
    import keras

    from tlkit.data.dataset import Dataset
    from tlkit.data.examples import Examples
    from tlkit.plan.recipe import Recipe


def fit(
    decided: Decided, prepared: Prepared, clock: Clock | None = None, checkpoints: Checkpoints | None = None
) -> Trained:
    """Build the classifier of a plan, and train it on the training images, unless a tournament has trained it.

    With the checkpoints of a run that was stopped, the training goes on where it was.
    """
    if decided.trained is not None:  # callbacks took no part in the tournament, whose trainings would mix
        report_rows(prepared.callbacks, decided.trained.model, decided.trained.history.rows)
        return decided.trained
    clock, dataset, plan = clock or Clock(), prepared.dataset, decided.plan
    assert plan.recipe is not None
    with clock.timed("build"):
        model = build(prepared, plan.recipe.head, plan.precision)
    recipe, seed = plan.recipe, plan.job.seed

    def restarted(one: int) -> keras.Model:
        return model if one == seed else build(prepared, recipe.head, plan.precision, restart=one - seed)

    with clock.timed("train"):
        best, history = train_best(
            restarted,
            prepared.backbone,
            recipe,
            training_examples(dataset, recipe, "train"),
            dataset.part("validation"),
            seed=seed,
            deadline=training_deadline(clock.deadline, model, dataset, plan.job.report),
            callbacks=(*prepared.callbacks, *resumable(checkpoints, decided.training)),
        )
    return Trained(best, history, decided.images_computed + history.images_computed)


def training_examples(dataset: Dataset, recipe: Recipe, *splits: str) -> Examples:
    """Return the images of these splits, and their larger pixels if a stage of the recipe scales images."""
    examples = dataset.part(*splits)
    scales = [stage.scales[1] for stage in recipe.stages if stage.scales]
    if not scales or max(scales) <= dataset.pixels.size:
        return examples
    images = dataset.images.part(*splits)
    larger = decode_images(images, max(scales), dataset.pixels.fit, dataset.cache)
    return dataclasses.replace(examples, sharper=larger.pixels.of(images))


def training_deadline(deadline: Deadline, model: keras.Model, dataset: Dataset, report: bool) -> Deadline:
    """When training must end, so that evaluation, export, the parity proof and the report fit into the time limit.

    report: whether a report is written.
    """
    if deadline == NO_DEADLINE:
        return deadline
    per_image = seconds_per_image(model)
    validation, test = dataset.count("validation"), dataset.count("test")
    # the last epoch's validation, the evaluation of both splits, and the proof
    predicted = validation + validation + test + len(parity_sample(validation))
    return deadline.keeping(delivery_seconds(len(dataset), report) + 1.3 * per_image * predicted)
