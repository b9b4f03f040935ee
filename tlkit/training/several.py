"""Trains several classifiers at once, each in a worker of a cluster: contenders, folds, and seeds.

What a training reads must be where the workers find it: the decoded pixels are read from the cache's folder, which the
machines of a cluster share, and features of frozen layers are kept there, too. Imports Keras and NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.backbones import Backbone
from tlkit.cache import Cache, Rows, Shard
from tlkit.cluster import Pool
from tlkit.data.examples import Examples, RowSource
from tlkit.errors import DataError, TrainingError
from tlkit.models.blocks import set_trainable
from tlkit.models.sending import packed, unpacked
from tlkit.plan.recipe import Recipe
from tlkit.progress import Deadline
from tlkit.training.history import History
from tlkit.training.resume import _inner_batch_norms
from tlkit.training.train import train

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Training:
    """The arguments of `tlkit.train`."""

    model: keras.Model
    backbone: Backbone
    recipe: Recipe
    training: Examples
    validation: Examples
    seed: int
    deadline: Deadline


def train_several(workers: Pool, trainings: Sequence[Training]) -> list[History | TrainingError]:
    """Train classifiers, each in a worker. Their models are then as after `tlkit.train`.

    No checkpoints are written. A worker that dies is replaced, and its training begins anew.

    Returns:
        The history of each; the error of one whose loss was not finite.
    """
    found: list[History | TrainingError] = []
    sent = (_sent(one) for one in trainings)
    for one, (history, weights, momenta) in zip(trainings, workers.map_ordered(_trained, sent), strict=True):
        if not isinstance(history, TrainingError):
            stage = one.recipe.stages[-1]
            set_trainable(one.model, one.backbone, unfreeze=stage.unfreeze, batch_norm=stage.batch_norm)
            one.model.set_weights(weights)
            for layer, momentum in zip(_inner_batch_norms(one.model), momenta, strict=True):
                layer.momentum = momentum
        found.append(history)
    return found


@dataclass(frozen=True)
class _Sent:
    """A training for a worker. model: see `packed`. seconds: until the deadline. The rest as in `Training`."""

    model: dict[str, bytes]
    backbone: Backbone
    recipe: Recipe
    training: _SentExamples
    validation: _SentExamples
    seed: int
    seconds: float
    whole: bool


def _sent(one: Training) -> _Sent:
    return _Sent(
        packed(one.model),
        replace(one.backbone, builder=_not_sent, learn=None),
        one.recipe,
        _SentExamples.of(one.training),
        _SentExamples.of(one.validation),
        one.seed,
        one.deadline.left,
        one.deadline.whole,
    )


def _not_sent(size: int) -> tuple[Any, Any]:
    """Stands for a backbone's builder: its network is sent as a model."""
    raise NotImplementedError


def _trained(state: None, sent: _Sent) -> tuple[History | TrainingError, list[np.ndarray], list[float]]:
    """Train in a worker. Returns the history, the weights, and the momenta of BatchNormalization."""
    model = unpacked(sent.model)
    deadline = Deadline(Deadline.after(sent.seconds).at, sent.whole)
    training, validation = sent.training.opened(), sent.validation.opened()
    try:
        history = train(model, sent.backbone, sent.recipe, training, validation, seed=sent.seed, deadline=deadline)
    except TrainingError as error:
        return error, [], []
    return history, model.get_weights(), [layer.momentum for layer in _inner_batch_norms(model)]


@dataclass(frozen=True)
class _SentExamples:
    """Examples for a worker. pixels, sharper: the folder of a store, or rows that can be sent. cache: limit and folder.

    The rest as in `Examples`.
    """

    pixels: Any
    sharper: Any
    labels: np.ndarray
    keys: list[str]
    groups: np.ndarray | None
    made_by: str
    cache: tuple[float | None, str]

    @classmethod
    def of(cls, examples: Examples) -> _SentExamples:
        cache = examples.cache
        return cls(
            _sent_rows(examples.pixels),
            None if examples.sharper is None else _sent_rows(examples.sharper),
            examples.labels,
            list(examples.keys),
            examples.groups,
            examples.made_by,
            (cache.limit_gb, str(cache.folder.absolute())),
        )

    def opened(self) -> Examples:
        cache = Cache(self.cache[0], Path(self.cache[1]))
        return Examples(
            self._rows(self.pixels, cache),
            self.labels,
            self.keys,
            self.groups,
            made_by=self.made_by,
            cache=cache,
            sharper=None if self.sharper is None else self._rows(self.sharper, cache),
        )

    def _rows(self, sent: Any, cache: Cache) -> RowSource:
        if not isinstance(sent, str):
            return sent
        store = cache.store(Path(sent))
        if not store.known(self.keys).all():
            raise DataError(
                f"The workers of the cluster do not find the decoded images in '{sent}'. Set TLKIT_CACHE to a folder "
                "that all machines share under the same path."
            )
        return store.rows(self.keys)


def _sent_rows(rows: RowSource) -> Any:
    """The folder of the store that holds the rows; the rows themselves if they are in memory, or stream."""
    if isinstance(rows, Rows):
        used = [rows.shards[number] for number in np.unique(rows.where[:, 0])]
        folders = {str(one.index.parent.absolute()) if isinstance(one, Shard) else "" for one in used}
        if len(folders) == 1 and "" not in folders:
            return folders.pop()
        return rows.gather(slice(None))
    return rows.sendable(np.arange(len(rows))) if hasattr(rows, "sendable") else rows
