"""Decodes every image once: pixels come from a cache on disk, by content, or are decoded on demand.

The cache holds uint8 squares of one size and fit. Images that do not decode are found here, by the decoder that
training and serving use, and become problems of the image set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tlkit.cache import Cache, MemoryWriter, Rows, Store, Wanted, Writer, open_writers
from tlkit.cluster import Pool, current, threads
from tlkit.data.convert import CONVERTER_VERSION, Unreadable, convert, convert_in_thread, without_warnings
from tlkit.data.decode import decode_png_and_resize, square_decoder
from tlkit.data.headers import Status, examine, why_not
from tlkit.data.images import ImageSet, problem
from tlkit.data.limits import FULL_DEPTH
from tlkit.data.looks import Looks
from tlkit.data.rows import not_shared
from tlkit.data.sources.member import Item
from tlkit.errors import DataError
from tlkit.plan.in_memory import InMemory
from tlkit.progress import bar
from tlkit.words import counted

# Increase it when `decode` changes a pixel, so that old caches are not found. TensorFlow, which decodes and resizes, is
# in the key by its own version.
DECODER_VERSION = 6
BATCH = 16  # files that a thread decodes before it hands them on
CHANGED = "it was changed after it had been scanned"
HashedFile = tuple[Item, str | None]  # with the SHA-256 that it must have; None for any
AT_ONCE = 2  # files that are converted at the same time, to bound memory


@dataclass(frozen=True)
class Pixels:
    """Access to decoded pixels: `of(images)` gives rows in the order of an image set's table.

    size, fit: as in `decode_and_resize`.
    store: the cache that holds the pixels, on disk or in memory. None if the set is too large for both.
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
        """Whether pixels are decoded again at each use, because the set fits neither the cache nor the memory."""
        return self.store is None

    @property
    def key(self) -> str:
        """How files became pixels. Everything computed from the pixels is cached under this key."""
        depth = "" if self.depth == FULL_DEPTH else f"-{self.depth}bits"
        return f"{self.size}-{self.fit}{depth}-v{DECODER_VERSION}-c{CONVERTER_VERSION}-tf{tf.__version__}"

    def of(self, images: ImageSet) -> Rows | StreamedRows:
        """uint8 rows, shape (n, size, size, 3), RGB, in the order of `images`. Damaged ones are decoded again."""
        files = StreamedRows(
            tuple(images.files()), self.size, self.fit, self.depth, tuple(images.keys()), images.source
        )
        return files if self.store is None else self.store.rows(images.keys(), files.gather)


@dataclass(frozen=True)
class StreamedRows:
    """Pixels that are decoded at each `gather`, with the interface of cached rows.

    keys: the SHA-256 of each file. One that has another by now is not decoded. Empty: whatever is there is decoded.
    source: as in `ImageSet`.
    """

    files: tuple[Item, ...]
    size: int
    fit: str
    depth: int = FULL_DEPTH
    keys: tuple[str, ...] = ()
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
        files = [(self.files[i], self.keys[i] if self.keys else None) for i in chosen]
        for rows, pixels in _decoded(files, self.size, self.fit, self.depth):
            result[rows] = pixels
            count += len(rows)
        if count < len(chosen):
            missing = counted(len(chosen) - count, "image")
            raise DataError(
                f"Cannot decode {missing} that decoded before: files were changed or removed while they were in use. "
                "Restore them, or run again."
            )
        return result

    def sendable(self, indices: np.ndarray | Sequence[int]) -> StreamedRows:
        """Some rows, for a worker that decodes them itself."""
        return dataclasses.replace(self.take(indices), source=None)

    def take(self, indices: np.ndarray | Sequence[int]) -> StreamedRows:
        chosen = np.asarray(indices)
        keys = tuple(self.keys[i] for i in chosen) if self.keys else ()
        return dataclasses.replace(self, files=tuple(self.files[i] for i in chosen), keys=keys)


def decode(images: ImageSet, size: int, fit: str, cache: Cache) -> tuple[Pixels, list[dict[str, str]]]:
    """Decode the images that are not cached yet.

    A file whose content has changed since it was scanned is left out, so that no pixels are kept under the hash of
    others.

    Returns the pixels, and a problem for each image that does not decode, is of one colour, or equals another one.
    """
    key = Pixels(size, fit, None, depth=images.depth).key
    store = cache.store(cache.at("pixels", key))
    keys, files = images.keys(), images.files()
    known = store.known(keys)
    todo = _first_of_each(keys, known)
    writer = _writer(store, cache, len(todo), size, fit) if todo else None
    cached = not todo or writer is not None
    stored: set[str] = set(np.array(keys, dtype=object)[known])
    good = set(stored)
    looks = Looks(cache.at("looks", key))
    with writer or contextlib.nullcontext(), bar(len(todo), "image") as update:
        done = 0
        for rows, pixels in _decoded([(files[i], keys[i]) for i in todo], size, fit, images.depth) if todo else ():
            done += len(rows)
            update(done)
            decoded = [keys[todo[row]] for row in rows]
            looks.add(decoded, pixels)
            good.update(decoded)
            if writer is not None:
                writer.add(decoded, pixels)
    findings = [
        _diagnose((file, one), row.path, row.label, square_decoder(size, fit, images.depth))
        for file, one, row in zip(files, keys, images.table.itertuples(), strict=True)
        if one not in good
    ]
    kept = images.take([i for i, one in enumerate(keys) if one in good and (cached or one in stored)])
    looks.complete(kept.keys(), Pixels(size, fit, store, depth=images.depth).of(kept) if len(kept) else None)
    findings += looks.findings(images.table[[one in good for one in keys]])
    return Pixels(size, fit, store if cached else None, len(todo), images.depth), findings


