"""Safetensors files: the length of a header, the header as JSON, and the numbers. They have no checksum."""

from __future__ import annotations

import json
from io import BufferedIOBase
from typing import Any

import numpy as np

from tlkit.backbones.files.arrays import MEBIBYTE, TYPES, Unreadable, elements, quoted, read_values

MOST_HEADER = 4 * MEBIBYTE  # room for 35,000 tensors; JSON takes up to thirty times its length in memory
_KINDS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def is_safetensors(head: bytes) -> bool:
    """Tell from a file's first 9 bytes, or more, whether it is a safetensors file: a length, and then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**48


def read_safetensors(stream: BufferedIOBase, size: int) -> dict[str, np.ndarray]:
    """Read the tensors, in the order of the header. size: bytes of the file."""
    length = int.from_bytes(stream.read(8), "little")
    if length > MOST_HEADER:
        raise Unreadable(f"has a header of {length:,} bytes. Expected at most {MOST_HEADER:,}.")
    if length > size - 8:
        raise Unreadable(f"ends in its header, which should be {length:,} bytes long. It is cut; get it again.")
    described = _header(stream.read(length))
    places = _places(described, size - 8 - length)
    found = {}
    for name in sorted(places, key=lambda one: places[one][1:3]):  # as they lie in the file
        kind, start, _, shape = places[name]
        stream.seek(8 + length + start)
        found[name] = read_values(stream, elements(shape, quoted(name)), kind).reshape(shape)
    return {name: found[name] for name in described}


def _header(text: bytes) -> dict[str, Any]:
    try:
        described = json.loads(text.decode("utf-8"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError):  # also what is not UTF-8
        raise Unreadable("has a header that is not valid JSON, so it is damaged. Get it again.") from None
    if type(described) is not dict:
        raise Unreadable("has a header that is not a dict of tensors.")
    described.pop("__metadata__", None)
    if not described:
        raise Unreadable("holds no tensors.")
    return described


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Unreadable(f"names {quoted(twice)} twice in its header.")
    return found


def _places(described: dict[str, Any], length: int) -> dict[str, tuple[str, int, int, tuple[int, ...]]]:
    """Return each tensor's (type, start, end, shape). The numbers fill the `length` bytes without gaps or overlaps."""
    places = {}
    for name, one in described.items():
        if type(one) is not dict or set(one) != {"dtype", "shape", "data_offsets"}:
            raise Unreadable(f"does not describe {quoted(name)} by its dtype, shape and data_offsets.")
        kind = _KINDS.get(one["dtype"]) if type(one["dtype"]) is str else None
        if kind is None:
            raise Unreadable(f"holds {quoted(name)} as {quoted(one['dtype'])}. Expected one of: {', '.join(_KINDS)}.")
        if type(one["shape"]) is not list:
            raise Unreadable(f"gives {quoted(name)} no list as its shape.")
        needed = elements(one["shape"], quoted(name)) * TYPES[kind].itemsize
        offsets = one["data_offsets"]
        if type(offsets) is not list or len(offsets) != 2 or any(type(at) is not int or at < 0 for at in offsets):
            raise Unreadable(f"gives {quoted(name)} no start and end in the file.")
        start, end = offsets
        if end - start != needed:
            raise Unreadable(f"holds {end - start:,} bytes for {quoted(name)}, whose shape and type need {needed:,}.")
        places[name] = (kind, start, end, tuple(one["shape"]))
    reached = 0
    for name, (_, start, end, _) in sorted(places.items(), key=lambda item: item[1][1:3]):
        if start != reached:
            raise Unreadable(f"has {quoted(name)} at byte {start:,} and expected {reached:,}: a gap or an overlap.")
        reached = end
    if reached != length:
        raise Unreadable(f"describes {reached:,} bytes of numbers and holds {length:,}. It is cut or damaged.")
    return places
