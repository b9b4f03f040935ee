"""One image found by a source, before its file is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tlkit.data.sources.member import Root

SPLIT_FOLDERS = {  # folder name, or value of a CSV's column split -> split
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


class _Found(NamedTuple):
    """An image, before its file is read."""

    path: str  # relative to the root, with forward slashes
    label: str
    split: str = ""
    group: str = ""
    more: tuple[tuple[str, str], ...] = ()  # the table's further columns, each with this image's value


def _relative(path: Root, root: Root) -> str:
    return path.relative_to(root).as_posix()  # type: ignore[arg-type]
