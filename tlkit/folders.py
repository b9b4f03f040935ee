"""The files of a run's or an export's folder, and when such a folder may be replaced.

A folder may be replaced only if it has tlkit's own description and contains nothing but the files of such a run or
export. Otherwise the command fails before it changes anything, and names what is in the way. Links are never followed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tlkit.errors import RunError
from tlkit.files import contents, temporary_beside, write_atomically
from tlkit.manifest import MANIFEST, digest, sealed, unsealed

PLAN = "plan.json"
DESCRIPTION = "tlkit.json"  # of an export
BESIDE = ("client.py", "check.json", "README.md")  # files of an export that are for other programs

REPORT_FILES = (
    "mistakes.csv",
    "label_errors.csv",
    "duplicates.csv",
    "outliers.csv",
    "report.json",
    "report.html",
)
EXPORTED = "exports.csv"
# that only some runs have: folders that `tlkit export` added and their table, the module of a SavedModel backbone, and
# what was trained without the validation images if the model was trained on them too
JUDGED = ("judged_head.npz", "judged.keras")
KNOWN = "known.npz"  # see `tlkit.evaluation.known.Known`
CARD = "README.md"  # see `tlkit.reporting.card`
CHECKPOINTS = "checkpoints"  # of a run that is not finished, see `tlkit.checkpoints`
OPTIONAL_FILES = (
    *("litert", "litert-float16", "litert-int8", "onnx", "openvino", "keras"),
    EXPORTED,
    "modules",
    *JUDGED,
    KNOWN,
    CARD,
    CHECKPOINTS,
    "fair.csv",  # of a run with `fair_to`
    "slices.csv",  # of a report, see `tlkit.slices`
)
FILES = (
    PLAN,
    "split.csv",
    "problems.csv",
    "history.csv",
    "model.keras",
    "predictions.csv",
    "saved_model",
    *REPORT_FILES,
    MANIFEST,
    "metrics.json",
)


def write_description(folder: Path, values: dict[str, Any]) -> None:
    """Write an export's `tlkit.json`: `values`, the names of all its files, which are replaced with it, and checksums.

    The names are under "files", and their sizes and SHA-256 under "checksums".
    """
    names = contents(folder)
    checksums = {name: digest(folder / name) for name in names if not name.endswith("/")}
    write_atomically(folder / DESCRIPTION, sealed({**values, "files": names, "checksums": checksums}))


def add_to_description(folder: Path, values: dict[str, Any]) -> None:
    """Add values to an export's `tlkit.json`."""
    known = unsealed((folder / DESCRIPTION).read_bytes(), required=False)
    write_atomically(folder / DESCRIPTION, sealed({**known, **values}))


def read_description(folder: Path) -> dict[str, Any]:
    """Read an export's `tlkit.json`. Raises RunError if there is none, or if it is damaged."""
    try:
        values = unsealed((folder / DESCRIPTION).read_bytes(), required=False)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"'{folder}' has no readable {DESCRIPTION}: {error}. Export the run again.") from None
    if any(key not in values for key in ("classes", "image_size", "fit")):
        raise RunError(f"'{folder / DESCRIPTION}' does not describe an export. Export the run again.")
    return values


def spoiled(folder: Path, description: dict[str, Any], passed_over: Collection[str] = ()) -> dict[str, str]:
    """Name the files of an export that are not as they were written, each with "damaged" or "missing".

    description: its `tlkit.json`. An export without checksums, as early versions wrote them, is taken as it is.
    """
    found = {}
    for name, listed in description.get("checksums", {}).items():
        if name in passed_over:
            continue
        try:
            if digest(folder / name) != listed:
                found[name] = "damaged"
        except FileNotFoundError:
            found[name] = "missing"
    return found


def check_export(folder: Path) -> None:
    """Raise RunError if a file that an export's model needs is not as it was written.

    Those beside it, such as README.md, may be edited. An export without a `tlkit.json`, which tlkit did not write, is
    not verified.
    """
    if not (folder / DESCRIPTION).is_file():
        return
    for name, what in spoiled(folder, read_description(folder), passed_over=BESIDE).items():
        raise RunError(
            f"'{folder / name}' is {what}: it is not the file that was exported, as {DESCRIPTION} lists its SHA-256. "
            "Export the run again."
        )


_KEYS = {PLAN: ("tlkit", "recipe", "classes"), DESCRIPTION: ("classes", "image_size", "fit", "input")}
_EXPORTS = ("saved_model", "litert", "litert-float16", "litert-int8", "onnx", "openvino", "keras")
_KILLED = r"\.(?:tmp|old)-[0-9a-f]{8}-"  # prefix of files that a killed process left behind: see `tlkit.files`
_LEFT = re.compile(f"(?:{_KILLED})+(.+)")  # an export is written inside a temporary folder of its own
_MODULE = re.compile(
    rf"modules/(|({_KILLED})?[0-9a-f]{{16}}/(|saved_model\.pb|tfhub_module\.pb|(variables|assets)/.*))"
)
_CHECKPOINT = re.compile(rf"{CHECKPOINTS}/(|lock|({_KILLED})?(progress\.json|[\w.-]+-\d+\.(json|npz)))")
_SAVED_MODEL = re.compile(r"saved_model\.pb|fingerprint\.pb|assets/|variables/variables\.(index|data-\d{5}-of-\d{5})")


