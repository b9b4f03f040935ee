"""What a frozen network says about each image, computed once and kept: no frozen layer runs twice on the same pixels.

A prefix (see `tlkit.models.blocks.cut`) always runs as its own inference graph, so its BatchNormalization and dropout stand still by
construction. Its outputs are kept on disk by the image's content and the prefix's weights, so the next run finds them too.
"""

from __future__ import annotations

import hashlib
import json
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

    examples: their `keys` and `made_by` name what is cached, their `cache` says where and how much.
    augmentation, views: with an augmentation, that many random versions of each image, seeded by (seed, view, content).
    deadline: when to stop and return what is there.

    Returns None when the outputs would exceed the caches' limit: the caller then runs the prefix batch by batch.
    """
    augmented = augmentation is not None and not augmentation.is_identity()
    views = views if augmented else 1
    parts, folders = _where_kept(prefix, examples)
    stores = [Store(folder) for folder in folders]
    keys = [_view_keys(examples.keys, augmentation if augmented else None, view, seed) for view in range(views)]
    known = [np.stack([store.known(view_keys) for store in stores]) for view_keys in keys]
    lacking = [place for place in range(len(parts)) if not all(k[place].all() for k in known)]
    shapes = [tuple(int(d) for d in prefix.outputs[place].shape[1:]) for place in lacking]
    dtypes = [_stored_as(keras.backend.standardize_dtype(prefix.outputs[place].dtype)) for place in lacking]
    todo = [(view, int(i)) for i in range(len(examples)) for view in range(views) if not known[view][:, i].all()]
    todo = list({keys[view][i]: (view, i) for view, i in todo}.values())
    size = len(todo) * sum(int(np.prod(s)) * np.dtype(d).itemsize for s, d in zip(shapes, dtypes, strict=True))
    if size and not examples.cache.has_room_for(size):
        return None
    for place, shape in zip(lacking, shapes, strict=True):
        describe(
            folders[place],
            f"outputs of frozen layers up to {parts[place].layers[-1].name}, {shape}, {examples.made_by}",
        )
    done = 0
    if todo:
        needed = (
            prefix if len(lacking) == len(parts) else keras.Model(prefix.input, [prefix.outputs[i] for i in lacking])
        )
        done = _compute(
            needed,
            examples,
            augmentation,
            seed,
            keys,
            todo,
            [stores[place] for place in lacking],
            shapes,
            dtypes,
            batch_size,
            deadline,
        )
    count = len(examples)
    if done < len(todo):
        count = min(i for _, i in todo[done:])
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


def _compute(
    prefix: keras.Model,
    examples: Examples,
    augmentation: Augmentation | None,
    seed: int,
    keys: list[list[str]],
    todo: list[tuple[int, int]],
    stores: list[Store],
    shapes: list[tuple[int, ...]],
    dtypes: list[str],
    batch_size: int,
    deadline: Deadline,
) -> int:
    """Run the prefix over the missing (view, example) pairs and keep its outputs; returns how many were done."""
    numbers = examples.numbers()
    call = frozen_call(prefix, batch_size)
    writers = [s.writer(len(todo), shape, d) for s, shape, d in zip(stores, shapes, dtypes, strict=True)]
    done = 0
    with ThreadPoolExecutor() as pool, bar(len(todo), "image") as update:

        def prepare(chunk: list[tuple[int, int]]) -> np.ndarray:
            images = examples.pixels.gather(np.array([i for _, i in chunk]))
            if augmentation is None or augmentation.is_identity():
                return images
            seeds = [(seed, view, numbers[i]) for view, i in chunk]
            return np.stack([augment(image, augmentation, one) for image, one in zip(images, seeds, strict=True)])

        chunks = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
        waiting = pool.submit(prepare, chunks[0])
        try:
            for place, chunk in enumerate(chunks):
                images = waiting.result()
                if place + 1 < len(chunks):
                    waiting = pool.submit(prepare, chunks[place + 1])
                outputs = call(images)
                for writer, values in zip(writers, outputs, strict=True):
                    writer.add([keys[view][i] for view, i in chunk], values)
                done += len(chunk)
                update(done)
                if deadline.over:
                    break
        finally:
            for writer in writers:
                writer.__exit__(None, None, None)
    return done
