"""Finds the files that the rows of a table mean: each folder is listed once, and no file is opened.

A path is taken as it is written if there is such a file. If not, its folder may have another prefix on this machine,
and its name no extension or another case. Only a file whose path ends as the row's path does is taken, and only if no
other file and no other row fits as well; anything else is named with the nearest file that exists.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from bisect import bisect
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from tlkit.data.sources.item import SPLIT_FOLDERS
from tlkit.data.sources.member import Member, Root
from tlkit.data.sources.names import part_of_name

# extensions that a table may leave out
IMAGE_EXTENSIONS = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".heic", ".heif"),
        *(".avif", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".sgi", ".rgb", ".pcx", ".ico"),
        ".qoi",
    ]
)
# two spellings of one format
SAME_EXTENSIONS = {".jpg": ".jpeg", ".jpeg": ".jpg", ".tif": ".tiff", ".tiff": ".tif"}
MOST_FOLDERS = 100_000  # that are searched below the table's folder
MOST_PARTS = 200  # folders in a path; one with more is only looked for as it is written
MOST_ALIKE = 1_000  # folders that end alike and are looked into
NEAREST = 10  # rows whose nearest file is looked for; it compares letters
COMPARED = 2_000  # names at most that are compared with one

_DRIVE = re.compile(r"^[A-Za-z]:(?=/)")


class Wanted(NamedTuple):
    """A row that names one file: its path; its label and split ("" if none), which decide between files of one name.

    number, group, more: its place in the table, its group and its further columns, which say nothing of where it is.
    """

    path: str
    label: str = ""
    split: str = ""
    number: int = 0
    group: str = ""
    more: tuple[tuple[str, str], ...] = ()


class Place(NamedTuple):
    """What was found for a row.

    path: the file, relative to the root where it lies below it; "" if there is none.
    how: "written", "named" (other case or extension), "moved" (another folder), or "missing".
    detail: of a missing file, the path that was looked for and the nearest that exists.
    """

    path: str
    how: str
    detail: str = ""


@dataclass
class _Folder:
    """The names in a folder on disk. closed: whether its names cannot be read, though it may be searched."""

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    closed: bool = False

    @cached_property
    def folded_folders(self) -> dict[str, list[str]]:
        """The folders by their name without regard to case."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.folders:
            found[fold(name)].append(name)
        return dict(found)

    @cached_property
    def folded(self) -> dict[str, list[str]]:
        """The files by their name without regard to case, also without its extension if it is an image's."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.files:
            folded = fold(name)
            found[folded].append(name)
            stem, extension = _stem(folded)
            if extension in IMAGE_EXTENSIONS:
                found[stem + "."].append(name)
        return dict(found)

    def fitting(self, name: str) -> list[str]:
        """The files that a name may mean: the one of that name, or all that differ in case or extension only."""
        if name in self.files:
            return [name]
        return first_of(self.folded, name)


def fold(name: str) -> str:
    """A name without regard to case and to the form of its accents."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def keys(name: str) -> list[str]:
    """The keys under which a name may be found, the likeliest first. One that ends in "." is of any extension."""
    folded = fold(name)
    stem, extension = _stem(folded)
    if extension not in IMAGE_EXTENSIONS:
        return [folded, folded + "."]
    return [folded, stem + SAME_EXTENSIONS[extension]] if extension in SAME_EXTENSIONS else [folded]


def first_of(found: Mapping[str, list[str]], name: str) -> list[str]:
    """What was found under the likeliest key of a name; nothing if under none."""
    return next((found[key] for key in keys(name) if key in found), [])


def _stem(name: str) -> tuple[str, str]:
    """`os.path.splitext` of a name without folders, which is asked for every file."""
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if stem.strip(".") else (name, "")


