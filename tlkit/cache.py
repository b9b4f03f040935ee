"""Arrays cached on disk by content: what was computed from an image is found again by the image's hash.

A store is a folder of shards, each a `.npy` file and a `.json` list of the keys of its rows. Shards are written under a
temporary name, renamed, and never changed. So readers need no locks, a killed writer leaves nothing that is read, and a
new image in a folder adds one row. This module knows nothing of images or networks.

A `Cache` is a folder of entries KIND/NAME, each with one store or several, and has a size limit. `has_room_for` clears
the entries unused for longest when a new one would exceed the limit. Memory-mapped arrays that another run still reads
remain readable to it. An entry that contains a file that tlkit did not write is not cleared.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import platformdirs

from tlkit.errors import RunError, unknown
from tlkit.files import contents, remove, write_atomically

SHARE_OF_FREE_DISK = 0.2
IN_USE_SECONDS = 3600  # entries opened within the last hour are never cleared to make room
KINDS = ("pixels", "features", "safety")
ABOUT = "about.txt"
CLEARED = ".cleared-"
_OWN = re.compile(
    r"(\.tmp-[0-9a-f]{8}-)?(about\.txt|safety\.json|[0-9a-f]{32}\.(npy|json))|\.[0-9a-f]{32}\.partial|\.DS_Store"
)


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
        kind: "pixels", "features" or "safety".
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

        Raises RunError if it contains a file that tlkit did not write.
        """
        self.check_clearable()
        doomed = self.folder.with_name(CLEARED + uuid.uuid4().hex[:8])
        try:
            self.folder.rename(doomed)
        except FileNotFoundError:
            return  # another run has cleared it
        with contextlib.suppress(OSError):
            remove(doomed, [name for name in contents(doomed) if _OWN.fullmatch(name)])

    def foreign(self) -> list[str]:
        """List the files in it that tlkit did not write."""
        return [name for name in contents(self.folder) if not _OWN.fullmatch(name)]

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
    """

    limit_gb: float | None = None
    root: Path | None = None

    @property
    def folder(self) -> Path:
        return self.root or cache_folder()

    def at(self, kind: str, name: str) -> Path:
        """Return the folder of an entry, whether it exists or not."""
        return self.folder / kind / name

    def entries(self) -> list[CacheEntry]:
        """List the entries, those unused for longest first."""
        found = []
        for folder in (one for kind in KINDS for one in self.folder.glob(f"{kind}/*")):
            if folder.is_symlink() or not ((folder / ABOUT).is_file() or folder.name.startswith(CLEARED)):
                continue  # not written by tlkit: TLKIT_CACHE may point at a folder with other files
            try:
                files = [path.stat() for path in (folder, *folder.rglob("*"))]
                about = (folder / ABOUT).read_text(encoding="utf-8") if (folder / ABOUT).is_file() else folder.name
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
        write_atomically(folder / ABOUT, about + "\n")


@dataclass(frozen=True)
class Rows:
    """Rows of memory-mapped shards in a chosen order; `gather` copies some of them into memory.

    Args:
        shards: arrays of equal row shape and dtype.
        where: int64, shape (n, 2): the shard and the row within it, of each row.
    """

    shards: tuple[np.ndarray, ...]
    where: np.ndarray

    def __len__(self) -> int:
        return len(self.where)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shards[0].shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.shards[0].dtype

    def gather(self, indices: np.ndarray | Sequence[int] | slice) -> np.ndarray:
        """Return the rows at `indices` as one array, shape (len(indices), *row_shape)."""
        where = self.where[indices]
        result = np.empty((len(where), *self.row_shape), self.dtype)
        for shard in np.unique(where[:, 0]):
            selected = where[:, 0] == shard
            result[selected] = self.shards[shard][where[selected, 1]]
        return result

    def take(self, indices: np.ndarray | Sequence[int]) -> Rows:
        """Return a view of some rows; nothing is copied."""
        return Rows(self.shards, self.where[indices])


def in_memory(array: np.ndarray) -> Rows:
    """Wrap an array that is already in memory as `Rows`."""
    where = np.stack([np.zeros(len(array), "int64"), np.arange(len(array))], axis=1)
    return Rows((array,), where)


class Store:
    """The shards of one folder: `known` tells which keys are stored, `rows` reads them, `writer` adds more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: list[np.ndarray] = []
        self._at: dict[str, tuple[int, int]] = {}
        self._read: set[str] = set()
        with contextlib.suppress(OSError):
            os.utime(folder)  # mark it as opened now, so that it is not the first to be cleared
        self.refresh()

    def refresh(self) -> None:
        """Read the indexes of shards written since the last call."""
        for index in sorted(self.folder.glob("*.json")):
            if index.name in self._read:
                continue
            try:
                keys = json.loads(index.read_text())
                array = np.load(index.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError):
                continue  # an index without its array, or damaged files: ignored
            self._read.add(index.name)
            self._shards.append(array)
            for row, key in enumerate(keys):
                if key is not None:
                    self._at.setdefault(key, (len(self._shards) - 1, row))

    def known(self, keys: Sequence[str]) -> np.ndarray:
        """Which keys are stored: bool, shape (n,)."""
        return np.array([key in self._at for key in keys], dtype=bool)

    def rows(self, keys: Sequence[str]) -> Rows:
        """Return the rows of `keys`, all of which must be stored. Raises KeyError for one that is not."""
        where = np.array([self._at[key] for key in keys], dtype="int64").reshape(-1, 2)
        return Rows(tuple(self._shards), where)

    def writer(self, count: int, row_shape: Sequence[int], dtype: str) -> Writer:
        """Return a context that adds up to `count` rows; readers see them when it ends."""
        return Writer(self, count, row_shape, dtype)


class Writer:
    """Add one shard to a store. Rows written before an exception are kept."""

    def __init__(self, store: Store, count: int, row_shape: Sequence[int], dtype: str) -> None:
        self._store = store
        self._name = uuid.uuid4().hex
        self._keys: list[str | None] = []
        store.folder.mkdir(parents=True, exist_ok=True)
        self._temporary = store.folder / f".{self._name}.partial"
        self._array = np.lib.format.open_memmap(
            self._temporary, mode="w+", dtype=np.dtype(dtype), shape=(count, *row_shape)
        )
        if hasattr(os, "posix_fallocate"):  # so that a full disk is an OSError now, not a crash at a later write
            with self._temporary.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, self._temporary.stat().st_size)

    def add(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Append rows, shape (len(keys), *row_shape)."""
        start = len(self._keys)
        self._array[start : start + len(keys)] = rows
        self._keys.extend(keys)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._array.flush()
        del self._array
        if not self._keys:
            self._temporary.unlink()
            return
        index = self._store.folder / f"{self._name}.json"
        self._temporary.rename(index.with_suffix(".npy"))
        write_atomically(index, json.dumps(self._keys))
        self._store.refresh()
