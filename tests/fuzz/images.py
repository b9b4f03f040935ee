"""Mutated image files of every format that is read, and whether scan and the exported SavedModel agree on them."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from tests.broken import gif_of_a_huge_later_frame, jpeg_of_size, jpeg_with_false_frames, png_header
from tests.conftest import draw
from tlkit.data.convert import Unreadable, convert
from tlkit.data.headers import LeftOut, Status, examine
from tlkit.data.rows import _header

KINDS = ("bits", "header", "cut", "number", "chunk", "spliced", "polyglot", "padded", "repeated", "bomb")
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
FOREIGN = (b"%PDF-1.7\n", b"<html><script>", b"PK\x03\x04", b"GIF89a", b"\xff\xd8\xff", b"BM", b"RIFF", b"II*\x00")


@cache
def seeds() -> tuple[bytes, ...]:
    """Small valid files: each format that is read, in the modes and with the metadata that change how it is read."""
    image = draw((200, 60, 40), 3, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    glass = image.convert("RGBA")
    glass.putalpha(Image.linear_gradient("L").resize(glass.size))
    palette, grey = image.quantize(16), image.convert("L")
    deep = Image.fromarray((np.arange(1600).reshape(40, 40) * 40).astype("uint16"))
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (image, "JPEG", {"exif": exif}),
        (image, "JPEG", {"progressive": True, "restart_marker_blocks": 2}),
        (grey, "JPEG", {}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {"exif": exif}),
        (glass, "PNG", {}),
        (palette, "PNG", {"transparency": 1, "bits": 4}),
        (deep, "PNG", {}),
        (grey.convert("1"), "PNG", {}),
        (image, "GIF", {}),
        (palette, "GIF", {"transparency": 0, "interlace": 1}),
        (image, "GIF", {"save_all": True, "append_images": [image.rotate(90)]}),
        *((one, "BMP", {}) for one in (image, grey, palette, grey.convert("1"))),
        (image, "WEBP", {"lossless": True}),
        (glass, "WEBP", {"exif": exif}),
        (image, "TIFF", {"compression": "tiff_lzw"}),
        (deep, "TIFF", {}),
        (image, "PPM", {}),
        (image, "TGA", {}),
        (image, "JPEG2000", {}),
        (image, "PCX", {}),
        (image, "SGI", {}),
        (image, "ICO", {}),
    ]
    files = []
    for one, kind, settings in kinds:
        buffer = io.BytesIO()
        one.save(buffer, kind, **settings)
        files.append(buffer.getvalue())
    return tuple(files)


@cache
def bombs() -> tuple[bytes, ...]:
    """Small files that claim, or unpack to, much."""
    return (
        png_header(30_000, 30_000),
        png_header(7_000, 7_000),
        jpeg_of_size(60_000, 60_000),
        jpeg_of_size(7_000, 7_000),
        jpeg_of_size(8_000, 8_000, progressive=True),
        gif_of_a_huge_later_frame(5_000)[1],
        *(jpeg_with_false_frames(before, 20_000, 20_000) for before in (b"\xff\xd0", b"\xff\x01", b"\xff\xff\xff")),
    )


def mutants(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(kind, bytes) of `count` files; the same seed gives the same files."""
    for index in range(count):
        r = random.Random(f"{seed} {index}")
        kind = KINDS[index % len(KINDS)]
        yield kind, mutant(kind, r)


def mutant(kind: str, r: random.Random) -> bytes:
    good, other = r.choice(seeds()), r.choice(seeds())
    at = r.randrange(len(good))
    if kind == "bits":
        return flipped(good, r, 0, len(good))
    if kind == "header":
        return flipped(good, r, 0, min(64, len(good)))
    if kind == "cut":
        return good[:at]
    if kind == "number":  # another length, size or offset
        at, value = r.randrange(min(len(good) - 4, 200)), r.choice(EDGES)
        packed = struct.pack(r.choice("<>") + ("H" if value <= 0xFFFF and r.random() < 0.5 else "I"), value)
        return good[:at] + packed + good[at + len(packed) :]
    if kind == "chunk":  # a piece left out, doubled or moved
        length, to = r.choice((1, 4, 12, 100)), r.randrange(len(good))
        piece = good[at : at + length]
        rest = good[:at] + good[at + length :] if r.random() < 0.7 else good
        return rest[:to] + piece * r.choice((0, 1, 2)) + rest[to:]
    if kind == "spliced":
        return good[:at] + other[r.randrange(len(other)) :]
    if kind == "polyglot":
        head = r.choice(FOREIGN)
        return r.choice((head + good, good + other, good[:2] + head + good[2:], good + head + r.randbytes(100)))
    if kind == "padded":
        return good + r.choice((b"\x00", b"\xff", b"\xff\xd0", b"\x21\xfe\x01a\x00")) * r.choice((1, 1000, 100_000))
    if kind == "repeated":  # markers and padding near the beginning
        piece, at = (
            r.choice((b"\xff", b"\xff\xd0", b"\xff\x01", b"\xff\xfe\x00\x02", b"\x21\xfe\x00")),
            r.choice((2, 8, 13)),
        )
        return good[:at] + piece * r.choice((1, 100, 5_000)) + good[at:]
    return flipped(data := r.choice(bombs()), r, len(data) // 2, len(data)) if r.random() < 0.5 else r.choice(bombs())


def flipped(data: bytes, r: random.Random, begin: int, end: int) -> bytes:
    changed = bytearray(data)
    for _ in range(r.choice((1, 1, 2, 8, 20))):
        changed[r.randrange(begin, end)] ^= 1 << r.randrange(8)
    return bytes(changed)


def scanned(data: bytes) -> str:
    """What scan says of a file: "decodes", "converted", or "left out"."""
    try:
        _header(data)
    except (LeftOut, Unreadable):
        return "left out"
    return "decodes" if examine(data).status is Status.DECODES else "converted"


def converted(data: bytes) -> bool:
    """Whether a file that the graph does not decode is converted."""
    try:
        return convert(data) is not data
    except Unreadable:
        return False


def disagreements(files: Sequence[bytes], ok: Sequence[bool]) -> Iterator[tuple[int, str]]:
    """(index, what) where scan and the SavedModel disagree. ok: the SavedModel's answers to the files' bytes.

    A file may fail in its pixels, which scan does not decode, so "decodes" and a refusal is none. But what scan leaves
    out must not be answered, and what needs conversion is for the SavedModel an unknown format.
    """
    for index, (data, answered) in enumerate(zip(files, ok, strict=True)):
        said = scanned(data)
        if answered and said != "decodes":
            yield index, f"scan: {said} ({examine(data).reason}), SavedModel: answered"
