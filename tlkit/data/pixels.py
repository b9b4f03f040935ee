"""Decodes every image once: pixels come from a cache on disk, by content, or are decoded on demand.

The cache holds uint8 squares of one size and fit. Images that do not decode are found here, by the decoder that
training and serving use, and become problems of the image set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tlkit.cache import Cache, Rows, Store, Writer, describe
from tlkit.data.convert import CONVERTER_VERSION, Unreadable, convert, convert_in_thread, without_warnings
from tlkit.data.decode import decode_png_and_resize, square_decoder
from tlkit.data.headers import why_not
from tlkit.data.images import ImageSet, problem
from tlkit.data.limits import FULL_DEPTH
from tlkit.data.looks import Looks
from tlkit.plan.in_memory import InMemory
from tlkit.progress import log
from tlkit.words import counted

# Increase it when `decode` changes a pixel, so that old caches are not found. TensorFlow, which decodes and resizes, is
# in the key by its own version.
DECODER_VERSION = 6
BATCH = 16  # files that a thread decodes before it hands them on
AT_ONCE = 2  # files that are converted at the same time, to bound memory


@dataclass(frozen=True)
class Pixels:
    """Access to decoded pixels: `of(images)` gives rows in the order of an image set's table.

    size, fit: as in `decode_and_resize`.
    store: the cache that holds the pixels. None if the set is larger than the cache's limit.
    decoded: the number of images just decoded; the others were cached.
    depth: the bits that the data set's images of 16 bits use.
    """

    size: int
    fit: str
    store: Store | None
    decoded: int = 0
    depth: int = FULL_DEPTH

    @property
    def streamed(self) -> bool:
        """Whether pixels are decoded again at each use, because the set is larger than the cache's limit."""
        return self.store is None

    @property
    def key(self) -> str:
        """How files became pixels. Everything computed from the pixels is cached under this key."""
        depth = "" if self.depth == FULL_DEPTH else f"-{self.depth}bits"
        return f"{self.size}-{self.fit}{depth}-v{DECODER_VERSION}-c{CONVERTER_VERSION}-tf{tf.__version__}"

    def of(self, images: ImageSet) -> Rows | StreamedRows:
        """uint8 rows, shape (n, size, size, 3), RGB, in the order of `images`. Damaged ones are decoded again."""
        files = StreamedRows(tuple(images.files()), self.size, self.fit, self.depth, images.source)
        return files if self.store is None else self.store.rows(images.keys(), files.gather)


@dataclass(frozen=True)
class StreamedRows:
    """Pixels that are decoded at each `gather`, with the interface of cached rows. source: as in `ImageSet`."""

    files: tuple[Path, ...]
    size: int
    fit: str
    depth: int = FULL_DEPTH
    source: InMemory | None = None

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
        count = 0
        for rows, pixels in _decoded([self.files[i] for i in chosen], self.size, self.fit, self.depth):
            result[rows] = pixels
            count += len(rows)
        if count < len(chosen):
            missing = counted(len(chosen) - count, "image")
            raise OSError(f"Cannot decode {missing} that decoded before. Were files changed?")
        return result

    def take(self, indices: np.ndarray | Sequence[int]) -> StreamedRows:
        return dataclasses.replace(self, files=tuple(self.files[i] for i in np.asarray(indices)))


def decode(images: ImageSet, size: int, fit: str, cache: Cache) -> tuple[Pixels, list[dict[str, str]]]:
    """Decode the images that are not cached yet.

    Returns the pixels, and a problem for each image that does not decode, is of one colour, or equals another one.
    """
    key = Pixels(size, fit, None, depth=images.depth).key
    store = Store(cache.at("pixels", key))
    keys, files = images.keys(), images.files()
    known = store.known(keys)
    todo = _first_of_each(keys, known)
    writer = _writer(store, cache, len(todo), size) if todo else None
    cached = not todo or writer is not None
    stored: set[str] = set(np.array(keys, dtype=object)[known])
    good = set(stored)
    looks = Looks(cache.at("looks", key))
    if writer is not None:
        describe(store.folder, f"decoded images, {size} x {size} pixels, {fit}")
    with writer or contextlib.nullcontext():
        for rows, pixels in _decoded([files[i] for i in todo], size, fit, images.depth) if todo else ():
            decoded = [keys[todo[row]] for row in rows]
            looks.add(decoded, pixels)
            good.update(decoded)
            if writer is not None:
                writer.add(decoded, pixels)
    findings = [
        _diagnose(file, row.path, row.label)
        for file, one, row in zip(files, keys, images.table.itertuples(), strict=True)
        if one not in good
    ]
    looks.complete([one for one in good if cached or one in stored], store)
    findings += looks.findings(images.table[[one in good for one in keys]])
    return Pixels(size, fit, store if cached else None, len(todo), images.depth), findings


