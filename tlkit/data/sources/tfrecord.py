"""Reads TFRecord files of `tf.train.Example`, as object-detection tools, TFDS and Keras users write them.

The wire format is read by itself, without TensorFlow: the place of each image in the file is all that is kept of it,
so that items are read in place. Formats: https://www.tensorflow.org/tutorials/load_data/tfrecord and
https://protobuf.dev/programming-guides/encoding. The checksums (CRC-32C) are not compared.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tlkit.data.images import problem
from tlkit.data.sources.archive import unpacked
from tlkit.data.sources.member import Members, Piece
from tlkit.data.sources.records import Record, Records
from tlkit.data.sources.shards import split_of_file
from tlkit.errors import DataError

FILE = re.compile(r".*\.(tfrecords?|tfrec)(\.gz)?([-_.]\d+-of-\d+)?(\.gz)?", re.IGNORECASE)
IMAGE = ("image/encoded", "image", "image_raw", "encoded", "image/bytes", "jpg", "jpeg", "png")
LABEL = ("image/class/text", "label", "image/class/label", "class", "class/text", "class/label", "category", "target")
NAME = ("image/filename", "file_name", "filename", "image/id", "id", "name")
_CUT = "the file ends within a record"
Value = tuple[str, bytes | int] | tuple[int, int]


def tfrecords_in(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("**/*") if FILE.fullmatch(one.name) and not one.name.startswith("."))


class _Broken(ValueError):
    """A record that is no example."""


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _Broken
        byte = data[at]
        result |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return result, at


def _fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, wire type, and begin and end of the content. Of a varint, its value as begin."""
    at = start
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, kind, value, at
        elif kind in (1, 5):
            yield number, kind, at, at + (8 if kind == 1 else 4)
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > end:
                raise _Broken
            yield number, kind, at, at + length
            at += length
        else:
            raise _Broken


def example(data: memoryview, start: int, end: int) -> dict[str, tuple[int, int] | int]:
    """The features of an Example with one value: (begin, end) of bytes, or a whole number.

    Raises ValueError for what is no example.
    """
    found: dict[str, tuple[int, int] | int] = {}
    for number, kind, begin, stop in _fields(data, start, end):
        if number != 1 or kind != 2:
            continue
        for entry_number, entry_kind, entry, entry_end in _fields(data, begin, stop):
            if entry_number != 1 or entry_kind != 2:
                continue
            name, value = "", None
            for part, part_kind, first, last in _fields(data, entry, entry_end):
                if part == 1 and part_kind == 2:
                    name = bytes(data[first:last]).decode("utf-8", "replace")
                elif part == 2 and part_kind == 2:
                    value = _feature(data, first, last)
            if value is not None:
                found[name] = value
    return found


def _feature(data: memoryview, start: int, end: int) -> tuple[int, int] | int | None:
    """The only value of a feature: of bytes their place, of whole numbers the number; None for anything else."""
    for kind, wire, begin, stop in _fields(data, start, end):
        if wire != 2 or kind not in (1, 3):
            continue
        values = list(_fields(data, begin, stop))
        if len(values) != 1 or values[0][0] != 1:
            return None
        _, inner, first, last = values[0]
        if kind == 1:
            return (first, last) if inner == 2 else None
        number = first if inner == 0 else _varint(data, first)[0]  # packed, or not
        return number - (1 << 64) if number >= 1 << 63 else number
    return None