class Places:
    """The files below a folder, and beside it, as rows of a table in it name them.

    root: the folder that paths are relative to.
    """

    def __init__(self, root: Root) -> None:
        self.root = root
        self._member = root if isinstance(root, Member) else None
        self._base = f"/{root.inside}".rstrip("/") or "/" if isinstance(root, Member) else os.path.abspath(root)
        self._listed: dict[str, _Folder | None] = {}
        self._found_on_disk: dict[str, str | None] = {}
        self._prefixes: dict[str, str] = {}
        self._normal_folders: dict[str, str] = {}
        self._to_explain = NEAREST

    def find(self, wanted: Sequence[Wanted]) -> list[Place]:
        """Find the file of each row. Rows of one written folder are looked for in the same folder on disk."""
        places: list[Place | None] = [None] * len(wanted)
        names, by_folder = _by_folder(wanted)
        written: Counter[str] = Counter()
        waiting: dict[str, list[int]] = defaultdict(list)
        for above, rows in by_folder.items():
            listed, prefix = self._list(above), self._relative(above, "")
            files, folder = listed.files if listed else set(), _normal(f"{above}/") if above else ""
            for i in rows:
                if (name := names[i]) in files:
                    places[i] = Place(prefix + name, "written")
                elif "\\" in name or name in ("", ".") or name.strip() != name:
                    other, names[i] = self._normal_parts(wanted[i].path)
                    waiting[other].append(i)
                else:
                    waiting[folder].append(i)
            written[above] = sum(places[i] is not None for i in rows)
        for folder, rows in waiting.items():
            for how, found in self._moved(folder, rows, wanted, names, written[folder]):
                for i, path in found.items():
                    places[i] = Place(path, how)
        self._claimed_twice(wanted, places)
        return [
            place if place is not None else Place("", "missing", self._explained(one))
            for one, place in zip(wanted, places, strict=True)
        ]

    def _normal_parts(self, path: str) -> tuple[str, str]:
        """`_parted(_normal(path))`, with each written folder looked at once."""
        above, sign, name = path.replace("\\", "/").rpartition("/")
        if name.strip() in ("", "."):
            return _parted(_normal(path))
        if (folder := self._normal_folders.get(above + sign)) is None:
            folder = self._normal_folders[above + sign] = _normal(above + sign)
        return folder, name.strip()

    # -- where a written folder may be on disk -----------------------------------------------------------------

    def _moved(
        self, folder: str, rows: list[int], wanted: Sequence[Wanted], names: Sequence[str], known: int
    ) -> Iterator[tuple[str, dict[int, str]]]:
        """Where the rows of one written folder are that are not where they are written: (how, row -> path).

        The first reading that fits at least half of the rows is taken, else the one that fits the most.
        known: how many rows of the folder are where they are written.
        """
        best: dict[int, str] = {}
        for how, read in self._readings(folder):
            found = {i: path for i in rows if (path := read(names[i], wanted[i]))}
            if how == "named":
                yield how, found
                rows = [i for i in rows if i not in found]
                known += len(found)
                if not rows or known >= len(rows):
                    return
                continue
            if len(found) > len(best):
                best = found
            if 2 * len(found) >= len(rows):
                break
        if len(best) > known:
            yield "moved", best

    def _readings(self, folder: str) -> Iterator[tuple[str, _Reading]]:
        """The ways to read a written folder, the most faithful first: (how, path of a row or "")."""
        parts = tuple(_parts(folder))
        if len(parts) > MOST_PARTS:
            return
        as_written = self._on_disk(folder)
        if as_written is not None:
            yield "named", _In(self, as_written)
        for kept in range(len(parts), -1, -1):
            tail = parts[len(parts) - kept :]
            for base in ("", "..") if kept else ("",):
                here = self._on_disk(os.path.join(base, *tail))
                if here is not None and here != as_written:
                    yield "moved", _In(self, here)
            if not kept or (kept < len(parts) and not os.path.isabs(folder)):
                continue  # one prefix in place of another only where the path is another machine's
            dropped = _splits(parts[: len(parts) - kept])
            if alike := [one for one in self._below(tail) if not dropped or _splits(one.split("/")) <= dropped]:
                yield "moved", _Among(self, alike)
        if not parts:
            yield "moved", _Anywhere(self)

    def _on_disk(self, folder: str) -> str | None:
        """A folder as it is on disk: as written, or with other capitals. None if there is none."""
        if folder not in self._found_on_disk:
            self._found_on_disk[folder] = self._look_on_disk(folder)
        return self._found_on_disk[folder]

    def _look_on_disk(self, folder: str) -> str | None:
        above, name = _parted(folder.rstrip("/"))
        if above == folder or name in ("", ".", ".."):
            return folder if self._list(folder) is not None else None
        parent = self._on_disk(above)
        listed = None if parent is None else self._list(parent)
        if parent is None or listed is None:
            return None
        if name in listed.folders or listed.closed:
            path = folder if parent == above else os.path.join(parent, name)
            return path if self._list(path) is not None else None
        alike = listed.folded_folders.get(fold(name), [])
        return os.path.join(parent, alike[0]) if len(alike) == 1 else None

    def _below(self, tail: tuple[str, ...]) -> list[str]:
        """The folders below the root that end in these parts; none if there are more than MOST_ALIKE."""
        found = self._by_tail.get(fold("/".join(tail)), [])
        return found if len(found) <= MOST_ALIKE else []

    def _list(self, folder: str) -> _Folder | None:
        """The names in a folder, read once. folder: relative to the root, or absolute."""
        if folder not in self._listed:
            path = os.path.join(self._base, folder)
            self._listed[folder] = _listing(path) if self._member is None else _among(self._member, path)
        return self._listed[folder]

    def _relative(self, folder: str, name: str) -> str:
        """A file's path with forward slashes: relative to the root, or absolute if it was found by an absolute path."""
        if folder not in self._prefixes:
            path = os.path.normpath(os.path.join(self._base, folder))
            outside = os.path.commonpath([path, self._base]) != self._base
            shown = path if outside and os.path.isabs(folder) else os.path.relpath(path, self._base)
            self._prefixes[folder] = "" if shown == "." else shown.replace(os.sep, "/").rstrip("/") + "/"
        return self._prefixes[folder] + name

    # -- everything below the root, listed once, and only if a row needs it -----------------------------------------

    @cached_property
    def _tree(self) -> list[str]:
        """The folders below the root, relative to it, at most MOST_FOLDERS. A link is followed once."""
        found: list[str] = []
        pending, linked = deque([""]), {os.path.realpath(self._base)}
        on_disk = self._member is None
        while pending and len(found) < MOST_FOLDERS:
            here = pending.popleft()
            listed = self._list(here)
            found.append(here)
            for name in sorted(listed.folders) if listed else ():
                below = f"{here}/{name}" if here else name
                path = os.path.join(self._base, below)
                link = on_disk and os.path.islink(path)
                if name.startswith(".") or (link and os.path.realpath(path) in linked):
                    continue
                if link:
                    linked.add(os.path.realpath(path))
                pending.append(below)
        return found

    @cached_property
    def _by_part(self) -> dict[str, list[str]]:
        """The folders below the root that are, or lie in, one named after a part of the split, such as train_images."""
        found: dict[str, list[str]] = defaultdict(list)
        for folder in self._tree:
            for part in {part_of_name(name) for name in folder.split("/")} - {None}:
                found[str(part)].append(folder)
        return dict(found)

    @cached_property
    def _by_tail(self) -> dict[str, list[str]]:
        """The folders below the root by each end of their path."""
        found: dict[str, list[str]] = defaultdict(list)
        for folder in self._tree:
            parts = fold(folder).split("/")
            for start in range(len(parts)):
                found["/".join(parts[start:])].append(folder)
        found.pop("", None)
        return dict(found)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The folders that hold a file of a name (see `keys`); at most two of each name."""
        found: dict[str, list[str]] = {}
        for folder in self._tree:
            listed, only = self._list(folder), [folder]
            for key in listed.folded if listed else ():
                held = found.setdefault(key, only)
                if held is not only and len(held) < 2:
                    found[key] = [*held, folder]
        return found

    # -- what is wrong -------------------------------------------------------------------------------------------

    def _claimed_twice(self, wanted: Sequence[Wanted], places: list[Place | None]) -> None:
        """Take back a file found in another folder that a row with another path has, too: one of them is wrong."""
        count = Counter(place.path for place in places if place is not None)
        several = {path for path, rows in count.items() if rows > 1}
        claims: dict[str, set[str]] = defaultdict(set)
        for one, place in zip(wanted, places, strict=True) if several else ():
            if place is not None and place.path in several:
                claims[place.path].add(fold(_normal(one.path)))
        for i, place in enumerate(places):
            if place is not None and place.how == "moved" and len(claims.get(place.path, ())) > 1:
                others = f"{len(claims[place.path])} paths of the table may mean '{self._shown(place.path)}'"
                places[i] = Place("", "missing", f"{self._looked_for(wanted[i])}; {others}")

    def _looked_for(self, one: Wanted) -> str:
        return f"no file '{self._shown(one.path)}'"

    def _shown(self, path: str) -> str:
        return os.path.join(str(self.root), path)[:300]

    def _explained(self, one: Wanted) -> str:
        """What was looked for first, and the nearest file that exists."""
        looked = self._looked_for(one)
        if self._to_explain <= 0:
            return looked
        self._to_explain -= 1
        nearest = self._nearest(one)
        return f"{looked}; the nearest that exists: '{self._shown(nearest)}'" if nearest else looked

    def _nearest(self, one: Wanted) -> str:
        """The file that is nearest to what a row says: of its name elsewhere, or of a like name where it should be."""
        folder, name = _parted(_normal(one.path))
        stem = os.path.splitext(fold(name))[0]
        here = next((at for at in self._folders_like(folder) if (found := self._list(at)) and _images(found)), None)
        listed = self._list(here) if here is not None else None
        if here is not None and listed and (alike := listed.fitting(stem)):
            return self._relative(here, sorted(alike)[0])
        for key in (*keys(name), stem + "."):
            for other in self._by_name.get(key, ()):
                return self._relative(other, sorted(self._list(other).folded[key])[0])  # type: ignore[union-attr]
        if here is None or listed is None:
            here = next((at for at in self._tree if (found := self._list(at)) and _images(found)), None)
            listed = self._list(here) if here is not None else None
        if here is None or listed is None:
            return ""
        names = sorted(_images(listed) or listed.files)
        start = max(0, bisect(names, name) - COMPARED // 2)
        names = names[start : start + COMPARED]
        best = max(names, key=lambda other: difflib.SequenceMatcher(None, fold(other), fold(name)).ratio())
        return self._relative(here, best)

    def _folders_like(self, folder: str) -> Iterable[str]:
        """Where the files of a written folder should be: there, or in the nearest reading of it."""
        for _, read in self._readings(folder):
            yield from read.folders()


# -- readings: where the rows of a written folder may be -----------------------------------------------------


class _Reading:
    """A way to read a written folder."""

    def __call__(self, name: str, one: Wanted) -> str:
        """The path of a row's file, "" if there is none or more than one. name: that of the row's path."""
        raise NotImplementedError

    def folders(self) -> list[str]:
        raise NotImplementedError


class _In(_Reading):
    """In one folder."""

    def __init__(self, places: Places, folder: str) -> None:
        self.folder, self._prefix = folder, places._relative(folder, "")
        self._listed = places._list(folder) or _Folder()

    def __call__(self, name: str, one: Wanted) -> str:
        if name in self._listed.files:
            return self._prefix + name
        fitting = self._listed.fitting(name)
        return self._prefix + fitting[0] if len(fitting) == 1 else ""

    def folders(self) -> list[str]:
        return [self.folder]


class _Among(_Reading):
    """In exactly one of several folders, or in the one that is of the row's split."""

    def __init__(self, places: Places, among: list[str]) -> None:
        self._among = [_In(places, folder) for folder in among]

    def __call__(self, name: str, one: Wanted) -> str:
        found = [(read.folder, path) for read in self._among if (path := read(name, one))]
        if len(found) > 1 and one.split:
            found = [pair for pair in found if one.split in {SPLIT_FOLDERS.get(fold(p)) for p in pair[0].split("/")}]
        return found[0][1] if len(found) == 1 else ""

    def folders(self) -> list[str]:
        return [read.folder for read in self._among]


