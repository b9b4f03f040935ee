"""One row of an image set's table for one file, from its header and hash, whether the graph decodes it or not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tlkit.data.convert import Unreadable, needs_conversion, read_header
from tlkit.data.headers import TINY, read_row
from tlkit.data.images import problem
from tlkit.data.sources.item import _Found


def row_of(root: Path, found: _Found, findings: list[dict[str, str]]) -> dict[str, Any] | None:
    """One file's table row. None if it cannot be used; the reason goes to `findings`.

    A file that the graph does not decode, and that `tlkit.data.convert` reads, is used, and noted as converted.
    """
    named: list[dict[str, str]] = []
    row = read_row(root, found, named)
    data = b"" if row is not None else _bytes(root / found.path)
    if not needs_conversion(data):
        findings += named
        return row
    try:
        header = read_header(data)
    except Unreadable as reason:
        findings.append(problem(found.path, found.label, reason.kind, reason.detail))
        return None
    findings.append(problem(found.path, found.label, "converted", header.detail))
    if min(header.width, header.height) < TINY:
        detail = f"{header.width} x {header.height} pixels, too few to show much; enlarged"
        findings.append(problem(found.path, found.label, "tiny", detail))
    return {
        "path": found.path,
        "label": found.label,
        "split": found.split,
        "group": found.group,
        "sha256": hashlib.sha256(data).hexdigest(),
        "format": header.format,
        "width": header.width,
        "height": header.height,
    }


def _bytes(file: Path) -> bytes:
    """A file's bytes; none if it is not a regular file or cannot be read."""
    try:
        return file.read_bytes() if file.is_file() else b""
    except OSError:
        return b""
