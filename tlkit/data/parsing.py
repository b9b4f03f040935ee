"""Reads the headers of the formats that the graph decodes, by their specifications and with its rules.

Each parser takes a file's bytes and raises Unreadable with the reason if the graph cannot decode them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_MOST_CHUNKS, _IN_A_RUN = 4096, 1024  # runs of equal chunks that the graph passes, and chunks in a run
_MOST_SEGMENTS = 65_536  # of a JPEG, padding included; the graph passes fewer
_MOST_PROFILE = 65_536  # bytes of a compressed profile that the graph unpacks
_CUT = "the end of the file is missing"
_COLOUR = "a colour profile of tables"


@dataclass(frozen=True)
class Parsed:
    """What a header says.

    width, height: pixels as stored. notes: (kind, detail). alpha: whether pixels may be transparent.
    orientation: 1 to 8. profile: the name of a colour profile that is converted, or "".
    deep: 16 bits a channel. progressive: held whole in memory while it is decoded.
    """

    width: int
    height: int
    notes: tuple[tuple[str, str], ...] = ()
    alpha: bool = False
    orientation: int = 1
    profile: str = ""
    progressive: bool = False


class Unreadable(Exception):
    """A file that the graph cannot decode. kind: the problem. convertible: whether Pillow may decode it."""

    def __init__(
        self, detail: str, kind: str = "corrupt", *, convertible: bool = False, width: int = 0, height: int = 0
    ) -> None:
        super().__init__(detail)
        self.detail, self.kind, self.convertible = detail, kind, convertible
        self.width, self.height = width, height


def _unsupported(detail: str, width: int = 0, height: int = 0, *, convertible: bool = True) -> Unreadable:
    return Unreadable(detail, "unsupported-format", convertible=convertible, width=width, height=height)


_GREY = ("grey", "one channel, repeated to three")


# -- JPEG -------------------------------------------------------------------------------------------------


def _jpeg(data: bytes) -> Parsed:
    """ITU-T T.81, with Exif, XMP and a colour profile before the frame header."""
    exif = xmp = profile = b""
    parts = 1
    for code, segment in _jpeg_segments(data):
        if code == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif = exif or segment[6:]
        elif code == 0xE1 and segment.startswith(b"http"):
            xmp = xmp or segment
        elif code == 0xE2 and segment.startswith(b"ICC_PROFILE\0") and not profile:
            parts, profile = segment[13], segment[14:]
        elif 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack(">BHHB", segment[:6])
            _check_jpeg(code, bits, width, height)
            if jpeg_is_cut(data):
                raise Unreadable(_CUT, "truncated")
            notes = {1: (_GREY,), 4: (("cmyk", "converted to RGB without its colour profile"),)}.get(channels, ())
            name = _profile_name(profile if _fits(profile, channels == 1) else b"", parts, width, height)
            turned = _orientation(exif, xmp)
            return Parsed(width, height, notes, orientation=turned, profile=name, progressive=code in (0xC2, 0xCA))
    raise Unreadable(*((_CUT, "truncated") if jpeg_is_cut(data) else ("it has no frame header",)))


def jpeg_is_cut(data: bytes) -> bool:
    """Whether no end marker stands behind the last segment before the scan: a thumbnail in Exif has one of its own.

    Whatever stands behind the end, such as the film of a phone's motion photo, may be as long as it is.
    """
    scan = max((at + 2 + length for at, _, length in _jpeg_places(data)), default=2)
    return data.rfind(b"\xff\xd9") < scan


def _check_jpeg(code: int, bits: int, width: int, height: int) -> None:
    if code & 3 == 3:
        raise _unsupported("a lossless JPEG; save it as PNG or 8-bit JPEG", width, height)
    if bits != 8:
        raise _unsupported(f"a JPEG of {bits} bits a sample; save it as PNG or 8-bit JPEG", width, height)
    if code not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        raise _unsupported("a hierarchical JPEG; save it as PNG or 8-bit JPEG", width, height)
    if not width * height:
        raise Unreadable("no image size in the header")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of each segment up to the scan."""
    for at, code, length in _jpeg_places(data):
        yield code, data[at + 4 : at + 2 + length]


