"""Initialisers of ONNX files: the few fields of the format that they need, read by their places in the file.

The `onnx` package is not used: it holds the whole file in memory twice before the first number can be looked at, and
some fields much larger than they are in the file. Fields and their numbers are those of onnx.proto3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from tlkit.backbones.files.arrays import MEBIBYTE, TYPES, Unreadable, check_total, elements, quoted, read_values

MOST_FIELDS = 500_000  # of a model, its nodes and its tensors, which have about 10 each
MOST_TEXT, MOST_TEXTS = 4_096, 16 * MEBIBYTE  # bytes of a name, and of all
_PIECE = MEBIBYTE // 4
_KINDS = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
_OTHERS = {8: "text", 14: "complex numbers", 15: "complex numbers"}
_PACKED = {  # fields beside raw_data: the types in them, and the width of their numbers in bytes, 0 if it varies
    4: ({"float32"}, 4),
    5: ({"int32", "int16", "int8", "uint16", "uint8", "bool", "float16", "bfloat16"}, 0),
    7: ({"int64"}, 0),
    10: ({"float64"}, 8),
    11: ({"uint32", "uint64"}, 0),
}
_FIRST_FIELDS = b"\x08\x12\x1a\x22\x28\x32\x3a\x42\x72"  # the fields of a model, as the first byte of a file


@dataclass(slots=True)
class Initialiser:
    """A tensor as a file describes it.

    Attributes:
        places: (field, start, length) of its numbers in the file.
        outside: location, offset, length and checksum of numbers in another file.
    """

    name: str = ""
    kind: int = 0
    shape: list[int] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)
    is_outside: bool = False


def may_be_onnx(head: bytes) -> bool:
    """Tell from a file's first byte whether it may be an ONNX file, which has no mark of its own."""
    return head[:1] != b"" and head[:1] in _FIRST_FIELDS


def read_onnx(stream: BufferedIOBase, size: int, folder: Path) -> dict[str, np.ndarray]:
    """Read the initialisers of the graph, in its order.

    size: bytes of the file. folder: where the file is, and those with numbers of it.
    """
    fields = _Fields(stream)
    graphs = [(start, length) for number, start, length in fields.inside(0, size) if number == 7 and length >= 0]
    if len(graphs) != 1:
        raise Unreadable("is no weights file that tlkit reads: PyTorch's, safetensors or ONNX.")
    found: dict[str, Initialiser] = {}
    for number, start, length in fields.inside(*graphs[0]):
        if number == 1 and any(size < 0 for _, _, size in fields.inside(start, length)):
            raise Unreadable("has a node that holds a number, as tensors do, so it is damaged. Get it again.")
        if number == 15:
            raise Unreadable("holds a sparse tensor, which tlkit does not read. Expected plain tensors.")
        if number == 5:
            one = _initialiser(fields, start, length)
            if not one.name or one.name in found:
                raise Unreadable(f"holds two initialisers named {quoted(one.name)}, or one without a name.")
            found[one.name] = one
    if not found:
        raise Unreadable("is an ONNX file without initialisers, so it holds no weights.")
    locations = {one.outside.get("location", "") for one in found.values() if one.is_outside}
    files = {location: _file_of(folder, location) for location in sorted(locations)}
    check_total(sum(map(_taken, found.values())), size + sum(file.stat().st_size for file in files.values()))
    _check_checksums([one for one in found.values() if one.is_outside], files)
    return {name: _values(stream, one, files).reshape(one.shape) for name, one in found.items()}