@contextlib.contextmanager
def until_proved(folder: Path) -> Iterator[Path]:
    """Yield a path beside `folder` to write and prove an export at; rename it to `folder` if the block succeeds.

    If the block fails, what was written is removed, so that a refused export does not answer, and an earlier export in
    `folder` is kept. Raises RunError, before and after the block, if `folder` holds anything but an export.
    """
    check_replaceable(folder, DESCRIPTION)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(folder) as unproved:
        yield unproved
        check_replaceable(folder, DESCRIPTION)


@contextlib.contextmanager
def removed_unless_proved(folder: Path) -> Iterator[None]:
    """Remove an export that is already in its place if the block, which proves it, fails."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def own_manifest(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the values of a folder's PLAN or DESCRIPTION, or None if there is none that tlkit wrote."""
    file = folder / name
    try:
        values = None if file.is_symlink() else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or any(key not in values for key in _KEYS[name]):
        return None
    return values if name != PLAN or isinstance(values.get("job", values.get("settings")), dict) else None


def check_replaceable(folder: Path, manifest: str) -> None:
    """Raise RunError unless a folder is missing, empty, or contains only the files of a run or an export.

    Args:
        folder: the folder to be replaced.
        manifest: PLAN for a run, DESCRIPTION for an export.
    """
    what = {PLAN: "a run", DESCRIPTION: "an export"}[manifest]
    if folder.is_symlink():
        raise RunError(
            f"'{folder}' is a link to '{folder.readlink()}'. Expected a folder; give the one that it points to."
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"'{folder}' is a file. Expected a new or empty folder for {what}.")
    foreign = _foreign(folder, manifest)
    if foreign:
        named = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3:,} more" if len(foreign) > 3 else "")
        why = "" if own_manifest(folder, manifest) else f" (it has no {manifest} of tlkit's)"
        raise RunError(
            f"'{folder}' holds files that are not {what}'s{why}: {named}. Nothing was changed. "
            "Move them away, or give a new or empty folder."
        )
    if manifest == DESCRIPTION:
        _check_movable(folder)


def _foreign(folder: Path, manifest: str) -> list[str]:
    """List the files that do not belong to a folder's run or export; all of them if its description is not tlkit's."""
    names = [name for name in contents(folder) if name.rpartition("/")[2] != ".DS_Store"]
    known = own_manifest(folder, manifest)
    if manifest == PLAN:
        inside = {f"{one}/{name}" for one in _EXPORTS for name in _foreign(folder / one, DESCRIPTION)}
        lock = f"{CHECKPOINTS}/lock"  # all that a full disk leaves of a run that just began; empty
        ours = {lock} if lock in names and not (folder / lock).stat().st_size else set()
        return [name for name in names if not _is_of_run(name, inside) or not (known or _is_left(name) or name in ours)]
    if known is None:
        return names
    listed = known.get("files")
    if isinstance(listed, list):
        return [name for name in names if name != DESCRIPTION and name not in listed]
    # an export without a list of files, as early versions wrote them
    own = (DESCRIPTION, known.get("file"), *(BESIDE if "preprocessing" in known else ()))
    return [
        name for name in names if name not in own and not (_MODULE if "file" in known else _SAVED_MODEL).fullmatch(name)
    ]


def run_files(folder: Path) -> list[str]:
    """List the files that a run's manifest lists: all but those of exports and checkpoints, and what was left."""
    names = (name for name in contents(folder) if not name.endswith("/") and name != MANIFEST)
    elsewhere = (*_EXPORTS, CHECKPOINTS)
    names = (name for name in names if name.partition("/")[0] not in elsewhere and not _is_left(name))
    return [name for name in names if _is_of_run(name, set())]


def exports_in(folder: Path) -> tuple[str, ...]:
    """The names of the exports in a run's folder."""
    return tuple(name for name in _EXPORTS if (folder / name / DESCRIPTION).is_file())


def foreign_files(folder: Path, manifest: str) -> list[str]:
    """List the files of a run or an export that do not belong there, except inside the exports of a run.

    manifest: PLAN for a run, DESCRIPTION for an export. If that file is damaged, of an export nothing is foreign.
    """
    if manifest == PLAN:
        names = [name for name in contents(folder) if name.rpartition("/")[2] != ".DS_Store"]
        return [name for name in names if not _is_of_run(name, set())]
    return _foreign(folder, manifest) if own_manifest(folder, manifest) else []


def _is_of_run(name: str, foreign_inside: set[str]) -> bool:
    """Whether a file belongs to a run. foreign_inside: files in its exports' folders that do not belong there."""
    first = name.partition("/")[0]
    if first in _EXPORTS:
        return name != first and name not in foreign_inside
    known = name in (*FILES, *JUDGED, KNOWN, EXPORTED, CARD) or _is_left(name)
    return known or bool(_MODULE.fullmatch(name) or _CHECKPOINT.fullmatch(name))


def _is_left(name: str) -> bool:
    """Whether a file in a run's folder was left by a killed process."""
    left = _LEFT.fullmatch(name.partition("/")[0])
    return left is not None and left[1] in (*FILES, *OPTIONAL_FILES)


def _check_movable(folder: Path) -> None:
    """Raise RunError if the folder cannot be renamed: the working directory, a parent of it, or a mount point."""
    resolved, here = folder.resolve(), Path.cwd()
    if os.path.ismount(resolved) or resolved in (here, *here.parents):
        raise RunError(
            f"'{folder}' is where this command runs, or where a disk is mounted, and cannot be replaced as a whole. "
            "Run it from elsewhere, or give another folder."
        )
