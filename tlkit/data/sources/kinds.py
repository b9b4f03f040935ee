"""Which source reads data, by what its path looks like: the one table of sources that are neither folders nor tables.

To add a source, write a module that makes `Members` of it, and add a line to SOURCES.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tlkit.data.sources.archive import TAR, UNREAD, ZIP, ends_with, open_zip
from tlkit.data.sources.arrow import holds_images, is_saved, open_hub, open_parquet, open_saved
from tlkit.data.sources.member import Member, Members, Root
from tlkit.data.sources.names import is_system
from tlkit.data.sources.places import IMAGE_EXTENSIONS
from tlkit.data.sources.records import PARQUET, kind_of_table
from tlkit.data.sources.remote import Place, RemoteFolder, folder_of_table, local_file, name_of, parent_of
from tlkit.data.sources.shards import BRACES, open_tars, shards_of
from tlkit.data.sources.tfrecord import FILE, is_prepared, open_tfrecords, prepared_folder
from tlkit.errors import DataError
from tlkit.plan.address import Address


@dataclass(frozen=True)
class Source:
    """A kind of data.

    name: for the documents. fits: whether a path that exists is of this kind.
    open: reads the names of its items: (path, how messages call it).
    """

    name: str
    fits: Callable[[Path], bool]
    open: Callable[[Path, str], Members]


def _is_archive(endings: tuple[str, ...]) -> Callable[[Path], bool]:
    return lambda path: ends_with(path.name, endings) and not kind_of_table(path) and path.is_file()


def _are_all(path: Path, fits: Callable[[str], object]) -> bool:
    """Whether a folder, or each folder in it, holds files of a kind, and neither images nor folders.

    It is read no further than to its first image, of which it may hold very many.
    """
    found, folders = 0, []
    try:
        with os.scandir(path) as entries:
            for one in entries:
                if one.name.startswith(".") or is_system(one.name):
                    continue
                if one.is_dir():
                    folders.append(Path(one.path))
                elif Path(one.name).suffix.lower() in IMAGE_EXTENSIONS:
                    return False
                found += bool(fits(one.name))
                if len(folders) > MOST_PARTS or (folders and found):
                    return False
    except OSError:
        return False
    return all(_are_all(one, fits) for one in folders) if folders else found > 0


MOST_PARTS = 8  # folders such as train/ and test/ that hold the files of a source

# The first that fits. To read a path as another kind, give the kind before it, as in tfrecord:data/
SOURCES: dict[str, Source] = {
    one.name: one
    for one in (
        Source("zip", _is_archive(ZIP), open_zip),
        Source("webdataset", lambda path: BRACES.search(path.name) is not None and not path.exists(), open_tars),
        Source("tar", _is_archive(TAR), open_tars),
        Source("tfrecord", lambda path: path.is_file() and bool(FILE.fullmatch(path.name)), open_tfrecords),
        Source("parquet", lambda path: ends_with(path.name, PARQUET) and holds_images(path), open_parquet),
        Source("tfds", lambda path: path.is_dir() and is_prepared(path), open_tfrecords),
        Source("datasets", lambda path: path.is_dir() and is_saved(path), open_saved),
        Source("tars", lambda path: _are_all(path, lambda name: ends_with(name, (".tar",))), open_tars),
        Source("tfrecords", lambda path: _are_all(path, FILE.fullmatch), open_tfrecords),
        Source("parquets", lambda path: _are_all(path, lambda name: ends_with(name, PARQUET)), open_parquet),
    )
}


def source_of(path: Path) -> Source | None:
    """The kind of a path; None for a folder, a table, or a file that is no data."""
    return next((one for one in SOURCES.values() if one.fits(path)), None)


def exists(path: Path | Address) -> bool:
    """Whether there is such a file or folder, on disk or in an archive, such as birds.zip/train.

    True of an address, which is asked when it is read.
    """
    if isinstance(path, Address):
        return True
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


def root_of_data(data: Path | Member | Address) -> Root:
    """As `root_of`, of an address too. Raises DataError if it cannot be read."""
    if not isinstance(data, Address):
        return root_of(data)
    key = (data.secret, int(time.monotonic() / LISTED_SECONDS))
    if key not in _listed:
        while len(_listed) >= MOST_RECENT:
            _listed.pop(next(iter(_listed)))
        _listed[key] = _at_url(data) if not data.kind else _of_kind(data)
    return _listed[key]


LISTED_SECONDS = 300  # for which a list of what is at a URL counts
_listed: dict[tuple[str, int], Root] = {}


def _of_kind(address: Address) -> Root:
    """The root of data behind a kind, such as tfds:cifar10 or tfrecord:data/."""
    if address.kind == "hf":
        return open_hub(address.place, str(address)).root
    if address.kind == "tfds":
        return _opened(prepared_folder(address.place), SOURCES["tfds"]).root
    path = Path(address.place)
    if not path.exists() and not BRACES.search(path.name):
        raise DataError(f"No such file or folder: '{path}'.")
    return _opened(path, SOURCES[address.kind]).root


def _at_url(address: Address) -> Root:
    """The root of what is at a URL: an archive or another file, which is fetched, a table, or a folder."""
    name, place = name_of(address), Place(address)
    kind = next((kind for kind, fits in OF_NAME.items() if fits(name)), None)
    if kind is not None:
        return SOURCES[kind].open(local_file(place), str(address)).root
    if not kind_of_table(Path(name)):
        return RemoteFolder(place).checked().root
    if ends_with(name, PARQUET) and holds_images(file := local_file(place)):
        return open_parquet(file, str(address)).root
    above, name = parent_of(address)
    return folder_of_table(Place(above), place, name).root / name


OF_NAME: dict[str, Callable[[str], object]] = {  # a source that is one file -> whether a file's name says it
    "zip": lambda name: ends_with(name, ZIP) and not kind_of_table(Path(name)),
    "tar": lambda name: ends_with(name, TAR) and not kind_of_table(Path(name)),
    "tfrecord": FILE.fullmatch,
}


def _holder(path: Path) -> tuple[Path, Source] | None:
    """The file that a path leads to or into, and its kind."""
    for one in (path, *path.parents):
        source = source_of(one)
        if source is not None:
            return one, source
        if one.exists():
            return None
    return None


_recent: dict[tuple[object, ...], Members] = {}  # by path, kind, time and size
MOST_RECENT = 4


def _opened(path: Path, source: Source) -> Members:
    """The members of a path, whose names are read once while it is the same file."""
    key = (str(path.absolute()), source.name, *_stamp(path))
    if key not in _recent:
        found = source.open(path, "")
        while len(_recent) >= MOST_RECENT:
            _recent.pop(next(iter(_recent)))
        _recent[key] = found
    return _recent[key]


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file, or one in a folder, does: the latest time, the bytes, and the number of files."""
    if path.is_file():
        files = [path.stat()]
    else:
        files = [one.stat() for one in (path.rglob("*") if path.is_dir() else shards_of(path))]
    return max((one.st_mtime_ns for one in files), default=0), sum(one.st_size for one in files), len(files)


def not_read(path: Root) -> bool:
    """Whether a file is an archive of a kind that no source reads."""
    return ends_with(path.name, UNREAD)
