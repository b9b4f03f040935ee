"""Reads several tar archives as one source: WebDataset shards, whose members of one key make an example."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tlkit.data.sources.archive import Archive, open_tar
from tlkit.data.sources.member import Members, Piece
from tlkit.data.sources.names import part_in_name, part_of_name
from tlkit.data.sources.places import IMAGE_EXTENSIONS
from tlkit.data.sources.records import Record, Records, as_text
from tlkit.errors import DataError
from tlkit.words import counted

LABELS = ("cls", "txt", "json")  # extensions of the members that say an image's class
IN_JSON = ("label", "cls", "class", "class_name", "category")  # keys that name the class in a .json
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")  # shards-{000..012}.tar
MOST_SHARDS = 100_000


def split_of_file(file: Path, base: Path) -> str:
    """The part of the data that a file's name says, or a folder's between `base` and it; "" if none does.

    >>> split_of_file(Path("a/mnist-train.tfrecord-00000-of-00001"), Path("a"))
    'train'
    """
    stem = re.split(r"\.|-\d+-of-\d+", file.name)[0]
    folders = file.relative_to(base).parts[:-1] if base in file.parents else ()
    return part_in_name(stem) or next((part for one in reversed(folders) if (part := part_of_name(one))), "") or ""


def shards_of(pattern: Path) -> list[Path]:
    """The files of a pattern such as shards-{000..012}.tar. Raises DataError for one that is absent."""
    found = BRACES.search(pattern.name)
    if not found:
        return [pattern]
    first, last, width = int(found[1]), int(found[2]), len(found[1])
    if not 0 <= last - first < MOST_SHARDS:
        raise DataError(f"'{pattern}' has shards from {first} to {last}. Expected at most {MOST_SHARDS:,}, upwards.")
    files = [
        file
        for number in range(first, last + 1)
        for file in shards_of(
            pattern.with_name(pattern.name[: found.start()] + f"{number:0{width}}" + pattern.name[found.end() :])
        )
    ]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{len(missing):,} of the {counted(len(files), 'shard')} '{pattern}' are absent, such as '{missing[0]}'. "
            "Fetch them, or give those that are there."
        )
    return files


class Shards(Members):
    """The members of several archives.

    Where no member says a class, each archive counts as a folder of its own name: one archive per class, or with class
    folders in each.
    """

    def __init__(self, shown: str, archives: Sequence[Archive], splits: Sequence[str]) -> None:
        super().__init__(shown)
        self._archives, self._splits = archives, splits
        self._examples = _examples(archives)
        self.labelled = is_labelled(archives)
        names = [name for one in archives for name in one.entries]
        keys = Counter(name for one in archives for name in one.entries)
        self._several = len(archives) > 1 and (not self.labelled or len(keys) < len(names))
        self._where: dict[str, tuple[int, str]] = {
            self._named(at, name): (at, name) for at, one in enumerate(archives) for name in one.entries
        }
        self.findings += [finding for one in archives for finding in one.findings]

    def _named(self, archive: int, name: str) -> str:
        stem = Path(self._archives[archive].shown).name.split(".")[0]
        return f"{stem}/{name}" if self._several else name

    def names(self) -> Iterable[str]:
        return self._where

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def item(self, name: str) -> Piece:
        at, inside = self._where[name]
        archive = self._archives[at]
        return Piece(str(archive.file), self.display(name), *archive.entries[inside])

    def size(self, name: str) -> int:
        at, inside = self._where[name]
        return self._archives[at].size(inside)

    def records(self) -> Records | None:
        if not self.labelled:
            return None
        rows, columns = [], {"path": 0, "label": 1, "split": 2}
        for number, (at, parts) in enumerate(self._examples, start=1):
            image = next((name for name in parts if is_image_name(name)), None)
            if image is None:
                continue
            values = self._values(self._archives[at], parts)
            values |= {"path": self._named(at, image), "split": self._splits[at] or values.get("split", "")}
            for name in values:
                columns.setdefault(name, len(columns))
            rows.append(Record(number, [values.get(name, "") for name in columns]))
        return Records(list(columns), iter(rows))

    def _values(self, archive: Archive, parts: Sequence[str]) -> dict[str, str]:
        """What the members beside an image say of it. .cls counts before .txt, and that before .json."""
        found: dict[str, str] = {}
        for extension in reversed(LABELS):
            name = next((one for one in parts if one.lower().endswith("." + extension)), None)
            if name is None:
                continue
            text = archive.item(name).read_bytes().decode("utf-8", "replace").strip()
            if extension != "json":
                found["label"] = text
                continue
            try:
                values = json.loads(text)
            except (ValueError, RecursionError):
                values = {}
            values = values if isinstance(values, dict) else {"label": values}
            named = {str(key).lower(): as_text(value) for key, value in values.items()}
            known = next((named[key] for key in IN_JSON if key in named), "")
            found |= {key: value for key, value in named.items() if key not in ("path", "label")} | {"label": known}
        return found


def is_image_name(name: str) -> bool:
    return ("." + name.rpartition(".")[2].lower()) in IMAGE_EXTENSIONS


def key_of(name: str) -> str:
    """The key of a member: its path up to the first point of its name."""
    folder, sign, last = name.rpartition("/")
    return folder + sign + last.split(".")[0]


def _examples(archives: Sequence[Archive]) -> list[tuple[int, list[str]]]:
    """The members of each key, by archive and name."""
    found: dict[tuple[int, str], list[str]] = {}
    for at, one in enumerate(archives):
        for name in sorted(one.entries):
            found.setdefault((at, key_of(name)), []).append(name)
    return [(at, names) for (at, _), names in found.items()]


def is_labelled(archives: Sequence[Archive]) -> bool:
    """Whether members say the class of images: one ends in .cls, or most images have a .txt or .json of their key."""
    names = [name for one in archives for name in one.entries]
    if any(name.lower().endswith(".cls") for name in names):
        return True
    images = [names for _, names in _examples(archives) if any(map(is_image_name, names))]
    beside = sum(any(name.lower().endswith((".txt", ".json")) for name in names) for names in images)
    return bool(images) and 2 * beside > len(images) and not any("/" in name for one in images for name in one)


def open_tars(path: Path, shown: str = "") -> Members:
    """A tar; the tars that a pattern names; or those of a folder."""
    files = sorted(tars_in(path)) if path.is_dir() else shards_of(path)
    base = path if path.is_dir() else path.parent
    archives = [open_tar(one, str(one) if len(files) > 1 or not shown else shown) for one in files]
    if len(archives) == 1 and not path.is_dir() and not is_labelled(archives):
        return archives[0]
    return Shards(shown or str(path), archives, [split_of_file(one, base) for one in files])


def tars_in(folder: Path) -> Iterator[Path]:
    """The tars in a folder, or in its sub-folders."""
    return (one for one in folder.glob("**/*.tar") if not one.name.startswith("."))
