"""Reads data at a URL through `fsspec`: each object once, several at a time, kept by content in the cache.

The only file that imports fsspec. What was fetched is found again by the object's tag (ETag, or time, with the size),
so a second run asks what there is and fetches nothing. Without a network the objects that were kept are used.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import posixpath
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tlkit.cache import Cache, describe
from tlkit.data.sources.member import Members
from tlkit.data.sources.places import IMAGE_EXTENSIONS
from tlkit.data.sources.records import read_records
from tlkit.disk import check_room
from tlkit.errors import DataError
from tlkit.files import temporary_beside, write_atomically
from tlkit.plan.address import Address
from tlkit.progress import log
from tlkit.words import counted

AT_ONCE = 16  # objects that are fetched at the same time
TRIES = 4
NOT_FOUND, REFUSED = 404, (401, 403)  # of HTTP
PAUSE = 0.5  # seconds before the second try; each later one waits twice as long
PACKAGES = {  # what a protocol needs -> the extra that has it
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gs"),
    "hf": "hf",
}
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError)
_TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "Last-Modified", "LastModified", "last_commit", "mtime", "created")
T = TypeVar("T")


@dataclass(frozen=True)
class Object:
    """An object of a bucket or server. key: its name in the file system. tag: changes with the content; "" if none."""

    key: str
    size: int
    tag: str


class Place:
    """A URL, opened: its file system, and its folder in the cache."""

    def __init__(self, address: Address) -> None:
        self.address = address
        name = hashlib.sha256(str(address).rstrip("/").encode()).hexdigest()[:32]
        self.folder = Cache().at("sources", name)
        self._lock = threading.Lock()
        self._index: dict[str, list[Any]] | None = None  # key -> [size, tag, sha256]
        self._opened: tuple[Any, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (self.address,)

    @property
    def system(self) -> tuple[Any, str]:
        """The file system, and the path in it. Raises DataError if a package for it is not installed."""
        if self._opened is None:
            try:
                import fsspec
            except ImportError:
                raise DataError(
                    f"Reading '{self.address}' needs the package fsspec. Install it with `pip install tlkit[remote]`."
                ) from None
            try:
                self._opened = fsspec.core.url_to_fs(self.address.secret)
            except ImportError as error:
                extra = PACKAGES.get(str(self.address).partition(":")[0])
                todo = f"Install it with `pip install tlkit[{extra}]`." if extra else "Install it."
                said = self.address.scrub(str(error)).splitlines()[0]
                raise DataError(f"Reading '{self.address}' needs a package: {said}. {todo}") from None
            except Exception as error:  # each protocol raises its own
                raise self.failed(error) from None
        return self._opened

    # -- the index -----------------------------------------------------------------------------------------------

    @property
    def index(self) -> dict[str, list[Any]]:
        if self._index is None:
            try:
                values = json.loads((self.folder / "index.json").read_bytes())
                self._index = values if isinstance(values, dict) else {}
            except (OSError, ValueError):
                self._index = {}
        return self._index

    def kept(self, one: Object) -> Path | None:
        """The file of an object that was fetched before and has not changed since; None if there is none."""
        known = self.index.get(one.key)
        if not known or not one.tag or known[:2] != [one.size, one.tag]:
            return None
        file = self.folder / f"{known[2]}.bytes"
        return file if file.is_file() else None

    def write_index(self) -> None:
        """Write what was fetched, with what another process wrote meanwhile."""
        with self._lock:
            mine, self._index = self.index, None
            self._index = {**self.index, **mine}
            describe(self.folder, f"bytes of {self.address}")
            write_atomically(self.folder / "index.json", json.dumps(self._index), durable=False)

    # -- objects -------------------------------------------------------------------------------------------------

    def fetch(self, one: Object) -> Path:
        """An object's file in the cache, fetched if it is not there. Raises OSError if it cannot be."""
        if (known := self.kept(one)) is not None:
            return known
        data = self.tried(lambda: self.system[0].cat_file(one.key))
        if one.size >= 0 and len(data) != one.size:
            raise OSError(errno.EIO, f"{len(data):,} of its {one.size:,} bytes arrived")
        digest = hashlib.sha256(data).hexdigest()
        file = self.folder / f"{digest}.bytes"
        if not file.is_file():
            describe(self.folder, f"bytes of {self.address}")
            with temporary_beside(file, needed=len(data), durable=False) as temporary:
                temporary.write_bytes(data)
        with self._lock:
            self.index[one.key] = [one.size, one.tag, digest]
        return file

    def tried(self, ask: Callable[[], T]) -> T:
        """What a request answers, asked again after a failure that may pass. Raises OSError without secrets."""
        for turn in range(TRIES):
            try:
                return ask()
            except FINAL as error:
                raise self._without_secrets(error) from None
            except Exception as error:  # each protocol raises its own
                if turn == TRIES - 1:
                    raise self._without_secrets(error) from None
            time.sleep(PAUSE * 2**turn)
        raise AssertionError

    def _without_secrets(self, error: Exception) -> OSError:
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
        if isinstance(cause, Exception):  # of http, where each failure is a file that is not found
            error = cause
        status = _status(error)
        said = self.address.scrub(str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, FileNotFoundError) or status == NOT_FOUND:
            return FileNotFoundError(errno.ENOENT, said)
        if isinstance(error, PermissionError) or status in REFUSED:
            return PermissionError(errno.EACCES, said)
        return OSError(errno.EIO, f"{type(error).__name__}: {said}")

    def failed(self, error: Exception) -> DataError:
        """The error for a place that cannot be read."""
        said = self.address.scrub(getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
        if isinstance(error, FileNotFoundError):
            return DataError(f"No such object, folder or bucket: '{self.address}'. Expected what `scan` reads there.")
        if isinstance(error, PermissionError):
            return DataError(
                f"'{self.address}' may not be read: {said}. Give credentials as its own tools take them: in the "
                "environment or in their configuration."
            )
        return DataError(f"Cannot reach '{self.address}': {said}. Check the address and the network, and try again.")

    def about(self) -> dict[str, Any]:
        """What the server says of the place. Raises DataError if it says nothing."""
        system, path = self.system
        try:
            return dict(self.tried(lambda: system.info(path)))
        except OSError as error:
            raise self.failed(error) from None

    def objects(self) -> dict[str, Object]:
        """The objects below the place, by their names relative to it. Those that were kept, if it cannot be reached."""
        try:
            system, path = self.system
            listed = self.tried(lambda: system.find(path, detail=True))
        except OSError as error:
            if not self.index or isinstance(error, FileNotFoundError | PermissionError):
                raise self.failed(error) from None
            kept = counted(len(self.index), "object")
            log.warning(f"'{self.address}' cannot be reached; {kept} from before are used")
            return {self._name(key): Object(key, one[0], one[1]) for key, one in self.index.items()}
        return {
            self._name(key): object_of(key, about)
            for key, about in listed.items()
            if about.get("type") != "directory" and self._name(key)
        }

    def _name(self, key: str) -> str:
        path = str(self.address) if "://" in key else self.system[1]
        base = self.system[1] if key.startswith(self.system[1]) else path
        return key.removeprefix(base).strip("/")


def _status(error: Exception) -> int | None:
    """The status of HTTP in an error of aiohttp or botocore; None if there is none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return dict(answer.get("ResponseMetadata", {})).get("HTTPStatusCode")
    return getattr(error, "status", None)


def object_of(key: str, about: dict[str, Any]) -> Object:
    """An object by what a file system says of it."""
    size = about.get("size")
    tag = next((f"{name}={about[name]}" for name in _TAGS if about.get(name)), "")
    return Object(key, -1 if size is None else int(size), tag)


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """An item at a URL. It is read from the cache, or fetched."""

    place: Place
    one: Object
    shown: str

    def __str__(self) -> str:
        return self.shown

    @property
    def name(self) -> str:
        return self.shown.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        return self.place.fetch(self.one).read_bytes()


class RemoteFolder(Members):
    """The objects below a URL."""

    def __init__(self, place: Place, objects: dict[str, Object] | None = None) -> None:
        super().__init__(str(place.address).rstrip("/"))
        self.place, self._objects = place, place.objects() if objects is None else objects

    def checked(self) -> RemoteFolder:
        """Itself. Raises DataError if nothing is there."""
        if not self._objects:
            self.place.about()
        return self

    def add(self, name: str, one: Object) -> None:
        """An object that the server does not list."""
        self._objects.setdefault(name, one)

    def names(self) -> Iterable[str]:
        return self._objects

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    def item(self, name: str) -> RemoteItem:
        return RemoteItem(self.place, self._objects[name], self.display(name))

    def size(self, name: str) -> int:
        return max(0, self._objects[name].size)

    def head(self, name: str, most: int) -> bytes:
        one = self._objects[name]
        if (file := self.place.kept(one)) is not None:
            with file.open("rb") as stream:
                return stream.read(most)
        return self.place.tried(lambda: self.place.system[0].cat_file(one.key, start=0, end=most))

    def prepare(self, names: Sequence[str]) -> None:
        """Fetch objects, AT_ONCE at a time. One that cannot be fetched is named by whoever reads it."""
        wanted = [name for name in names if name in self._objects]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            untagged = [name for name in wanted if not self._objects[name].tag]
            self._objects.update(zip(untagged, pool.map(self._tagged, untagged), strict=True))
            todo = [one for name in wanted if self.place.kept(one := self._objects[name]) is None]
            if not todo:
                return
            check_room(self.place.folder, sum(max(0, one.size) for one in todo), f"the bytes of {self.shown}")
            log.info(f"fetching  {len(todo):,} of {len(wanted):,} files of {self.shown}")
            list(pool.map(self._fetched, todo))
        self.place.write_index()

    def _tagged(self, name: str) -> Object:
        """An object with its tag, which some servers tell of a single object only."""
        one = self._objects[name]
        with contextlib.suppress(OSError):
            return object_of(one.key, self.place.tried(lambda: self.place.system[0].info(one.key)))
        return one

    def _fetched(self, one: Object) -> None:
        with contextlib.suppress(OSError):
            self.place.fetch(one)


def parent_of(address: Address) -> tuple[Address, str]:
    """The folder that an object is in, and its name. The query stays with the folder, for the server to allow it."""
    head, sign, query = address.secret.partition("?")
    folder, _, name = head.rstrip("/").rpartition("/")
    return Address(folder + sign + query), name


def folder_of_table(above: Place, table: Place, name: str) -> RemoteFolder:
    """The folder that a table is in. Where the server lists none, the names of images in the table are its files."""
    try:
        listed = above.objects()
    except DataError:
        listed = {}
    if name in listed:
        return RemoteFolder(above, listed)
    file = local_file(table)
    base = above.address.secret.partition("?")[0]
    query = above.address.secret[len(base) :]
    found = RemoteFolder(above, {})
    found.add(name, _local(above, table, file, name))
    for row in read_records(found.root / name).rows:
        for cell in row.cells:
            if posixpath.splitext(cell.lower())[1] in IMAGE_EXTENSIONS and ".." not in cell and "://" not in cell:
                inside = cell.replace("\\", "/").removeprefix("./")
                found.add(inside, Object(f"{base}/{inside}{query}", -1, ""))
    return found


def _local(above: Place, table: Place, file: Path, name: str) -> Object:
    """The object of a table that was fetched, in the index of its folder."""
    size, tag, digest = table.index[""]
    one = Object(f"{above.address.secret.partition('?')[0]}/{name}", size, tag or "fetched")
    target = above.folder / f"{digest}.bytes"
    if not target.is_file():
        describe(above.folder, f"bytes of {above.address}")
        with temporary_beside(target, durable=False) as temporary:
            temporary.write_bytes(file.read_bytes())
    above.index[one.key] = [one.size, one.tag, digest]
    return one


def local_file(place: Place) -> Path:
    """The file of a place that is one object. Raises DataError if it cannot be fetched."""
    known = place.index.get("")
    try:
        about = place.about()
    except DataError as error:
        if known and (kept := place.folder / f"{known[2]}.bytes").is_file():
            log.warning(f"{error} What was kept from before is used.")
            return kept
        raise
    one = Object("", object_of("", about).size, object_of("", about).tag)
    if (kept_file := place.kept(one)) is not None:
        os.utime(kept_file)
        return kept_file
    check_room(place.folder, max(0, one.size), f"'{place.address}'")
    log.info(f"fetching  {place.address}")
    try:
        return _whole(place, one)
    except OSError as error:
        raise place.failed(error) from None


def _whole(place: Place, one: Object) -> Path:
    """Fetch a file of any size to the cache, by parts, and note it in the index."""
    system, path = place.system
    describe(place.folder, f"bytes of {place.address}")
    scratch = place.folder / f"{hashlib.sha256(one.tag.encode()).hexdigest()}.bytes"
    with temporary_beside(scratch, durable=False) as temporary:
        place.tried(lambda: system.get_file(path, str(temporary)))
        size = temporary.stat().st_size
        if one.size >= 0 and size != one.size:
            raise OSError(errno.EIO, f"{size:,} of its {one.size:,} bytes arrived")
    with scratch.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    file = scratch.replace(place.folder / f"{digest}.bytes")
    place.index[""] = [one.size, one.tag, digest]
    place.write_index()
    return file


def name_of(address: Address) -> str:
    """The name of the object at a URL, without its query."""
    return posixpath.basename(str(address).rstrip("/"))
