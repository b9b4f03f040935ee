"""A table of the features of every block of a backbone, and a linear probe on each block."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tlkit.backbones import Backbone
from tlkit.cluster import current
from tlkit.data.examples import Examples
from tlkit.devices import available_memory, one_thread
from tlkit.features.extract import extract_features, per_output
from tlkit.features.folds import ALWAYS_TRAINING, solving_folds
from tlkit.features.linear import CrossValidation, Solver, choose_strength
from tlkit.models.blocks import cut, tap_numbers
from tlkit.models.inference import bfloat16_pays, inference_batch

if TYPE_CHECKING:
    import keras


SHARE_OF_MEMORY = 0.2  # of what is available, for the table; comparing heads takes about four times as much
WORTH_SENDING = 5_000_000  # numbers in a table from which its heads are compared by the workers of a cluster
PROBED = 4000  # maximum number of training images for the probe of a block: enough to rank blocks


@dataclass(frozen=True)
class Table:
    """Features, labels and folds for comparing heads. Training rows come first, then validation rows.

    blocks: an array for each tapped block, bottom first: float32, shape (n, features).
    labels: int, shape (n,). folds: int, shape (n,), see `tlkit.features.linear.choose_strength`.
    how: a phrase that describes the folds.
    training: number of rows of the training split. classes: number of classes.
    images_computed: number of images that ran through the backbone for this table; the others came from the cache.
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
        """The indices of rows that are held out in some fold: int, shape (m,)."""
        return np.flatnonzero(self.folds != ALWAYS_TRAINING)

    def fewer(self, most: int, seed: int = 0) -> Table:
        """Return a table with at most `most` of the rows that are always training, for faster probes."""
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
    """Return every block's pooled features for all images. Those that are not cached are computed and cached.

    Args:
        tapped: a classifier whose head has taps (see `Head`), usually "all". Without taps, the features of the last
            block are used.
        backbone: the classifier's backbone.
        pool: the training images, then the validation images.
        training: number of training images in `pool`.
        seed: seed of the folds.
        batch_size: the training batch size; inference may use larger batches.

    Returns:
        The table; None if the cache has no room, or the memory.
    """
    prefix, _ = cut(tapped, backbone, 0)
    assert prefix is not None
    splits = [pool.take(indices) for indices in np.split(np.arange(len(pool)), [training])]
    parts = [(splits[0], True), (splits[1], False)] if bfloat16_pays(prefix) else [(pool, False)]
    found = [
        extract_features(prefix, examples, batch_size=inference_batch(batch_size), fast=fast)
        for examples, fast in parts
        if len(examples)
    ]
    whole = [one for one in found if one is not None]
    needed = sum(4 * one.count * sum(rows.row_shape[-1] for rows in one.views[0]) for one in whole)
    if len(whole) < len(found) or needed > SHARE_OF_MEMORY * available_memory():
        return None
    tensors = [np.concatenate(rows) for rows in zip(*[per_output(one) for one in whole], strict=True)]
    folds, how = solving_folds(*[(one.labels, one.groups) for one in splits], seed=seed)
    computed = sum(one.computed for one in whole)
    return Table(_by_block(tapped, tensors), pool.labels, folds, how, training, tapped.output_shape[-1], computed)


def _by_block(tapped: keras.Model, tensors: list[np.ndarray]) -> list[np.ndarray]:
    """Concatenate the tensors of each block. NASNet's blocks have two output tensors each."""
    numbers = tap_numbers(tapped)
    return [
        np.concatenate([t for t, n in zip(tensors, numbers, strict=True) if n == block], axis=1)
        for block in sorted(set(numbers))
    ]


@dataclass(frozen=True)
class Probe:
    """The result of a linear probe on the held-out images.

    block: its number, 1 = the bottom one. numbers: how many features the block has.
    right: whether each image was predicted correctly: bool, shape (held out,).
    validated: its C and its probabilities.
    """

    block: int
    numbers: int
    right: np.ndarray
    validated: CrossValidation

    @property
    def accuracy(self) -> float:
        """The share of held-out images that were predicted correctly."""
        return float(self.right.mean())


def probe_blocks(table: Table) -> list[Probe]:
    """Fit a linear probe (ridge) on each block alone, bottom first (Alain and Bengio 2016, arXiv:1610.01644)."""
    table = table.fewer(PROBED)
    found = cross_validated(table, [((block,), Solver("ridge")) for block in range(1, len(table.blocks) + 1)])
    right = table.labels[table.held_out]
    return [
        Probe(block, rows.shape[1], one.probabilities.argmax(1) == right, one)
        for block, (rows, (one, _)) in enumerate(zip(table.blocks, found, strict=True), start=1)
    ]


def cross_validated(
    table: Table, heads: Sequence[tuple[tuple[int, ...], Solver]]
) -> list[tuple[CrossValidation, float]]:
    """Cross-validate heads on some blocks each: on a cluster at once, if one is used and the table is large.

    Args:
        heads: the numbers of the blocks, from 1, and how the head is solved.

    Returns:
        What `choose_strength` found for each head, and the seconds it took.
    """
    workers = current()
    if workers is None or len(heads) < 2 or sum(rows.size for rows in table.blocks) < WORTH_SENDING:
        return [_one_head(table, head) for head in heads]
    return list(workers.map_ordered(_one_head, heads, functools.partial(_received, table)))


def _received(table: Table) -> Table:
    return table


def _one_head(table: Table, head: tuple[tuple[int, ...], Solver]) -> tuple[CrossValidation, float]:
    blocks, solver = head
    started = time.monotonic()
    rows = [table.blocks[block - 1] for block in blocks]
    with one_thread():
        found = choose_strength(np.concatenate(rows, axis=1), table.labels, table.folds, table.classes, solver=solver)
    return found, time.monotonic() - started
