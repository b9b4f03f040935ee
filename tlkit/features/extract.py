"""Features of frozen layers, computed once and cached: no frozen layer runs twice on the same pixels.

A prefix (see `tlkit.models.blocks.cut`) always runs in inference mode: BatchNormalization uses its stored statistics
and dropout is off. Its outputs are cached on disk by the image's content and the prefix's weights, so that later runs
reuse them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlkit.backbones.graph import graph_nodes
from tlkit.cache import Cache, MemoryWriter, Store, Wanted, Writer, open_writers
from tlkit.cluster import current
from tlkit.data.augment import augment, augmentation_version
from tlkit.data.examples import Examples, RowSource, received, to_send
from tlkit.errors import RunError, TrainingError
from tlkit.models.inference import FrozenCall, bfloat16_pays, frozen_call, frozen_calls
from tlkit.models.sending import sent_call
from tlkit.plan.augmentation import Augmentation
from tlkit.progress import NO_DEADLINE, Deadline, bar
from tlkit.words import counted

Chunk = list[tuple[int, int]]  # (view, index of the example) of each image of a batch


@dataclass(frozen=True)
class Features:
    """A prefix's outputs for some examples.

    views: one list per view, each with one row source per output tensor of the prefix.
    count: number of examples covered, from the first; fewer than asked for if time ran out.
    computed: number of images that ran through the prefix now; the others were found in the cache.
    """

    views: list[list[RowSource]]
    count: int
    computed: int


def per_output(features: Features) -> list[np.ndarray]:
    """Load the first view into memory, an array for each of the prefix's outputs: float32, shape (count, ...)."""
    return [source.gather(slice(None)).astype("float32", copy=False) for source in features.views[0]]


def all_rows(features: Features) -> np.ndarray:
    """Load all views into memory, one after another, outputs concatenated: float32, shape (views * count, features)."""
    views = [[source.gather(slice(None)) for source in view] for view in features.views]
    return np.concatenate([np.concatenate(view, axis=1) for view in views]).astype("float32", copy=False)


def prefix_key(prefix: keras.Model) -> str:
    """Compute a hash of a prefix: its operations' settings, connections and weights, but not their names."""
    digest = hashlib.sha256()
    nodes = graph_nodes(prefix)
    positions = {operation: index for index, operation in enumerate(nodes)}

    def place(value: Any) -> Any:
        """Replace a tensor of the graph by the position of the operation that made it, and a constant by its bytes."""
        if isinstance(value, keras.KerasTensor):
            history = value._keras_history
            return f"output {history.tensor_index} of {positions[history.operation]}"
        return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest() if hasattr(value, "shape") else value

    for operation, node in nodes.items():
        settings = _without_names(operation.get_config())
        call = keras.tree.map_structure(place, [node.arguments.args, node.arguments.kwargs])
        line = json.dumps([type(operation).__name__, settings, call], sort_keys=True, default=str)
        digest.update(f"{line}\n".encode())
        for weight in getattr(operation, "weights", ()):
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    digest.update(json.dumps([place(tensor) for tensor in prefix.outputs]).encode())
    return digest.hexdigest()[:24]


def _without_names(settings: Any) -> Any:
    """Remove the settings that do not change a layer's outputs in inference: its name, and whether it trains.

    A dtype policy, which is known by its name, stays.
    """
    if isinstance(settings, dict):
        kept = {key: value for key, value in settings.items() if key not in ("name", "trainable")}
        return {key: value if key == "dtype" else _without_names(value) for key, value in kept.items()}
    return [_without_names(one) for one in settings] if isinstance(settings, list | tuple) else settings


def all_cached(prefix: keras.Model, examples: Examples, *, fast: bool = False) -> bool:
    """Return whether `extract_features`, without augmentation, would find every output in the cache."""
    _, folders = _outputs_and_folders(prefix, examples, fast and bfloat16_pays(prefix))
    return all(bool(examples.cache.store(folder).known(list(examples.keys)).all()) for folder in folders)


def feature_stores(prefix: keras.Model, made_by: str, cache: Cache) -> list[Store]:
    """Return the caches of a prefix's float32 outputs of unchanged images, one for each output tensor.

    made_by: how the pixels were made, as in `tlkit.Examples`.
    """
    return [cache.store(cache.at("features", f"{prefix_key(one)}-{made_by}")) for one in _single_outputs(prefix)]


