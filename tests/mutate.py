"""Bad image files and requests: truncated, damaged, decompression bombs, other formats, empty, far too large."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.broken import encode, jpeg_of_size, png_header
from tests.conftest import draw

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


def good(seed: int) -> bytes:
    """A valid image file, in one format after another."""
    return encode(draw((200, 60, 40), seed, 24 + seed % 60), FORMATS[seed % len(FORMATS)])


def bomb(width: int, height: int, colour_type: int = 2) -> bytes:
    """A small PNG that decodes into a large image. colour_type: 2 RGB, 6 with transparency."""
    channels = {2: 3, 6: 4}[colour_type]
    packer = zlib.compressobj(9)
    row = b"\x00" + bytes(width * channels)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def mutated(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(kind, bytes) of `count` files; the same seed gives the same files. Most cannot be decoded, but some can."""
    rng = np.random.default_rng(seed)
    bombs = [
        png_header(30_000, 30_000),
        jpeg_of_size(60_000, 60_000),
        bomb(8_000, 8_000),  # over the limit by its header
        bomb(6_500, 6_500),  # under it: 42 megapixels from a few hundred kilobytes
        bomb(6_500, 6_500, 6),
        _progressive(6_500),
    ]
    for index in range(count):
        data = good(int(rng.integers(1_000)))
        kind = ("truncated", "flipped", "header", "spliced", "other", "empty", "padded")[index % 7]
        if index % 100 == 50:
            yield "bomb", bombs[index // 100 % len(bombs)]
        elif kind == "truncated":
            yield kind, data[: int(rng.integers(1, len(data)))]
        elif kind == "flipped":
            yield kind, _flip(data, rng, 0, len(data), int(rng.integers(1, 20)))
        elif kind == "header":
            yield kind, _flip(data, rng, 0, min(40, len(data)), int(rng.integers(1, 6)))
        elif kind == "spliced":
            other = good(int(rng.integers(1_000)))
            yield kind, data[: len(data) // 2] + other[len(other) // 2 :]
        elif kind == "other":
            noise = rng.integers(0, 256, int(rng.integers(1, 5_000))).astype("uint8").tobytes()
            yield (
                kind,
                (b"%PDF-1.7 ", b"<html>", b"\xff\xd8\xff", b"RIFF____WEBP", b"BM", b"GIF89a", b"")[index % 6] + noise,
            )
        elif kind == "empty":
            yield kind, b"" if index % 2 else bytes(int(rng.integers(1, 100)))
        else:
            yield kind, data + bytes(int(rng.integers(1, 100_000)))


def _flip(data: bytes, rng: np.random.Generator, begin: int, end: int, times: int) -> bytes:
    changed = bytearray(data)
    for at in rng.integers(begin, end, times):
        changed[at] = int(rng.integers(0, 256))
    return bytes(changed)


def _progressive(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), (9, 9, 9)).save(out, "JPEG", progressive=True, subsampling=0)
    return out.getvalue()


def peak_bytes(pid: int) -> int:
    """The peak memory of a process (Linux)."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
