"""Turns image files that the graph of the exported model cannot decode into PNG, by Pillow and by tlkit's own rules.

`tlkit.data.decode` reads JPEG, PNG, GIF, BMP and WebP. Everything else, and the kinds of these that it refuses, becomes
a PNG here: the first page or frame, upright, transparency over white, colours in sRGB. 16-bit images become 16-bit PNG,
so that the graph scales them like any other.
"""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tlkit.data.foreign import AVIF, HEIC, NAMES, RAW, foreign
from tlkit.data.headers import Status, examine, image_format, looks_truncated
from tlkit.data.limits import MAX_PIXELS
from tlkit.errors import DataError
from tlkit.words import counted

CONVERTER_VERSION = 1  # increase it when a pixel changes, so that cached pixels are not found
# format -> Pillow's reader. HEIC is read by pi-heif (the extra `heic`)
READERS = {
    "tiff": "TIFF",
    "avif": "AVIF",
    "jpeg2000": "JPEG2000",
    "pnm": "PPM",
    "tga": "TGA",
    "sgi": "SGI",
    "pcx": "PCX",
    "ico": "ICO",
    "cur": "CUR",
    "qoi": "QOI",
    "sun": "SUN",
    "jpeg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "webp": "WEBP",
}
_MOST_PIXELS = {"qoi": 2_000_000}  # Pillow decodes it in Python, at 3 seconds a megapixel; other formats: MAX_PIXELS
_BLOCK = 1_000_000  # pixels that are composited at once
_WHITE = 65_535
# orientation -> whether rows are stored as columns, whether the first is stored last, and how a block is turned then:
# the values of PIL.Image.Transpose, by the table of PIL.ImageOps.exif_transpose
_TURNS: dict[int, tuple[bool, bool, int | None]] = {
    1: (False, False, None),
    2: (False, False, 0),
    3: (False, True, 3),
    4: (False, True, 1),
    5: (True, False, 5),
    6: (True, False, 4),
    7: (True, True, 6),
    8: (True, True, 2),
}
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class Unreadable(DataError):
    """A file that cannot be converted. kind, detail: as in `tlkit.data.images.problem`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded.

    format: "tiff", "heic" ...
    width, height: pixels, as stored.
    detail: what it is and what becomes of it, in words: "TIFF of several pages: the first is used".
    deep: whether it becomes a PNG of 16 bits.
    """

    format: str
    width: int
    height: int
    detail: str
    deep: bool = False


def read_header(data: bytes) -> Header:
    """Read the header of a file that the graph does not decode.

    Raises Unreadable, with what the file is and what converts it, if `convert` would. A file whose header is sound may
    still be damaged.
    """
    kind = _format(data)
    with without_warnings(), _opened(data, kind) as image:
        width, height = image.size
        return Header(kind, width, height, _words(image, kind), _is_deep(image, kind))


def needs_conversion(data: bytes) -> bool:
    """Whether the graph refuses a file that may be converted."""
    return examine(data).status is Status.CONVERT


def convert(data: bytes) -> bytes:
    """Return what an exported model decodes: PNG for a TIFF, HEIC and so on; the same bytes for what it decodes itself.

    Example:
        >>> from tlkit import convert
        >>> convert(b"P6 1 1 255 abc")[:4]
        b'\\x89PNG'

    The first page or frame is used. The orientation is applied, transparency is composited over white, and colours are
    converted to sRGB by the embedded profile with its perceptual intent, if it has one; CMYK without a profile is
    converted by (255 - C)(255 - K) / 255. The PNG has 8 bits a channel and one or three channels; it has 16 bits for
    grey and RGB images of 16, whose values, and alpha and profile, stay as they are, because the model scales them.

    Args:
        data: the file's bytes: TIFF, HEIC (needs the package pi-heif), AVIF, JPEG 2000, PNM, TGA, SGI, PCX, ICO, CUR,
            QOI or Sun raster; JPEG, PNG, GIF, BMP or WebP of a kind that the model refuses. Anything else is returned
            as it is.

    Raises:
        Unreadable: (a DataError) for a damaged file, and for one of more than 50 megapixels (QOI: 2).
    """
    with without_warnings():
        return convert_in_thread(data)