class TFRecords(Members):
    """The images of TFRecord files. names: FILE/000000-NAME, in the order of the files."""

    def __init__(self, shown: str, files: list[Path], base: Path) -> None:
        super().__init__(shown)
        self._files = [unpacked(one, str(one)) if one.name.lower().endswith(".gz") else one for one in files]
        self._entries: dict[str, tuple[int, int, int]] = {}
        self._rows: list[Record] = []
        names = class_names(base if base.is_dir() else base.parent)
        self.class_names = tuple(names)
        for at, (given, file) in enumerate(zip(files, self._files, strict=True)):
            prefix = f"{given.relative_to(base).as_posix()}/" if len(files) > 1 else ""
            self._read(at, file, prefix, split_of_file(given, base), names)
        if not self._entries:
            raise DataError(self._nothing())

    def _read(self, at: int, file: Path, prefix: str, split: str, names: list[str]) -> None:
        if not file.stat().st_size:
            return
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            data = memoryview(mapped)
            try:
                for number, (start, end) in enumerate(self._records(data, prefix or f"{Path(self.shown).name}/")):
                    self._add(data, at, f"{prefix}{number:06d}", (start, end), split, names)
            finally:
                data.release()

    def _records(self, data: memoryview, prefix: str) -> Iterator[tuple[int, int]]:
        """Begin and end of each record: length (8 bytes), its checksum (4), the record, its checksum (4)."""
        start, number = 0, 0
        while start < len(data):
            length = int.from_bytes(data[start : start + 8], "little")
            end = start + 12 + length
            if end + 4 > len(data):
                self.findings.append(problem(f"{prefix}{number:06d}", "", "truncated", _CUT))
                return
            yield start + 12, end
            start, number = end + 4, number + 1

    def _add(self, data: memoryview, at: int, name: str, place: tuple[int, int], split: str, names: list[str]) -> None:
        try:
            features = example(data, *place)
        except _Broken:
            self.findings.append(problem(name, "", "bad-row", "the record is no tf.train.Example"))
            return
        image = next((features[one] for one in IMAGE if isinstance(features.get(one), tuple)), None)
        if not isinstance(image, tuple):
            known = ", ".join(sorted(features)[:10]) or "none"
            detail = f"the example has no image; its features: {known}; expected one of {', '.join(IMAGE[:3])}"
            self.findings.append(problem(name, "", "bad-row", detail))
            return
        texts = {key: _text(data, value) for key, value in features.items() if value != image}
        label = next((texts[one] for one in LABEL if texts.get(one)), "")
        if names and label.isdecimal() and int(label) < len(names):
            label = names[int(label)]
        given = next((texts[one] for one in NAME if texts.get(one)), "").replace("\\", "/").rpartition("/")[2]
        full = f"{name}-{given}" if given.isprintable() and given else name
        self._entries[full] = (at, image[0], image[1] - image[0])
        self._rows.append(Record(len(self._rows) + 1, [full, label, split or texts.get("split", "")]))

    def _nothing(self) -> str:
        first = f" The first: {self.findings[0]['detail']}." if self.findings else ""
        return f"No image in '{self.shown}'. Expected examples with 'image/encoded' and 'image/class/text'.{first}"

    def names(self) -> Iterable[str]:
        return self._entries

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def item(self, name: str) -> Piece:
        at, offset, size = self._entries[name]
        return Piece(str(self._files[at].absolute()), self.display(name), offset, size, size)

    def size(self, name: str) -> int:
        return self._entries[name][2]

    def records(self) -> Records:
        return Records(["path", "label", "split"], iter(self._rows))


def _text(data: memoryview, value: tuple[int, int] | int) -> str:
    if isinstance(value, int):
        return str(value)
    raw = bytes(data[value[0] : min(value[1], value[0] + 1000)])
    return "" if b"\x00" in raw else raw.decode("utf-8", "replace").strip()


def class_names(folder: Path) -> list[str]:
    """The classes of a folder that TFDS prepared, in order; none for any other."""
    file = folder / "label.labels.txt"
    if file.is_file():
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line]
    return []


def is_prepared(folder: Path) -> bool:
    """Whether TFDS prepared a folder."""
    file = folder / "features.json"
    try:
        return (folder / "dataset_info.json").is_file() and isinstance(json.loads(file.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def prepared_folder(name: str) -> Path:
    """The folder of a data set that TFDS prepared on this machine: NAME, NAME/CONFIG or NAME/CONFIG/VERSION.

    The highest version counts. Raises DataError if there is none: nothing is downloaded.
    """
    above = Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
    base = above / name
    found = [one.parent for one in base.glob("**/features.json") if is_prepared(one.parent)] if base.is_dir() else []
    if not found:
        raise DataError(
            f"TFDS has prepared no '{name}' in '{above}'. Prepare it with `tfds build {name}`, which downloads it, or "
            "set TFDS_DATA_DIR to the folder that has it."
        )
    return max(found, key=lambda one: [int(part) for part in re.findall(r"\d+", one.name)])


def open_tfrecords(path: Path, shown: str = "") -> TFRecords:
    """The images of a TFRecord file, or of those in a folder."""
    files = tfrecords_in(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"'{shown or path}' has no TFRecord files. Prepare the data set as tfrecord, TFDS' default.")
    return TFRecords(shown or str(path), files, path if path.is_dir() else path.parent)