def _jpeg_places(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(offset, marker, length) of each segment up to the scan. Stray bytes between segments are passed."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return
        code = data[at + 1]
        if code in (0xFF, 0x00, 0x01) or 0xD0 <= code <= 0xD8:  # padding, a stuffed zero, TEM, RSTn, SOI: no length
            at += 1 if code == 0xFF else 2
            continue
        if code in (0xDA, 0xD9):
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield at, code, length
        at += 2 + max(length, 2)


# -- PNG --------------------------------------------------------------------------------------------------


def _png(data: bytes) -> Parsed:
    """PNG specification, third edition."""
    if data[12:16] == b"CgBI":
        raise _unsupported("a PNG of an iOS app (CgBI); convert it with Xcode's pngcrush", convertible=False)
    if data[8:16] != b"\0\0\0\rIHDR":
        raise Unreadable(*((_CUT, "truncated") if len(data) < 33 else ("its first chunk is not a header",)))
    width, height, bits, colours = struct.unpack(">IIBB", data[16:26])
    if not width * height:
        raise Unreadable("no image size in the header")
    exif = xmp = profile = b""
    alpha, large = colours in (4, 6), False
    for kind, content in _png_chunks(data):
        if kind == b"tRNS":
            alpha = True
        elif kind == b"eXIf":
            exif = exif or bytes(content)
        elif kind == b"iTXt" and bytes(content[:17]) == b"XML:com.adobe.xmp":
            xmp = xmp or bytes(content)
        elif kind == b"iCCP" and not profile and not large:
            large = len(content) > _MOST_PROFILE
            profile = b"" if large else _unpacked(bytes(content))
    if large:
        raise _unsupported(_COLOUR, width, height)
    notes = [("16-bit", "reduced to 8 bits per channel by dropping the lower byte")] if bits == 16 else []
    notes += [_GREY] if colours in (0, 4) else []
    name = _profile_name(profile if _fits(profile, colours in (0, 4)) else b"", 1, width, height)
    return Parsed(width, height, tuple(notes), alpha, _orientation(exif.removeprefix(b"Exif\0\0"), xmp), name)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(type, content) of each chunk behind IHDR. Raises Unreadable if one is longer than the file."""
    view, at, steps, block, run = memoryview(data), 33, 0, b"", 0
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"IEND":
            return
        run = run % _IN_A_RUN + 1 if data[at : at + 8] == block else 1
        block, steps = data[at : at + 8], steps + (run == 1)
        if steps >= _MOST_CHUNKS:
            raise _unsupported(f"a PNG of more than {_MOST_CHUNKS} chunks")
        if at + 12 + length > len(data):
            raise Unreadable("a chunk is longer than the file", "truncated")
        yield kind, view[at + 8 : at + 8 + length]
        at += 12 + length
    raise Unreadable(_CUT, "truncated")


def _unpacked(chunk: bytes) -> bytes:
    """The profile in an iCCP chunk, at most 1,032 times as long. Raises Unreadable if it does not unpack."""
    name = chunk.find(b"\0")
    try:
        return zlib.decompressobj().decompress(chunk[name + 2 :])  # what there is of it, as the graph does
    except zlib.error:
        raise _unsupported("a damaged colour profile") from None


# -- GIF --------------------------------------------------------------------------------------------------


def _gif(data: bytes) -> Parsed:
    """GIF89a specification, up to the end of the first frame; what follows is only looked at for a second one."""
    screen, at = struct.unpack("<HH", data[6:10]), 13 + _colours(data[10])
    transparent = False
    for _ in range(256):
        if data[at] == 0x2C:
            break
        if data[at] == 0x3B:
            raise Unreadable("it holds no image")
        if data[at] == 0x21:
            control = data[at + 1] == 0xF9 and data[at + 2] >= 4
            transparent = bool(data[at + 3] & 1) if control and data[at + 3] & 1 else transparent
            at = _after_sub_blocks(data, at + 2)
        else:
            at += 1
    left, top, wide, high, flags = struct.unpack("<HHHHB", data[at + 1 : at + 10])
    if not wide * high:
        raise Unreadable("no image size in the header")
    end = _after_sub_blocks(data, at + 11 + _colours(flags))
    width, height = max(screen[0], left + wide), max(screen[1], top + high)
    if not end:
        raise Unreadable(_CUT, "truncated")
    notes: tuple[tuple[str, str], ...] = ()
    if _another_frame(data, end):
        notes = (("animated", "only the first frame is used"),)
    if (wide, high) != (width, height):
        notes = (*notes, ("transparent", "composited over white around the first frame"))
        transparent = False
    return Parsed(width, height, notes, alpha=transparent)


def _colours(flags: int) -> int:
    return 3 * 2 ** (flags % 8 + 1) if flags & 128 else 0


def _after_sub_blocks(data: bytes, at: int) -> int:
    """The offset behind a chain of sub-blocks; the file's end if the chain has none."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return min(at + 1, len(data))


def _another_frame(data: bytes, at: int) -> bool:
    while at < len(data) and data[at] == 0x21:
        at = _after_sub_blocks(data, at + 2)
    return at < len(data) and data[at] == 0x2C


# -- BMP --------------------------------------------------------------------------------------------------


def _bmp(data: bytes) -> Parsed:
    """Headers of OS/2 (12 and 64 bytes) and of Windows (40 and more)."""
    (begin, info) = struct.unpack("<II", data[10:18])
    if info == 12:
        width, height, _, bits = struct.unpack("<HHHH", data[18:26])
        compression, used, entry = 0, 0, 3
    elif info >= 40 and 14 + info <= len(data):
        width, height, _, bits, compression = struct.unpack("<IiHHI", data[18:34])
        used, entry = int.from_bytes(data[46:50], "little"), 4
    elif info >= 16 and 14 + info <= len(data):
        raise _unsupported(f"a BMP of OS/2 with a header of {info} bytes")
    else:
        raise Unreadable(*((_CUT, "truncated") if len(data) < 54 else ("the length of its header is wrong",)))
    height = abs(height)
    if not width * height:
        raise Unreadable("no image size in the header")
    if bits not in (1, 4, 8, 24, 32) or compression:
        kind = {1: ", run-length coded", 2: ", run-length coded", 3: " in bit fields", 4: " (JPEG)", 5: " (PNG)"}
        raise _unsupported(f"a BMP of {bits} bits a pixel{kind.get(compression, '')}", width, height)
    colours = (used if 0 < used < 2**bits else 2**bits) if bits <= 8 else 0
    if begin in (0, 14 + info):  # some programs forget the palette
        begin = 14 + info + entry * colours
    row, used_bytes = (width * bits + 31) // 32 * 4, (width * bits + 7) // 8  # the last row may lack its padding
    if begin + row * (height - 1) + used_bytes > len(data) and width * height <= 2**40:
        raise Unreadable(_CUT, "truncated", width=width, height=height)
    return Parsed(width, height, _bmp_notes(data[14 + info : begin], bits, entry))


def _bmp_notes(palette: bytes, bits: int, entry: int) -> tuple[tuple[str, str], ...]:
    grey = all(len(set(palette[at : at + 3])) == 1 for at in range(0, len(palette) - 2, entry))
    return (_GREY,) if bits <= 8 and palette and grey else ()


# -- WebP -------------------------------------------------------------------------------------------------


def _webp(data: bytes) -> Parsed:
    """RFC 9649."""
    if len(data) < int.from_bytes(data[4:8], "little") + 8:
        raise Unreadable(_CUT, "truncated")
    kind, flags, alpha = data[12:16], 0, False
    if kind == b"VP8X":
        flags = data[20]
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        alpha = bool(flags & 16)
    elif kind == b"VP8L":
        number = int.from_bytes(data[21:25], "little")
        width, height, alpha = (number & 0x3FFF) + 1, (number >> 14 & 0x3FFF) + 1, bool(number >> 28 & 1)
    else:
        width, height = (value & 0x3FFF for value in struct.unpack("<HH", data[26:30]))
    if not width * height:
        raise Unreadable("no image size in the header")
    if flags & 2:
        raise _unsupported("an animated WebP; save its first frame", width, height)
    chunks: dict[bytes, bytes] = {}
    at = 12
    while flags and at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.setdefault(name, data[at + 8 : at + 8 + length] if name in (b"EXIF", b"XMP ", b"ICCP") else b"")
        at += 8 + length + length % 2
    profile = chunks.get(b"ICCP", b"") if flags & 32 else b""
    profile_name = _profile_name(profile if _fits(profile, False) else b"", 1, width, height)
    turned = _orientation(chunks.get(b"EXIF", b"").removeprefix(b"Exif\0\0"), chunks.get(b"XMP ", b""))
    return Parsed(width, height, (), alpha, turned if flags & 12 else 1, profile_name)


# -- orientation and colour -------------------------------------------------------------------------------


def _orientation(exif: bytes, xmp: bytes) -> int:
    """The orientation in Exif data (CIPA DC-008), or else in XMP; 1 if there is none or it is invalid."""
    order = "little" if exif[:1] == b"I" else "big"
    number = lambda at, n: int.from_bytes(exif[at : at + n], order)  # type: ignore[arg-type] # noqa: E731
    directory = number(4, 4)
    for at in range(directory + 2, directory + 2 + 12 * min(number(directory, 2), 256), 12):
        if len(exif) >= at + 10 and number(at, 2) == 0x0112:
            value = number(at + 8, 2)
            return value if 1 <= value <= 8 else 1 if value else _xmp_orientation(xmp)
    return _xmp_orientation(xmp)


def _xmp_orientation(xmp: bytes) -> int:
    found = re.search(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])", xmp)
    return int(found[1]) if found else 1