def convert_in_thread(data: bytes) -> bytes:
    """`convert` for threads that run `without_warnings`, because filters of warnings belong to the whole process."""
    if not needs_conversion(data):
        return data
    kind = _format(data)
    with _opened(data, kind) as image:
        loaded = _loaded(image, kind)
        if not _is_deep(loaded, kind):
            return _png_of_blocks(loaded.width * loaded.height, _blocks_of_rows(loaded, kind))
        profile = loaded.info.get("icc_profile")
        pixels = _deep_pixels(loaded, data, kind)
    png = _png(pixels, profile)
    return png if not profile or examine(png).status is Status.DECODES else _png(pixels)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings of damaged metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _format(data: bytes) -> str:
    """The format of a file that can be converted. Raises Unreadable for any other."""
    if not data:
        raise Unreadable("empty-file", "0 bytes")
    kind = image_format(data[:16])
    if kind is not None:
        return kind
    found = foreign(data)
    if found is None:
        raise Unreadable("not-an-image", f"its first bytes are {data[:4].hex(' ')}")
    if not found.format:
        raise Unreadable(found.problem, f"{found.name}: {found.remedy}")
    return found.format


# -- opening: everything that Pillow raises becomes Unreadable ---------------------------------------------


@contextmanager
def _opened(data: bytes, kind: str) -> Iterator[Any]:
    """Open an image without decoding it, and check its size. Any exception within becomes Unreadable."""
    image = None
    try:
        image = _open(data, kind)
        yield image
    except Unreadable:
        raise
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        raise _why_not(error, data, kind, opened=image is not None) from error


def _open(data: bytes, kind: str) -> Any:
    """Open an image by the reader of its format, and check the size that it will have in memory."""
    from PIL import Image

    if kind == HEIC:
        image = _open_heic(data)
    elif kind == "ico":
        image = _open_icon(data)
    else:
        if kind == "tiff":
            if data.startswith(b"MM\x00\x2b"):
                detail = "BigTIFF in big-endian byte order, which Pillow does not read: save it as TIFF or PNG"
                raise Unreadable("unsupported-format", detail)
            _check_tiff(_tiff_tags(data))
        if kind == "pcx" and data[1:2] == b"\x05" and data[3:4] == b"\x08" and data[65:66] == b"\x01":
            _check_palette(data)
        Image.init()
        if READERS[kind] not in Image.OPEN:
            raise Unreadable("unsupported-format", f"{_name(kind)}: Pillow was built without its decoder here")
        image = Image.OPEN[READERS[kind]][0](io.BytesIO(data), "")
    width, height = image.size
    _check_size(width, height, _MOST_PIXELS.get(kind, MAX_PIXELS))
    return image


def _check_palette(data: bytes) -> None:
    """Raise Unreadable for a PCX of 256 colours without the palette at its end: Pillow would take indices for grey."""
    if data[-769:-768] != b"\x0c":
        raise Unreadable(*_CUT)


def _open_heic(data: bytes) -> Any:
    try:
        from pi_heif import open_heif
    except ImportError:
        raise Unreadable("unsupported-format", 'HEIC: install what reads it with `pip install "tlkit[heic]"`') from None
    found = open_heif(data, convert_hdr_to_8bit=True)
    return found[found.primary_index]


def _open_icon(data: bytes) -> Any:
    """The largest image of an icon: a PNG, or a BMP whose own header tells its size."""
    from PIL import IcoImagePlugin

    icon = IcoImagePlugin.IcoFile(io.BytesIO(data))
    entry = icon.entry[0]
    inner = data[entry.offset : entry.offset + entry.size]
    if len(inner) < entry.size:
        raise Unreadable(*_CUT)
    if image_format(inner[:16]) == "png":
        return _open(inner, "png")
    width, height = struct.unpack_from("<ii", inner, 4)
    _check_size(width, height // 2)
    return icon.frame(0)


def _check_size(width: int, height: int, most: int = MAX_PIXELS) -> None:
    if abs(width * height) > most:
        detail = f"{width} x {height} pixels; at most {most // 1_000_000} megapixels are decoded"
        raise Unreadable("too-large", detail)


def _tiff_tags(data: bytes) -> Any:
    """The tags of a TIFF's first page, by number."""
    from PIL import TiffImagePlugin

    file = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if 43 in data[2:4] else data[:8])
    file.seek(tags.next)
    tags.load(file)
    return tags


