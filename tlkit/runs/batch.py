"""Predicts and embeds any number of images into a file: streaming, and begun again where it was stopped.

Memory is bounded: at most one folder's names, the items of two parts, and AHEAD images are held. A part is the unit of
work, of writing and of beginning again; it depends on nothing but the model and its own items.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import keras

from tlkit.backbones import find_backbone
from tlkit.cache import Cache
from tlkit.cluster import check_on, pool
from tlkit.data.limits import FULL_DEPTH
from tlkit.data.pixels import Pixels
from tlkit.disk import check_writable
from tlkit.doctor.checkup import _network
from tlkit.errors import DataError, SpecError
from tlkit.evaluation.prediction_sets import thresholds_of
from tlkit.features.extract import feature_stores, prefix_key
from tlkit.files import contents
from tlkit.folders import BESIDE, DESCRIPTION, PLAN, read_description
from tlkit.manifest import digest
from tlkit.models.blocks import feature_extractor
from tlkit.progress import log
from tlkit.runs.answering import Answers, Beyond, Engine, Looks, Network, ServedModel, answered, joined
from tlkit.runs.export import serving_of
from tlkit.runs.folder import Run, open_run
from tlkit.runs.items import Item, Source, items_of, source_words
from tlkit.runs.parts import PART_ROWS, Part, Parts, parts_of
from tlkit.runs.predict import opened
from tlkit.runs.reading import BATCH, is_target, load_model, served_folder, unsure_below
from tlkit.words import counted, shown

OTHERS = (*BESIDE, DESCRIPTION)  # files of an export on which no answer depends, or not as a whole
SENT = 8 * BATCH  # images that a worker of a cluster is sent at once
SAID_EVERY = 30.0  # seconds between two lines in the log


@dataclass(frozen=True)
class Written:
    """What a batch wrote.

    out: the folder of a .parquet, or the CSV. rows: all of its rows. problems: those without an answer.
    computed: the rows that were answered now; the others were there.
    changed: messages about images that are not as they were when they were first answered; these were answered again.
    """

    out: Path
    rows: int
    problems: int
    computed: int
    changed: tuple[str, ...] = ()

    def __str__(self) -> str:
        found = f"{counted(self.rows, 'image')}, {self.problems:,} with a problem: {shown(self.out)}"
        kept = self.rows - self.computed
        return found + (f" ({kept:,} of them were answered before)" if kept else "")


def predict_to(
    model: str | Path | Run,
    source: Source,
    out: str | Path,
    *,
    embeddings: bool = False,
    on: str | None = None,
    force: bool = False,
    rows: int = PART_ROWS,
) -> Written:
    """Predict classes and probabilities for any number of images, and write them to a file.

    Images are read, answered and written as a stream. If it is stopped, at any moment and in any way, the same call
    goes on where it was. A call for a source that has changed since answers what has changed, and what comes after that
    if images were added or removed in between; it names them in the log.

    Args:
        model: A run, or a folder that export wrote.
        source: Files, folders, tables of paths and lists of paths: see `tlkit.runs.items.items_of`.
        out: NAME.parquet becomes a folder of part files, which pandas and others read as one table. NAME.csv is one
            file, written when all is answered. Both have a row for each image, in the order of the source: path, bytes
            (of the file), modified, prediction, probability, probabilities (a list in the order of the classes, which
            are in the Parquet metadata; in a CSV a column for each class), sure (null where the model has no threshold
            below which it is unsure), known and prediction_set (null where the model gives none; a list of classes, in
            a CSV as JSON), ok, and problem, which says why an image has no answer.
        embeddings: Also write the column embedding, a list of float32: see `embed`. The model must then be a run; the
            probabilities are those of its Keras model, which differ from the SavedModel's by rounding.
        on: "ray" for the cores of this machine, or "ray://HOST:PORT" for a Ray cluster whose machines see the images
            and the model under the same paths. None: this process.
        force: Remove answers at `out` that are of another model or of other images.
        rows: Images of a part. Smaller parts lose less when a computer fails; a batch goes on with the number that it
            began with.

    Raises:
        DataError: There are no such files, or no images.
        RunError: The model is neither a run nor an export, or `out` is of another model, of other images, or someone
            else's.
        SpecError: `out` ends in something else, or embeddings are asked of an export.
        ExportError: A package for the format is not installed.
        DiskError: The disk is full. The parts so far are kept: the same call goes on when there is room.
    """
    folder = model.folder if isinstance(model, Run) else model
    return write_answers(Predicting(str(folder), embeddings), source, out, on=on, force=force, rows=rows)


def embed(
    model: str | Path | Run,
    source: Source,
    out: str | Path,
    *,
    image_size: int | None = None,
    on: str | None = None,
    force: bool = False,
    rows: int = PART_ROWS,
) -> Written:
    """Write the pooled features of any number of images to Parquet.

    The columns are path, bytes, modified, ok, problem and embedding, a list of float32: what the head of a run reads,
    the outputs of several blocks one after another. Features that a run left in the cache are read there. Otherwise as
    `predict_to`.

    Args:
        model: A run, whose network then has the weights that the run gave it; or a backbone's name, as
            `tlkit.find_backbone` takes it, with its ImageNet weights.
        image_size: Pixels per side, of a backbone. Default: its native size. A run has its own.

    Raises as `predict_to`; also:
        NameUnknown: There is no such run or backbone.
        SpecError: The run is an ensemble, which has no features, or `image_size` is given for a run.
    """
    task = Embedding(str(model.folder if isinstance(model, Run) else model), image_size)
    return write_answers(task, source, out, on=on, force=force, rows=rows)


# -- what is asked of each image -------------------------------------------------------------------------------


class Task(Protocol):
    """What is asked of each image. It is small, and each worker of a cluster makes the engine from it."""

    @property
    def embeddings(self) -> bool: ...

    def words(self) -> str:
        """What the answers are."""
        ...

    def digest(self) -> str:
        """A hash of the model: of all that its answers depend on."""
        ...

    def engine(self) -> Engine: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Predicting:
    """Predictions of a run or an export, maybe with embeddings."""

    model: str
    embeddings: bool

    def words(self) -> str:
        return "predictions and embeddings" if self.embeddings else "predictions"

    def digest(self) -> str:
        if self.embeddings:
            run = self._run()
            looks = [run.plan.image_size, run.plan.job.fit, run.plan.depth]
            beyond = [digest(run.known_file) if run.known_file.is_file() else "", run.metrics.get("prediction_sets")]
            beyond += [unsure_below(self.model), (run.metrics.get("known") or {}).get("none_below")]
            return _hash([digest(run.model_file), list(run.plan.classes), looks, beyond])
        folder = Path(self.model)
        folder = folder if is_target(folder) else served_folder(folder)
        files = {
            one: digest(folder / one) for one in contents(folder) if (folder / one).is_file() and one not in OTHERS
        }
        names = ("classes", "image_size", "fit", "depth", "unsure_below", "none_below", "prediction_sets")
        known = read_description(folder) if (folder / DESCRIPTION).is_file() else {}
        return _hash([files, {name: known.get(name) for name in names}])

    def engine(self) -> Engine:
        if not self.embeddings:
            return ServedModel(opened(self.model))
        run = self._run()
        model = load_model(run)
        both = keras.Model(model.input, [model.output, *feature_extractor(model).outputs])
        plan = run.plan
        looks = Looks(plan.image_size, plan.job.fit, plan.depth)
        serving = serving_of(run, run.metrics)
        thresholds = thresholds_of(serving.prediction_sets, plan.classes)
        below = unsure_below(self.model) or 0.0
        return Network(both, looks, plan.classes, beyond=Beyond(below, serving.known, serving.none_below, thresholds))

    def _run(self) -> Run:
        if not (Path(self.model) / PLAN).is_file() and (Path(self.model) / DESCRIPTION).is_file():
            raise SpecError(f"'{self.model}' is an export, which gives no embeddings. Give the run that it is of.")
        return open_run(self.model)


@dataclass(frozen=True)
class Embedding:
    """Pooled features of a run's network, or of a pretrained backbone."""

    model: str
    image_size: int | None = None
    embeddings: bool = True

    def words(self) -> str:
        return "embeddings"

    def digest(self) -> str:
        prefix, looks = self._prefix()
        return _hash([prefix_key(prefix), looks.size, looks.fit, looks.depth])

    def engine(self) -> Engine:
        prefix, looks = self._prefix()
        made_by = Pixels(looks.size, looks.fit, None, depth=looks.depth).key
        return Network(prefix, looks, stores=feature_stores(prefix, made_by, Cache()))

    def _prefix(self) -> tuple[keras.Model, Looks]:
        return _prefix_of(self)


