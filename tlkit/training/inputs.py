"""The inputs of a stage: cached features, the outputs of frozen layers computed batch by batch, or pixels.

Imports Keras and NumPy only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tlkit.backbones import Backbone
from tlkit.data.examples import Examples, RowSource
from tlkit.devices import several_of_this_process
from tlkit.features.extract import Features, extract_features
from tlkit.models.inference import frozen_calls
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.recipe import Recipe, Stage
from tlkit.progress import Deadline, log
from tlkit.training.batches import Transform
from tlkit.training.history import History, Stopwatch
from tlkit.training.own_callbacks import Callbacks
from tlkit.words import counted

if TYPE_CHECKING:
    import keras

    from tlkit.training.resume import Progress

VALIDATION_SHARE = 0.3  # share of the time left for the validation images' features; the rest is for training images


@dataclass(frozen=True)
class StagePlan:
    """One stage of a recipe, with what is needed to run it.

    number: the stage's number, from 1. seed: seed of the order, the views and the augmentation.
    clock: the stopwatch of the whole training. callbacks: the user's. progress: of the whole training, if checkpoints
    are written.
    """

    recipe: Recipe
    number: int
    backbone: Backbone
    seed: int
    clock: Stopwatch
    callbacks: Callbacks = ()
    progress: Progress | None = None

    @property
    def stage(self) -> Stage:
        """The stage of the recipe with this number."""
        return self.recipe.stages[self.number - 1]

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of this stage's training images."""
        return self.recipe.augmentation if self.stage.augmented else Augmentation()


@dataclass(frozen=True)
class StageInputs:
    """The classifier cut in two for a stage, and the examples of both splits. No features are computed yet.

    prefix: the frozen layers below all trainable ones; None if none is frozen. suffix: the layers above them.
    """

    prefix: keras.Model | None
    suffix: keras.Model
    training: Examples
    validation: Examples


@dataclass(frozen=True)
class Source:
    """Where the suffix's inputs come from, for one split.

    examples: all examples of the split.
    features: the frozen layers' outputs if they are cached, else None.
    streamed: the frozen layers if their outputs are computed for each batch, else None. If both are None, the inputs
        are pixels.
    """

    examples: Examples
    features: Features | None = None
    streamed: keras.Model | None = None

    @property
    def count(self) -> int:
        """The number of examples covered, from the first; fewer than all if time ran out."""
        return len(self.examples) if self.features is None else self.features.count

    @property
    def views(self) -> Sequence[Sequence[RowSource]]:
        """The views, in the form that `Batches` takes."""
        return [[self.examples.pixels]] if self.features is None else self.features.views

    @property
    def labels(self) -> np.ndarray:
        """The labels of the examples covered: int64, shape (count,)."""
        return self.examples.labels[: self.count]

    def transform(self, augment: Transform | None, batch_size: int) -> Transform | None:
        """Return the transform of `Batches` for `views`.

        augment: the augmentation of pixels. It is not applied to cached features, which come from augmented images.
        """
        if self.features is not None:
            return None
        return augment if self.streamed is None else _run_prefix(self.streamed, augment, batch_size)


def training_source(plan: StagePlan, inputs: StageInputs, history: History, deadline: Deadline) -> Source:
    """Return the source of the training images. The frozen layers' outputs are computed now, until the deadline."""
    total = len(inputs.training)
    source = _source(plan, inputs.prefix, inputs.training, history, deadline, plan.augmentation)
    if source.count < total:
        history.cut(
            f"stage {plan.number} trained on {source.count:,} of {counted(total, 'image')}: the time limit was reached"
        )
    return source


def validation_source(plan: StagePlan, inputs: StageInputs, history: History, deadline: Deadline) -> Source:
    """Return the source of the validation images, which are never augmented."""
    return _source(plan, inputs.prefix, inputs.validation, history, deadline.share(VALIDATION_SHARE), None)


def _source(
    plan: StagePlan,
    prefix: keras.Model | None,
    examples: Examples,
    history: History,
    deadline: Deadline,
    augmentation: Augmentation | None,
) -> Source:
    """Return the source of a split's examples. augmentation: None for validation images."""
    if plan.stage.scales and augmentation is not None:
        pixels = examples.pixels if examples.sharper is None else examples.sharper
        return Source(replace(examples, pixels=pixels), streamed=prefix)
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
        fast=plan.recipe.precision == "auto" and augmentation is not None,
    )
    if found is None:
        return Source(examples, streamed=prefix)
    history.images_computed += found.computed
    cached = len(examples) * len(found.views) - found.computed
    log.info(
        f"  features of {split} images: {found.computed:,} computed, {cached:,} from the cache, "
        f"{time.monotonic() - started:.1f} s"
    )
    return Source(examples, features=found)


def _run_prefix(prefix: keras.Model, augment: Transform | None, batch_size: int) -> Transform:
    devices = max(len(several_of_this_process()), 1)
    part = math.ceil(batch_size / devices)
    calls = frozen_calls(prefix, part)
    pool = ThreadPoolExecutor(devices) if devices > 1 else None

    def transform(inputs: list[np.ndarray], indices: np.ndarray, epoch: int) -> list[np.ndarray]:
        (images,) = augment(inputs, indices, epoch) if augment else inputs
        if pool is None:
            return calls[0](images)
        parts = [images[start : start + part] for start in range(0, len(images), part)]
        outputs = pool.map(lambda call, some: call(some), calls, parts)
        return [np.concatenate(rows) for rows in zip(*outputs, strict=True)]

    return transform