def _check_tiff(tags: Any) -> None:
    """Raise Unreadable for a camera's raw file, which often begins with a thumbnail, and for tiles that are too large.

    Tags of TIFF 6.0 and DNG 1.7.
    """
    thumbnail = tags.get(254, 0) == 1 and 330 in tags
    if 50706 in tags or thumbnail or tags.get(262) in (32803, 34892):
        maker = str(tags.get(271, "")).split(" ")[0].upper()
        name = "DNG" if 50706 in tags else {"NIKON": "NEF", "SONY": "ARW", "PENTAX": "PEF"}.get(maker, maker.title())
        raise Unreadable("unsupported-format", f"camera raw ({name or 'TIFF'}): {RAW}")
    _check_size(int(tags.get(322, 0)), int(tags.get(323, 0)))
    if tags.get(284) == 2 and 16 in tags.get(258, ()) and int(tags.get(277, 1)) > 1:
        detail = "TIFF with separate planes of 16 bits: save it with interleaved channels, or as 16-bit PNG"
        raise Unreadable("unsupported-format", detail)


# -- why a file does not decode ----------------------------------------------------------------------------

_CUT = ("truncated", "the end of the file is missing")


def _why_not(error: Exception, data: bytes, kind: str, *, opened: bool) -> Unreadable:
    """What is wrong with a file on which Pillow failed, while opening or while decoding it."""
    from PIL import Image

    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return Unreadable("too-large", "it needs too much memory")
    with suppress(Exception):  # damaged in more than one way
        if _is_cut(data, kind):
            return Unreadable(*_CUT)
    if image_format(data[:16]) is not None and (verdict := examine(data)).problem == "unsupported-format":
        return Unreadable(verdict.problem, verdict.reason)
    if kind == "tiff" and not opened and (kinds := _kind_of_tiff(data)):
        return Unreadable("unsupported-format", f"{kinds}: save it as RGB or grey of 8 or 16 bits")
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Unreadable("corrupt", f"{_name(kind)} that does not decode: {words}")


def _is_cut(data: bytes, kind: str) -> bool:
    """Whether the end of a file is missing, by its format's structure, or because it decodes with zeros behind it."""
    if kind in ("jpeg", "png", "gif", "bmp", "webp"):
        return looks_truncated(data, kind)
    if kind == "tiff":
        return _is_cut_tiff(data)
    if kind in (HEIC, AVIF) or data[4:8] == b"jP  ":
        return _is_cut_box(data)
    if kind == "jpeg2000":
        return not data.rstrip(b"\x00").endswith(b"\xff\xd9")
    if kind == "qoi":
        return not data.endswith(bytes(7) + b"\x01")
    try:
        image = _open(data + bytes(1024), kind)
        width, height = image.size
        image = _open(data + bytes(1024 + 8 * width * height), kind)
        image.load()
    except Exception:
        return False
    return True


def _is_cut_tiff(data: bytes) -> bool:
    """Whether the first page's directory, a value of it, or its pixels end behind the file."""
    big = 43 in data[2:4]
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    wide, of_count, of_entry = (8, 8, 20) if big else (4, 2, 12)

    def number(at: int, length: int) -> int:
        return int.from_bytes(data[at : at + length], order)

    start = number(8 if big else 4, wide)
    end = start + of_count + of_entry * number(start, of_count)
    if not start or end > len(data):
        return True
    for at in range(start + of_count, end, of_entry):
        size = _TIFF_SIZES.get(number(at + 2, 2), 0) * number(at + 4, wide)
        if size > wide and number(at + 4 + wide, wide) + size > len(data):
            return True
    tags = _tiff_tags(data)
    pairs = ((tags.get(offsets), tags.get(sizes)) for offsets, sizes in ((273, 279), (324, 325)))
    return any(
        at + size > len(data) for ats, sizes in pairs if ats and sizes for at, size in zip(ats, sizes, strict=False)
    )


