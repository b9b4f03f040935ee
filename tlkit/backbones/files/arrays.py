"""Numbers in files: the types that are read, bounds on shapes and sizes, and reading values with little more memory.

What cannot be read is `Unreadable`, with a reason that follows the file's name in the message of a WeightsError.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from io import BufferedIOBase
from typing import Any

import numpy as np

from tlkit.words import shown

TYPES: dict[str, np.dtype[Any]] = {  # as stored, little-endian
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),  # NumPy has none: the upper halves of float32, to which they are widened
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint64": np.dtype("<u8"),
    "uint32": np.dtype("<u4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("u1"),  # each byte 0 or 1, which is checked
}
MOST_DIMENSIONS = 32  # as many as every NumPy has
MEBIBYTE = 2**20
SPARE = 256 * MEBIBYTE  # tensors may take this, beside twice the file
_PIECE = 4 * MEBIBYTE  # what is read at once
_LARGEST = 2**62  # bytes, far below where 64 bits overflow


class Unreadable(Exception):
    """A file is damaged, hostile, or of a kind that is not read. The text says why, and follows the file's name."""


def quoted(name: object) -> str:
    """Return a name from a file in quotes: on one line, and at most 80 characters of it."""
    text = str(name)
    return f"'{shown(text[:80])}{'...' if len(text) > 80 else ''}'"


def elements(shape: Iterable[Any], what: str) -> int:
    """Return the number of elements of a shape. what: whose shape it is.

    Raises Unreadable for anything but at most 32 whole numbers of 0 or more, and for sizes that overflow.
    """
    sizes = list(shape)
    if len(sizes) > MOST_DIMENSIONS:
        raise Unreadable(f"gives {what} {len(sizes)} dimensions. Expected at most {MOST_DIMENSIONS}.")
    for size in sizes:
        if type(size) is not int or not 0 <= size < _LARGEST:
            raise Unreadable(f"gives {what} a dimension of {quoted(size)}. Expected whole numbers of 0 or more.")
    if math.prod(size for size in sizes if size) * 8 >= _LARGEST:
        raise Unreadable(f"gives {what} the shape {tuple(sizes)}, which no memory holds.")
    return math.prod(sizes)


def check_total(stored: int, size: int) -> None:
    """Check that tensors do not share so many of their bytes that they become far larger than their file.

    stored: bytes of all tensors together, as stored. size: bytes of the file.
    """
    if stored > 2 * size + SPARE:
        raise Unreadable(
            f"is {size:,} bytes long, but its tensors together are {stored:,}, as if it were made to fill memory. "
            "Expected at most twice the file and 256 MiB."
        )


def read_values(stream: BufferedIOBase, count: int, kind: str) -> np.ndarray:
    """Read values from where a stream is: shape (count,), read-only; bfloat16 is widened to float32.

    The caller has checked that the file is long enough for `count`. Takes the memory of the result and 4 MiB.

    Raises Unreadable if the stream ends too soon, or if a bool is neither 0 nor 1.
    """
    stored = TYPES[kind]
    if kind == "bfloat16":
        values = np.empty(count, "<f4")
        for start in range(0, count, _PIECE // 4):
            stop = min(count, start + _PIECE // 4)
            piece = np.empty(stop - start, stored)
            _fill(stream, piece)
            values[start:stop].view("<u4")[:] = np.left_shift(piece, 16, dtype="<u4")
    else:
        values = np.empty(count, stored)
        _fill(stream, values)
        if kind == "bool":
            if count and int(values.max()) > 1:
                raise Unreadable("holds a bool that is neither 0 nor 1, so it is damaged. Get it again.")
            values = values.view("?")
    values.flags.writeable = False
    return values


def _fill(stream: BufferedIOBase, values: np.ndarray) -> None:
    left = memoryview(values.view("u1")) if values.size else memoryview(b"")
    while left:
        got = stream.readinto(left[:_PIECE])
        if not got:
            raise Unreadable(f"ends {len(left):,} bytes too soon. It is cut; get it again.")
        left = left[got:]


def strided(values: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """Return a read-only view of flat values. offset, strides: in elements; `check_extent` has checked them."""
    if 0 in shape:
        return np.empty(shape, values.dtype)
    width = values.itemsize
    steps = [width * step if size > 1 else width for size, step in zip(shape, strides, strict=True)]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)


def check_extent(offset: Any, shape: Any, strides: Any, count: int) -> None:
    """Check a tensor's place in a storage of `count` elements: nothing negative, and nothing outside of it.

    Raises Unreadable with the numbers.
    """
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise Unreadable("describes a tensor whose shape and strides are not two tuples of equal length.")
    wanted = elements(shape, "a tensor")
    elements(strides if all(type(one) is int and one >= 0 for one in strides) else (-1,), "a tensor's strides")
    if type(offset) is not int or not 0 <= offset <= count:
        raise Unreadable(f"places a tensor at element {quoted(offset)} of a storage of {count:,}.")
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) if wanted else 0
    if wanted and last >= count:
        raise Unreadable(
            f"has a storage of {count:,} elements that is too short for its tensor of shape {shape} and strides "
            f"{strides} at {offset:,}, which reaches element {last:,}."
        )
    if wanted > count:
        raise Unreadable(f"repeats the {count:,} elements of a storage to the shape {shape}. Save a copy of them.")
