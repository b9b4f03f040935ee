"""Batches of examples for Keras, in an order that depends on the seed and the epoch alone.

Imports Keras and NumPy only. Order, view and augmentation of every image are functions of (seed, epoch), so the number of
threads changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np

from tlkit.augment import augment
from tlkit.spec import Augmentation


class RowSource(Protocol):
    """Anything rows can be gathered from: cached or streamed pixels, cached features."""

    @property
    def row_shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def gather(self, indices: Any) -> np.ndarray: ...

    def take(self, indices: Any) -> Any: ...


@dataclass(frozen=True)
class Examples:
    """Decoded images with their labels.

    pixels: uint8 rows, shape (n, size, size, 3), RGB 0-255. labels: int64, shape (n,). keys: content hashes, by which
    whatever is computed from a picture is cached and its augmentation is seeded.
    """

    pixels: RowSource
    labels: np.ndarray
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Examples:
        """Some of the examples, nothing copied."""
        return Examples(self.pixels.take(indices), self.labels[indices], [self.keys[i] for i in indices])

    def numbers(self) -> list[int]:
        """A whole number per image that stays with its content; seeds its augmentation."""
        return [int(key[:8], 16) for key in self.keys]


class Batches(keras.utils.PyDataset):
    """Batches of (inputs, one-hot labels, weights) for `fit` and `evaluate`.

    views: one or more versions of the inputs, each a list of row sources (one per input tensor). In epoch e an image is
        read from view (its own random start + e) modulo the number of views, so every view is used equally often.
    labels: int64, shape (n,). weights: float32, shape (classes,), each class's weight in the loss, or None.
    transform: applied to the gathered inputs with (inputs, indices, epoch); None hands them on.
    shuffle: a new order each epoch, from (seed, epoch). The last batch may be smaller.
    """

    def __init__(
        self,
        views: Sequence[Sequence[RowSource]],
        labels: np.ndarray,
        classes: int,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        weights: np.ndarray | None = None,
        transform: Callable[[list[np.ndarray], np.ndarray, int], list[np.ndarray]] | None = None,
    ) -> None:
        super().__init__(workers=1)
        self._views, self._labels, self._classes = views, labels, classes
        self._size, self._seed, self._shuffle = batch_size, seed, shuffle
        self._weights, self._transform = weights, transform
        self._start = np.random.default_rng((seed, 0)).integers(len(views), size=len(labels))
        self.set_epoch(0)

    def __len__(self) -> int:
        return math.ceil(len(self._labels) / self._size)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        indices = self._order[number * self._size : (number + 1) * self._size]
        inputs = self._gather(indices)
        if self._transform:
            inputs = self._transform(inputs, indices, self.epoch)
        labels = self._labels[indices]
        one_hot = np.eye(self._classes, dtype="float32")[labels]
        packed = inputs[0] if len(inputs) == 1 else tuple(inputs)
        if self._weights is None:
            return packed, one_hot
        return packed, one_hot, self._weights[labels]

    def set_epoch(self, epoch: int) -> None:
        """Take an epoch's order and views. `fit` must be told by a `FollowEpochs` callback: Keras' own `on_epoch_end`
        is also called once before the first epoch, after it fetched batches to learn their shape.
        """
        self.epoch = epoch
        self._order = self._order_of(epoch)

    def _order_of(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(len(self._labels))
        return np.random.default_rng((self._seed, 1, epoch)).permutation(len(self._labels))

    def _gather(self, indices: np.ndarray) -> list[np.ndarray]:
        if len(self._views) == 1:
            return [source.gather(indices) for source in self._views[0]]
        which = (self._start[indices] + self.epoch) % len(self._views)
        result = []
        for place in range(len(self._views[0])):
            rows = [
                (np.flatnonzero(which == view), self._views[view][place].gather(indices[which == view]))
                for view in range(len(self._views))
                if (which == view).any()
            ]
            merged = np.empty((len(indices), *rows[0][1].shape[1:]), rows[0][1].dtype)
            for places, values in rows:
                merged[places] = values
            result.append(merged)
        return result


class FollowEpochs(keras.callbacks.Callback):
    """Tells `Batches` which epoch begins."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._batches.set_epoch(epoch)


def augmenting(
    augmentation: Augmentation, numbers: Sequence[int], seed: int, pool: ThreadPoolExecutor
) -> Callable[[list[np.ndarray], np.ndarray, int], list[np.ndarray]]:
    """A transform for `Batches`: augments each picture from (seed, epoch, its number), on the pool's threads."""

    def transform(inputs: list[np.ndarray], indices: np.ndarray, epoch: int) -> list[np.ndarray]:
        (images,) = inputs
        seeds = [(seed, epoch, numbers[i]) for i in indices]
        jobs = pool.map(lambda image, one: augment(image, augmentation, one), images, seeds)
        return [np.stack(list(jobs))]

    return transform


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """n / (classes * n_class) for each class: float32, shape (classes,). A class without images weighs 1.

    >>> class_weights(np.array([0, 0, 0, 1]), 2).astype(float).round(2).tolist()
    [0.67, 2.0]
    """
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts > 0, len(labels) / (classes * np.maximum(counts, 1)), 1.0).astype("float32")
