"""The learning rate finder: records the loss while the rate rises at each step, from far too low to far too high.

See Smith 2017, arXiv:1506.01186. Imports Keras and NumPy only. The model's weights are restored afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tlkit.backbones import Backbone, find_backbone
from tlkit.backbones.learning import learn_weights
from tlkit.data.dataset import decode_images
from tlkit.data.examples import Examples
from tlkit.features.extract import extract_features
from tlkit.models.blocks import cut, set_trainable
from tlkit.models.classifier import build_classifier
from tlkit.plan.recipe import Recipe, Stage, Unfreeze
from tlkit.training.batches import Batches, Targets
from tlkit.training.callbacks import FollowEpochs
from tlkit.training.optimizers import find_loss_scale, make_optimizer, with_loss_scale
from tlkit.training.train import train

if TYPE_CHECKING:
    from tlkit.data.images import ImageSet


SMOOTHING = 0.9
DIVERGED = 4.0  # the search ends when the smoothed loss exceeds its lowest value by this factor


@dataclass(frozen=True)
class Sweep:
    """The learning rates that are tried, one per step, in geometric progression from the lowest to the highest.

    steps: number of rates, 10 or more.
    """

    lowest: float = 1e-6
    highest: float = 1.0
    steps: int = 100

    @property
    def intervals(self) -> int:
        """The number of intervals between the rates."""
        return max(self.steps - 1, 1)

    def rates(self, count: int) -> np.ndarray:
        """Return the first `count` rates: float64, shape (count,)."""
        return self.lowest * (self.highest / self.lowest) ** (np.arange(count) / self.intervals)

    def schedule(self) -> keras.optimizers.schedules.LearningRateSchedule:
        """Return the rates as a schedule for an optimizer: an exponential decay with a factor above 1."""
        factor = (self.highest / self.lowest) ** (1 / self.intervals)
        return keras.optimizers.schedules.ExponentialDecay(self.lowest, 1, factor)


DEFAULT_SWEEP = Sweep()


@dataclass(frozen=True)
class LearningRates:
    """The result of the learning rate finder.

    rates: one per step. losses: the smoothed loss at each step.
    suggestion: the rate at which the loss falls fastest per factor of the rate.
    """

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float


def lr_find(
    model: keras.Model,
    backbone: Backbone | str,
    examples: Examples,
    *,
    unfreeze: Unfreeze = 0,
    optimizer: str = "adam",
    batch_size: int = 32,
    sweep: Sweep = DEFAULT_SWEEP,
    seed: int = 0,
) -> LearningRates:
    """Train for some steps while the learning rate rises by a constant factor per step.

    Ends early if the smoothed loss rises to four times its lowest value. The suggestion is for a constant rate.

    Args:
        model, backbone: as for `tlkit.train`.
        examples: training images.
        unfreeze, optimizer: as in `tlkit.Stage`.
        batch_size: images per step.
        sweep: the rates to try.
        seed: seed of the order of the images.
    """
    backbone = find_backbone(backbone) if isinstance(backbone, str) else backbone
    stage = Stage(1, sweep.lowest, unfreeze=unfreeze, optimizer=optimizer)
    set_trainable(model, backbone, unfreeze=unfreeze)
    prefix, suffix = cut(model, backbone, unfreeze)
    views = [[examples.pixels]]
    if prefix is not None:
        features = extract_features(prefix, examples, batch_size=batch_size)
        if features is None:
            prefix, suffix = None, model  # no room in the cache: frozen layers run in every step
        else:
            views = features.views
    initial = suffix.get_weights()
    targets = Targets(examples.labels, model.output_shape[-1])
    batches = Batches(views, targets, batch_size=min(batch_size, len(examples)), seed=seed, shuffle=True)
    recorder = _LossRecorder(sweep.steps)
    swept = make_optimizer(stage, len(batches), {})
    swept.learning_rate = sweep.schedule()
    suffix.compile(with_loss_scale(swept, suffix), "categorical_crossentropy")
    suffix.optimizer.build(suffix.trainable_variables)
    find_loss_scale(suffix, batches[0])
    epochs = math.ceil(sweep.steps / len(batches))
    suffix.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[FollowEpochs(batches), recorder])
    suffix.set_weights(initial)
    losses = np.array(recorder.losses)
    rates = sweep.rates(len(losses))
    return LearningRates(rates, losses, _steepest(rates, losses))


class _LossRecorder(keras.callbacks.Callback):
    """Records the smoothed loss of each batch, computed from Keras' running mean over the epoch."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.losses: list[float] = []
        self._steps, self._mean, self._average = steps, 0.0, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        mean = float(logs["loss"])
        loss = mean * (batch + 1) - (self._mean * batch if batch else 0.0)
        self._mean = mean
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * loss
        self.losses.append(self._average / (1 - SMOOTHING ** (len(self.losses) + 1)))
        diverged = not math.isfinite(self.losses[-1]) or self.losses[-1] > DIVERGED * min(self.losses)
        if diverged or len(self.losses) >= self._steps:
            self.model.stop_training = True


def _steepest(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the rate at which the loss falls fastest, before its minimum."""
    end = max(int(np.nanargmin(losses)), 2)
    slopes = np.gradient(losses[: end + 1], np.log(rates[: end + 1]))
    return float(rates[int(np.nanargmin(slopes))])


def suggest_learning_rate(
    images: ImageSet,
    backbone: str,
    *,
    unfreeze: Unfreeze = 0,
    optimizer: str = "adam",
    batch_size: int = 32,
    image_size: int | None = None,
    weights: str = "imagenet",
    seed: int = 0,
) -> LearningRates:
    """Suggest a learning rate for the training images of a data set, by `lr_find`.

    If blocks train, the head is solved first.

    Args:
        images: from `tlkit.scan`; they are split if they have no split yet.
        backbone: its name.
        unfreeze, optimizer: as in `tlkit.Stage`.
        batch_size: images per step.
        image_size: pixels of each side; None = the backbone's native size.
        weights: as for `tlkit.build_classifier`.
        seed: seed of the split, the head's initial weights and the order of the images.
    """
    network = find_backbone(backbone).taking(weights)
    network.block_count(unfreeze)
    size = image_size or network.size
    dataset = decode_images(images, size).split(seed=seed)
    network = learn_weights(network, dataset.part("train"), weights=weights, seed=seed)
    model = build_classifier(network, len(dataset.class_names), image_size=size, weights=weights, seed=seed)
    training = dataset.part("train")
    if unfreeze != 0:
        solved = Recipe("head", stages=(Stage(1, 1e-3, solver="logistic"),), batch_size=batch_size)
        train(model, network, solved, training, dataset.part("validation"), seed=seed)
    return lr_find(model, network, training, unfreeze=unfreeze, optimizer=optimizer, batch_size=batch_size, seed=seed)
