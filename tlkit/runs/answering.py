"""Answers many images with one model: reads and decodes ahead in threads, while the network runs.

An `Engine` prepares an image, in a thread, and answers a batch of prepared ones. One that is not readable, or on which
the model fails, gets a problem and ends nothing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tlkit.cache import Store
from tlkit.cluster import threads
from tlkit.data.convert import without_warnings
from tlkit.data.decode import square_decoder
from tlkit.data.headers import why_not
from tlkit.errors import RunError
from tlkit.evaluation.known import Known
from tlkit.models.inference import frozen_call
from tlkit.runs.items import Item, decodable, read_raw
from tlkit.runs.predict import Served
from tlkit.runs.reading import BATCH

AHEAD = 4 * BATCH  # images that are read before it is their turn
AHEAD_BYTES = 256 * 2**20  # of their files, at most
BATCH_BYTES = 64 * 2**20  # of the files of one batch


@dataclass(frozen=True)
class Answers:
    """The answers for n images.

    ok: whether each was answered, bool, shape (n,). problems: why not, or "".
    probabilities: float32, shape (n, classes), 0 where not ok; None if the model gives none.
    sure: bool, shape (n,); None where the model has no threshold below which it is unsure.
    known: p-values for being like the images that the model knows, float32, shape (n,); None if it gives none.
    none: whether the answer is "none of these", bool, shape (n,); None if it never is.
    prediction_set: bool, shape (n, classes); None if the model gives no sets.
    embeddings: float32, shape (n, features), 0 where not ok; None if they were not asked for.
    """

    ok: np.ndarray
    problems: tuple[str, ...]
    probabilities: np.ndarray | None = None
    sure: np.ndarray | None = None
    known: np.ndarray | None = None
    none: np.ndarray | None = None
    prediction_set: np.ndarray | None = None
    embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ok)


def joined(parts: Sequence[Answers]) -> Answers:
    """Answers one after another, all from one engine."""

    def column(name: str) -> np.ndarray | None:
        values = [getattr(one, name) for one in parts]
        return None if values[0] is None else np.concatenate(values)

    problems = tuple(one for part in parts for one in part.problems)
    return Answers(np.concatenate([one.ok for one in parts]), problems, **{name: column(name) for name in MEASURED})


MEASURED = (
    "probabilities",
    "sure",
    "known",
    "none",
    "prediction_set",
    "embeddings",
)  # what `Answers` has of each image


class Engine(Protocol):
    """A model that answers images. classes: its class names; () if it gives no probabilities."""

    classes: tuple[str, ...]

    def prepare(self, item: Item) -> Any:
        """What `answer` needs of an image, or why there is nothing, as text. Called in threads."""
        ...

    def answer(self, prepared: Sequence[Any]) -> Answers:
        """Answer a batch."""
        ...


class ServedModel:
    """A run's SavedModel, or any export, as it is served: it decodes by itself."""

    def __init__(self, served: Served) -> None:
        names, self._ask, self._has_threshold = served
        self.classes = tuple(names)

    def prepare(self, item: Item) -> bytes | str:
        data = read_raw(item)
        return data if isinstance(data, str) else decodable(data)

    def answer(self, prepared: Sequence[bytes | str]) -> Answers:
        reply = self._ask([b"" if isinstance(one, str) else one for one in prepared])
        ok, sure, values = reply
        problems = [
            "" if good else one if isinstance(one, str) else ": ".join(why_not(one))
            for one, good in zip(prepared, ok, strict=True)
        ]
        return Answers(
            np.asarray(ok, bool),
            tuple(problems),
            np.asarray(values, "float32"),
            np.asarray(sure, bool) if self._has_threshold else None,
            reply.known,
            reply.none,
            reply.prediction_set,
        )


@dataclass(frozen=True)
class Looks:
    """How a network sees image files: see `tlkit.decode_and_resize`."""

    size: int
    fit: str
    depth: int


@dataclass(frozen=True, eq=False)
class Beyond:
    """What a run answers besides probabilities, as its SavedModel does.

    unsure_below: the probability below which it is unsure; 0 for never.
    known: tells images of its classes from others. none_below: the p-value below which the answer is "none of these"; 0
        for never.
    thresholds: of the prediction sets, for each class.
    """

    unsure_below: float = 0.0
    known: Known | None = None
    none_below: float = 0.0
    thresholds: np.ndarray | None = None

    def of(self, features: np.ndarray, probabilities: np.ndarray, ok: np.ndarray) -> dict[str, np.ndarray | None]:
        """The columns sure, known, none and prediction_set of `Answers`."""
        known = none = None
        if self.known is not None:
            known = np.asarray(self.known.p_values(features, probabilities)) * ok
            none = ok & (known < self.none_below) if self.none_below else None
        return {
            "sure": ok & (probabilities.max(1) >= self.unsure_below) if self.unsure_below else None,
            "known": known,
            "none": none,
            "prediction_set": None if self.thresholds is None else ok[:, None] & (probabilities >= self.thresholds),
        }


