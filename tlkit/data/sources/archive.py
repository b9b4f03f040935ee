"""Reads zip and tar archives in place: which members they have, and where the bytes of each are.

Nothing is unpacked to disk, except a compressed tar, once, into the cache. A member whose path leads out of the
archive, a link, and whatever is neither file nor folder are named and left out.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tlkit.cache import Cache, describe
from tlkit.data.images import problem
from tlkit.data.sources.member import Members, Piece
from tlkit.disk import check_room
from tlkit.errors import DataError
from tlkit.files import temporary_beside
from tlkit.words import text_of

ZIP = (".zip",)
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
UNREAD = (".7z", ".rar", ".tar.zst", ".tzst", ".tar.lz4", ".gz", ".bz2", ".xz", ".zst")
MOST_DEEP = 200  # folders in a member's path
MOST_TIMES = 200  # that a tar unpacks to of its own size, beyond SMALL; images hardly shrink at all
SMALL = 2**30
_AT_ONCE = 2**20
_ENCRYPTED = 1


def ends_with(name: str, endings: Iterable[str]) -> bool:
    """Whether a file's name has one of the endings, whatever its case."""
    return name.lower().endswith(tuple(endings))


class Archive(Members):
    """The members of an archive.

    file: where it is on disk. entries: name -> (offset, stored, size, packing, crc) as in `Piece`.
    """

    def __init__(self, file: Path, shown: str) -> None:
        super().__init__(shown)
        self.file = file.absolute()  # another process may have another folder
        self.entries: dict[str, tuple[int, int, int, str, int | None]] = {}
        self._times: Counter[str] = Counter()

    def names(self) -> Iterable[str]:
        return self.entries

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def item(self, name: str) -> Piece:
        return Piece(str(self.file), self.display(name), *self.entries[name])

    def size(self, name: str) -> int:
        return self.entries[name][2]

    def head(self, name: str, most: int) -> bytes:
        return self.item(name).head(most)

    def add(self, written: str, offset: int, stored: int, size: int, packing: str = "", crc: int | None = None) -> None:
        """Add a member by the name that the archive gives it. One of a name that no member may have is left out."""
        name = "/".join(part for part in written.replace("\\", "/").split("/") if part not in ("", "."))
        if reason := _not_inside(written, name):
            self.leave_out(written, "outside-archive", reason)
            return
        if name in self.entries:
            self._times[name] += 1
        self.entries[name] = (offset, stored, size, packing, crc)

    def leave_out(self, written: str, kind: str, detail: str) -> None:
        self.findings.append(problem(text_of(written)[:300], "", kind, detail))

    def complete(self) -> Archive:
        """Name the members that share a name. The last one of them is read, as it would remain if all were unpacked."""
        for name, more in self._times.items():
            detail = f"{more + 1} members have this name; the last one is used"
            self.findings.append(problem(name, "", "repeated-name", detail))
        return self


def _not_inside(written: str, name: str) -> str:
    """Why a member's path is refused; "" if it is not."""
    parts = name.split("/")
    if ".." in parts or written.startswith(("/", "\\")) or parts[0][1:2] == ":":
        return "its path leads out of the archive"
    if not name or "\x00" in name:
        return "it has no name"
    return f"more than {MOST_DEEP} folders deep" if len(parts) > MOST_DEEP else ""


# -- zip -----------------------------------------------------------------------------------------------------


