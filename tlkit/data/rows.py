"""One row of an image set's table for one file, from its bytes, whether the graph decodes it or not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tlkit.data.convert import Unreadable, read_header
from tlkit.data.headers import TINY, LeftOut, Notes, Status, bytes_of, examine
from tlkit.data.images import problem
from tlkit.data.sources.item import _Found


def row_of(root: Path, found: _Found, findings: list[dict[str, str]]) -> dict[str, Any] | None:
    """One file's table row. None if it cannot be used; the reason goes to `findings`.

    A file that the graph does not decode, and that `tlkit.data.convert` reads, is used, and noted as converted.
    """
    try:
        data = bytes_of(root / found.path)
        kind, width, height, notes = _header(data)
    except (LeftOut, Unreadable) as reason:
        findings.append(problem(found.path, found.label, reason.kind, reason.detail))
        return None
    findings.extend(problem(found.path, found.label, note, detail) for note, detail in notes)
    return {
        "path": found.path,
        "label": found.label,
        "split": found.split,
        "group": found.group,
        "sha256": hashlib.sha256(data).hexdigest(),
        "format": kind,
        "width": width,
        "height": height,
        "more": found.more,
    }


def _header(data: bytes) -> tuple[str, int, int, Notes]:
    """Format, width, height and notes. Raises LeftOut or Unreadable for a file that cannot be used."""
    verdict = examine(data, look=True)
    if verdict.status is Status.REFUSED:
        raise LeftOut(verdict.problem, verdict.reason)
    if verdict.status is Status.DECODES:
        return verdict.format, verdict.width, verdict.height, verdict.notes
    header = read_header(data)
    notes = [("converted", header.detail)]
    if min(header.width, header.height) < TINY:
        notes.append(("tiny", f"{header.width} x {header.height} pixels, too few to show much; enlarged"))
    return header.format, header.width, header.height, tuple(notes)
