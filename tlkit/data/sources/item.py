"""One image found by a source, before its file is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
