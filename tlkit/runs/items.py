"""The images of a batch, one after another: the files of folders, and those that tables and lists name.

Nothing is read here but names, sizes and times, and at most one folder's at once, so that a batch may be of any size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tlkit.data.convert import Unreadable, convert_in_thread
from tlkit.data.limits import MAX_FILE_BYTES
from tlkit.data.sources.folder import files_below
from tlkit.data.sources.kinds import root_of_data
from tlkit.data.sources.member import Member, Piece
from tlkit.data.sources.memory import InMemoryImages
from tlkit.data.sources.records import kind_of_table, read_records
from tlkit.data.sources.table import COLUMNS, _column, root_of_table
from tlkit.errors import DataError
from tlkit.plan.in_memory import InMemory, as_data
from tlkit.runs.predict import _expand
from tlkit.words import text_of

Source = str | Path | Sequence[str | Path] | InMemoryImages
AT_ONCE = 256  # items whose size and time are asked for at the same time


@dataclass(frozen=True)
class Item:
    """An image that is to be answered.

    file: a path, or anything else with a name (`str`), `read_bytes()` and `stat()`, which can be sent to a process.
    aside: why it is left aside, or "".
    size: bytes. modified: microseconds since 1970. Both None where they are not known.
    """

    file: Any
    aside: str = ""
    size: int | None = None
    modified: int | None = None

    @property
    def name(self) -> str:
        """What answers call it. Bytes of a path that are not UTF-8 are escaped."""
        return text_of(self.file)


def items_of(source: Source) -> Iterator[Item]:
    """Yield the images of a source, always in the same order while it does not change.

    source: a file; a folder, an archive or any other source of docs/sources.md, which is searched as `tlkit.scan` does;
        a table with a column of paths, or a list with a path on each line (see `tlkit.scan`); several of these; or what
        `tlkit.from_arrays` returns. Labels are not
        needed, and not looked at. A path of a table that leads nowhere is an item with a problem.

    Raises DataError if a file or folder that is named does not exist, or a table cannot be read.
    """
    found = _files(source)
    with ThreadPoolExecutor(8) as pool:  # on a network's disk each answer takes a while
        while some := list(islice(found, AT_ONCE)):
            yield from pool.map(lambda one: _with_size(*one), some)


def source_words(source: Source) -> list[str]:
    """What a source is called: the paths as they were given, and no secret of a URL."""
    return [str(source)] if isinstance(source, InMemoryImages) else [text_of(as_data(one)) for one in _each(source)]


def _each(source: Source) -> list[Any]:
    if isinstance(source, InMemoryImages):
        return list(source.files())
    return [source] if isinstance(source, str | os.PathLike) else list(source)


def _files(source: Source) -> Iterator[tuple[Any, str]]:
    """Each file and why it is left aside, or ""."""
    for one in _each(source):
        if isinstance(one, Member):
            yield one, ""
            continue
        given = as_data(one)
        root = given.folder if isinstance(given, InMemory) else root_of_data(given)
        if root.is_dir():
            yield from files_below(root)
        elif isinstance(root, Path) and kind_of_table(root) and root.is_file():
            yield from _listed(root)
        else:
            yield from _expand([one])


def _listed(file: Path) -> Iterator[tuple[Any, str]]:
    """The files that a table names in its column of paths, or a list without a header on each of its lines."""
    records, root = read_records(file), root_of_table(file)
    column = _column(records.names, ["path", *COLUMNS["path"]])
    if column is None and len(records.names) > 1:
        raise DataError(
            f"'{file}' has no column 'path'. Expected one, such as path,label; found {', '.join(records.names[:20])}. "
            "Rename the column that holds the paths."
        )
    if column is None:  # the first line is a path already
        yield root / records.names[0], ""
    for number, cells, fault in records.rows:
        path = cells[column or 0] if len(cells) > (column or 0) else ""
        if not fault and (not path or "\0" in path):
            fault = "it holds no path"
        yield (root / path if path and "\0" not in path else file), f"row {number}: {fault}" if fault else ""


def _with_size(file: Any, aside: str) -> Item:
    try:
        found = file.stat()
    except OSError:  # reading it says why
        return Item(file, aside)
    modified = found.st_mtime_ns if isinstance(file, Path) else _archive_modified(file)
    return Item(file, aside, int(found.st_size), modified // 1000 or None)


def _archive_modified(member: Member) -> int:
    """When the archive was modified that holds an item, in nanoseconds; 0 if that is not known."""
    try:
        held = member.members.item(member.inside)
        return Path(held.file).stat().st_mtime_ns if isinstance(held, Piece) else 0
    except (OSError, KeyError):
        return 0


def read_raw(item: Item) -> bytes | str:
    """An item's bytes, or why it cannot be read."""
    file = item.file
    if item.aside:
        return item.aside
    try:
        if isinstance(file, Path) and not file.exists():
            return "the link leads nowhere" if file.is_symlink() else "there is no such file"
        if isinstance(file, Path) and not file.is_file():
            return "not a regular file"
        if (item.size or 0) > MAX_FILE_BYTES:
            return f"larger than {MAX_FILE_BYTES // 1024**2} MiB"
        data = file.read_bytes()
    except OSError as error:
        return error.strerror or str(error)
    return data if len(data) <= MAX_FILE_BYTES else f"larger than {MAX_FILE_BYTES // 1024**2} MiB"


def decodable(data: bytes) -> bytes | str:
    """An image's bytes, converted if the model does not decode its format, or why that cannot be done.

    For threads that run in `tlkit.data.convert.without_warnings`.
    """
    try:
        return convert_in_thread(data)
    except Unreadable as reason:
        return str(reason)
