"""Reads file headers: format, size and orientation, or what else the file is. Decodes no pixels."""

from __future__ import annotations

import hashlib
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlkit.data.foreign import foreign
from tlkit.data.images import problem
from tlkit.data.limits import MAX_JPEG_PIXELS, MAX_PIXELS
from tlkit.data.sources.item import _Found

# first bytes -> format
_SIGNATURES = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
)


def looks_truncated(data: bytes, kind: str) -> bool:
    """Whether the end of an image file is missing, by its format's end marker or length field."""
    if kind == "jpeg":
        return b"\xff\xd9" not in data[-4096:]
    if kind == "png":
        return b"IEND" not in data[-64:]
    if kind == "gif":
        return not data.rstrip(b"\x00").endswith(b";")
    if kind == "bmp":
        return len(data) < int.from_bytes(data[2:6], "little") or len(data) < 54
    if kind == "webp":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def image_format(head: bytes) -> str | None:
    """The format by a file's first bytes: jpeg, png, gif, bmp or webp; None for any other."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


class _LeftOut(Exception):
    """A file that cannot be used. kind, detail: as in `tlkit.data.images.problem`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


TINY = 16  # pixels of the shorter side below which an image is named
Notes = list[tuple[str, str]]  # (kind, detail) of each change that the image needs


def read_row(root: Path, found: _Found, findings: list[dict[str, str]]) -> dict[str, Any] | None:
    """One file's table row, from its header and hash. None if it cannot be used; the reason goes to `findings`."""
    file = root / found.path
    try:
        kind, head, digest = _identify(file)
        width, height, notes = _size_and_notes(file, kind, head)
    except _LeftOut as reason:
        findings.append(problem(found.path, found.label, reason.kind, reason.detail))
        return None
    findings.extend(problem(found.path, found.label, note, detail) for note, detail in notes)
    return {
        "path": found.path,
        "label": found.label,
        "split": found.split,
        "group": found.group,
        "sha256": digest,
        "format": kind,
        "width": width,
        "height": height,
    }


def _identify(file: Path) -> tuple[str, bytes, str]:
    """A file's format, first bytes and SHA-256. Raises _LeftOut if it is not an image or cannot be read."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise _LeftOut("not-an-image", "not a regular file")
        with file.open("rb") as stream:
            head = stream.read(512)
            kind = image_format(head)
            if kind is None:
                raise _LeftOut(*what_else(head))
            stream.seek(0)
            return kind, head, hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        if file.is_symlink():
            raise _LeftOut("broken-link", "the link leads nowhere") from error
        raise _LeftOut("missing-file", "no such file") from error
    except OSError as error:
        reason = "symlink-loop" if file.is_symlink() else "unreadable"
        raise _LeftOut(reason, error.strerror or str(error)) from error


def _size_and_notes(file: Path, kind: str, head: bytes) -> tuple[int, int, Notes]:
    """Width and height in pixels, and notes. Raises _LeftOut for a damaged header or too many pixels."""
    try:
        width, height, notes = _header(file, kind, head)
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, OverflowError) as error:
        if looks_truncated(file.read_bytes(), kind):
            raise _LeftOut("truncated", "the end of the file is missing") from error
        raise _LeftOut("corrupt", str(error)) from error
    limit = MAX_JPEG_PIXELS if kind == "jpeg" else MAX_PIXELS
    if width * height > limit:
        detail = f"{width} x {height} pixels; at most {limit // 1_000_000} megapixels are decoded"
        raise _LeftOut("too-large", detail)
    if min(width, height) < TINY:
        notes = [*notes, ("tiny", f"{width} x {height} pixels, too few to show much; enlarged")]
    return width, height, notes


def _header(file: Path, kind: str, head: bytes) -> tuple[int, int, Notes]:
    from PIL import Image

    with _pillow_without_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file) as image:
            return *image.size, [*_mode_notes(image), *_FORMAT_NOTES[kind](image, head)]


def _mode_notes(image: Any) -> Notes:
    if image.mode == "CMYK":
        return [("cmyk", "converted to RGB without its colour profile")]
    if image.mode in ("L", "1", "I;16", "I", "LA"):
        return [("grey", "one channel, repeated to three")]
    return []


def _jpeg_notes(image: Any, head: bytes) -> Notes:
    orientation = _orientation(image)
    return [("exif-rotated", f"turned upright (orientation {orientation})")] if orientation > 1 else []


def _png_notes(image: Any, head: bytes) -> Notes:
    deep = head[24] == 16 or image.mode.startswith("I")
    notes = [("16-bit", "reduced to 8 bits per channel by dropping the lower byte")] if deep else []
    return [*notes, *_transparency_notes(image), *_orientation_notes(image)]


def _webp_notes(image: Any, head: bytes) -> Notes:
    if head[12:16] == b"VP8X" and head[20] & 2:
        raise _LeftOut("unsupported-format", "animated WebP is not read; save its first frame")
    return [*_transparency_notes(image), *_orientation_notes(image)]


def _gif_notes(image: Any, head: bytes) -> Notes:
    animated = getattr(image, "is_animated", False)
    return [*([("animated", "only the first frame is used")] if animated else []), *_orientation_notes(image)]


def _bmp_notes(image: Any, head: bytes) -> Notes:
    return _orientation_notes(image)


_FORMAT_NOTES = {  # format -> its notes
    "jpeg": _jpeg_notes,
    "png": _png_notes,
    "gif": _gif_notes,
    "bmp": _bmp_notes,
    "webp": _webp_notes,
}


def _transparency_notes(image: Any) -> Notes:
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    return [("transparent", "composited over white")] if transparent else []


def _orientation_notes(image: Any) -> Notes:
    orientation = _orientation(image)
    return [("orientation-ignored", f"orientation {orientation} is applied to JPEG only")] if orientation > 1 else []


def _orientation(image: Any) -> int:
    if "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises many kinds on broken EXIF; a broken tag means no rotation
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@contextmanager
def _pillow_without_limit() -> Iterator[None]:
    """Lift Pillow's own size limit. Ours is checked after the header is read."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def what_else(head: bytes) -> tuple[str, str]:
    """(problem, detail) for the first bytes of a file that is not an image in a supported format."""
    if not head:
        return "empty-file", "0 bytes"
    supported = "expected JPEG, PNG, GIF, BMP or WebP"
    if (found := foreign(head)) is not None:
        return found.problem, f"{found.name}: {found.remedy}" if found.remedy else found.name
    if not any(head):
        return "not-an-image", "it holds only zeros"
    return "not-an-image", f"its first bytes are {head[:4].hex(' ')}; {supported}"
