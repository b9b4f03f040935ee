"""Deliberately broken and odd image files, each with the problem that must be reported for it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import draw


def encode(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of any claimed size, with next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int, *, progressive: bool = False) -> bytes:
    """A real JPEG whose frame header claims another size."""
    data = bytearray(encode(draw((90, 90, 90), 5), "JPEG", progressive=progressive))
    at = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def left_out(seed: int) -> Iterator[tuple[str, bytes, str]]:
    """(file name, bytes, problem) of files that cannot be used."""
    image = draw((200, 60, 50), seed, 64)
    jpeg, png, gif = encode(image, "JPEG"), encode(image, "PNG"), encode(image, "GIF")
    bmp, webp = encode(image, "BMP"), encode(image, "WEBP")
    corrupt = bytearray(png)
    corrupt[len(png) // 2] ^= 0xFF
    yield "empty.jpg", b"", "empty-file"
    yield (
        "page.jpg",
        b"<!DOCTYPE html><html><body>404 not found</body></html>" + bytes([65 + seed % 20]),
        "not-an-image",
    )
    yield "words.png", b"just some words %d" % seed, "not-an-image"
    yield "zeros.jpg", bytes(500 + seed), "not-an-image"
    yield "half.jpg", jpeg[: len(jpeg) // 2], "truncated"
    yield "nearly.jpg", jpeg[:-30], "truncated"
    yield "half.png", png[: len(png) // 2], "truncated"
    yield "half.gif", gif[: len(gif) // 2], "truncated"
    yield "half.bmp", bmp[: len(bmp) // 2], "truncated"
    yield "half.webp", webp[: len(webp) // 2], "truncated"
    yield "header only.jpg", jpeg[:20], "truncated"
    yield "flipped.png", bytes(corrupt), "corrupt"
    yield "slice.dcm", bytes(128) + b"DICM" + bytes([seed % 256]) * 40, "unsupported-format"
    yield "layers.jpg", b"8BPS\x00\x01" + bytes([seed % 256]) * 40, "unsupported-format"
    yield "half.tif", encode(image, "TIFF")[:5000], "truncated"
    yield "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><!-- %d --></svg>' % seed, "unsupported-format"
    yield "bomb.png", png_header(30_000 + seed, 30_000), "too-large"
    yield "bomb.jpg", jpeg_of_size(60_000 + seed % 5_000, 60_000), "too-large"
    yield "phone.mov", b"\x00\x00\x00\x18ftypqt  " + bytes([seed % 256]) * 40, "unsupported-format"
    yield "\u732b \u00e9\u0308.jpg", jpeg[: len(jpeg) // 3], "truncated"


def used_with_a_note(seed: int) -> Iterator[tuple[str, bytes, str]]:
    """(file name, bytes, problem) of files that are used, but not as they are, so that they must be reported."""
    image = draw((40, 190, 60), seed, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray((np.arange(64 * 64).reshape(64, 64) * 16 + seed).astype("uint16"))
    glass = image.convert("RGBA")
    glass.putalpha(128)
    frames = [image, image.rotate(90)]
    yield "cmyk.jpg", encode(image.convert("CMYK"), "JPEG"), "cmyk"
    yield "grey.jpg", encode(image.convert("L"), "JPEG"), "grey"
    yield "deep.png", encode(deep, "PNG"), "16-bit"
    yield "glass.png", encode(glass, "PNG"), "transparent"
    yield "turned.jpg", encode(image, "JPEG", exif=exif), "exif-rotated"
    yield "speck.png", encode(image.resize((8, 9)), "PNG"), "tiny"
    yield "moving.gif", encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), "animated"


def write_broken(folder: Path, count: int, start: int = 0) -> dict[str, str]:
    """Write `count` unusable files. Returns file name -> the problem that must be reported."""
    expected: dict[str, str] = {}
    seed = start
    while len(expected) < count:
        for name, data, problem in left_out(seed):
            if len(expected) < count:
                file = f"{Path(name).stem} {seed}{Path(name).suffix}"
                (folder / file).write_bytes(data)
                expected[file] = problem
        seed += 1
    return expected


def bmp_of_endless_header() -> bytes:
    """A BMP of 20 x 20 pixels whose header claims to be 2 GB long."""
    data = bytearray(encode(Image.fromarray(np.zeros((20, 20), "uint8")), "BMP"))
    data[14:18] = (2**31).to_bytes(4, "little")
    return bytes(data)


def gif_of_a_huge_later_frame(side: int) -> tuple[bytes, bytes]:
    """A GIF of 30 x 20 pixels with a comment before its frame, and one with a second frame of side x side pixels."""
    image = Image.fromarray(np.arange(600, dtype="uint8").reshape(20, 30))
    small = encode(image, "GIF", comment=b"a comment " * 60)
    empty = encode(Image.new("L", (side, side)), "GIF")
    descriptor = b"\x2c" + bytes(4) + 2 * side.to_bytes(2, "little")
    return small, small[:-1] + empty[empty.index(descriptor) :]


def jpeg_with_false_frames(before: bytes, width: int, height: int) -> bytes:
    """A JPEG of a claimed size behind markers that have no length, and comments full of frame headers of 200 x 200.

    A reader that takes the bytes behind such a marker for its length finds one of them.
    """
    frame = b"\xff\xc0\x00\x11\x08\x00\xc8\x00\xc8\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    comment = b"\xff\xfe\xff\xff" + (frame * 4000)[: 0xFFFF - 2]
    return b"\xff\xd8" + before + 3 * comment + jpeg_of_size(width, height)[2:]
