"""Batches of examples for Keras, in an order that depends on the seed and the epoch only.

Imports Keras and NumPy only. The order, view and augmentation of every image are functions of (seed, epoch), so the
number of threads does not change the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.data.augment import augment, scaled_crop
from tlkit.data.examples import RowSource
from tlkit.plan.augmentation import Augmentation

Transform = Callable[[list[np.ndarray], np.ndarray, int], list[np.ndarray]]  # (inputs, indices, epoch) to inputs


@dataclass(frozen=True)
class Targets:
    """The labels that a model is trained on, and the weight of each class.

    labels: int64, shape (n,), 0 to classes - 1.
    weights: float32, shape (classes,), each class's weight in the loss; None = all equal.
    """

    labels: np.ndarray
    classes: int
    weights: np.ndarray | None = None

    def of(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return one-hot labels, float32, shape (len(indices), classes), and the examples' weights, if any."""
        labels = self.labels[indices]
        one_hot = np.eye(self.classes, dtype="float32")[labels]
        return one_hot, None if self.weights is None else self.weights[labels]


class Batches(keras.utils.PyDataset):
    """Batches of (inputs, one-hot labels, weights) for `fit` and `evaluate`.

    Args:
        views: one or more versions of the inputs, each a list of row sources (one per input tensor). In epoch e an
            image is read from view (s + e) modulo the number of views, where s is random for each image. So every view
            is used equally often.
        targets: a label for each row of the sources.
        batch_size: examples per batch. The last batch may be smaller.
        seed: seed of the order, the first views and the mixing.
        shuffle: whether each epoch has a new order, from (seed, epoch).
        transform: called as transform(inputs, indices, epoch) on the gathered inputs; None leaves them unchanged.
        mixup, cutmix: see `tlkit.Stage`. With cutmix, the same rectangle is replaced in all inputs that are images or
            feature maps.
    """

    def __init__(
        self,
        views: Sequence[Sequence[RowSource]],
        targets: Targets,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        transform: Transform | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        super().__init__(workers=1)
        self._views, self._targets, self._count = views, targets, len(targets.labels)
        self._size, self._seed, self._shuffle = batch_size, seed, shuffle
        self._transform, self._mixup, self._cutmix = transform, mixup, cutmix
        self._start = np.random.default_rng((seed, 0)).integers(len(views), size=self._count)
        self._skipped = 0
        self.set_epoch(0)

    def __len__(self) -> int:
        return math.ceil(self._count / self._size)

    @property
    def num_batches(self) -> int:
        """How many batches `fit` takes in an epoch."""
        return len(self) - self._skipped

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        number += self._skipped
        indices, inputs = self._inputs(number)
        one_hot, weights = self._targets.of(indices)
        if self._mixup or self._cutmix:
            random = np.random.default_rng((self._seed, 3, self.epoch, number))
            inputs, share, partner = self._mix(inputs, random)
            one_hot, weights = _mixed_targets(one_hot, weights, share, partner)
        packed = _packed(inputs)
        return (packed, one_hot) if weights is None else (packed, one_hot, weights)

    def unmixed(self, number: int) -> Any:
        """Return the inputs of a batch as they are before mixup and cutmix, in the form that the model takes."""
        return _packed(self._inputs(number)[1])

    def _inputs(self, number: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The indices of a batch, and its inputs before they are mixed."""
        indices = self._order[number * self._size : (number + 1) * self._size]
        inputs = self._gather(indices)
        return indices, self._transform(inputs, indices, self.epoch) if self._transform else inputs

    def _mix(self, inputs: list[np.ndarray], random: np.random.Generator) -> tuple[list[np.ndarray], Any, np.ndarray]:
        """Mix every image with a partner from the batch.

        Returns the mixed inputs, the share of the first image that is left, and the partners' indices.
        """
        partner = random.permutation(len(inputs[0]))
        cut_out = self._cutmix and (not self._mixup or random.random() < 0.5)
        alpha = self._cutmix if cut_out else self._mixup
        share = np.float32(random.beta(alpha, alpha))
        if not cut_out:
            return [share * values + (1 - share) * values[partner] for values in inputs], share, partner
        side, (centre_y, centre_x) = (1 - share) ** 0.5, random.random(2)
        mixed, left = [], share
        for values in inputs:
            if values.ndim < 4:  # a pooled tap of a lower block is a vector, so it is blended
                mixed.append(left * values + (1 - left) * values[partner])
                continue
            height, width = values.shape[1:3]
            top, bottom = (round(float(np.clip(centre_y + d * side / 2, 0, 1)) * height) for d in (-1, 1))
            start, end = (round(float(np.clip(centre_x + d * side / 2, 0, 1)) * width) for d in (-1, 1))
            values = values.copy()
            values[:, top:bottom, start:end] = values[partner, top:bottom, start:end]
            mixed.append(values)
            left = np.float32(1 - (bottom - top) * (end - start) / (height * width))
        return mixed, left, partner

    def set_epoch(self, epoch: int) -> None:
        """Set the order and the views to those of an epoch.

        In `fit`, the callback `FollowEpochs` calls this. `on_epoch_end` cannot be used: Keras also calls it once before
        the first epoch, after it has fetched batches to infer their shape.
        """
        self.epoch = epoch
        self._order = self._order_of(epoch)

    def skip(self, steps: int) -> None:
        """Leave out the first batches of every epoch, of which a resumed training has seen one already. 0: none."""
        self._skipped = steps

    def _order_of(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self._count)
        return np.random.default_rng((self._seed, 1, epoch)).permutation(self._count)

    def _gather(self, indices: np.ndarray) -> list[np.ndarray]:
        if len(self._views) == 1:
            return [source.gather(indices) for source in self._views[0]]
        which = (self._start[indices] + self.epoch) % len(self._views)
        result = []
        for index in range(len(self._views[0])):
            rows = [
                (np.flatnonzero(which == view), self._views[view][index].gather(indices[which == view]))
                for view in range(len(self._views))
                if (which == view).any()
            ]
            merged = np.empty((len(indices), *rows[0][1].shape[1:]), rows[0][1].dtype)
            for positions, values in rows:
                merged[positions] = values
            result.append(merged)
        return result


def _packed(inputs: list[np.ndarray]) -> Any:
    return inputs[0] if len(inputs) == 1 else tuple(inputs)


def _mixed_targets(
    one_hot: np.ndarray, weights: np.ndarray | None, share: Any, partner: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return targets and weights whose loss is the mixture of both images' weighted losses.

    share: of the first image. partner: the index of the second image.
    """
    if weights is None:
        return share * one_hot + (1 - share) * one_hot[partner], None
    first, second = share * weights, (1 - share) * weights[partner]
    total = first + second
    return (first[:, None] * one_hot + second[:, None] * one_hot[partner]) / total[:, None], total


def augmenting(augmentation: Augmentation, numbers: Sequence[int], seed: int, pool: ThreadPoolExecutor) -> Transform:
    """Return a transform for `Batches` that augments images on the pool's threads.

    Each image's augmentation is seeded by (seed, epoch, the image's number).
    """

    def transform(inputs: list[np.ndarray], indices: np.ndarray, epoch: int) -> list[np.ndarray]:
        (images,) = inputs
        seeds = [(seed, epoch, numbers[i]) for i in indices]
        jobs = pool.map(lambda image, one: augment(image, augmentation, one), images, seeds)
        return [np.stack(list(jobs))]

    return transform


def scaling(
    size: int, scales: tuple[int, int], numbers: Sequence[int], seed: int, pool: ThreadPoolExecutor
) -> Transform:
    """Return a transform for `Batches` that scales and crops images on the pool's threads: see `tlkit.Stage.scales`.

    Each image's size and place are seeded by (seed, 4, epoch, the image's number).
    """

    def transform(inputs: list[np.ndarray], indices: np.ndarray, epoch: int) -> list[np.ndarray]:
        (images,) = inputs
        seeds = [(seed, 4, epoch, numbers[i]) for i in indices]
        jobs = pool.map(lambda image, one: scaled_crop(image, size, scales, one), images, seeds)
        return [np.stack(list(jobs))]

    return transform


def in_turn(first: Transform | None, second: Transform | None) -> Transform | None:
    """Return the transform that applies both, either of which may be None."""
    if first is None or second is None:
        return first or second
    return lambda inputs, indices, epoch: second(first(inputs, indices, epoch), indices, epoch)


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Compute n / (classes * n_class) for each class: float32, shape (classes,). A class without images has weight 1.

    >>> class_weights(np.array([0, 0, 0, 1]), 2).astype(float).round(2).tolist()
    [0.67, 2.0]
    """
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts > 0, len(labels) / (classes * np.maximum(counts, 1)), 1.0).astype("float32")