def open_zip(file: Path, shown: str = "") -> Archive:
    """The members of a zip. Raises DataError if it is none, is cut off, or its members share their bytes (a bomb)."""
    found = Archive(file, shown or str(file))
    try:
        with zipfile.ZipFile(file) as opened:
            members = [one for one in opened.infolist() if not one.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise DataError(
            f"'{found.shown}' is not a zip archive, or is cut off: {error}. Fetch or copy it again."
        ) from error
    except OSError as error:
        raise DataError(f"Cannot read '{found.shown}': {error.strerror or error}.") from error
    _check_apart(members, found.shown)
    for one in members:
        if one.flag_bits & _ENCRYPTED:
            found.leave_out(one.filename, "unreadable", "encrypted; unpack the archive with its password")
        elif (one.external_attr >> 16) & 0o170000 == 0o120000:
            found.leave_out(one.filename, "link-in-archive", "a link; links in an archive are not followed")
        elif one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            detail = f"packed by method {one.compress_type}; expected stored or deflated"
            found.leave_out(one.filename, "unreadable", detail)
        else:
            packing = "deflate" if one.compress_type == zipfile.ZIP_DEFLATED else "zip"
            found.add(one.filename, one.header_offset, one.compress_size, one.file_size, packing, one.CRC)
    return found.complete()


def _check_apart(members: list[zipfile.ZipInfo], shown: str) -> None:
    """Raise DataError if two members share bytes, by which a small file would unpack to a large one many times."""
    end = 0
    for one in sorted(members, key=lambda member: member.header_offset):
        if one.header_offset < end:
            raise DataError(
                f"Members of '{shown}' share their bytes, as in an archive made to fill a disk ('{one.filename}'). "
                "It is not read."
            )
        end = one.header_offset + one.compress_size


# -- tar -----------------------------------------------------------------------------------------------------


def open_tar(file: Path, shown: str = "") -> Archive:
    """The members of a tar. Raises DataError if it is none. One that is cut off has the members before that."""
    found = Archive(file, shown or str(file))
    if _is_packed(file):
        found.file = unpacked(file, found.shown)
    whole = found.file.stat().st_size
    try:
        with tarfile.open(found.file, "r:") as opened:
            for one in _members(opened, found):
                if one.isdir():
                    continue
                if one.issym() or one.islnk():
                    found.leave_out(one.name, "link-in-archive", "a link; links in an archive are not followed")
                elif not one.isreg() or one.issparse():
                    found.leave_out(one.name, "not-an-image", "not a regular file")
                elif one.offset_data + one.size > whole:
                    found.leave_out(one.name, "truncated", "the archive ends within it")
                else:
                    found.add(one.name, one.offset_data, one.size, one.size)
    except tarfile.TarError as error:
        raise DataError(f"'{found.shown}' is not a tar archive: {error}. Fetch or copy it again.") from error
    except OSError as error:
        raise DataError(f"Cannot read '{found.shown}': {error.strerror or error}.") from error
    return found.complete()


def _members(opened: tarfile.TarFile, found: Archive) -> Iterator[tarfile.TarInfo]:
    """Each header of a tar, without keeping those before it. An archive that is cut off is named."""
    while True:
        try:
            one = opened.next()
        except (tarfile.TarError, EOFError, ValueError) as error:
            if not found.entries:
                raise tarfile.ReadError(str(error)) from error
            detail = f"the archive is damaged or cut off after {len(found.entries):,} members: {error}"
            found.leave_out(Path(found.shown).name, "truncated", detail)
            return
        if one is None:
            return
        yield one
        opened.members.clear()  # type: ignore[attr-defined]


def _is_packed(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"))


def unpacked(file: Path, shown: str) -> Path:
    """A compressed tar without its compression, in the cache. It is made once for each content.

    Raises DataError for another or a damaged file, and for one that unpacks to far more than images would.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = Cache().at("sources", digest[:32])
    target = folder / f"{digest}.bytes"
    if target.is_file():
        os.utime(target)
        return target
    check_room(folder, 2 * file.stat().st_size, f"unpacking '{shown}'")
    describe(folder, f"'{Path(shown).name}' without its compression")
    most = max(SMALL, MOST_TIMES * file.stat().st_size)
    with temporary_beside(target, durable=False) as temporary:
        try:
            with _packed_stream(file) as stream, temporary.open("wb") as out:
                while data := stream.read(_AT_ONCE):
                    out.write(data)
                    if out.tell() > most:
                        raise DataError(
                            f"'{shown}' unpacks to more than {most >> 20:,} MiB, as no images do. It is not read."
                        )
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise DataError(f"Cannot unpack '{shown}': {error}. Fetch or copy it again.") from error
    return target


def _packed_stream(file: Path) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    with file.open("rb") as stream:
        head = stream.read(6)
    if head.startswith(b"BZh"):
        return bz2.open(file)
    return lzma.open(file) if head.startswith(b"\xfd7zXZ") else gzip.open(file)
