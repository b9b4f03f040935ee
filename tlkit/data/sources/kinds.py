"""Which source reads data, by what its path looks like: the one table of sources that are neither folders nor tables.

To add a source, write a module that makes `Members` of it, and add a line to SOURCES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tlkit.data.sources.archive import TAR, UNREAD, ZIP, ends_with, open_tar, open_zip
from tlkit.data.sources.member import Member, Members, Root
from tlkit.data.sources.records import kind_of_table


@dataclass(frozen=True)
class Source:
    """A kind of data.

    name: for the documents. fits: whether a path that exists is of this kind. open: reads the names of its items.
    """

    name: str
    fits: Callable[[Path], bool]
    open: Callable[[Path], Members]


def _is_file(endings: tuple[str, ...]) -> Callable[[Path], bool]:
    return lambda path: ends_with(path.name, endings) and not kind_of_table(path) and path.is_file()


SOURCES: tuple[Source, ...] = (  # the first that fits
    Source("zip", _is_file(ZIP), open_zip),
    Source("tar", _is_file(TAR), open_tar),
)


def source_of(path: Path) -> Source | None:
    """The kind of a path; None for a folder, a table, or a file that is no data."""
    return next((one for one in SOURCES if one.fits(path)), None)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder, on disk or in an archive, such as birds.zip/train."""
    return path.exists() or ((found := root_of(path)) is not path and found.exists())


def root_of(path: Root) -> Root:
    """The folder that the names of a path's items are relative to: the path itself, or that of an archive's members.

    A path that leads into an archive, such as birds.zip/train, is the folder or file in it.
    """
    if isinstance(path, Member) or (found := _holder(path)) is None:
        return path
    holder, source = found
    root = _opened(holder, source).root
    return root if holder == path else root / path.relative_to(holder).as_posix()


def _holder(path: Path) -> tuple[Path, Source] | None:
    """The file that a path leads to or into, and its kind."""
    for one in (path, *path.parents):
        if one.exists():
            source = source_of(one)
            return None if source is None else (one, source)
    return None


_recent: dict[tuple[str, int, int], Members] = {}  # by path, time and size
MOST_RECENT = 4


def _opened(path: Path, source: Source) -> Members:
    """The members of a path, whose names are read once while it is the same file."""
    about = path.stat()
    key = (str(path), about.st_mtime_ns, about.st_size)
    if key not in _recent:
        found = source.open(path)
        while len(_recent) >= MOST_RECENT:
            _recent.pop(next(iter(_recent)))
        _recent[key] = found
    return _recent[key]


def not_read(path: Root) -> bool:
    """Whether a file is an archive of a kind that no source reads."""
    return ends_with(path.name, UNREAD)