class Network:
    """A Keras model that gives pooled features, and probabilities where it is a classifier."""

    def __init__(
        self,
        model: keras.Model,
        looks: Looks,
        classes: Sequence[str] = (),
        *,
        beyond: Beyond | None = None,
        stores: Sequence[Store] = (),
    ) -> None:
        """Wrap a model.

        model: its outputs are the features of one tensor or several; before them the probabilities, if there are
            classes.
        looks: how files become its input.
        beyond: what it answers besides probabilities.
        stores: caches of its features, one for each output; they are not computed again for an image found there.
        """
        self.classes, self._looks, self._stores = tuple(classes), looks, stores
        self._beyond = beyond or Beyond()
        self._call = frozen_call(model, BATCH)
        self._square = square_decoder(looks.size, looks.fit, looks.depth)
        shapes = [one.shape[1:] for one in model.outputs]
        self._width = sum(int(shape[0]) for shape in shapes[1 if classes else 0 :])

    def prepare(self, item: Item) -> np.ndarray | str:
        """Decoded pixels, uint8; or features from the cache, float32, shape (features,)."""
        data = read_raw(item)
        if isinstance(data, str):
            return data
        if self._stores:
            key = hashlib.sha256(data).hexdigest()
            if all(store.known([key])[0] for store in self._stores):
                try:
                    rows = [store.rows([key]).gather(slice(None))[0] for store in self._stores]
                    return np.concatenate(rows).astype("float32", copy=False)
                except RunError:  # the row is damaged
                    pass
        found = decodable(data)
        if isinstance(found, str):
            return found
        try:
            with tf.device("cpu"):
                return self._square(tf.constant(found)).numpy()
        except (tf.errors.OpError, ValueError):
            return ": ".join(why_not(found))

    def answer(self, prepared: Sequence[np.ndarray | str]) -> Answers:
        n = len(prepared)
        ok = np.array([not isinstance(one, str) for one in prepared], bool)
        embeddings = np.zeros((n, self._width), "float32")
        probabilities = np.zeros((n, len(self.classes)), "float32")
        todo = []
        for i, one in enumerate(prepared):
            if isinstance(one, np.ndarray) and one.ndim == 1:
                embeddings[i] = one
            elif isinstance(one, np.ndarray):
                todo.append(i)
        if todo:
            outputs = self._call(np.stack([np.asarray(prepared[i]) for i in todo]))
            if self.classes:
                probabilities[todo] = outputs.pop(0)
            embeddings[todo] = np.concatenate([one.reshape(len(todo), -1) for one in outputs], axis=1)
        problems = tuple(one if isinstance(one, str) else "" for one in prepared)
        if not self.classes:
            return Answers(ok, problems, embeddings=embeddings)
        return Answers(
            ok, problems, probabilities, **self._beyond.of(embeddings, probabilities, ok), embeddings=embeddings
        )


def answered(engine: Engine, items: Sequence[Item]) -> Answers:
    """Answer some images, in their order. Raises what the engine raises if it answers no image of a batch."""
    with without_warnings():
        return joined([_isolated(engine, batch) for batch in _batches(_prepared(engine, items))])


def _prepared(engine: Engine, items: Sequence[Item]) -> Iterator[tuple[Any, int]]:
    """What the engine prepared of each image, and the size of its file, as bounded a way ahead as AHEAD says."""
    waiting: deque[tuple[Future[Any], int]] = deque()
    ahead = 0
    with ThreadPoolExecutor(threads() + 2) as pool:  # reading waits for disks
        try:
            for item in items:
                size = item.size or 0
                while waiting and (len(waiting) >= AHEAD or ahead + size > AHEAD_BYTES):
                    future, done = waiting.popleft()
                    ahead -= done
                    yield future.result(), done
                waiting.append((pool.submit(_prepare, engine, item), size))
                ahead += size
            while waiting:
                future, done = waiting.popleft()
                yield future.result(), done
        finally:
            for future, _ in waiting:
                future.cancel()


def _prepare(engine: Engine, item: Item) -> Any:
    """What the engine prepares of an image. Whatever a file does to a reader is the problem of that image alone."""
    try:
        return engine.prepare(item)
    except Exception as error:
        return f"it cannot be read: {type(error).__name__}: {error}"[:300]


def _batches(prepared: Iterable[tuple[Any, int]]) -> Iterator[list[Any]]:
    """Batches of BATCH images, or fewer large ones."""
    batch: list[Any] = []
    held = 0
    for one, size in prepared:
        if batch and (len(batch) >= BATCH or held + size > BATCH_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(one)
        held += size
    if batch:
        yield batch


def _isolated(engine: Engine, batch: list[Any]) -> Answers:
    """Answer a batch; if the model fails on it, each image alone, so that one that it cannot take has the problem."""
    try:
        return engine.answer(batch)
    except (tf.errors.OpError, ValueError) as error:
        first: Exception = error
    found: list[Answers | str] = []
    for one in batch:
        try:
            found.append(engine.answer([one]))
        except (tf.errors.OpError, ValueError) as error:
            found.append(str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__)
    answers = [one for one in found if isinstance(one, Answers)]
    if not answers:
        raise first
    return joined([one if isinstance(one, Answers) else _without(answers[0], one) for one in found])


def _without(like: Answers, why: str) -> Answers:
    """No answer for one image. like: an answer for another."""

    def blank(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.zeros_like(values[:1])

    return Answers(
        np.zeros(1, bool),
        (f"the model fails on it: {why}",),
        **{name: blank(getattr(like, name)) for name in MEASURED},
    )