class _Fields:
    """Reads the fields of Protocol Buffers messages, within a bound for all of them."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self.stream, self._left, self._texts = stream, MOST_FIELDS, MOST_TEXTS

    def inside(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (number, start, length) of each field of a message; for a number itself, (number, value, -1).

        Fields of a fixed width are passed over: none that is read here has one.
        """
        at, end = start, start + length
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise Unreadable(f"has more than {MOST_FIELDS:,} fields, more than any network.")
            self.stream.seek(at)
            key, at = self._number(at, end)
            number, wire = key >> 3, key & 7
            if not 0 < number < 2**29 or wire not in (0, 1, 2, 5):
                raise Unreadable("is damaged, or no weights file that tlkit reads: PyTorch's, safetensors or ONNX.")
            if wire == 0:
                value, at = self._number(at, end)
                yield number, value, -1
                continue
            size = {1: 8, 5: 4}.get(wire, 0)
            if wire == 2:
                size, at = self._number(at, end)
            if at + size > end:
                raise Unreadable("ends too soon or is damaged, if it is an ONNX file. Get it again.")
            if wire == 2:
                yield number, at, size
            at += size

    def text(self, start: int, length: int) -> str:
        self._texts -= length
        if not 0 <= length <= MOST_TEXT or self._texts < 0:
            raise Unreadable(f"has a name of {length:,} bytes. At most {MOST_TEXT:,} are read.")
        self.stream.seek(start)
        try:
            return self.stream.read(length).decode("utf-8")
        except UnicodeDecodeError:
            raise Unreadable("has a name that is not UTF-8, so it is damaged.") from None

    def numbers(self, start: int, length: int, most: int) -> list[int]:
        """Return packed numbers of varying width, at most as many as expected and one more."""
        self.stream.seek(start)
        at, end = start, start + length
        found: list[int] = []
        while at < end and len(found) <= most:
            value, at = self._number(at, end)
            found.append(value)
        return found

    def _number(self, at: int, end: int) -> tuple[int, int]:
        """Return a number of varying width from where the stream is, and the place behind it."""
        value = 0
        for place in range(10):
            got = self.stream.read(1)
            if not got or at >= end:
                break
            at += 1
            value |= (got[0] & 0x7F) << (7 * place)
            if got[0] < 0x80 and value < 2**64:
                return value, at
        raise Unreadable("is damaged: a number in it does not end, if it is an ONNX file. Get it again.")


def _initialiser(fields: _Fields, start: int, length: int) -> Initialiser:
    one = Initialiser()
    for number, at, size in fields.inside(start, length):
        if number == 1:
            one.shape += [at] if size < 0 else fields.numbers(at, size, 33)
        elif number == 2 and size < 0:
            one.kind = at
        elif number == 8 and size >= 0:
            one.name = fields.text(at, size)
        elif number == 14:
            one.is_outside = at == 1
        elif number == 13 and size >= 0:
            entry = dict.fromkeys((1, 2), "")
            entry |= {inner: fields.text(*place) for inner, *place in fields.inside(at, size)}
            one.outside[entry[1]] = entry[2]
        elif number == 3:
            raise Unreadable("holds a part of a tensor, which tlkit does not read. Expected whole tensors.")
        elif number == 9 or number in _PACKED:
            if size < 0:
                raise Unreadable("holds numbers one by one, which no ONNX file of weights does.")
            one.places.append((number, at, size))
    if one.kind not in _KINDS:
        what = _OTHERS.get(one.kind, f"type {one.kind}")
        raise Unreadable(f"holds {quoted(one.name)} as {what}, which tlkit does not read. Expected plain numbers.")
    elements(one.shape, quoted(one.name))
    return one


def _stored(one: Initialiser) -> int:
    return elements(one.shape, quoted(one.name)) * TYPES[_KINDS[one.kind]].itemsize


def _taken(one: Initialiser) -> int:
    """Count the bytes of memory of a tensor; of bfloat16, those in the file, unless they may be half as many."""
    return _stored(one) * (2 if _KINDS[one.kind] == "bfloat16" and any(at[0] == 5 for at in one.places) else 1)


def _values(stream: BufferedIOBase, one: Initialiser, files: dict[str, Path]) -> np.ndarray:
    """Read the numbers of a tensor, from wherever it keeps them."""
    kind, count, needed = _KINDS[one.kind], elements(one.shape, quoted(one.name)), _stored(one)
    if one.is_outside:
        if one.places:
            raise Unreadable(f"holds the numbers of {quoted(one.name)} both in it and in another file.")
        return _values_outside(one, files[one.outside.get("location", "")])
    if not count and not any(size for _, _, size in one.places):
        return np.empty(0, "<f4" if kind == "bfloat16" else "?" if kind == "bool" else TYPES[kind])
    if len(one.places) != 1:
        raise Unreadable(f"holds the numbers of {quoted(one.name)} {len(one.places)} times. Expected once.")
    number, start, size = one.places[0]
    types, width = _PACKED.get(number, (set(_KINDS.values()), 1))
    if kind not in types:
        raise Unreadable(f"holds {quoted(one.name)} in a field for other types than {kind}.")
    if number != 9 and not width:
        return _packed(stream, one, start, size)
    if size != needed:
        raise Unreadable(f"holds {size:,} bytes for {quoted(one.name)}, whose shape and type need {needed:,}.")
    stream.seek(start)
    return read_values(stream, count, kind)


