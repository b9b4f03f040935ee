"""One image found by a source, before its file is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlkit.errors import DataError
from tlkit.plan.job import PARTS

SPLIT_FOLDERS = {  # folder name, or value of a CSV's column split -> split
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
    split: str = ""
    group: str = ""


def _split_named(value: str, file: Path, number: int) -> str:
    """The split that a value in row `number` of a CSV names. Raises DataError for any other value."""
    split = SPLIT_FOLDERS.get(value.strip().lower())
    if split is None:
        raise DataError(f"split is '{value}' in row {number} of '{file}'. Expected one of {', '.join(PARTS)}.")
    return split


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
