"""Verifies that the files of a run, an export or the caches are as they were written."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.backbones.learning import FILE as WEIGHTS
from tlkit.backbones.learning import is_sound
from tlkit.cache import VERIFIED_AT_ONCE, Cache, CacheEntry, Shard, checksums, clear_left, is_early, open_shard
from tlkit.errors import RunError
from tlkit.folders import DESCRIPTION, PLAN, foreign_files, own_manifest, read_description, run_files
from tlkit.folders import exports_in as found_exports
from tlkit.manifest import MANIFEST, digest, read_manifest, unsealed
from tlkit.words import counted

CACHE = "cache"


@dataclass
class Verified:
    """What `verify` found. Files are named relative to `path`.

    Attributes:
        path: The run, the export, or the folder of the caches.
        kind: "run", "export" or "cache".
        files: How many files were compared with their checksums.
        rows: How many rows of caches were.
        bytes: Their size.
        damaged: Files that are not as they were written. Of a cache, what was damaged has been struck off.
        missing: Files that are gone.
        foreign: Files that tlkit did not write.
        notes: What could not be verified, and why.
    """

    path: Path
    kind: str
    files: int = 0
    rows: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged, missing or foreign."""
        return not (self.damaged or self.missing or self.foreign)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        names = ("kind", "files", "rows", "bytes", "damaged", "missing", "foreign", "notes")
        return {"path": str(self.path), "ok": self.ok, **{name: getattr(self, name) for name in names}}

    def compare(self, name: str, file: Path, listed: dict[str, Any]) -> None:
        """Compare a file with what a manifest lists of it."""
        if not file.is_file():
            self.missing.append(name)
            return
        found = digest(file)
        self.files, self.bytes = self.files + 1, self.bytes + found["bytes"]
        if found["sha256"] not in (listed["sha256"], listed.get("earlier")):
            self.damaged.append(name)


def verify(path: str | Path) -> Verified:
    """Compare every file of a run, an export or the caches with the checksum with which it was written.

    Args:
        path: A run's or an export's folder; or "cache" for all caches (see `tlkit.cache.cache_folder`), unless the
            working directory has a run or an export of that name. Rows of caches that are damaged, and other damaged
            files of caches, are removed from them, so that they are computed again.

    Returns:
        What is damaged, missing, or not tlkit's. Runs and exports of earlier versions have no checksums, or not of all
        files: a note says so.

    Raises:
        RunError: The folder is none of these.
    """
    folder = Path(path)
    listed = None
    with contextlib.suppress(ValueError):
        listed = read_manifest(folder)
    if own_manifest(folder, PLAN) or (listed is not None and PLAN in listed.files):
        return _verify_run(Verified(folder, "run"))
    if (folder / DESCRIPTION).is_file():
        return _verify_export(Verified(folder, "export"), folder)
    if str(path) == CACHE:
        return _verify_caches(Cache())
    raise RunError(
        f"'{folder}' is neither a run nor an export of tlkit's. Expected a folder with {PLAN} or {DESCRIPTION}, or the "
        f"word {CACHE} for the caches."
    )


def _verify_run(found: Verified) -> Verified:
    folder = found.path
    found.foreign += foreign_files(folder, PLAN)
    exports = found_exports(folder)
    try:
        manifest = read_manifest(folder)
    except ValueError:
        manifest = None
        found.damaged.append(MANIFEST)
        found.notes.append(f"without {MANIFEST}, the files of the run cannot be verified")
    else:
        if manifest is None:
            finished = (folder / "metrics.json").is_file()
            why = "an earlier version made it" if finished else "it did not finish"
            found.notes.append(f"the run has no {MANIFEST}, as {why}: only its exports can be verified")
    if manifest is not None:
        for name, listed in manifest.files.items():
            found.compare(name, folder / name, listed)
        found.foreign += [name for name in run_files(folder) if name not in manifest.files]
        exports = tuple(dict.fromkeys((*manifest.exports, *exports)))
    if PLAN in found.damaged:
        found.notes.append(f"{PLAN} may also have been edited: it is then the plan of a new run, not of this one")
    for name in exports:
        if (folder / name).is_dir():
            _verify_export(found, folder / name, f"{name}/")
        else:
            found.missing.append(f"{name}/")
    return found


def _verify_export(found: Verified, folder: Path, prefix: str = "") -> Verified:
    """Verify an export. prefix: of its files' names."""
    try:
        description = read_description(folder)
    except RunError:
        (found.damaged if (folder / DESCRIPTION).is_file() else found.missing).append(prefix + DESCRIPTION)
        return found
    for name, listed in description.get("checksums", {}).items():
        found.compare(prefix + name, folder / name, listed)
    if "checksums" not in description:
        found.notes.append(f"'{folder}' has no checksums, as an earlier version made it: it cannot be verified")
    found.foreign += [prefix + name for name in foreign_files(folder, DESCRIPTION)]
    return found


def _verify_caches(cache: Cache) -> Verified:
    found = Verified(cache.folder, CACHE)
    for entry in cache.entries():
        clear_left(entry.folder)
        with contextlib.suppress(FileNotFoundError):  # another process clears it
            _verify_entry(found, entry)
    if found.damaged:
        found.notes.append("what was damaged is no longer in the caches, and is computed again when it is needed")
    return found


def _verify_entry(found: Verified, entry: CacheEntry) -> None:
    name = entry.folder.relative_to(found.path).as_posix()
    found.foreign += [f"{name}/{one}" for one in entry.foreign()]
    safety, weights = entry.folder / "safety.json", entry.folder / WEIGHTS
    for index in sorted(entry.folder.glob("*.json")):
        if index.with_suffix(".npy").is_file():
            _verify_shard(found, index, f"{name}/{index.stem}")
    for file, sound in ((safety, _is_sealed), (weights, is_sound)):
        if file.is_file():
            found.files, found.bytes = found.files + 1, found.bytes + file.stat().st_size
            if not sound(file):
                found.damaged.append(f"{name}/{file.name}")
                file.unlink(missing_ok=True)


def _is_sealed(file: Path) -> bool:
    try:
        unsealed(file.read_bytes(), required=False)  # early ones had no checksum, and are not used
    except ValueError:
        return False
    return True


def _verify_shard(found: Verified, index: Path, name: str) -> None:
    """Verify the rows of a shard, strike off those that are damaged, or remove it if nothing of it can be read."""
    if is_early(index):
        found.notes.append(f"{name} has no checksums, as an earlier version made it: it is not used any more")
        return
    shard = open_shard(index)
    if shard is None:
        if index.is_file() and index.with_suffix(".npy").is_file():
            found.damaged.append(f"{name}: all of it")
            for file in (index, index.with_suffix(".npy")):
                file.unlink(missing_ok=True)
        return
    damaged = _damaged_rows(shard)
    found.files, found.rows = found.files + 1, found.rows + len(shard.keys)
    found.bytes += shard.rows[: len(shard.keys)].nbytes
    if len(damaged):
        found.damaged.append(f"{name}: {counted(len(damaged), 'row')} of {len(shard.keys):,}")
        shard.strike(damaged)


def _damaged_rows(shard: Shard) -> np.ndarray:
    """The places of rows that differ from their checksums, also of those that were sound when they were read."""
    places = np.flatnonzero([key is not None for key in shard.keys])
    at_once = max(1, VERIFIED_AT_ONCE // max(1, shard.rows[:1].nbytes))
    wrong = [np.empty(0, int)]
    for start in range(0, len(places), at_once):
        some = places[start : start + at_once]
        wrong.append(some[checksums(shard.rows[some]) != shard.sums[some]])
    return np.concatenate(wrong)