def _writer(store: Store, cache: Cache, count: int, size: int) -> Writer | None:
    """Open a writer for `count` images. None if the cache or the disk has no room for them."""
    if not cache.has_room_for(count * size * size * 3):
        return None
    try:
        return store.writer(count, (size, size, 3), "uint8")
    except OSError as error:
        log.warning(f"{counted(count, 'image')} cannot be cached ({error.strerror or error}): decoded at each use.")
        return None


def _first_of_each(keys: Sequence[str], known: np.ndarray) -> list[int]:
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if not known[i]:
            first.setdefault(key, i)
    return list(first.values())


def _decoded(files: Sequence[Path], size: int, fit: str, depth: int):  # type: ignore[no-untyped-def]
    """Yield batches of (indices into `files`, pixels), and skip files that do not decode.

    Files that the graph refuses are converted, if they can be, and decoded then.
    """
    left = np.ones(len(files), bool)
    with tf.device("cpu"):
        for rows, pixels in _by_graph(files, size, fit, depth):
            left[rows] = False
            yield rows, pixels
        if left.any():
            yield from _by_conversion(files, np.flatnonzero(left), _square(size, fit, depth))


def _by_graph(files: Sequence[Path], size: int, fit: str, depth: int):  # type: ignore[no-untyped-def]
    """Decode files by several threads. A pipeline of tf.data would start anew, for two seconds, at each call."""
    square, waiting = square_decoder(size, fit, depth), deque[Future[list[tuple[int, np.ndarray]]]]()

    def decoded(rows: range) -> list[tuple[int, np.ndarray]]:
        found = []
        for row in rows:
            with contextlib.suppress(OSError, tf.errors.OpError):
                found.append((row, square(tf.constant(files[row].read_bytes())).numpy()))
        return found

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        starts = iter(range(0, len(files), BATCH))
        while True:
            for start in itertools.islice(starts, 2 * threads - len(waiting)):
                waiting.append(pool.submit(decoded, range(start, min(start + BATCH, len(files)))))
            if not waiting:
                return
            if found := waiting.popleft().result():
                yield np.array([row for row, _ in found]), np.stack([pixels for _, pixels in found])


def _by_conversion(files: Sequence[Path], rows: np.ndarray, square: Callable[[tf.Tensor], tf.Tensor]):  # type: ignore[no-untyped-def]
    """Convert the files at `rows`, and decode what that gives."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(rows), 2 * AT_ONCE):
            some = rows[start : start + 2 * AT_ONCE]
            with without_warnings():
                found = list(pool.map(_converted, [files[row] for row in some]))
            good = [(row, data) for row, data in zip(some, found, strict=True) if data]
            if good:
                yield np.array([row for row, _ in good]), np.stack([square(tf.constant(data)) for _, data in good])


@functools.cache
def _square(size: int, fit: str, depth: int) -> Callable[[tf.Tensor], tf.Tensor]:
    signature = [tf.TensorSpec((), tf.string)]
    return tf.function(
        lambda data: decode_png_and_resize(data, size, fit, depth), input_signature=signature, autograph=False
    )


def _converted(file: Path) -> bytes:
    """A file that the graph refuses as PNG; nothing if it cannot be converted."""
    try:
        data = file.read_bytes()
        converted = convert_in_thread(data)
    except (OSError, Unreadable):
        return b""
    return b"" if converted is data else converted


def _diagnose(file: Path, path: str, label: str) -> dict[str, str]:
    """The problem of a file that did not decode."""
    try:
        data = file.read_bytes()
    except OSError as error:
        return problem(path, label, "unreadable", error.strerror or str(error))
    try:
        convert(data)
    except Unreadable as reason:
        return problem(path, label, reason.kind, reason.detail)
    return problem(path, label, *why_not(data))