@functools.lru_cache(maxsize=1)
def _prefix_of(task: Embedding) -> tuple[keras.Model, Looks]:
    """The network up to its pooled features, and how files become its input."""
    if (Path(task.model) / PLAN).is_file():
        if task.image_size is not None:
            raise SpecError(f"`image_size` is given, and '{task.model}' is a run, which has its own. Leave it out.")
        run = open_run(task.model)
        plan = run.plan
        return feature_extractor(load_model(run)), Looks(plan.image_size, plan.job.fit, plan.depth)
    if (Path(task.model) / DESCRIPTION).is_file():
        raise SpecError(f"'{task.model}' is an export, which gives no embeddings. Give the run that it is of.")
    backbone = find_backbone(task.model)
    size = task.image_size or backbone.size
    return _network(backbone, size), Looks(size, "squash", FULL_DEPTH)


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# -- the work ----------------------------------------------------------------------------------------------------


def write_answers(task: Task, source: Source, out: str | Path, *, on: str | None, force: bool, rows: int) -> Written:
    """Answer what of a source is not answered yet, and write it. Arguments as of `predict_to`."""
    check_on(on)
    if rows < 1:
        raise SpecError(f"`rows` is {rows}. Expected 1 or more.")
    out = Path(out)
    _prefix_of.cache_clear()  # a run's folder may have been replaced since
    parts = Parts(out, embeddings=task.embeddings)
    check_writable(out, makes_folders=True)
    found = items_of(source)
    first = next(found, None)
    if first is None:
        raise DataError(f"No images in {', '.join(map(repr, source_words(source)[:3]))}. Expected image files.")
    description: dict[str, Any] = {
        "answers": task.words(),
        "source": source_words(source),
        "model": task.digest(),
        "rows": rows,
    }
    batch = _Batch(task, description["model"], parts, chain([first], found))
    with parts.opened(description, force=force) as begun:
        if not begun:
            parts.begin(description, _engine(task, batch.model).classes)
        try:
            batch.run(rows, on)
        except KeyboardInterrupt:
            log.warning(f"Stopped after {counted(batch.rows, 'image')}. The same command goes on from there.")
            raise
        parts.finish(description, batch.count, batch.rows, batch.problems)
    return Written(out, batch.rows, batch.problems, batch.computed, tuple(parts.changed))


