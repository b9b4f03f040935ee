"""Arrays cached on disk by content: what was computed from an image is found again by the image's hash.

A store is a folder of shards, each a `.npy` file and a `.json` file with the key and the checksum of each row. Shards
are written under a temporary name, renamed, and their rows never change. So readers need no locks, a killed writer
leaves nothing that is read, and a new image in a folder adds one row. This module knows nothing of images or networks.

A row is compared with its checksum when a process reads it for the first time, while it is still in the processor's
cache. A row that differs is named in the log, struck off its shard's index, and asked for again from who knows how to
compute it.

A `Cache` is a folder of entries KIND/NAME, each with one store or several, and has a size limit. `has_room_for` clears
the entries unused for longest when a new one would exceed the limit. Memory-mapped arrays that another run still reads
remain readable to it. An entry that contains a file that tlkit did not write is not cleared.

What does not fit on disk is kept in memory, for as long as its `Cache` is used, if it takes at most a quarter of the
memory that is available: see `open_writers`. So a run without room for caches computes the same, in the same way.
Several runs may use one cache at the same time. None waits for another's work. Two that compute the same rows both
compute them, and the second one to end keeps the first one's shard and drops its own. A run keeps what it has mapped or
written, so it does not need a row again that another process cleared. What is being written is not cleared. If it is
nevertheless, by another machine, the writer writes it again from memory.

On a folder that several machines share, the same holds without locks: a shard is complete and written to the server
(`msync`) before it gets the name under which others look for it, and a page that another machine reads from a stale
cache differs from its checksum and is computed again. Where machines do not see each other's locks, they may keep a row
twice. Do not clear a shared cache from one machine while another one reads it: a file system such as NFS then takes a
mapped file away from its reader.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import stat
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import platformdirs

from tlkit.devices import available_memory
from tlkit.disk import megabytes
from tlkit.errors import RunError, unknown
from tlkit.files import contents, fcntl, locked, remove, write_atomically
from tlkit.progress import log
from tlkit.words import counted

SHARE_OF_FREE_DISK = 0.2
SHARE_OF_MEMORY = 0.25  # of what is available, for rows that do not fit on disk
WRITING_SECONDS = 60  # a temporary file that was written to so lately is not cleared
IN_USE_SECONDS = 3600  # entries opened or written within the last hour are never cleared to make room
SHARD_SECONDS = 120.0  # after which a writer ends its shard and begins another
BEAT_SECONDS = 60  # how often a writer marks its entry as in use
NEW_SECONDS = 10  # a partial shard younger than this may not be locked by its writer yet
TRIES = 20  # of publishing a shard while others clear its entry
UNSEEN, SOUND, DAMAGED = np.arange(3, dtype="uint8")
VERIFIED_AT_ONCE = 2**20  # bytes that are copied and then verified, so that they are still in the processor's cache
KINDS = ("pixels", "looks", "features", "safety", "weights", "models", "sources")
ABOUT = "about.txt"
CLEARED = ".cleared-"
_OWN = re.compile(
    r"(\.tmp-[0-9a-f]{8}-)?(about\.txt|safety\.json|weights\.(npz|json)|index\.json|[0-9a-f]{32}\.(npy|json)|[0-9a-f]{64}\.bytes)"
    r"|\.[0-9a-f]{32}\.partial|\.DS_Store"
)
_OF_MODEL = re.compile(  # a run of a model hub, in the folder NAME: see `tlkit.runs.hub`
    r"about\.txt|\.DS_Store|[^/]+/((\.tmp-[0-9a-f]{8}-)?[\w.]+\.(json|keras|npz|csv|html)|(saved_model|modules)/.*)?"
)
_SHARD = re.compile(r"[0-9a-f]{32}\.(npy|json)")
_UNPUBLISHED = re.compile(r"\.tmp-[0-9a-f]{8}-.+")  # see `tlkit.files`


def cache_folder() -> Path:
    """Return the folder of caches: $TLKIT_CACHE, else $XDG_CACHE_HOME/tlkit, else the system's own cache folder.

    The latter is ~/.cache/tlkit on Linux, ~/Library/Caches/tlkit on macOS and %LOCALAPPDATA%\\tlkit\\Cache on Windows.
    An existing ~/.cache/tlkit, the only default of version 0.1, stays in use on all systems.
    """
    given = os.environ.get("TLKIT_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    earlier = (Path(base) if base else Path.home() / ".cache") / "tlkit"
    return earlier if base or earlier.is_dir() else platformdirs.user_cache_path("tlkit", appauthor=False)


@dataclass(frozen=True)
class CacheEntry:
    """One entry of a cache.

    Args:
        folder: where it is.
        kind: "pixels", "looks" (digests of pixels), "features", "safety", "weights", "models" or "sources" (bytes of
            data).
        about: a description of its contents.
        bytes: its size on disk.
        used: when it was last opened, in Unix seconds.
    """

    folder: Path
    kind: str
    about: str
    bytes: int
    used: float

    def clear(self) -> None:
        """Remove the entry from disk. It is renamed first, so that no reader finds half of it.

        A file that a process is writing stays, and so do weights that one holds (see `hold`). Raises RunError if the
        entry contains a file that tlkit did not write.
        """
        self.check_clearable()
        there = contents(self.folder)  # before what is in use, so that nothing newer is removed
        kept = _in_use(self.folder)
        if kept:
            with contextlib.suppress(OSError):
                names = [name for name in there if _OWN.fullmatch(name) and name not in kept]
                remove(self.folder, names, itself=False)
            return
        doomed = self.folder.with_name(CLEARED + uuid.uuid4().hex[:8])
        try:
            self.folder.rename(doomed)
        except FileNotFoundError:
            return  # another run has cleared it
        with contextlib.suppress(OSError):
            remove(doomed, [name for name in contents(doomed) if self._is_own(name)])

    def foreign(self) -> list[str]:
        """List the files in it that tlkit did not write."""
        return [name for name in contents(self.folder) if not self._is_own(name)]

    def _is_own(self, name: str) -> bool:
        return bool((_OF_MODEL if self.kind == "models" else _OWN).fullmatch(name))

    def check_clearable(self) -> None:
        """Raise RunError if it contains a file that tlkit did not write."""
        foreign = self.foreign()
        if foreign:
            raise RunError(
                f"'{self.folder}' holds files that are not a cache's: {', '.join(foreign[:3])}. "
                "Nothing was cleared. Move them away."
            )


@dataclass(frozen=True)
class Cache:
    """A folder of cached results, in subfolders KIND/NAME, and its size limit.

    Args:
        limit_gb: gigabytes (10^9 bytes) for all entries together. None: a fifth of the disk space that is free or
            taken by them.
        root: the folder. None: `cache_folder()` at the time of use.

    Attributes:
        held: rows in memory, by the folder of their entry: the keys and the rows of each shard.
    """

    limit_gb: float | None = None
    root: Path | None = None
    held: dict[Path, list[tuple[list[str], np.ndarray]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def folder(self) -> Path:
        return self.root or cache_folder()

    def at(self, kind: str, name: str) -> Path:
        """Return the folder of an entry, whether it exists or not."""
        return self.folder / kind / name

    def store(self, folder: Path) -> Store:
        """Return the store of an entry's folder, with its rows that are in memory."""
        return Store(folder, self.held.setdefault(folder, []))

    def entries(self) -> list[CacheEntry]:
        """List the entries, those unused for longest first."""
        found = []
        for folder in (one for kind in KINDS for one in self.folder.glob(f"{kind}/*")):
            if folder.is_symlink() or not (folder.name.startswith(CLEARED) or _is_entry(folder)):
                continue  # not written by tlkit: TLKIT_CACHE may point at a folder with other files
            try:
                files = [path.stat() for path in (folder, *folder.rglob("*"))]
                named = (folder / ABOUT).is_file()
                about = (folder / ABOUT).read_text("utf-8", errors="replace") if named else folder.name
            except OSError:
                continue  # another run is writing or clearing it
            size = sum(one.st_size for one in files if stat.S_ISREG(one.st_mode))
            used = max(one.st_mtime for one in files)
            found.append(CacheEntry(folder, folder.parent.name, about.strip(), size, used))
        return sorted(found, key=lambda one: one.used)

    def has_room_for(self, needed: int) -> bool:
        """Whether `needed` more bytes fit. If clearing makes room for them, entries unused for longest are cleared."""
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        except OSError:
            return False
        for one in self.entries():
            clear_left(one.folder)
        entries = self.entries()
        taken = sum(one.bytes for one in entries)
        limit = SHARE_OF_FREE_DISK * (free + taken) if self.limit_gb is None else self.limit_gb * 1e9
        if needed > min(limit, free + taken) or not os.access(folder, os.W_OK):
            return False
        for one in entries:
            if taken + needed <= limit and needed <= free:
                break
            if time.time() - one.used > IN_USE_SECONDS and not one.foreign():
                one.clear()
                taken, free = taken - one.bytes, free + one.bytes
        return taken + needed <= limit and needed <= free

    def clear(self, which: str, unused_days: float = 0.0) -> list[CacheEntry]:
        """Remove the entries of one kind, or "all", that were unused for `unused_days`. Returns the removed entries.

        Raises RunError, before anything is removed, if one of them contains a file that tlkit did not write.
        """
        if which not in (*KINDS, "all"):
            raise unknown("cache", which, (*KINDS, "all"))
        before = time.time() - unused_days * 86400
        chosen = [one for one in self.entries() if which in (one.kind, "all") and one.used <= before]
        for one in chosen:
            one.check_clearable()
        for one in chosen:
            one.clear()
        return chosen