class _Anywhere(_Reading):
    """In the only folder below the root with a file of the name, or the one that is called as the label or split is."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._in: dict[str, _In] = {}
        self._among: dict[tuple[str, str], _Among] = {}

    def __call__(self, name: str, one: Wanted) -> str:
        by_name = self._places._by_name
        folders = first_of(by_name, name)
        if not folders:
            return ""
        if len(folders) == 1:
            (folder,) = folders
            if folder not in self._in:
                self._in[folder] = _In(self._places, folder)
            return self._in[folder](name, one)
        among = (self._of("label", one.label), self._of("split", one.split))
        return next((path for read in among if (path := read(name, one))), "")

    def _of(self, role: str, value: str) -> _Among:
        """The folders that are called as a row's label or split is."""
        if (role, value) not in self._among:
            places = self._places
            folders = places._below((value,)) if role == "label" else places._by_part.get(value, [])
            self._among[role, value] = _Among(places, folders)
        return self._among[role, value]

    def folders(self) -> list[str]:
        return []


# -- paths as text -------------------------------------------------------------------------------------------


def _listing(folder: str) -> _Folder | None:
    found = _Folder()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (found.folders if _is_folder(entry) else found.files).add(entry.name)
    except PermissionError:
        return _Folder(closed=True)
    except (OSError, ValueError):  # no such folder; a name that no folder can have
        return None
    return found