@dataclass
class _Batch:
    """The work on one source, and its counts so far: parts, rows, rows with a problem, and rows answered now.

    model: a hash of it, by which another process knows whether it has it.
    """

    task: Task
    model: str
    parts: Parts
    items: Iterable[Item]
    count: int = 0
    rows: int = 0
    problems: int = 0
    computed: int = 0

    def run(self, rows: int, on: str | None) -> None:
        """Answer and write part after part. A part is written while the next one is answered."""
        said = started = time.monotonic()
        waiting: Future[None] | None = None
        with ThreadPoolExecutor(1) as writer:
            for part, answers in _answered(self.task, self.model, self._missing(rows), on):
                if waiting is not None:
                    waiting.result()
                waiting = writer.submit(self.parts.write, part, answers)
                self.rows += len(answers)
                self.computed += len(answers)
                self.problems += int((~answers.ok).sum())
                if time.monotonic() - said > SAID_EVERY:
                    said = time.monotonic()
                    log.info(f"{self.rows:,} images, {self.computed / (said - started):.0f} a second")
            if waiting is not None:
                waiting.result()

    def _missing(self, rows: int) -> Iterator[Part]:
        """The parts that are not there; those that are, are counted."""
        for part in parts_of(self.items, rows):
            self.count += 1
            problems = self.parts.problems(part) if self.parts.has(part) else None
            if problems is None:
                yield part
            else:
                self.rows += len(part.items)
                self.problems += problems


def _answered(task: Task, model: str, parts: Iterable[Part], on: str | None) -> Iterator[tuple[Part, Answers]]:
    """Yield each part with its answers, in order. Memory is bounded: parts are taken as they are needed.

    On a cluster a part is sent in pieces, so that a few hundred images keep several workers busy.
    """
    parts = iter(parts)
    first = next(parts, None)
    if first is None:
        return  # no engine, and no cluster, is needed
    waiting: deque[tuple[Part, int]] = deque()

    def pieces() -> Iterator[tuple[Item, ...]]:
        for part in chain([first], parts):
            size = len(part.items) if on is None else SENT
            starts = range(0, len(part.items), size)
            waiting.append((part, len(starts)))
            yield from (part.items[start : start + size] for start in starts)

    with pool(on) as workers:
        done: list[Answers] = []
        for answers in workers.map_ordered(answered, pieces(), functools.partial(_engine, task, model)):
            done.append(answers)
            if len(done) == waiting[0][1]:
                yield waiting.popleft()[0], joined(done)
                done = []


@functools.lru_cache(maxsize=1)
def _engine(task: Task, model: str) -> Engine:
    """The engine of a task, made once in each process. model: a hash of it, since a folder may be replaced."""
    return task.engine()
