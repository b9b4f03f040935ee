"""The features of every block of a backbone in one table, and a linear probe on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tlkit.backbones import Backbone
from tlkit.data.examples import Examples
from tlkit.features.extract import extract_features, per_output
from tlkit.features.folds import ALWAYS_TRAINING, solving_folds
from tlkit.features.linear import Solver, Validated, choose_strength
from tlkit.models.blocks import cut, tap_numbers
from tlkit.models.inference import inference_batch

if TYPE_CHECKING:
    import keras


PROBED = 4000  # training images at most for a probe of one block: enough to rank blocks


@dataclass(frozen=True)
class Table:
    """Cached features with what a comparison on them needs; training rows first, validation rows behind.

    blocks: float32 arrays, shape (n, numbers), for each tapped block, bottom first. labels: int, shape (n,). folds: see
    `tlkit.features.linear.choose_strength`. how: a word on the folds. training: how many rows are of the training part. images_computed: forward
    passes of single images that were run for it.
    """

    blocks: list[np.ndarray]
    labels: np.ndarray
    folds: np.ndarray
    how: str
    training: int
    classes: int
    images_computed: int = 0

    @property
    def held_out(self) -> np.ndarray:
        """The rows that are held out in some fold: int, shape (m,)."""
        return np.flatnonzero(self.folds != ALWAYS_TRAINING)

    def fewer(self, most: int, seed: int = 0) -> Table:
        """The same with at most so many rows that are always training, for a quicker look."""
        always = np.flatnonzero(self.folds == ALWAYS_TRAINING)
        if len(always) <= most:
            return self
        kept = np.sort(np.concatenate([np.random.default_rng(seed).choice(always, most, False), self.held_out]))
        blocks = [rows[kept] for rows in self.blocks]
        return Table(blocks, self.labels[kept], self.folds[kept], self.how, most, self.classes)


def feature_table(
    tapped: keras.Model,
    backbone: Backbone,
    pool: Examples,
    training: int,
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> Table | None:
    """Every block's pooled features for all images, from the cache or computed and kept; None when the cache has no room.

    tapped: a classifier whose head has taps (see `Head`), commonly "all"; without, the last block's features are taken. pool: the training images, so many as `training` says, and the
    validation images behind them.
    """
    prefix, _ = cut(tapped, backbone, 0)
    assert prefix is not None
    features = extract_features(
        prefix,
        pool,
        batch_size=inference_batch(batch_size),
    )
    if features is None:
        return None
    parts = [pool.take(places) for places in np.split(np.arange(len(pool)), [training])]
    folds, how = solving_folds(*[(one.labels, one.groups) for one in parts], seed=seed)
    blocks = _by_block(tapped, per_output(features))
    return Table(blocks, pool.labels, folds, how, training, tapped.output_shape[-1], features.computed)


def _by_block(tapped: keras.Model, tensors: list[np.ndarray]) -> list[np.ndarray]:
    """NASNet's blocks end in two tensors each; a block's are put beside each other."""
    numbers = tap_numbers(tapped)
    return [
        np.concatenate([t for t, n in zip(tensors, numbers, strict=True) if n == block], axis=1)
        for block in sorted(set(numbers))
    ]


@dataclass(frozen=True)
class Probe:
    """A linear probe's answers to held-out images. right: bool, shape (held out,). validated: its strength and probabilities."""

    block: int
    numbers: int
    right: np.ndarray
    validated: Validated

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


def probe_blocks(table: Table) -> list[Probe]:
    """A linear probe (ridge) on every block by itself, bottom first (Alain and Bengio 2016, arXiv:1610.01644)."""
    table = table.fewer(PROBED)
    probes = []
    for block, rows in enumerate(table.blocks, start=1):
        found = choose_strength(rows, table.labels, table.folds, table.classes, solver=Solver("ridge"))
        right = found.probabilities.argmax(1) == table.labels[table.held_out]
        probes.append(Probe(block, rows.shape[1], right, found))
    return probes
