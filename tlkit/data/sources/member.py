"""Files that are not on disk as such, such as the members of an archive, with the interface of paths.

An item is anything with a name and bytes: a `pathlib.Path` is one, and so are the classes below. Nothing above this
room knows where an item's bytes are.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import stat
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tlkit.data.limits import MAX_FILE_BYTES

if TYPE_CHECKING:
    from tlkit.data.sources.records import Records

CUT_OFF = "the archive ends within it"
DAMAGED = "its checksum differs: the archive is damaged"
HEAD = 65_536  # bytes that are read of a file which is too large to be used
_LOCAL_HEADER = 30  # bytes of the header before a zip's member, without its name and extra field


@runtime_checkable
class Item(Protocol):
    """What is read by its name: `read_bytes()` gives its content, `str()` what messages call it.

    `read_bytes` raises OSError if it cannot be read. Items are picklable, and may be read by several threads at once.
    """

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """An item within a file on disk, such as a member of an archive. It is complete without the archive's index.

    file: the path. shown: what messages call the item.
    offset, stored: where its bytes are in the file, and how many. size: of the content.
    packing: "" as they are; "zip" behind a zip's local header; "deflate" the same, compressed.
    crc: the CRC-32 of the content; None if it is not known.
    """

    file: str
    shown: str
    offset: int
    stored: int
    size: int
    packing: str = ""
    crc: int | None = None

    def __str__(self) -> str:
        return self.shown

    @property
    def name(self) -> str:
        return self.shown.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        return self._read(self.size, whole=True)

    def head(self, most: int) -> bytes:
        """The first bytes, at most `most`, without a look at the checksum."""
        return self._read(min(most, self.size), whole=False)

    def _read(self, most: int, *, whole: bool) -> bytes:
        with Path(self.file).open("rb") as stream:
            offset = self.offset
            if self.packing:
                stream.seek(offset)
                header = stream.read(_LOCAL_HEADER)
                if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
                    raise OSError(errno.EIO, CUT_OFF if len(header) < _LOCAL_HEADER else DAMAGED)
                offset += _LOCAL_HEADER + int.from_bytes(header[26:28], "little")
                offset += int.from_bytes(header[28:30], "little")
            stream.seek(offset)
            wanted = self.stored if whole or self.packing == "deflate" else most
            data = stream.read(wanted)
        if len(data) < wanted:
            raise OSError(errno.EIO, CUT_OFF)
        if self.packing == "deflate":
            data = _inflated(data, most, self.size if whole else None)
        if whole and (len(data) != self.size or (self.crc is not None and zlib.crc32(data) != self.crc)):
            raise OSError(errno.EIO, DAMAGED)
        return data


def _inflated(data: bytes, most: int, size: int | None) -> bytes:
    """The first bytes of deflated data. size: what all of it must have; it is never unpacked beyond that."""
    unpacker = zlib.decompressobj(-15)
    try:
        found = unpacker.decompress(data, max(1, most))
        if size is not None and unpacker.decompress(unpacker.unconsumed_tail, 1):
            raise OSError(errno.EIO, f"it unpacks to more than the {size:,} bytes that the archive says")
    except zlib.error:
        raise OSError(errno.EIO, DAMAGED) from None
    return found[:most]


class Members(ABC):
    """Items by name, as in an archive. Their folders follow from the names, which have forward slashes.

    shown: what stands before a member's name in messages, such as the archive's path.
    findings: the problems found when the names were read, as of `tlkit.data.images.problem`.
    class_names: the classes in order, where the source says it.
    """

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.findings: list[dict[str, str]] = []
        self.class_names: tuple[str, ...] = ()

    @property
    def root(self) -> Member:
        return Member(self, "")

    @abstractmethod
    def names(self) -> Iterable[str]:
        """The names of all items."""

    @abstractmethod
    def __contains__(self, name: object) -> bool: ...

    @abstractmethod
    def item(self, name: str) -> Item:
        """One of the items, which can be read without the others. Raises KeyError if there is none of that name."""

    @abstractmethod
    def size(self, name: str) -> int:
        """The bytes of an item's content."""

    def records(self) -> Records | None:
        """The rows of a source whose items have labels of their own, with the columns path (the item's name) and label.

        None where the folders give the labels.
        """
        return None

    def prepare(self, names: Sequence[str]) -> None:  # noqa: B027  most have nothing to do
        """Called with the names of all items that will be read, which may be fetched together."""

    def head(self, name: str, most: int) -> bytes:
        """An item's first bytes."""
        return self.item(name).read_bytes()[:most]

    def display(self, name: str) -> str:
        return f"{self.shown}/{name}" if name else self.shown

    @cached_property
    def folders(self) -> dict[str, tuple[list[str], list[str]]]:
        """The names of the folders and of the files in each folder; "" is the topmost."""
        found: dict[str, tuple[list[str], list[str]]] = {"": ([], [])}
        for name in self.names():
            above, _, last = name.rpartition("/")
            _folder(found, above)[1].append(last)
        return found