_SRGB = ((0.4360747, 0.2225045, 0.0139322), (0.3850649, 0.7168786, 0.0971045), (0.1430804, 0.0606169, 0.7141733))
_CLOSE = 0.003
_HALF = 0.2158605  # the curve of sRGB at 128 of 255


def _profile_name(profile: bytes, parts: int, width: int, height: int) -> str:
    """The name of a profile that the graph converts; "" for none, and for sRGB. Raises Unreadable for one of tables.

    The rules are those of `tlkit.data.graph.icc`.
    """
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return ""
    tags = {
        profile[at : at + 4]: profile[slice(*_place(profile, at))]
        for at in range(132, 132 + 12 * min(int.from_bytes(profile[128:132], "big"), 100), 12)
    }
    space = profile[16:20]
    in_parts = parts > 1 and space == b"RGB "  # of which this is the first
    if int.from_bytes(profile[:4], "big") > len(profile) and not in_parts:
        return ""
    if in_parts or (space == b"RGB " and b"A2B0" in tags):
        name = "an XYB colour profile" if b"XYB" in _description(tags).encode() else _COLOUR
        raise _unsupported(name, width, height)
    if space == b"GRAY" and b"kTRC" in tags:
        same = abs(_curve_at_half(tags[b"kTRC"]) - _HALF) < _CLOSE
        return "" if same else _description(tags) or "a grey profile"
    if space != b"RGB " or not {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"} <= set(tags):
        return ""
    off = max(
        abs(value / 65536 - one)
        for name, colorant in zip((b"rXYZ", b"gXYZ", b"bXYZ"), _SRGB, strict=True)
        for value, one in zip(struct.unpack(">iii", (tags[name] + bytes(20))[8:20]), colorant, strict=True)
    )
    curve = max(abs(_curve_at_half(tags[name]) - _HALF) for name in (b"rTRC", b"gTRC", b"bTRC"))
    return "" if off < _CLOSE and curve < _CLOSE else _description(tags) or "its profile"


def _fits(profile: bytes, is_grey: bool) -> bool:
    """Whether a profile may speak of the image: one for grey says nothing of colours."""
    return is_grey or profile[16:20] != b"GRAY"


def _place(profile: bytes, at: int) -> tuple[int, int]:
    begin, length = struct.unpack(">II", (profile[at : at + 12] + bytes(12))[4:12])
    return begin, begin + length


def _description(tags: dict[bytes, bytes]) -> str:
    """The name that a profile gives itself, as plain letters; "" if it has none."""
    tag = tags.get(b"desc", b"")
    text = tag[12:] if tag[:4] == b"desc" else tag[28:].replace(b"\0", b"") if tag[:4] == b"mluc" else b""
    text = text.split(b"\0")[0]
    return "".join(chr(letter) for letter in text[:40] if 32 <= letter < 127).strip()


def _curve_at_half(tag: bytes) -> float:
    """A curve's value at code 128 of 255."""
    x = 128 / 255
    if tag[:4] == b"para":
        kind = int.from_bytes(tag[8:10], "big")
        g, a, b, c, d, e, f = (value / 65536 for value in struct.unpack(">7i", (tag[12:40] + bytes(28))[:28]))
        a, b = (a, b) if kind else (1.0, 0.0)
        offset, below = (c, c) if kind == 2 else (e, f) if kind == 4 else (0.0, 0.0)
        limit, slope = (d, c) if kind >= 3 else (-b / a if kind and a else 0.0, 0.0)
        return max(a * x + b, 0) ** g + offset if x >= limit else slope * x + below
    count = int.from_bytes(tag[10:12], "big")
    values = struct.unpack(f">{count}H", (tag[12 : 12 + 2 * count] + bytes(2 * count))[: 2 * count])
    if count < 2:
        return float(x ** (values[0] / 256)) if count else x
    at = x * (count - 1)
    low = int(at)
    high = min(low + 1, count - 1)
    return (values[low] + (values[high] - values[low]) * (at - low)) / 65535


PARSERS: dict[str, Callable[[bytes], Parsed]] = {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp, "webp": _webp}
