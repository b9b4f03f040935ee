"""One image that a source found, before its file is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlkit.errors import DataError
from tlkit.plan.job import PARTS

PART_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class _Found:
    path: str  # relative to the root, with forward slashes
    label: str
    part: str = ""
    group: str = ""


def _part_of(value: str, file: Path, number: int) -> str:
    part = PART_FOLDERS.get(value.strip().lower())
    if part is None:
        raise DataError(f"split is '{value}' in row {number} of '{file}'. Expected one of {', '.join(PARTS)}.")
    return part


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
