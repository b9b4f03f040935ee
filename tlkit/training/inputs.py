"""What a stage trains on: cached features, frozen layers run batch by batch, or pixels.

Imports Keras and NumPy only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tlkit.backbones import Backbone
from tlkit.data.examples import Examples, RowSource
from tlkit.features.extract import Features, extract_features
from tlkit.models.inference import frozen_call
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.recipe import Recipe, Stage
from tlkit.progress import Deadline, log
from tlkit.training.batches import Transform
from tlkit.training.history import History, Stopwatch

if TYPE_CHECKING:
    import keras

VALIDATION_SHARE = 0.3  # of the time left, for the validation images' features: most of it is for the training images


@dataclass(frozen=True)
class StagePlan:
    """One stage of a recipe, and what it takes to carry it out.

    number: of the stage, from 1. seed: gives order, views and augmentation. clock: of the whole training.
    """

    recipe: Recipe
    number: int
    backbone: Backbone
    seed: int
    clock: Stopwatch

    @property
    def stage(self) -> Stage:
        return self.recipe.stages[self.number - 1]


@dataclass(frozen=True)
class StageInputs:
    """The classifier cut in two for a stage, and the examples of both splits. Nothing is computed yet.

    prefix: the frozen layers below all that trains; None where none is frozen. suffix: what trains on their outputs.
    """

    prefix: keras.Model | None
    suffix: keras.Model
    training: Examples
    validation: Examples


@dataclass(frozen=True)
class Source:
    """Where the suffix's inputs come from, for one split.

    examples: all that were asked for.
    features: the frozen layers' outputs where they are cached, else None.
    streamed: the frozen layers where their outputs are computed anew for each batch, else None. With neither, the
        inputs are pixels.
    """

    examples: Examples
    features: Features | None = None
    streamed: keras.Model | None = None

    @property
    def count(self) -> int:
        """How many examples are covered, from the first; fewer than all when time ran out."""
        return len(self.examples) if self.features is None else self.features.count

    @property
    def views(self) -> Sequence[Sequence[RowSource]]:
        """As `Batches` takes them."""
        return [[self.examples.pixels]] if self.features is None else self.features.views

    @property
    def labels(self) -> np.ndarray:
        """Of the examples covered: int64, shape (count,)."""
        return self.examples.labels[: self.count]

    def transform(self, augment: Transform | None, batch_size: int) -> Transform | None:
        """What `Batches` applies to rows of `views`. augment: of pixels; cached features come from augmented ones."""
        if self.features is not None:
            return None
        return augment if self.streamed is None else _through(self.streamed, augment, batch_size)


def training_source(plan: StagePlan, inputs: StageInputs, history: History, deadline: Deadline) -> Source:
    """The source of the training images, of as many as time allows: the frozen layers' outputs are computed now."""
    recipe, asked = plan.recipe, len(inputs.training)
    source = _source(plan, inputs.prefix, inputs.training, history, deadline, recipe.augmentation)
    if source.count < asked:
        history.cut(f"stage {plan.number} trained on {source.count} of {asked} images: the time limit left no more")
    return source


def validation_source(plan: StagePlan, inputs: StageInputs, history: History, deadline: Deadline) -> Source:
    """The source of the validation images, never augmented."""
    return _source(plan, inputs.prefix, inputs.validation, history, deadline.share(VALIDATION_SHARE), None)


def _source(
    plan: StagePlan,
    prefix: keras.Model | None,
    examples: Examples,
    history: History,
    deadline: Deadline,
    augmentation: Augmentation | None,
) -> Source:
    """augmentation: None for validation images."""
    if prefix is None:
        return Source(examples)
    split = "validation" if augmentation is None else "training"
    started = time.monotonic()
    found = extract_features(
        prefix,
        examples,
        augmentation=augmentation,
        views=plan.recipe.views,
        seed=plan.seed,
        batch_size=plan.recipe.batch_size,
        deadline=deadline,
    )
    if found is None:
        history.note(
            f"stage {plan.number}: the frozen layers' outputs for {len(examples)} {split} images exceed the caches' "
            "limit, so they are computed in every epoch"
        )
        return Source(examples, streamed=prefix)
    history.images_computed += found.computed
    cached = len(examples) * len(found.views) - found.computed
    log.info(
        f"  frozen layers on {split} images: {found.computed} computed, {cached} cached, "
        f"{time.monotonic() - started:.1f} s"
    )
    return Source(examples, features=found)


def _through(prefix: keras.Model, augment: Transform | None, batch_size: int) -> Transform:
    call = frozen_call(prefix, batch_size)

    def transform(inputs: list[np.ndarray], indices: np.ndarray, epoch: int) -> list[np.ndarray]:
        (images,) = augment(inputs, indices, epoch) if augment else inputs
        return call(images)

    return transform