def _is_cut_box(data: bytes) -> bool:
    """Whether a box of an ISO base media file, or of JPEG 2000, ends behind the file."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:  # it ends with the file
            return data[at + 4 : at + 8] == b"jp2c" and not data.endswith(b"\xff\xd9")
        if size < 8:
            return False
        at += size
    return at != len(data)


def _kind_of_tiff(data: bytes) -> str:
    """The channels, bits and compression of a TIFF in words; "" if its tags cannot be read."""
    try:
        tags = _tiff_tags(data)
        bits = sorted(set(tags.get(258, (1,))))
        numbers = {2: " signed", 3: " floating-point"}.get(tags.get(339, (1,))[0], "")
        channels, compression = int(tags.get(277, 1)), int(tags.get(259, 1))
    except Exception:
        return ""
    of_bits = " and ".join(map(str, bits))
    return f"TIFF of {counted(channels, 'channel')} of {of_bits}{numbers} bits, compression {compression}"


def _name(kind: str) -> str:
    return NAMES.get(kind, {"webp": "WebP"}.get(kind, kind.upper()))


def _is_deep(image: Any, kind: str) -> bool:
    return image.mode.startswith("I") or (kind == "tiff" and _is_deep_colour(image))


def _is_deep_colour(image: Any) -> bool:
    return set(image.tag_v2.get(258, ())) == {16} and image.mode in ("RGB", "RGBA", "RGBX")


def _words(image: Any, kind: str) -> str:
    """What an image is and what becomes of it."""
    said = [_name(kind)]
    if _is_deep(image, kind):
        said.append("16 bits")
    if image.mode in ("CMYK", "LAB"):
        said.append(image.mode)
    if getattr(image, "is_animated", False):
        said.append("first of several pages or frames")
    if image.info.get("icc_profile"):
        said.append("with a colour profile")
    return f"{', '.join(said)}: converted to PNG in memory"


# -- pixels ------------------------------------------------------------------------------------------------


def _loaded(image: Any, kind: str) -> Any:
    """A decoded image of Pillow. Raises Unreadable for one of floating-point numbers."""
    if kind == HEIC:
        return _Heic(image) if image.mode in ("L", "RGB", "RGBA") else image.to_pillow()
    image.load()
    if image.mode == "F":
        raise Unreadable("unsupported-format", f"{_name(kind)} of floating-point numbers: save it as 8 or 16 bits")
    return image


class _Heic:
    """A decoded HEIC as `_blocks_of_rows` reads it, without a second copy in the form of Pillow, of 4 bytes a pixel."""

    def __init__(self, image: Any) -> None:
        """image: of pi-heif, whose rows may be longer than the image is wide."""
        rows = np.frombuffer(image.data, np.uint8).reshape(-1, image.stride)  # decodes, which settles the size
        self.mode, self.size, self.info = image.mode, image.size, image.info
        self.width, self.height = self.size
        channels = len(self.mode)
        values = rows[: self.height, : self.width * channels]
        self._values = values.reshape(self.height, self.width, channels) if channels > 1 else values

    def crop(self, box: tuple[int, int, int, int]) -> Any:
        """The part within (left, upper, right, lower), as an image of Pillow."""
        from PIL import Image

        left, upper, right, lower = box
        part = Image.fromarray(self._values[upper:lower, left:right])
        part.info = self.info
        return part


def _deep_pixels(image: Any, data: bytes, kind: str) -> np.ndarray:
    """The upright pixels of 16 bits: uint16, shape (height, width) for grey, else (height, width, 3 or 4)."""
    if kind == "tiff" and _is_deep_colour(image):
        return _deep_colour(image, data)
    values = np.asarray(_upright(image))
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _WHITE:
        detail = f"{_name(kind)} with values from {low} to {high}: save it as 8 or 16 bits"
        raise Unreadable("unsupported-format", detail)
    inverted = kind == "tiff" and image.tag_v2.get(262) == 0
    return (_WHITE - values if inverted else values).astype("uint16")


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises many kinds on broken EXIF; a broken tag means no rotation
        return image


def _deep_colour(image: Any, data: bytes) -> np.ndarray:
    """RGB of 16 bits: uint16, shape (height, width, 3), or 4 with alpha, which the graph composites once it is scaled.

    Pillow keeps the upper byte of each value. Read in the other byte order, it keeps the lower one.
    """
    lower = _open(data, "tiff")
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    lower.tile = [one._replace(args=(one.args[0][:-1] + other[one.args[0][-1]], *one.args[1:])) for one in lower.tile]
    lower.load()
    values = np.asarray(image).astype("uint16") * 256 + np.asarray(lower)
    return values if image.mode == "RGBA" else values[..., :3]


def _blocks_of_rows(image: Any, kind: str) -> Iterator[np.ndarray]:
    """The upright rows, about a million pixels at a time, because a second image of 50 megapixels takes 200 MB.

    Yields: uint8, shape (rows, width) for grey without a profile, else (rows, width, 3).
    """
    orientation = 1 if kind == HEIC else _orientation(image)
    of_columns, from_the_end, turn = _TURNS[orientation]
    unused = kind in ("bmp", "tga") and image.mode == "RGBA" and image.getextrema()[3] == (0, 0)
    width, height = image.size
    rows, across = (width, height) if of_columns else (height, width)
    step = max(1, _BLOCK // across)
    for start in range(0, rows, step):
        end = min(start + step, rows)
        first, last = (rows - end, rows - start) if from_the_end else (start, end)
        block = image.crop((first, 0, last, height) if of_columns else (0, first, width, last))
        yield _in_srgb(block.transpose(turn) if turn is not None else block, opaque=unused)


def _orientation(image: Any) -> int:
    """The orientation in Exif or XMP, 1 to 8."""
    try:
        found = image.getexif().get(274, 1)
    except Exception:  # Pillow raises many kinds on broken EXIF; a broken tag means no rotation
        return 1
    return found if found in _TURNS else 1


def _in_srgb(image: Any, *, opaque: bool) -> np.ndarray:
    """uint8, shape (height, width) for grey without a profile, else (height, width, 3). opaque: without its alpha."""
    profile = image.info.get("icc_profile")
    image = _plain(image)
    if image.mode == "LAB" or profile:
        image = _converted_to_srgb(image, profile)
    if image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if image.mode != "RGBA":
        return values
    return values[..., :3] if opaque else _over_white(values)


def _plain(image: Any) -> Any:
    """An image in the mode L, RGB, RGBA, CMYK or LAB."""
    if image.mode in ("LA", "La", "PA", "RGBa") or (
        "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    ):
        image = image.convert("RGBA") if image.mode != "La" else image.convert("LA").convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "RGBA", "CMYK", "LAB") else image.convert("RGB")


def _converted_to_srgb(image: Any, profile: bytes | None) -> Any:
    """Convert colours by a profile (None: CIE L*a*b*). Unchanged if the profile is damaged, or for other channels."""
    from PIL import ImageCms

    try:
        if image.mode == "LAB":
            source, mode = ImageCms.createProfile("LAB"), "LAB"
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
            if "sRGB" in ImageCms.getProfileDescription(source):
                return image
            mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(source.profile.xcolor_space.strip(), "")
        colour = image.convert("RGB") if image.mode == "RGBA" or (image.mode, mode) == ("L", "RGB") else image
        if colour.mode != mode:
            return image
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        result = ImageCms.applyTransform(colour, transform)
    except (ImageCms.PyCMSError, ValueError, OSError):
        return image
    if image.mode == "RGBA":
        result.putalpha(image.getchannel("A"))
    return result


def _over_white(values: np.ndarray) -> np.ndarray:
    """Composite RGBA over white, rounded as `tlkit.data.decode` does it."""
    colour, alpha = values[..., :3].astype("int32"), values[..., 3:].astype("int32")
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype("uint8")


# -- PNG ---------------------------------------------------------------------------------------------------


def _png_of_blocks(pixels: int, blocks: Iterator[np.ndarray]) -> bytes:
    """Encode the rows of 8 bits that `_blocks_of_rows` yields, quickly. pixels: of all of them."""
    out, packer, check, begin = io.BytesIO(), zlib.compressobj(1), zlib.crc32(b"IDAT"), 0
    for block in blocks:
        if not begin:
            width, channels = block.shape[1], block.size // (block.shape[0] * block.shape[1])
            head = _chunk(b"IHDR", _png_head(width, pixels // width, 8, channels))
            begin = out.write(b"\x89PNG\r\n\x1a\n" + head)
            out.write(bytes(4) + b"IDAT")  # one chunk, whose length is written at the end
        rows = block.reshape(len(block), -1)
        lines = np.empty((rows.shape[0], rows.shape[1] + 1), "uint8")
        lines[0, 0], lines[0, 1:], lines[1:, 0] = 0, rows[0], 2  # filters: none, and the difference from the row above
        np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
        packed = packer.compress(lines)
        check = zlib.crc32(packed, check)
        out.write(packed)
    packed = packer.flush()
    out.write(packed + struct.pack(">I", zlib.crc32(packed, check)))
    length = out.tell() - begin - 12
    out.write(_chunk(b"IEND", b""))
    out.seek(begin)
    out.write(struct.pack(">I", length))
    return out.getvalue()


def _png(values: np.ndarray, profile: bytes | None = None) -> bytes:
    """Encode pixels of 16 bits with a profile."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1).view("uint8")
    lines = np.concatenate([np.zeros((height, 1), "uint8"), rows], axis=1)  # filter 0
    channels = values.shape[2] if values.ndim == 3 else 1
    named = ((b"iCCP", b"ICC\x00\x00" + zlib.compress(profile)),) if profile and values.ndim == 3 else ()
    head = (b"IHDR", _png_head(width, height, 16, channels))
    chunks = (head, *named, (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*one) for one in chunks)


def _png_head(width: int, height: int, bits: int, channels: int) -> bytes:
    return struct.pack(">IIBBBBB", width, height, bits, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