def describe(folder: Path, about: str) -> None:
    """Write a description of a cache entry into its folder, for `tlkit cache`."""
    if not (folder / ABOUT).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another process has cleared the entry
            write_atomically(folder / ABOUT, about + "\n", durable=False)


def _is_entry(folder: Path) -> bool:
    """Whether a folder is a cache entry: it has a description, or, if that is lost, a file of a cache."""
    if (folder / ABOUT).is_file():
        return True
    return any(_OWN.fullmatch(name) and name != ".DS_Store" for name in _names(folder))


def _names(folder: Path) -> list[str]:
    """The names in a folder, sorted; none if it is gone or cannot be read."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  names are wanted
    except OSError:
        return []


def checksums(rows: np.ndarray) -> np.ndarray:
    """Return a checksum of each row: the sum of its bytes as 64-bit words, modulo 2^64.

    Any changed word changes it, so every flipped byte is found, and other damage with probability 1 - 2^-64. It does
    not see words that change places within a row. It takes about a tenth of the time of zlib's CRC-32.

    Args:
        rows: shape (n, ...), any dtype.

    Returns:
        uint64, shape (n,).
    """
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view("uint8")
    if flat.shape[1] % 8 == 0 and flat.ctypes.data % 8 == 0:
        return np.add.reduce(flat.view("uint64"), axis=1)
    whole = flat.shape[1] // 8 * 8
    words = flat[:, :whole]
    if not words.flags.c_contiguous or words.ctypes.data % 8:
        words = words.copy()
    found = words.view("uint64").sum(axis=1, dtype="uint64")
    if whole < flat.shape[1]:
        rest = np.zeros((len(rows), 8), "uint8")
        rest[:, : flat.shape[1] - whole] = flat[:, whole:]
        found += rest.view("uint64")[:, 0]
    return found


@dataclass(frozen=True)
class Shard:
    """A memory-mapped file of rows, with what they should be.

    index: the `.json` file. keys: of the rows; None for one that is not to be read.
    rows: shape (n, ...). sums: the checksums, uint64, shape (n,).
    states: uint8, shape (n,): UNSEEN, or SOUND or DAMAGED once compared with the checksum. Shared by all readers of the
        process.
    """

    index: Path
    keys: list[str | None]
    rows: np.ndarray
    sums: np.ndarray
    states: np.ndarray

    def damaged(self, places: np.ndarray, copied: np.ndarray) -> np.ndarray:
        """Compare copies of the rows at `places` with their checksums. Returns which differ: bool, shape (n,)."""
        if (self.states[places] == SOUND).all():
            return np.zeros(len(places), bool)
        differs = checksums(copied) != self.sums[places]
        self.states[places[~differs] if differs.any() else places] = SOUND
        return differs

    def strike(self, places: np.ndarray) -> None:
        """Take rows off the index on disk, so that no other process reads them."""
        self.states[places] = DAMAGED
        for place in places:
            self.keys[place] = None
        with contextlib.suppress(OSError):  # a cache that cannot be written
            write_atomically(self.index, _index(self.keys, self.sums, self.rows), durable=False)


_STATES: dict[tuple[str, int, int], np.ndarray] = {}  # by a shard's file, size and time of its last change
_UNREADABLE: set[Path] = set()  # indexes that were named in the log


def _index(keys: Sequence[str | None], sums: np.ndarray, rows: np.ndarray) -> str:
    kind = [np.dtype(rows.dtype).str, *rows.shape[1:]]
    listed = {"keys": list(keys), "checksums": [f"{one:x}" for one in sums[: len(keys)]], "row": kind}
    return json.dumps({**listed, "crc32": _crc32(listed)})


def _crc32(listed: dict[str, Any]) -> int:
    """The CRC-32 of an index, so that keys that change places are found too."""
    return zlib.crc32(json.dumps([listed[name] for name in ("keys", "checksums", "row")]).encode())


def open_shard(index: Path) -> Shard | None:
    """Open a shard. None if its array is gone, if it is damaged, or if it has no checksums, as early versions wrote."""
    file = index.with_suffix(".npy")
    try:
        listed = json.loads(index.read_text("utf-8"))
        if isinstance(listed, list):  # see `is_early`
            return None
        if listed.get("crc32", _crc32(listed)) != _crc32(listed):
            raise ValueError("the index differs from its checksum")
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
        sums = np.array([int(one, 16) for one in listed["checksums"]], "uint64")
        if not len(listed["keys"]) == len(sums) <= len(rows) or listed["row"] != [rows.dtype.str, *rows.shape[1:]]:
            raise ValueError("the index and the array do not match")
        status = file.stat()
    except FileNotFoundError:
        return None
    except Exception as error:  # NumPy raises many kinds for a damaged header, such as zipfile.BadZipFile and EOFError
        if index not in _UNREADABLE:
            log.warning(f"The cache file '{file}' or its index is damaged ({error}): what it held is computed again.")
        _UNREADABLE.add(index)
        return None
    known = (str(file), status.st_size, status.st_mtime_ns)
    states = _STATES.setdefault(known, np.full(len(sums), UNSEEN))
    keys = [None if state == DAMAGED else key for key, state in zip(listed["keys"], states, strict=True)]
    return Shard(index, keys, rows.view(np.ndarray), sums, states)


def is_early(index: Path) -> bool:
    """Whether a shard is one without checksums, as early versions wrote them, which is not read."""
    try:
        return isinstance(json.loads(index.read_text("utf-8")), list)
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class Rows:
    """Rows of shards, or of an array in memory, in a chosen order; `gather` copies some of them into memory.

    Args:
        shards: of equal row shape and dtype. An array is not verified.
        where: int64, shape (n, 3): the shard and the row within it, of each row, and what `mend` calls the row.
        mend: computes rows anew, from what it calls them: shape (k,) to (k, *row_shape). None: a damaged row is a
            RunError.
    """

    shards: tuple[Shard | np.ndarray, ...]
    where: np.ndarray
    mend: Callable[[np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.where)

    @property
    def _first(self) -> np.ndarray:
        first = self.shards[0]
        return first.rows if isinstance(first, Shard) else first

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self._first.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self._first.dtype

    def gather(self, indices: np.ndarray | Sequence[int] | slice) -> np.ndarray:
        """Return the rows at `indices` as one array, shape (len(indices), *row_shape). Damaged ones are mended."""
        where = self.where[indices]
        result = np.empty((len(where), *self.row_shape), self.dtype)
        for number in np.unique(where[:, 0]):
            shard, wanted = self.shards[number], np.flatnonzero(where[:, 0] == number)
            if not isinstance(shard, Shard):
                result[wanted] = shard[where[wanted, 1]]
                continue
            damaged = _copy(shard, where[:, 1], wanted, result)
            if len(damaged):
                result[damaged] = self._mended(shard, where[damaged])
        return result

    def _mended(self, shard: Shard, where: np.ndarray) -> np.ndarray:
        """Compute rows of a shard that differ from their checksums anew. where: as in the class, of these rows."""
        places = np.unique(where[:, 1])
        are = "is" if len(places) == 1 else "are"
        damage = f"{counted(len(places), 'row')} of the cache file '{shard.index.with_suffix('.npy')}' {are} damaged"
        damage += ", such as" if len(places) > 1 else ","
        damage += f" row {places[0]} (its checksum is not the one it was written with)"
        if self.mend is None:
            raise RunError(f"{damage}. Clear the cache, and run again.")
        if any(shard.keys[place] is not None for place in places):
            log.warning(f"{damage}: computed again.")
            shard.strike(places)
        return self.mend(where[:, 2])

    def take(self, indices: np.ndarray | Sequence[int]) -> Rows:
        """Return a view of some rows; nothing is copied."""
        return replace(self, where=self.where[indices])


def _copy(shard: Shard, places: np.ndarray, wanted: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Copy rows of a shard into `result`, and return the indices of those that are damaged.

    places: the row within the shard, for each row of `result`. wanted: indices of those that come from this shard.
    """
    at_once = max(1, VERIFIED_AT_ONCE // max(1, shard.rows[:1].nbytes))
    direct = len(wanted) == len(result)
    damaged = []
    for start in range(0, len(wanted), at_once):
        some = wanted[start : start + at_once]
        rows = places[some]
        if direct:
            copied = result[start : start + at_once]
            np.take(shard.rows, rows, axis=0, out=copied, mode="clip")  # other modes copy twice
        else:
            copied = shard.rows[rows]
            result[some] = copied
        damaged.append(some[shard.damaged(rows, copied)])
    return np.concatenate(damaged) if damaged else np.empty(0, int)


def in_memory(array: np.ndarray) -> Rows:
    """Wrap an array that is already in memory as `Rows`."""
    places = np.arange(len(array))
    return Rows((array,), np.stack([np.zeros_like(places), places, places], axis=1))


class Store:
    """The shards of one folder: `known` tells which keys are stored, `rows` reads them, `writer` adds more."""

    def __init__(self, folder: Path, held: list[tuple[list[str], np.ndarray]] | None = None) -> None:
        self.folder = folder
        self._held = [] if held is None else held
        self._shards: list[Shard | np.ndarray] = []
        self._at: dict[str, tuple[int, int]] = {}
        self._read: set[str] = set()
        with contextlib.suppress(OSError):
            os.utime(folder)  # mark it as opened now, so that it is not the first to be cleared
        for keys, rows in self._held:
            self._add(keys, rows)
        self.refresh()

    def refresh(self) -> None:
        """Read the indexes of shards written since the last call."""
        for name in _names(self.folder):
            if not name.endswith(".json") or name in self._read or name.startswith("."):
                continue
            shard = open_shard(self.folder / name)
            if shard is not None:
                self._take(shard)

    def _take(self, shard: Shard) -> None:
        """Read a shard from now on."""
        self._read.add(shard.index.name)
        self._add(shard.keys, shard)

    def hold(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Keep rows in memory. They are found by the other stores of the same `Cache` and folder, too."""
        self._held.append((list(keys), rows))
        self._add(keys, rows)

    def _add(self, keys: Sequence[str | None], shard: Shard | np.ndarray) -> None:
        self._shards.append(shard)
        for row, key in enumerate(keys):
            if key is not None and not self._has(key):
                self._at[key] = (len(self._shards) - 1, row)

    def _has(self, key: str | None) -> bool:
        """Whether a key is stored, in a row in which no damage was found."""
        return key is not None and key in self._at and self._is_sound(key)

    def _is_sound(self, key: str) -> bool:
        """Whether no damage was found in a key's row."""
        number, row = self._at[key]
        shard = self._shards[number]
        return not isinstance(shard, Shard) or bool(shard.states[row] != DAMAGED)

    def known(self, keys: Sequence[str]) -> np.ndarray:
        """Which keys are stored: bool, shape (n,)."""
        return np.array([key in self._at for key in keys], dtype=bool)

    def rows(self, keys: Sequence[str], again: Callable[[np.ndarray], np.ndarray] | None = None) -> Rows:
        """Return the rows of `keys`, all of which must be stored. Raises KeyError for one that is not.

        again: computes rows that turn out to be damaged, from their indices in `keys`: int64, shape (k,), to an array
            of shape (k, *row_shape). They are then stored anew. None: damaged rows are a RunError.
        """
        at = np.array([self._at[key] for key in keys], dtype="int64").reshape(-1, 2)
        mend = None if again is None else functools.partial(self._mend, keys, again)
        return Rows(tuple(self._shards), np.column_stack([at, np.arange(len(at))]), mend)

    def _mend(self, keys: Sequence[str], again: Callable[[np.ndarray], np.ndarray], indices: np.ndarray) -> np.ndarray:
        """Compute damaged rows again, unless that was done before, and store them. indices: in `keys`."""
        damaged = np.array([not self._is_sound(keys[i]) for i in indices])
        sound = [keys[i] for i in indices[~damaged]]  # mended before, for other rows of the same images
        rows = self.rows(sound).gather(slice(None)) if sound else None
        if rows is not None and not damaged.any():
            return rows
        fresh = again(indices[damaged])
        with contextlib.suppress(OSError), self.writer(len(fresh), fresh.shape[1:], fresh.dtype.str) as writer:
            writer.add([keys[i] for i in indices[damaged]], fresh)
        result = np.empty((len(indices), *fresh.shape[1:]), fresh.dtype)
        result[damaged] = fresh
        if rows is not None:
            result[~damaged] = rows
        return result

    def writer(self, count: int, row_shape: Sequence[int], dtype: str) -> Writer:
        """Return a context that adds up to `count` rows; readers see them when it ends.

        Raises OSError, at once, if the disk has no room for them or the folder cannot be written.
        """
        return Writer(self, count, row_shape, dtype)


def clear_left(folder: Path) -> None:
    """Remove what killed writers left in an entry.

    Partial shards of this machine are removed if no process holds their lock, those of other machines if nobody has
    marked them for an hour. Halves of a shard and temporary files are removed after an hour.
    """
    for file in _partials(folder):
        with contextlib.suppress(OSError):
            if _is_abandoned(file):
                file.unlink()
    names = set(_names(folder))
    for name in names:
        other = {".npy": ".json", ".json": ".npy"}.get(Path(name).suffix, "")
        half = _SHARD.fullmatch(name) and str(Path(name).with_suffix(other)) not in names
        if half or (_UNPUBLISHED.fullmatch(name) and _OWN.fullmatch(name)):
            with contextlib.suppress(OSError):
                if time.time() - (folder / name).stat().st_mtime > IN_USE_SECONDS:
                    (folder / name).unlink()


def _partials(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder) if name.endswith(".partial") and _OWN.fullmatch(name)]


def _is_abandoned(file: Path) -> bool:
    """Whether the writer of a partial shard is gone. Raises OSError if the file is."""
    age = time.time() - file.stat().st_mtime
    if fcntl is None or file.name[1:9] != _machine():
        return age > IN_USE_SECONDS
    try:
        lock = _locked(file)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return age > IN_USE_SECONDS
    lock.close()
    return age > NEW_SECONDS


_HELD: dict[tuple[int, int], BinaryIO] = {}  # by device and inode, until the process ends


def hold(file: Path) -> None:
    """Keep a file, which this process reads again later, from being cleared as long as the process lives."""
    with contextlib.suppress(OSError):
        if fcntl is not None:
            stream = _locked(file, shared=True)
            about = os.fstat(stream.fileno())
            if _HELD.setdefault((about.st_dev, about.st_ino), stream) is not stream:
                stream.close()  # it is held already


@atexit.register
def _let_go() -> None:
    """Close what is held, which the interpreter would do with a ResourceWarning."""
    while _HELD:
        _HELD.popitem()[1].close()


def _in_use(folder: Path) -> set[str]:
    """The names of an entry that stay when it is cleared: files that are being written, and those that are held."""
    kept = set()
    for name in _names(folder):
        with contextlib.suppress(OSError):
            young = time.time() - (folder / name).stat().st_mtime < WRITING_SECONDS
            kept |= {name} if young and _UNPUBLISHED.fullmatch(name) else set()
    for file in _partials(folder):
        with contextlib.suppress(OSError):
            kept |= set() if _is_abandoned(file) else {file.name}
    try:
        if fcntl is not None:
            _locked(folder / "weights.npz").close()
    except BlockingIOError:
        kept |= {"weights.npz", "weights.json"}
    except OSError:
        pass
    return kept | {ABOUT} if kept else kept


def _machine() -> str:
    """Eight hexadecimal digits for this machine, with which the names of its shards begin."""
    return hashlib.sha256(platform.node().encode("utf-8", "backslashreplace")).hexdigest()[:8]


def _locked(file: Path, *, shared: bool = False) -> BinaryIO:
    """Open a file and lock it until it is closed. Raises BlockingIOError if another process holds the lock.

    shared: whether others may hold it in the same way.
    """
    stream = file.open("rb")
    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BaseException:
        stream.close()
        raise
    return stream


class Writer:
    """Add rows to a store, in shards. Rows written before an exception are kept.

    A shard ends after SHARD_SECONDS, so that a process that is killed loses no more of its work, and another one
    begins. If other processes have stored all of its keys meanwhile, their rows are taken, and the shard is dropped.
    """

    def __init__(self, store: Store, count: int, row_shape: Sequence[int], dtype: str) -> None:
        self._store = store
        self._instead: MemoryWriter | None = None  # of the rows for which the disk has no room any more
        self._begin(count, row_shape, dtype)

    def _begin(self, count: int, row_shape: Sequence[int], dtype: str) -> None:
        """Begin a shard with room for `count` rows."""
        store = self._store
        self._name = _machine() + uuid.uuid4().hex[8:]
        self._keys: list[str | None] = []
        self._sums = np.zeros(count, "uint64")
        self._temporary = store.folder / f".{self._name}.partial"
        self._lock: BinaryIO | None = None
        self._array = self._created(np.dtype(dtype), (count, *row_shape))
        self._began = self._marked = time.monotonic()

    def _created(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
        """Create the shard's file, again if another process clears the entry meanwhile."""
        for last in (*[False] * TRIES, True):
            try:
                self._store.folder.mkdir(parents=True, exist_ok=True)
                clear_left(self._store.folder)
                array = np.lib.format.open_memmap(self._temporary, mode="w+", dtype=dtype, shape=shape)
                with contextlib.suppress(BlockingIOError):
                    self._lock = None if fcntl is None else _locked(self._temporary)
                _reserve(self._temporary)
                return array
            except OSError as error:
                self._close()
                self._temporary.unlink(missing_ok=True)
                if last or not isinstance(error, FileNotFoundError):
                    raise
        raise AssertionError

    def _close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def add(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Append rows, shape (len(keys), *row_shape)."""
        if self._instead is not None:
            self._instead.add(keys, rows)
            return
        start = len(self._keys)
        stored = np.asarray(rows).astype(self._array.dtype, copy=False)
        self._array[start : start + len(keys)] = stored
        self._sums[start : start + len(keys)] = checksums(stored)
        self._keys.extend(keys)
        if time.monotonic() - self._marked > BEAT_SECONDS:
            self._marked = time.monotonic()
            for path in (self._temporary, self._store.folder):
                with contextlib.suppress(OSError):
                    os.utime(path)
        if time.monotonic() - self._began > SHARD_SECONDS and len(self._keys) < len(self._sums):
            self._begin_another()

    def _begin_another(self) -> None:
        """End the shard, and begin one for the rows that are still to come: in memory, if the disk has no room."""
        left, shape, dtype = len(self._sums) - len(self._keys), self._array.shape[1:], self._array.dtype.str
        self._end()
        try:
            self._begin(left, shape, dtype)
        except OSError as error:
            log.warning(f"{counted(left, 'row')} cannot be cached and will stay in memory: {error}")
            self._instead = MemoryWriter(self._store, left, shape, dtype)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._instead is not None:
            self._instead.__exit__(kind, value, trace)
        else:
            self._end()

    def _end(self) -> None:
        """Publish the shard."""
        rows = self._array.view(np.ndarray)
        try:
            self._array.flush()
            with locked(self._store.folder):
                self._store.refresh()
                if all(self._store._has(key) for key in self._keys):
                    self._temporary.unlink(missing_ok=True)
                else:
                    self._publish()
        except OSError as error:  # the disk is full
            log.warning(f"{counted(len(self._keys), 'row')} cannot be cached and will stay in memory: {error}")
            self._store.hold([one or "" for one in self._keys], np.array(rows[: len(self._keys)]))
            for one in (self._temporary, *(self._store.folder / f"{self._name}{kind}" for kind in (".json", ".npy"))):
                with contextlib.suppress(OSError):
                    one.unlink()
        finally:
            self._close()

    def _publish(self) -> None:
        """Give the shard its name, after its index, and let the store read it."""
        index = self._store.folder / f"{self._name}.json"
        count = len(self._keys)
        sums, rows = self._sums[:count], self._array.view(np.ndarray)[:count]
        text = _index(self._keys, sums, rows)
        del self._array
        if os.name == "nt":  # does not rename a file that is mapped
            rows = np.empty(0)
        for last in (*[False] * TRIES, True):
            try:
                write_atomically(index, text, durable=False)
                _cut(self._temporary, count)
                self._temporary.rename(index.with_suffix(".npy"))
                break
            except OSError as error:
                if not any(isinstance(one, FileNotFoundError) for one in (error, error.__cause__)):
                    raise
                if last or os.name == "nt":  # another process has cleared the entry; what is mapped remains
                    raise RunError(
                        f"The cache '{self._store.folder}' was cleared while this run was writing to it. Run it again."
                    ) from None
                with contextlib.suppress(FileNotFoundError):
                    self._store.folder.mkdir(parents=True, exist_ok=True)
                    if not self._temporary.exists():
                        with self._temporary.open("wb") as file:
                            np.save(file, rows)
        if os.name == "nt":
            self._store.refresh()
        else:  # from memory, so that it does not matter if the entry is cleared
            states = np.full(len(sums), UNSEEN)
            rows.flags.writeable = False
            self._store._take(Shard(index, self._keys, rows, sums, states))


class MemoryWriter:
    """Add rows to a store that are kept in memory, with the interface of `Writer`."""

    def __init__(self, store: Store, count: int, row_shape: Sequence[int], dtype: str) -> None:
        self._store = store
        self._keys: list[str] = []
        self._rows = np.empty((count, *row_shape), dtype)

    def add(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Append rows, shape (len(keys), *row_shape)."""
        self._rows[len(self._keys) : len(self._keys) + len(keys)] = rows
        self._keys.extend(keys)

    def __enter__(self) -> MemoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keys:
            self._store.hold(self._keys, self._rows[: len(self._keys)])


@dataclass(frozen=True)
class Wanted:
    """Rows that are to be added to a store. about: what they are, for `tlkit cache`. The rest as in `Store.writer`."""

    store: Store
    count: int
    row_shape: tuple[int, ...]
    dtype: str
    about: str

    @property
    def bytes(self) -> int:
        return self.count * math.prod(self.row_shape) * np.dtype(self.dtype).itemsize


def open_writers(cache: Cache, wanted: Sequence[Wanted]) -> list[Writer] | list[MemoryWriter] | None:
    """Return a writer for each of these: on disk, else in memory, else None.

    They go to memory if the cache's limit or the disk has no room for all of them, or the disk cannot be written, and
    if they take at most SHARE_OF_MEMORY of what is available.
    """
    size, opened, why = sum(one.bytes for one in wanted), [], "no room in the caches"
    if cache.has_room_for(size):
        try:
            for one in wanted:
                describe(one.store.folder, one.about)
                opened.append(one.store.writer(one.count, one.row_shape, one.dtype))
            return opened
        except OSError as error:
            why = error.strerror or str(error)
            for writer in opened:
                writer.__exit__(None, None, None)
    what = f"{megabytes(size)} of {wanted[0].about.partition(',')[0]}"
    if size > SHARE_OF_MEMORY * available_memory():
        log.warning(f"{why}, and too little memory: {what} are computed again at each use")
        return None
    log.info(f"{why}: {what} are kept in memory")
    return [MemoryWriter(one.store, one.count, one.row_shape, one.dtype) for one in wanted]


def _cut(file: Path, count: int) -> None:
    """Give an `.npy` file `count` rows, if it has room for more. Its header is as long for any number of rows."""
    with file.open("r+b") as stream:
        np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        begins = stream.tell()
        if shape[0] <= count:
            return
        header = io.BytesIO()
        described = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": fortran,
            "shape": (count, *shape[1:]),
        }
        np.lib.format.write_array_header_1_0(header, described)
        if header.tell() == begins:
            stream.seek(0)
            stream.write(header.getvalue())
            stream.truncate(begins + count * math.prod(shape[1:]) * dtype.itemsize)


def _reserve(file: Path) -> None:
    """Take a file's space now, so that a full disk is an OSError here and not a crash at a later write."""
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # the file system cannot reserve
                raise
