"""Checksums of the files of a run or an export, to find a file that changed after tlkit wrote it.

A finished run has a `manifest.json` with the size and the SHA-256 of each of its files, except those of its exports. An
export, which may be copied elsewhere, lists its own in its `tlkit.json` (see `tlkit.folders`). The manifest is a file
of its own, because plan.json and metrics.json are listed too, and files that come later, such as a report, change it.

Such a description is sealed: it carries a checksum of its own values, so that a flipped byte in it is not taken for one
in a file that it lists. Checksums find faults of disks and copies, and files that were edited. They do not find someone
who changes a file and the checksum.

A manifest is written before the file that it lists, and lists the one that this file replaces too. So a run that is
killed between the two is not taken for a damaged one.

SHA-256 took 0.6 ms of the processor for a megabyte (10 to 500 MB, by `benchmarks/byte_flips.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlkit.errors import RunError
from tlkit.files import locked, write_atomically
from tlkit.progress import log

MANIFEST = "manifest.json"
SEAL = "checksum"  # the key of a description's own checksum
_NAMED: set[Path] = set()  # damaged manifests that were named in the log


def sealed(values: Mapping[str, Any]) -> str:
    """JSON values as text, with a checksum of them, which `unsealed` compares.

    >>> unsealed(sealed({"size": 32}))
    {'size': 32}
    """
    return json.dumps({**values, SEAL: _seal(values)}, indent=2, ensure_ascii=False) + "\n"


def unsealed(text: str | bytes, *, required: bool = True) -> dict[str, Any]:
    """Read the values of `sealed`. Raises ValueError for text that is not JSON, or differs from its checksum.

    required: whether values without a checksum, as early versions wrote them, are an error too.
    """
    values = json.loads(text)
    if not isinstance(values, dict) or (required and SEAL not in values):
        raise ValueError("it holds no checksum")
    seal = values.pop(SEAL, None)
    if seal is not None and seal != _seal(values):
        raise ValueError("its checksum is not the one of its values")
    return values


def _seal(values: Mapping[str, Any]) -> str:
    """The SHA-256 of values, whatever their order, as they are read back from JSON."""
    as_read = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def digest(file: Path) -> dict[str, Any]:
    """The size of a file and its SHA-256, as a manifest lists them."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": stream.tell(), "sha256": found}


def digest_of(data: bytes) -> dict[str, Any]:
    """The size of a file's bytes and their SHA-256, as a manifest lists them."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@dataclass(frozen=True)
class Manifest:
    """The manifest of a run.

    Attributes:
        files: By name, "bytes" and "sha256" of each file, and "earlier", the SHA-256 of the file that it replaced.
        exports: The names of the exports in the run's folder.
        model: What of plan.json the trained model depends on: see `tlkit.runs.folder`.
    """

    files: dict[str, dict[str, Any]]
    exports: tuple[str, ...] = ()
    model: dict[str, Any] | None = None

    def agrees(self, name: str, found: Mapping[str, Any]) -> bool:
        """Whether a file is the one that was written. found: of `digest`. True for a file that is not listed."""
        listed = self.files.get(name)
        return listed is None or found["sha256"] in (listed["sha256"], listed.get("earlier"))

    def write(self, folder: Path) -> None:
        values = {"files": self.files, "exports": list(self.exports), "model": self.model}
        write_atomically(folder / MANIFEST, sealed(values))


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a run. None if it has none. Raises ValueError if it is damaged."""
    try:
        values = unsealed((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    try:
        return Manifest(values["files"], tuple(values["exports"]), values["model"])
    except (KeyError, TypeError):
        raise ValueError("it is not a manifest") from None


def known_manifest(folder: Path) -> Manifest | None:
    """As `read_manifest`, but a damaged one is named in the log, and is None, as the files may be sound."""
    try:
        return read_manifest(folder)
    except ValueError as error:
        if folder not in _NAMED:
            log.warning(
                f"'{folder / MANIFEST}' is damaged ({error}): the files of the run are not verified. "
                "If the run is to be kept, remove that file."
            )
        _NAMED.add(folder)
        return None


def check_file(folder: Path, name: str, data: bytes | None = None) -> None:
    """Raise RunError if a run's file is not the one that the run's manifest lists.

    data: its bytes, if they were read already.
    """
    manifest = known_manifest(folder)
    if manifest is None or name not in manifest.files:
        return
    if not manifest.agrees(name, digest(folder / name) if data is None else digest_of(data)):
        raise RunError(
            f"'{folder / name}' has changed since the run was finished: its SHA-256 is not the one in {MANIFEST}. "
            f"Restore it from a copy, or repeat the run with `tlkit finetune {folder}/plan.json`. If you changed it on "
            f"purpose, remove '{folder / MANIFEST}': the run is then used without being verified."
        )


def note_files(folder: Path, files: Mapping[str, bytes], exports: Iterable[str] = ()) -> None:
    """List files in a run's manifest before they are written, and exports. Does nothing for a run without a manifest.

    files: bytes by name.
    """
    if not (folder / MANIFEST).is_file():
        return
    with locked(folder):
        manifest = known_manifest(folder)
        if manifest is None:
            return
        listed = dict(manifest.files)
        for name, data in files.items():
            new, old = digest_of(data), listed.get(name)
            earlier = {"earlier": old["sha256"]} if old and old["sha256"] != new["sha256"] else {}
            listed[name] = new | earlier
        names = tuple(dict.fromkeys((*manifest.exports, *exports)))
        Manifest(listed, names, manifest.model).write(folder)