def _folder(found: dict[str, tuple[list[str], list[str]]], name: str) -> tuple[list[str], list[str]]:
    """What is in a folder, which is added with those above it if it is new."""
    if name not in found:
        found[name] = ([], [])
        above, _, last = name.rpartition("/")
        _folder(found, above)[0].append(last)
    return found[name]


class Member:
    """A file or folder among `Members`, with those methods of `pathlib.Path` that reading needs.

    To another process it goes as its item alone, without the names of the others.
    """

    __slots__ = ("inside", "members")

    def __init__(self, members: Members, inside: str) -> None:
        self.members, self.inside = members, inside

    def __reduce__(self) -> tuple[object, ...]:
        return _same, (self.members.item(self.inside),)

    # -- as a path -----------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return self.members.display(self.inside)

    def __repr__(self) -> str:
        return f"Member({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Member) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((self.members.shown, self.inside))

    def __lt__(self, other: Member) -> bool:
        return self.parts < other.parts

    def __truediv__(self, name: str) -> Member:
        inside = posixpath.join(self.inside, name)
        return Member(self.members, posixpath.normpath(inside) if "." in inside else inside)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.inside.split("/")) if self.inside else ()

    @property
    def name(self) -> str:
        return self.inside.rpartition("/")[2] or Path(self.members.shown).name

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def parent(self) -> Member:
        return Member(self.members, self.inside.rpartition("/")[0])

    def as_posix(self) -> str:
        return self.inside or "."

    def relative_to(self, other: Member) -> Member:
        """The part of its name below a folder, which `as_posix` gives. Raises ValueError if it is elsewhere."""
        if not other.inside:
            return self
        if self.inside == other.inside or self.inside.startswith(other.inside + "/"):
            return Member(self.members, self.inside[len(other.inside) + 1 :])
        raise ValueError(f"'{self}' is not below '{other}'.")

    def absolute(self) -> Member:
        return self

    # -- what it is ----------------------------------------------------------------------------------------------

    def is_file(self) -> bool:
        return self.inside in self.members

    def is_dir(self) -> bool:
        return self.inside in self.members.folders

    def is_symlink(self) -> bool:
        return False

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[Member]:
        if not self.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        before = f"{self.inside}/" if self.inside else ""
        for names in self.members.folders[self.inside]:
            yield from (Member(self.members, before + name) for name in names)

    def stat(self) -> os.stat_result:
        """The size and whether it is a file. Raises FileNotFoundError if it is neither file nor folder."""
        if self.is_file():
            return os.stat_result((stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, self.members.size(self.inside), 0, 0, 0))
        if self.is_dir():
            return os.stat_result((stat.S_IFDIR | 0o555, 0, 0, 1, 0, 0, 0, 0, 0, 0))
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))

    def read_bytes(self) -> bytes:
        """The content. Raises OSError if it cannot be read."""
        if not self.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return self.members.item(self.inside).read_bytes()

    def open(self, mode: str = "rb") -> io.BytesIO:
        """A stream of the content; of the first bytes, if it is larger than any file that is used."""
        if not self.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        if self.members.size(self.inside) > MAX_FILE_BYTES:
            return io.BytesIO(self.members.head(self.inside, HEAD))
        return io.BytesIO(self.read_bytes())


Root = Path | Member


def _same(item: Item) -> Item:
    return item


def real_path(path: Root) -> str:
    """What tells whether two paths lead to one file: without links, if it is on disk."""
    return str(path) if isinstance(path, Member) else os.path.realpath(path)