def _among(root: Member, path: str) -> _Folder | None:
    """What `_listing` gives, of a folder in an archive. path: from the archive's own root, which is "/"."""
    here = os.path.normpath(path).strip("/")
    names = root.members.folders.get("" if here == "." else here)
    return None if names is None else _Folder(set(names[1]), set(names[0]))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _by_folder(wanted: Iterable[Wanted]) -> tuple[list[str], dict[str, list[int]]]:
    """The names that the rows' paths end in, and the rows by the folder of their paths, as it is written."""
    names, rows = [], defaultdict(list)
    for i, one in enumerate(wanted):
        folder, sign, name = one.path.rpartition("/")
        names.append(name)
        rows[folder or sign].append(i)
    return names, dict(rows)


def _normal(path: str) -> str:
    """A path with forward slashes, without a drive, and without `.` and empty parts."""
    path = path.replace("\\", "/")
    drive = _DRIVE.match(path)
    rooted = path.startswith("/") or drive is not None
    parts = [part.strip() for part in path[drive.end() if drive else 0 :].split("/")]
    return ("/" if rooted else "") + "/".join(part for part in parts if part not in ("", "."))


def _parted(path: str) -> tuple[str, str]:
    """A path's folder and name. The folder of "/a" is "/"."""
    folder, sign, name = path.rpartition("/")
    return folder or sign, name


def _parts(folder: str) -> list[str]:
    return [part for part in folder.split("/") if part and part != ".."]


def _splits(parts: Iterable[str]) -> set[str]:
    """The parts of the split that folders are named after."""
    return {split for part in parts if (split := SPLIT_FOLDERS.get(fold(part)))}


def _images(listed: _Folder) -> list[str]:
    return [name for name in listed.files if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS]