def _single_outputs(prefix: keras.Model) -> list[keras.Model]:
    return [prefix] if len(prefix.outputs) == 1 else [keras.Model(prefix.input, one) for one in prefix.outputs]


def extract_features(
    prefix: keras.Model,
    examples: Examples,
    *,
    augmentation: Augmentation | None = None,
    views: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    deadline: Deadline = NO_DEADLINE,
    fast: bool = False,
) -> Features | None:
    """Return the prefix's outputs for every example and view. Those that are not cached are computed and cached.

    Args:
        prefix: frozen layers; see `tlkit.models.blocks.cut`.
        examples: their `keys` and `made_by` are the cache's keys; their `cache` gives its folder and size limit.
        augmentation: None or an identity for unchanged images.
        views: number of augmented versions of each image; ignored without augmentation. Each is seeded by (seed, view,
            content).
        seed: seed of the augmentation.
        batch_size: images per forward pass.
        deadline: when to stop and return what has been computed.
        fast: whether bfloat16 may be used where it pays, see `tlkit.models.inference.bfloat16_pays`. Such outputs have
            a cache of their own.

    Returns:
        The outputs; None if neither the caches nor the memory has room for them. The caller then runs the prefix batch
        by batch. Rows that turn out to be damaged on disk are computed again from the pixels, when they are read.
    """
    if augmentation is None or augmentation.is_identity():
        augmentation, views = None, 1
    bfloat16 = fast and bfloat16_pays(prefix)
    outputs, folders = _outputs_and_folders(prefix, examples, bfloat16)
    stores = [examples.cache.store(folder) for folder in folders]
    keys = [_view_keys(examples.keys, augmentation, view, seed) for view in range(views)]
    missing = _missing(prefix, stores, keys, augmentation, seed)
    missing = replace(missing, bfloat16=bfloat16)
    last = [one.layers[-1].name for one in outputs]
    wanted = [one.wanted(len(missing.pairs), last[one.index], examples.made_by) for one in missing.outputs]
    writers = open_writers(examples.cache, wanted) if missing.pairs else []
    if writers is None:
        return None
    done = _compute(prefix, examples, missing, writers, batch_size, deadline) if missing.pairs else 0
    count = len(examples)
    if done < len(missing.pairs):
        count = min(i for _, i in missing.pairs[done:])
    again = _Again(prefix, examples, missing, folders, batch_size)
    rows: list[list[RowSource]] = [
        [store.rows(view_keys[:count], functools.partial(again.rows, view, i)) for i, store in enumerate(stores)]
        for view, view_keys in enumerate(keys)
    ]
    return Features(rows, count, done)


def _outputs_and_folders(
    prefix: keras.Model, examples: Examples, bfloat16: bool
) -> tuple[list[keras.Model], list[Path]]:
    """Return a model for each of the prefix's outputs, and the cache folder of each."""
    made_by = f"{examples.made_by}-bfloat16" if bfloat16 else examples.made_by
    outputs = _single_outputs(prefix)
    return outputs, [examples.cache.at("features", f"{prefix_key(one)}-{made_by}") for one in outputs]


def _stored_as(dtype: str) -> str:
    """Return the dtype on disk: float32 for bfloat16, which NumPy's files do not support."""
    return "float32" if dtype == "bfloat16" else dtype


def _view_keys(keys: Sequence[str], augmentation: Augmentation | None, view: int, seed: int) -> list[str]:
    if augmentation is None:
        return list(keys)
    made_by = json.dumps([asdict(augmentation), augmentation_version()], sort_keys=True)
    settings = hashlib.sha256(made_by.encode()).hexdigest()[:12]
    return [f"{key}-{settings}-{seed}-{view}" for key in keys]


@dataclass(frozen=True)
class _Output:
    """One of the prefix's outputs, by its index, and its cache. shape: of one image's row. dtype: its NumPy name."""

    index: int
    store: Store
    shape: tuple[int, ...]
    dtype: str

    def wanted(self, count: int, last: str, made_by: str) -> Wanted:
        """The rows to be added. last: the prefix's last layer. made_by: how the pixels were made."""
        about = f"outputs of frozen layers up to {last}, {self.shape}, {made_by}"
        return Wanted(self.store, count, self.shape, self.dtype, about)


