"""What a frozen network says about each image, computed once and kept: no frozen layer runs twice on the same pixels.

A prefix (see `tlkit.models.blocks.cut`) always runs as its own inference graph, so its BatchNormalization and dropout stand still by
construction. Its outputs are kept on disk by the image's content and the prefix's weights, so the next run finds them too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlkit.cache import Store, describe
from tlkit.data.augment import augment
from tlkit.data.examples import Examples, RowSource
from tlkit.models.inference import frozen_call
from tlkit.plan.augmentation import Augmentation
from tlkit.progress import NO_DEADLINE, Deadline, bar


@dataclass(frozen=True)
class Features:
    """A prefix's outputs for some examples.

    views: one list per view, each with one row source per output tensor of the prefix.
    count: examples covered, from the first; fewer than asked for when time ran out.
    computed: forward passes of single images that were run now; the others were found in the cache.
    """

    views: list[list[RowSource]]
    count: int
    computed: int


def per_output(features: Features) -> list[np.ndarray]:
    """The first view's rows in memory, an array for each of the prefix's outputs: float32, shape (count, ...)."""
    return [source.gather(slice(None)).astype("float32", copy=False) for source in features.views[0]]


def all_rows(features: Features) -> np.ndarray:
    """Every row in memory, view after view, an example's outputs beside each other: float32, shape (views * count, numbers)."""
    views = [[source.gather(slice(None)) for source in view] for view in features.views]
    return np.concatenate([np.concatenate(view, axis=1) for view in views]).astype("float32", copy=False)


def prefix_key(prefix: keras.Model) -> str:
    """A hash of what a prefix computes: its layers' settings and weights, not its layers' names."""
    digest = hashlib.sha256()
    for layer in prefix.layers:
        settings = _without_names(layer.get_config())
        digest.update(f"{type(layer).__name__} {json.dumps(settings, sort_keys=True, default=str)}\n".encode())
    for weight in prefix.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:24]


def _without_names(settings: Any) -> Any:
    """A layer's settings less what does not change its outputs: a prefix only ever runs as inference."""
    if isinstance(settings, dict):
        return {key: _without_names(value) for key, value in settings.items() if key not in ("name", "trainable")}
    return [_without_names(one) for one in settings] if isinstance(settings, list | tuple) else settings


def all_cached(prefix: keras.Model, examples: Examples) -> bool:
    """Whether `extract_features`, without augmentation, would find every output in the cache."""
    _, folders = _where_kept(prefix, examples)
    return all(bool(Store(folder).known(list(examples.keys)).all()) for folder in folders)


def extract_features(
    prefix: keras.Model,
    examples: Examples,
    *,
    augmentation: Augmentation | None = None,
    views: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    deadline: Deadline = NO_DEADLINE,
) -> Features | None:
    """The prefix's outputs for every example and view, from the cache or computed and kept.

    Args:
        prefix: frozen layers; see `tlkit.models.blocks.cut`.
        examples: their `keys` and `made_by` name what is cached, their `cache` says where and how much.
        augmentation: None or an identity takes the images as they are.
        views: random versions of each image, with an augmentation; each is seeded by (seed, view, content).
        seed: gives the versions.
        batch_size: images that are computed at once.
        deadline: when to stop and return what is there.

    Returns:
        The outputs; None when they would exceed the caches' limit: the caller then runs the prefix batch by batch.
    """
    if augmentation is None or augmentation.is_identity():
        augmentation, views = None, 1
    parts, folders = _where_kept(prefix, examples)
    stores = [Store(folder) for folder in folders]
    keys = [_view_keys(examples.keys, augmentation, view, seed) for view in range(views)]
    missing = _missing(prefix, stores, keys, augmentation, seed)
    if missing.pairs and not examples.cache.has_room_for(missing.size):
        return None
    for output in missing.outputs:
        last = parts[output.index].layers[-1].name
        describe(folders[output.index], f"outputs of frozen layers up to {last}, {output.shape}, {examples.made_by}")
    done = _compute(prefix, examples, missing, batch_size, deadline) if missing.pairs else 0
    count = len(examples)
    if done < len(missing.pairs):
        count = min(i for _, i in missing.pairs[done:])
    rows = [[store.rows(view_keys[:count]) for store in stores] for view_keys in keys]
    return Features([list(view) for view in rows], count, done)


