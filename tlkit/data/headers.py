"""What a file is, by its bytes: format, size, what the image needs, or the reason why it cannot be used.

Nothing is decoded, except to see whether an alpha channel holds a transparent pixel. Lengths in a file are never
believed: nothing is read past its end.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import io
import stat
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlkit.data.images import problem
from tlkit.data.limits import MAX_JPEG_PIXELS, MAX_PIXELS
from tlkit.data.parsing import PARSERS, Parsed, Unreadable
from tlkit.data.signatures import convertible, image_format, named
from tlkit.data.sources.item import _Found

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


def examine(data: bytes) -> Verdict:
    """What a file is, from all its bytes. Never raises."""
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
    notes = _notes(data, parsed)
    return Verdict(Status.DECODES, kind, width=width, height=height, notes=notes)


def why_not(data: bytes, detail: str = "") -> tuple[str, str]:
    """(problem, detail) for a file that does not decode. detail: what is said if its header shows no fault."""
    verdict = examine(data)
    if verdict.status is Status.DECODES:
        return "corrupt", detail or f"the {verdict.format} data do not decode"
    return verdict.problem, verdict.reason


def _other(head: bytes) -> Verdict:
    found = convertible(head)
    if found:
        return Verdict(Status.CONVERT, found[0], found[1], "unsupported-format")
    kind, detail = named(head)
    return Verdict(Status.REFUSED, kind, detail, "unsupported-format" if kind else "not-an-image")


def _notes(data: bytes, parsed: Parsed) -> Notes:
    notes = list(parsed.notes)
    if parsed.alpha and _has_transparent_pixel(data):
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


class _LeftOut(Exception):
    """A file that cannot be used. kind, detail: as in `tlkit.data.images.problem`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


def _read_file(root: Path, found: _Found, findings: list[dict[str, str]]) -> dict[str, Any] | None:
    """One file's table row, from its bytes. None if it cannot be used; the reason goes to `findings`."""
    try:
        data = _bytes_of(root / found.path)
        verdict = examine(data)
        if verdict.status is not Status.DECODES:
            raise _LeftOut(verdict.problem, verdict.reason)
    except _LeftOut as reason:
        findings.append(problem(found.path, found.label, reason.kind, reason.detail))
        return None
    findings.extend(problem(found.path, found.label, note, detail) for note, detail in verdict.notes)
    return {
        "path": found.path,
        "label": found.label,
        "split": found.split,
        "group": found.group,
        "sha256": hashlib.sha256(data).hexdigest(),
        "format": verdict.format,
        "width": verdict.width,
        "height": verdict.height,
    }


def _bytes_of(file: Path) -> bytes:
    """A file's bytes; the first ones only, if it is nothing that is used. Raises _LeftOut if it cannot be read."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise _LeftOut("not-an-image", "not a regular file")
        with file.open("rb") as stream:
            head = stream.read(512)
            used = image_format(head) or convertible(head)
            return head + stream.read() if used else head
    except FileNotFoundError as error:
        if file.is_symlink():
            raise _LeftOut("broken-link", "the link leads nowhere") from error
        raise _LeftOut("missing-file", "no such file") from error
    except OSError as error:
        reason = "symlink-loop" if file.is_symlink() else "unreadable"
        raise _LeftOut(reason, error.strerror or str(error)) from error