@dataclass(frozen=True)
class _Missing:
    """What is not in the cache yet.

    pairs: (view, index of the example), example by example, each key once.
    keys: by view, then example.
    outputs: the prefix's outputs that are missing for at least one of the pairs.
    augmentation: None for unchanged images. seed: of the augmentation.
    bfloat16: whether to compute in bfloat16.
    """

    pairs: list[tuple[int, int]]
    keys: list[list[str]]
    outputs: list[_Output]
    augmentation: Augmentation | None
    seed: int
    bfloat16: bool = False


def _missing(
    prefix: keras.Model, stores: list[Store], keys: list[list[str]], augmentation: Augmentation | None, seed: int
) -> _Missing:
    known = [np.stack([store.known(view_keys) for store in stores]) for view_keys in keys]
    views, count = range(len(keys)), len(keys[0])
    pairs: dict[str, tuple[int, int]] = {}
    for i in range(count):
        for view in views:
            if not known[view][:, i].all():
                pairs.setdefault(keys[view][i], (view, i))  # of equal images the first, so that pairs stay in order
    outputs = [
        _Output(
            index,
            stores[index],
            tuple(int(d) for d in tensor.shape[1:]),
            _stored_as(keras.backend.standardize_dtype(tensor.dtype)),
        )
        for index, tensor in enumerate(prefix.outputs)
        if not all(one[index].all() for one in known)
    ]
    return _Missing(list(pairs.values()), keys, outputs, augmentation, seed)


def _compute(
    prefix: keras.Model,
    examples: Examples,
    missing: _Missing,
    writers: Sequence[Writer | MemoryWriter],
    batch_size: int,
    deadline: Deadline,
) -> int:
    """Run the prefix on the missing pairs and cache its outputs. Returns the number of pairs done."""
    if len(missing.outputs) < len(prefix.outputs):
        prefix = keras.Model(prefix.input, [prefix.outputs[one.index] for one in missing.outputs])
    pairs, done = missing.pairs, 0
    chunks = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    with contextlib.ExitStack() as stack:
        update = stack.enter_context(bar(len(pairs), "image"))
        for writer in writers:
            stack.push(writer.__exit__)
        found = stack.enter_context(contextlib.closing(_outputs(prefix, examples, missing, chunks, batch_size)))
        for chunk, outputs in zip(chunks, found, strict=False):
            keys = [missing.keys[view][i] for view, i in chunk]
            for writer, values in zip(writers, outputs, strict=True):
                _check_finite(values, prefix, keys)
                writer.add(keys, values)
            done += len(chunk)
            update(done)
            if deadline.over:
                break
    return done


def _outputs(
    prefix: keras.Model, examples: Examples, missing: _Missing, chunks: list[Chunk], batch_size: int
) -> Generator[list[np.ndarray]]:
    """Yield the prefix's outputs for each batch of pairs, in the same batches whatever computes them."""
    numbers, workers = examples.numbers(), current()
    if workers is not None and len(chunks) > 1:
        items = (_to_send(examples, missing, numbers, chunk) for chunk in chunks)
        yield from workers.map_ordered(_in_worker, items, sent_call(prefix, batch_size, bfloat16=missing.bfloat16))
        return
    calls = frozen_calls(prefix, batch_size, bfloat16=missing.bfloat16)
    prepare = functools.partial(_pixels, examples, missing, numbers)
    yield from _one_by_one(calls[0], prepare, chunks) if len(calls) == 1 else _on_all(calls, prepare, chunks)


def _one_by_one(
    call: FrozenCall, prepare: Callable[[Chunk], np.ndarray], chunks: Sequence[Chunk]
) -> Iterator[list[np.ndarray]]:
    """Yield the outputs of each chunk. The next one's pixels are prepared meanwhile."""
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(prepare, chunks[0])
        for number in range(len(chunks)):
            images = waiting.result()
            if number + 1 < len(chunks):
                waiting = pool.submit(prepare, chunks[number + 1])
            yield call(images)


