"""What a file is, by its bytes: format, size, what the image needs, or the reason why it cannot be used.

Nothing is decoded, except to see whether an alpha channel holds a transparent pixel. Lengths in a file are never
believed: nothing is read past its end.
"""

from __future__ import annotations

import contextlib
import enum
import io
import stat
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlkit.data.foreign import foreign
from tlkit.data.limits import MAX_FILE_BYTES, MAX_JPEG_PIXELS, MAX_PIXELS
from tlkit.data.parsing import PARSERS, Parsed, Unreadable, jpeg_is_cut

if TYPE_CHECKING:
    from tlkit.data.sources.member import Root

_SIGNATURES = (  # first bytes, format: what the graph decodes; WebP beside them
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
)
TINY = 16  # pixels of the shorter side below which an image is named
Notes = tuple[tuple[str, str], ...]  # (kind, detail) of each change that the image needs


class Status(enum.Enum):
    """What can become of a file."""

    DECODES = "the graph decodes it"
    CONVERT = "the graph cannot decode it; Pillow may"
    REFUSED = "neither decodes it"


@dataclass(frozen=True)
class Verdict:
    """What a file is, by its bytes. See `examine`.

    status: who decodes it.
    format: "jpeg", "png", "gif", "bmp", "webp", "tiff", "heic", "avif", "jpeg2000", "pnm", "tga", "ico" ...; "" for no
        image.
    reason: unless the status is DECODES: what it is, in words that end a sentence: "TIFF", "a BMP of 4 bits a pixel",
        "a JPEG of 12 bits a sample", "an XYB colour profile".
    problem: the kind of problem (a key of `PROBLEMS`) if the file is left out: "unsupported-format", "truncated" ...
    width, height: pixels as stored; 0 where only a decoder of the format can tell (status CONVERT).
    notes: (kind, detail) of each change that the image needs if the graph decodes it.
    """

    status: Status
    format: str
    reason: str = ""
    problem: str = ""
    width: int = 0
    height: int = 0
    notes: tuple[tuple[str, str], ...] = ()


def image_format(head: bytes) -> str | None:
    """The format by a file's first bytes: jpeg, png, gif, bmp or webp; None for any other."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def looks_truncated(data: bytes, kind: str) -> bool:
    """Whether the end of an image file is missing, by its format's end marker or length field."""
    if kind == "jpeg":
        return jpeg_is_cut(data)
    if kind == "png":
        return b"IEND" not in data
    if kind == "gif":
        return not data.rstrip(b"\x00").endswith(b";")
    if kind == "bmp":
        return len(data) < int.from_bytes(data[2:6], "little") or len(data) < 54
    if kind == "webp":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def examine(data: bytes, *, look: bool = False) -> Verdict:
    """What a file is, from all its bytes. Never raises.

    look: whether an alpha channel is decoded, to name only images that have a transparent pixel.
    """
    if not data:
        return Verdict(Status.REFUSED, "", "0 bytes", "empty-file")
    kind = image_format(data[:16])
    if kind is None:
        return _other(data[:512])
    try:
        parsed = PARSERS[kind](data)
    except Unreadable as reason:
        status = Status.CONVERT if reason.convertible else Status.REFUSED
        return Verdict(status, kind, reason.detail, reason.kind, reason.width, reason.height)
    except (struct.error, IndexError, ValueError):
        return Verdict(Status.REFUSED, kind, "the end of the file is missing", "truncated")
    limit = MAX_JPEG_PIXELS if kind == "jpeg" and not parsed.progressive else MAX_PIXELS
    width, height = parsed.width, parsed.height
    if width * height > limit:
        detail = f"{width} x {height} pixels; at most {limit // 1_000_000} megapixels are decoded"
        return Verdict(Status.REFUSED, kind, detail, "too-large", width, height)
    notes = _notes(data, parsed, look)
    return Verdict(Status.DECODES, kind, width=width, height=height, notes=notes)


def why_not(data: bytes, detail: str = "") -> tuple[str, str]:
    """(problem, detail) for a file that does not decode. detail: what is said if its header shows no fault."""
    verdict = examine(data)
    if verdict.status is Status.DECODES:
        if looks_truncated(data, verdict.format):
            return "truncated", "the end of the file is missing"
        return "corrupt", detail or f"the {verdict.format} data do not decode"
    return verdict.problem, verdict.reason


def _other(head: bytes) -> Verdict:
    """What a file is that is in no format of the graph."""
    if (found := foreign(head)) is not None:
        detail = f"{found.name}: {found.remedy}" if found.remedy else found.name
        return Verdict(Status.CONVERT if found.format else Status.REFUSED, found.format, detail, found.problem)
    supported = "expected JPEG, PNG, GIF, BMP or WebP"
    detail = f"its first bytes are {head[:4].hex(' ')}; {supported}" if any(head) else "it holds only zeros"
    return Verdict(Status.REFUSED, "", detail, "not-an-image")


def _notes(data: bytes, parsed: Parsed, look: bool) -> Notes:
    notes = list(parsed.notes)
    if parsed.alpha and (not look or _has_transparent_pixel(data)):
        notes.append(("transparent", "composited over white"))
    if parsed.orientation > 1:
        notes.append(("exif-rotated", f"turned upright (orientation {parsed.orientation})"))
    if parsed.profile:
        notes.append(("colour-profile", f"converted from {parsed.profile} to sRGB"))
    if min(parsed.width, parsed.height) < TINY:
        notes.append(("tiny", f"{parsed.width} x {parsed.height} pixels, too few to show much; enlarged"))
    return tuple(notes)


def _has_transparent_pixel(data: bytes) -> bool:
    """Whether any pixel is not opaque; true if that cannot be seen."""
    from PIL import Image

    with _pillow_without_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.format == "PNG" and isinstance(key := image.info.get("transparency"), int | tuple):
                    bits = data[24]  # of the key colour too, which Pillow compares with values of 8 bits
                    if bits == 16:
                        return True
                    if isinstance(key, int) and image.mode == "L":
                        image.info["transparency"] = key * 255 // (2**bits - 1)
                alpha = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
                return bool(alpha.getchannel("A").getextrema()[0] < 255)
        except Exception:  # Pillow raises many kinds; whether the file decodes is not for this to judge
            return True


@contextlib.contextmanager
def _pillow_without_limit() -> Iterator[None]:
    """Lift Pillow's own size limit. Ours is checked before."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# -- files ------------------------------------------------------------------------------------------------


class LeftOut(Exception):
    """A file that cannot be used. kind, detail: as in `tlkit.data.images.problem`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


def bytes_of(file: Root) -> bytes:
    """A file's bytes; the first ones only, if it is nothing that is used. Raises LeftOut if it cannot be read."""
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):
            raise LeftOut("not-an-image", "not a regular file")
        with file.open("rb") as stream:
            head = stream.read(512)
            if _other_is_refused(head):
                return head
            if about.st_size > MAX_FILE_BYTES:
                shown = f"{about.st_size / 2**20:,.0f} MiB; files of at most {MAX_FILE_BYTES // 2**20} MiB are read"
                raise LeftOut("too-large", shown)
            stream.seek(0)  # a large file is not held twice
            return stream.read()
    except FileNotFoundError as error:
        if file.is_symlink():
            raise LeftOut("broken-link", "the link leads nowhere") from error
        raise LeftOut("missing-file", "no such file") from error
    except OSError as error:
        reason = "symlink-loop" if file.is_symlink() else "unreadable"
        raise LeftOut(reason, error.strerror or str(error)) from error


def _other_is_refused(head: bytes) -> bool:
    return image_format(head) is None and _other(head).status is Status.REFUSED
