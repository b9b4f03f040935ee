"""The rows of an image set's table, one for each file, from its bytes, whether the graph decodes it or not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tlkit.cluster import current
from tlkit.data.convert import Unreadable, read_header
from tlkit.data.headers import TINY, LeftOut, Notes, Status, bytes_of, examine
from tlkit.data.images import problem
from tlkit.data.sources.item import _Found
from tlkit.data.sources.member import Item, Root
from tlkit.errors import DataError

AT_ONCE = 64  # files that a worker looks at before it hands on what it found


def row_of(root: Root, found: _Found, findings: list[dict[str, str]]) -> dict[str, Any] | None:
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


def rows_of(root: Root, found: Iterable[_Found], findings: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The table rows of many files, in order; on a cluster if one is in use. See `row_of`.

    found: may append to `findings` while it is walked; what is found in a file then comes where it would come here.
    """
    workers = current()
    if workers is None:
        return [row for item in found if (row := row_of(root, item, findings)) is not None]
    before: list[int] = []  # how many findings there were when each file was taken

    def chunks() -> Iterator[tuple[Root, list[_Found]]]:
        chunk: list[_Found] = []
        for item in found:
            before.append(len(findings))
            chunk.append(item)
            if len(chunk) == AT_ONCE:
                yield root, chunk
                chunk = []
        if chunk:
            yield root, chunk

    looked = [one for chunk in workers.map_ordered(_looked, chunks()) for one in chunk]
    _check_seen(root, looked)
    merged: list[dict[str, str]] = []
    at = 0
    for position, (_, more) in zip(before, looked, strict=True):
        merged += [*findings[at:position], *more]
        at = position
    findings[:] = [*merged, *findings[at:]]
    return [row for row, _ in looked if row is not None]


def _looked(state: None, chunk: tuple[Root, list[_Found]]) -> list[tuple[dict[str, Any] | None, list[dict[str, str]]]]:
    """What a worker finds in some files: the row of each, and its problems."""
    root, items = chunk
    result = []
    for item in items:
        problems: list[dict[str, str]] = []
        result.append((row_of(root, item, problems), problems))
    return result


def _check_seen(root: Root, looked: Sequence[tuple[dict[str, Any] | None, list[dict[str, str]]]]) -> None:
    """Raise DataError if workers do not find files that are here."""
    for row, problems in looked:
        if row is None and problems[0]["problem"] == "missing-file" and (root / problems[0]["path"]).is_file():
            raise DataError(not_shared(root / problems[0]["path"]))


def not_shared(file: Root | Item) -> str:
    """The message for a file that is here and that a worker of a cluster does not find."""
    return (
        f"The workers of the cluster do not find '{file}', which is on this machine. Give data in a folder that all "
        "machines share under the same path."
    )