def _on_all(
    calls: Sequence[FrozenCall], prepare: Callable[[Chunk], np.ndarray], chunks: Sequence[Chunk]
) -> Iterator[list[np.ndarray]]:
    """Yield the outputs of each chunk, in order. The chunks go to the devices in turn, whole, so nothing else changes.

    calls: one for each device. Each has two chunks at most under way.
    """
    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in calls]
        waiting: deque[Future[list[np.ndarray]]] = deque()
        for number, chunk in enumerate(chunks):
            if len(waiting) == 2 * len(calls):
                yield waiting.popleft().result()
            call, thread = calls[number % len(calls)], threads[number % len(calls)]
            waiting.append(thread.submit(_prepared, call, prepare, chunk))
        while waiting:
            yield waiting.popleft().result()


def _prepared(call: FrozenCall, prepare: Callable[[Chunk], np.ndarray], chunk: Chunk) -> list[np.ndarray]:
    return call(prepare(chunk))


def _check_finite(values: np.ndarray, prefix: keras.Model, keys: list[str]) -> None:
    """Raise TrainingError if a row of features is NaN or infinite, so that it is neither cached nor trained on."""
    wrong = ~np.isfinite(values).reshape(len(values), -1).all(1)
    if wrong.any():
        raise TrainingError(
            f"The frozen layers up to '{prefix.layers[-1].name}' give numbers that are not finite for "
            f"{counted(int(wrong.sum()), 'image')} of {len(wrong)}, such as that of SHA-256 "
            f"{keys[int(wrong.argmax())][:16]}. Use precision 'float32', or other weights."
        )


def _pixels(examples: Examples, missing: _Missing, numbers: list[int], chunk: list[tuple[int, int]]) -> np.ndarray:
    """The pixels of pairs (view, index), augmented if asked. numbers: by which the augmentation is seeded."""
    images = examples.pixels.gather(np.array([i for _, i in chunk]))
    return _augmented(images, missing.augmentation, _seeds(missing, numbers, chunk))


def _seeds(missing: _Missing, numbers: list[int], chunk: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    return [(missing.seed, view, numbers[i]) for view, i in chunk]


def _augmented(
    images: np.ndarray, augmentation: Augmentation | None, seeds: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """The images, each augmented by its seed; unchanged without an augmentation."""
    if augmentation is None:
        return images
    return np.stack([augment(image, augmentation, one) for image, one in zip(images, seeds, strict=True)])


@dataclass(frozen=True)
class _Sent:
    """A batch for a worker of a cluster. rows: see `to_send`. augmentation, seeds: as in `_augmented`."""

    rows: Any
    augmentation: Augmentation | None
    seeds: list[tuple[int, int, int]]


def _to_send(examples: Examples, missing: _Missing, numbers: list[int], chunk: list[tuple[int, int]]) -> _Sent:
    rows = to_send(examples.pixels, np.array([i for _, i in chunk]))
    return _Sent(rows, missing.augmentation, _seeds(missing, numbers, chunk))


def _in_worker(call: Callable[[np.ndarray], list[np.ndarray]], sent: _Sent) -> list[np.ndarray]:
    return call(_augmented(received(sent.rows), sent.augmentation, sent.seeds))


@dataclass(frozen=True)
class _Again:
    """Computes single rows of a prefix's outputs again, because they are damaged in the cache. Fields as above."""

    prefix: keras.Model
    examples: Examples
    missing: _Missing
    folders: list[Path]
    batch_size: int

    def rows(self, view: int, output: int, indices: np.ndarray) -> np.ndarray:
        """The rows of some examples, in one view and of one output. Raises RunError if the prefix was trained since."""
        outputs, folders = _outputs_and_folders(self.prefix, self.examples, self.missing.bfloat16)
        if folders[output] != self.folders[output]:
            raise RunError(f"The cache '{self.folders[output]}' is damaged. Clear it, and run again.")
        call = frozen_call(outputs[output], self.batch_size, bfloat16=self.missing.bfloat16)
        pairs, numbers = [(view, int(i)) for i in indices], self.examples.numbers()
        chunks = [pairs[start : start + self.batch_size] for start in range(0, len(pairs), self.batch_size)]
        found = [call(_pixels(self.examples, self.missing, numbers, chunk))[0] for chunk in chunks]
        dtype = _stored_as(keras.backend.standardize_dtype(self.prefix.outputs[output].dtype))
        return np.concatenate(found).astype(dtype, copy=False)