def _writer(store: Store, cache: Cache, count: int, size: int, fit: str) -> Writer | MemoryWriter | None:
    """Open a writer for `count` images. None if neither the cache nor the memory has room for them."""
    about = f"decoded images, {size} x {size} pixels, {fit}"
    opened = open_writers(cache, [Wanted(store, count, (size, size, 3), "uint8", about)])
    return None if opened is None else opened[0]


def _first_of_each(keys: Sequence[str], known: np.ndarray) -> list[int]:
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if not known[i]:
            first.setdefault(key, i)
    return list(first.values())


def _decoded(files: Sequence[HashedFile], size: int, fit: str, depth: int):  # type: ignore[no-untyped-def]
    """Yield batches of (indices into `files`, pixels), and skip files that do not decode, or have changed.

    Files that the graph refuses are converted, if they can be, and decoded then.
    """
    left, workers = np.ones(len(files), bool), current()
    with tf.device("cpu"):
        by_graph = _by_graph(files, size, fit, depth)
        if workers is not None and len(files) > BATCH:
            by_graph = _by_workers(workers, files, size, fit, depth)
        for rows, pixels in by_graph:
            left[rows] = False
            yield rows, pixels
        if left.any():
            yield from _by_conversion(files, np.flatnonzero(left), _square(size, fit, depth))


def _read(file: HashedFile) -> bytes:
    """A file's bytes. Raises OSError if it cannot be read, or is not the one that was scanned."""
    path, sha256 = file
    data = path.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise OSError(errno.ESTALE, CHANGED)
    return data


def _by_graph(files: Sequence[HashedFile], size: int, fit: str, depth: int):  # type: ignore[no-untyped-def]
    """Decode files by several threads. A pipeline of tf.data would start anew, for two seconds, at each call."""
    square, waiting = square_decoder(size, fit, depth), deque[Future[list[tuple[int, np.ndarray]]]]()

    def decoded(rows: range) -> list[tuple[int, np.ndarray]]:
        found = []
        for row in rows:
            with contextlib.suppress(OSError, tf.errors.OpError):
                found.append((row, square(tf.constant(_read(files[row]))).numpy()))
        return found

    with ThreadPoolExecutor(threads()) as pool:
        starts = iter(range(0, len(files), BATCH))
        while True:
            for start in itertools.islice(starts, 2 * threads() - len(waiting)):
                waiting.append(pool.submit(decoded, range(start, min(start + BATCH, len(files)))))
            if not waiting:
                return
            if found := waiting.popleft().result():
                yield np.array([row for row, _ in found]), np.stack([pixels for _, pixels in found])


def _by_workers(workers: Pool, files: Sequence[HashedFile], size: int, fit: str, depth: int):  # type: ignore[no-untyped-def]
    """Decode files as `_by_graph` does, by the workers of a cluster."""
    starts = range(0, len(files), BATCH)
    chunks = (files[start : start + BATCH] for start in starts)
    found = workers.map_ordered(_decode_some, chunks, functools.partial(square_decoder, size, fit, depth))
    for start, (rows, pixels, absent) in zip(starts, found, strict=True):
        if absent is not None and _is_here(absent):
            raise DataError(not_shared(absent))
        if len(rows):
            yield rows + start, pixels


def _is_here(item: Item) -> bool:
    try:
        item.read_bytes()
    except OSError:
        return False
    return True


def _decode_some(
    square: Callable[[tf.Tensor], tf.Tensor], files: Sequence[HashedFile]
) -> tuple[np.ndarray, np.ndarray, Item | None]:
    """What a worker decodes: the places of the files that decode, their pixels, and a file that it does not find."""
    rows: list[int] = []
    found: list[np.ndarray] = []
    absent: Item | None = None
    for row, file in enumerate(files):
        try:
            found.append(square(tf.constant(_read(file))).numpy())
            rows.append(row)
        except FileNotFoundError:
            absent = file[0]
        except (OSError, tf.errors.OpError):
            continue
    return np.array(rows, "int64"), np.stack(found) if found else np.zeros((0, 1, 1, 3), "uint8"), absent


def _by_conversion(files: Sequence[HashedFile], rows: np.ndarray, square: Callable[[tf.Tensor], tf.Tensor]):  # type: ignore[no-untyped-def]
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


def _converted(file: HashedFile) -> bytes:
    """A file that the graph refuses as PNG; nothing if it cannot be converted."""
    try:
        data = _read(file)
        converted = convert_in_thread(data)
    except (OSError, Unreadable):
        return b""
    return b"" if converted is data else converted


def _diagnose(file: HashedFile, path: str, label: str, square: Callable[[tf.Tensor], tf.Tensor]) -> dict[str, str]:
    """The problem of a file that did not decode. square: the decoder."""
    try:
        data = _read(file)
    except OSError as error:
        return problem(path, label, "unreadable", error.strerror or str(error))
    try:
        convert(data)
    except Unreadable as reason:
        return problem(path, label, reason.kind, reason.detail)
    if examine(data).status is Status.DECODES and _decodes(data, square):
        return problem(path, label, "unreadable", CHANGED)  # and was put back
    return problem(path, label, *why_not(data))


def _decodes(data: bytes, square: Callable[[tf.Tensor], tf.Tensor]) -> bool:
    with contextlib.suppress(tf.errors.OpError), tf.device("cpu"):
        square(tf.constant(data))
        return True
    return False