def _packed(stream: BufferedIOBase, one: Initialiser, start: int, size: int) -> np.ndarray:
    """Read numbers that were stored in varying width."""
    kind, count = _KINDS[one.kind], elements(one.shape, quoted(one.name))
    bits = 1 if kind == "bool" else 8 * TYPES[kind].itemsize
    signed = kind.startswith("int")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = np.empty(count if count <= size else 0, "<f4" if kind == "bfloat16" else TYPES[kind])
    at = 0
    for given in _varying(stream, start, size):
        given = given.view("<i8") if signed else given
        if at + len(given) > len(values) or int(given.min()) < low or int(given.max()) > high:
            raise Unreadable(f"holds other numbers for {quoted(one.name)} than its shape and type allow.")
        if kind == "bfloat16":
            values[at : at + len(given)].view("<u4")[:] = given << np.uint64(16)
        elif kind == "float16":
            values[at : at + len(given)].view("<u2")[:] = given
        else:
            values[at : at + len(given)] = given
        at += len(given)
    if at != count:
        raise Unreadable(f"holds {at:,} numbers for {quoted(one.name)}, whose shape needs {count:,}.")
    values = values.view("?") if kind == "bool" else values
    values.flags.writeable = False
    return values


def _varying(stream: BufferedIOBase, start: int, size: int) -> Iterator[np.ndarray]:
    """Yield the numbers of varying width in a part of a file, uint64, some thousands at once."""
    stream.seek(start)
    rest = b""
    for done in range(0, size, _PIECE):
        rest += stream.read(min(_PIECE, size - done))
        piece = np.frombuffer(rest, "u1")
        ends = np.flatnonzero(piece < 0x80)  # a number's last byte lacks the highest bit
        if len(ends):
            starts = np.concatenate(([0], ends[:-1] + 1))
            lengths = ends - starts + 1
            if int(lengths.max()) > 10:
                break
            used = piece[: int(ends[-1]) + 1]
            shifts = 7 * (np.arange(len(used)) - np.repeat(starts, lengths))
            yield np.add.reduceat((used & 0x7F).astype("<u8") << shifts.astype("<u8"), starts)
            rest = rest[int(ends[-1]) + 1 :]
        if len(rest) > 10:
            break
    if rest:
        raise Unreadable("is damaged: a number in it does not end. Get it again.")


def _file_of(folder: Path, location: str) -> Path:
    """Return the file with the numbers of a tensor, which must be in the ONNX file's folder or below it."""
    within = folder.resolve()
    parts = location.split("/")
    if not location or ".." in parts or location.startswith("/") or any(one in location for one in "\\:\0"):
        raise Unreadable(f"keeps numbers in {quoted(location)}, which is not a file of its own folder.")
    file = (within / location).resolve()
    if not file.is_relative_to(within):
        raise Unreadable(f"keeps numbers in {quoted(location)}, which leads out of its own folder.")
    if not file.is_file():
        raise Unreadable(f"keeps numbers in {quoted(location)}, which is not beside it. Put it into '{within}'.")
    return file


def _check_checksums(found: Iterable[Initialiser], files: dict[str, Path]) -> None:
    """Compare files of numbers with the SHA-1 that an ONNX file may give for them."""
    given = {(one.outside.get("location", ""), one.outside["checksum"]) for one in found if "checksum" in one.outside}
    for location, checksum in sorted(given):
        with files[location].open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha1").hexdigest()
        if actual != checksum.lower():
            raise Unreadable(
                f"gives {quoted(location)} the SHA-1 {quoted(checksum)}, and it has {actual}. Get it again."
            )


def _values_outside(one: Initialiser, file: Path) -> np.ndarray:
    kind, count, needed = _KINDS[one.kind], elements(one.shape, quoted(one.name)), _stored(one)
    start, length = (_whole(one, key, default) for key, default in (("offset", 0), ("length", needed)))
    available = file.stat().st_size
    if length != needed or start + length > available:
        raise Unreadable(
            f"keeps {quoted(one.name)}, which needs {needed:,} bytes, in bytes {start:,} to {start + length:,} of "
            f"{quoted(file.name)}, which has {available:,}."
        )
    with file.open("rb") as stream:
        stream.seek(start)
        return read_values(stream, count, kind)


def _whole(one: Initialiser, key: str, default: int) -> int:
    text = one.outside.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Unreadable(f"gives {quoted(one.name)} the {key} {quoted(text)} in another file. Expected a whole number.")
    return int(text)