def _where_kept(prefix: keras.Model, examples: Examples) -> tuple[list[keras.Model], list[Path]]:
    """A model for each of the prefix's outputs, and the folder where its outputs are kept."""
    parts = [prefix] if len(prefix.outputs) == 1 else [keras.Model(prefix.input, one) for one in prefix.outputs]
    return parts, [examples.cache.at("features", f"{prefix_key(part)}-{examples.made_by}") for part in parts]


def _stored_as(dtype: str) -> str:
    """NumPy's files know no bfloat16: what comes as that is kept as float32."""
    return "float32" if dtype == "bfloat16" else dtype


def _view_keys(keys: Sequence[str], augmentation: Augmentation | None, view: int, seed: int) -> list[str]:
    if augmentation is None:
        return list(keys)
    settings = hashlib.sha256(json.dumps(asdict(augmentation), sort_keys=True).encode()).hexdigest()[:12]
    return [f"{key}-{settings}-{seed}-{view}" for key in keys]


@dataclass(frozen=True)
class _Output:
    """One of the prefix's outputs, by its index, as it is kept. shape: of one image's row. dtype: as NumPy names it."""

    index: int
    store: Store
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _Missing:
    """What the cache lacks.

    pairs: (view, index of the example), example by example, each key once.
    keys: by view, then example.
    outputs: those of the prefix that are lacking for any of the pairs.
    augmentation: None for images as they are. seed: of the augmentation.
    """

    pairs: list[tuple[int, int]]
    keys: list[list[str]]
    outputs: list[_Output]
    augmentation: Augmentation | None
    seed: int

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return len(self.pairs) * sum(math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in self.outputs)


def _missing(
    prefix: keras.Model, stores: list[Store], keys: list[list[str]], augmentation: Augmentation | None, seed: int
) -> _Missing:
    known = [np.stack([store.known(view_keys) for store in stores]) for view_keys in keys]
    views, count = range(len(keys)), len(keys[0])
    pairs = {keys[view][i]: (view, i) for i in range(count) for view in views if not known[view][:, i].all()}
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


def _compute(prefix: keras.Model, examples: Examples, missing: _Missing, batch_size: int, deadline: Deadline) -> int:
    """Run the prefix over the missing pairs and keep its outputs. Returns how many were done."""
    if len(missing.outputs) < len(prefix.outputs):
        prefix = keras.Model(prefix.input, [prefix.outputs[one.index] for one in missing.outputs])
    call = frozen_call(prefix, batch_size)
    numbers, pairs = examples.numbers(), missing.pairs
    writers = [one.store.writer(len(pairs), one.shape, one.dtype) for one in missing.outputs]
    done = 0
    with ThreadPoolExecutor() as pool, bar(len(pairs), "image") as update:

        def prepare(chunk: list[tuple[int, int]]) -> np.ndarray:
            images = examples.pixels.gather(np.array([i for _, i in chunk]))
            if missing.augmentation is None:
                return images
            seeds = [(missing.seed, view, numbers[i]) for view, i in chunk]
            versions = zip(images, seeds, strict=True)
            return np.stack([augment(image, missing.augmentation, one) for image, one in versions])

        chunks = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
        waiting = pool.submit(prepare, chunks[0])
        try:
            for number, chunk in enumerate(chunks):
                images = waiting.result()
                if number + 1 < len(chunks):
                    waiting = pool.submit(prepare, chunks[number + 1])
                outputs = call(images)
                for writer, values in zip(writers, outputs, strict=True):
                    writer.add([missing.keys[view][i] for view, i in chunk], values)
                done += len(chunk)
                update(done)
                if deadline.over:
                    break
        finally:
            for writer in writers:
                writer.__exit__(None, None, None)
    return done
