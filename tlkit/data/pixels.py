"""Decode once: every image's pixels, by content, from a cache on disk or decoded as they are asked for.

The cache holds uint8 squares of one size and fit. Images that do not decode are found here, by the decoder that training
and serving use, and are named as problems of the image set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tlkit.cache import Cache, Rows, Store, describe
from tlkit.data.decode import decode_and_resize, header_fault, kind_of_fault
from tlkit.data.headers import image_format, looks_truncated, what_else
from tlkit.data.images import ImageSet, problem

# Raise it when `decode` changes a pixel: old caches are then not found.
DECODER_VERSION = 2


@dataclass(frozen=True)
class Pixels:
    """Where decoded pixels are read: `of(images)` gives rows in the order of an image set's table.

    size, fit: as in `decode_and_resize`. decoded: how many images were decoded just now, the others being cached.
    streamed: True if the set was larger than the caches' limit, so that pixels are decoded at each use.
    """

    size: int
    fit: str
    store: Store | None
    decoded: int = 0

    @property
    def streamed(self) -> bool:
        return self.store is None

    @property
    def key(self) -> str:
        """Names how files became pixels; what is computed from the pixels is cached under it."""
        return f"{self.size}-{self.fit}-v{DECODER_VERSION}"

    def of(self, images: ImageSet) -> Rows | StreamedRows:
        """uint8 rows, shape (n, size, size, 3), RGB, in the order of `images`."""
        if self.store is None:
            return StreamedRows(tuple(images.files()), self.size, self.fit)
        return self.store.rows(images.keys())


@dataclass(frozen=True)
class StreamedRows:
    """Pixels decoded at each `gather`, with the same face as cached rows."""

    files: tuple[Path, ...]
    size: int
    fit: str

    def __len__(self) -> int:
        return len(self.files)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("uint8")

    def gather(self, indices: np.ndarray | Sequence[int] | slice) -> np.ndarray:
        chosen = np.arange(len(self.files))[indices]
        result = np.zeros((len(chosen), *self.row_shape), "uint8")
        seen = 0
        for places, pixels in _decoded([self.files[i] for i in chosen], self.size, self.fit):
            result[places] = pixels
            seen += len(places)
        if seen < len(chosen):
            raise OSError(f"{len(chosen) - seen} images that decoded before do not any more. Were files changed?")
        return result

    def take(self, indices: np.ndarray | Sequence[int]) -> StreamedRows:
        return StreamedRows(tuple(self.files[i] for i in np.asarray(indices)), self.size, self.fit)


def decode(images: ImageSet, size: int, fit: str, cache: Cache) -> tuple[Pixels, list[dict[str, str]]]:
    """The pixels, decoded where they are not cached yet, and a problem for each image that does not decode."""
    store = Store(cache.at("pixels", Pixels(size, fit, None).key))
    known = store.known(images.keys())
    files = images.files()
    todo = _first_of_each(images.keys(), known)
    cached = not todo or cache.has_room_for(len(todo) * size * size * 3)
    good: set[str] = set(np.array(images.keys(), dtype=object)[known])
    keys = images.keys()
    if cached and len(todo):
        describe(store.folder, f"decoded pictures, {size} x {size} pixels, {fit}")
        with store.writer(len(todo), (size, size, 3), "uint8") as writer:
            for places, pixels in _decoded([files[i] for i in todo], size, fit):
                writer.add([keys[todo[p]] for p in places], pixels)
                good.update(keys[todo[p]] for p in places)
    elif len(todo):
        for places, _ in _decoded([files[i] for i in todo], size, fit):
            good.update(keys[todo[p]] for p in places)
    findings = [
        _diagnose(file, row.path, row.label)
        for file, key, row in zip(files, keys, images.table.itertuples(), strict=True)
        if key not in good
    ]
    return Pixels(size, fit, store if cached else None, len(todo)), findings


def _first_of_each(keys: Sequence[str], known: np.ndarray) -> list[int]:
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if not known[i]:
            first.setdefault(key, i)
    return list(first.values())


def _decoded(files: Sequence[Path], size: int, fit: str):  # type: ignore[no-untyped-def]
    """Batches of (places in `files`, pixels); files that do not decode are passed over."""
    with tf.device("cpu"):
        paths = tf.data.Dataset.from_tensor_slices([str(f) for f in files]).enumerate()
        decoded = paths.map(
            tf.autograph.experimental.do_not_convert(
                lambda i, path: (i, decode_and_resize(tf.io.read_file(path), size, fit))
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        batches = decoded.ignore_errors().batch(32).prefetch(2)
        yield from batches.as_numpy_iterator()


def _diagnose(file: Path, path: str, label: str) -> dict[str, str]:
    """Why a file did not decode, as a problem."""
    try:
        data = file.read_bytes()
    except OSError as error:
        return problem(path, label, "unreadable", error.strerror or str(error))
    return problem(path, label, *why_not(data))


def why_not(data: bytes) -> tuple[str, str]:
    """(problem, detail) for the bytes of a file that does not decode."""
    if not data:
        return "empty-file", "0 bytes"
    kind = image_format(data[:16])
    if kind is None:
        return what_else(data[:512])
    fault = header_fault(tf.constant(data)).numpy().decode()
    if looks_truncated(data, kind):
        return "truncated", "the end of the file is missing"
    return kind_of_fault(fault), fault or f"the {kind} data do not decode"
