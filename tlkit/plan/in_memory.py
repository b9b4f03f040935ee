"""Data that a script holds in memory: what a plan says of it, since it has no path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tlkit.errors import DataError
from tlkit.plan.address import Address, is_address
from tlkit.words import counted

_KEY = "in_memory"  # of plan.json


@dataclass(frozen=True)
class InMemory:
    """Data that was given in memory, as `tlkit.from_arrays`, `from_dataframe` or `from_dataset` returns it.

    A plan that is read from plan.json has this description alone, without the images.

    name: for messages and for the name of a run's folder. images: how many there are.
    sha256: of all images with their labels and splits, whatever their order.
    root: the folder of the images, if these are files that stay; None if they lie in memory too.
    """

    name: str
    images: int
    sha256: str
    root: Path | None = None

    def __str__(self) -> str:
        return f"{self.name} ({counted(self.images, 'image')} in memory, content {self.sha256[:8]})"

    @property
    def folder(self) -> Path:
        """The folder of the image files. Raises DataError if the images lay in memory and are not here."""
        if self.root is None:
            raise DataError(
                f"The images of this run lay in memory, and are not kept in its folder: {self}. Give them again: "
                "tlkit.open_run(RUN, tlkit.from_arrays(...))."
            )
        return self.root

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON values, for plan.json."""
        root = None if self.root is None else str(self.root)
        return {_KEY: self.name, "images": self.images, "sha256": self.sha256, "root": root}


def data_from_json(value: Any) -> Any:
    """The data of a job from plan.json: the path as it stands, or an `InMemory` from the values of `to_dict`."""
    if not isinstance(value, Mapping) or _KEY not in value:
        return value
    root = value.get("root")
    return InMemory(str(value[_KEY]), int(value["images"]), str(value["sha256"]), Path(root) if root else None)


def needs_again(data: InMemory) -> str:
    """What is said of a plan whose data lay in memory, when it is to be repeated."""
    return (
        f"The data of this plan lay in memory, and is not kept in the run's folder: {data}. Give it again: "
        "tlkit.finetune(dataclasses.replace(tlkit.Job.read('RUN/plan.json'), data=DATA)), with DATA from "
        "tlkit.from_arrays, from_dataframe or from_dataset."
    )


def as_data(value: Any) -> Path | Address | InMemory:
    """Return a path, the address of data elsewhere, or data in memory as it is.

    Raises DataError for anything else, and says what it becomes data by.

    >>> as_data("birds") == Path("birds")
    True
    """
    if isinstance(value, InMemory | Address):
        return value
    if isinstance(value, str) and is_address(value):
        local = value.startswith("file://") and not urlsplit(value).netloc
        return Path(unquote(urlsplit(value).path)) if local else Address(value)
    if isinstance(value, str | os.PathLike):
        return Path(value)
    kind = type(value).__name__
    if kind == "DataFrame":
        way = "tlkit.from_dataframe(frame)"
    elif hasattr(value, "element_spec"):
        way = "tlkit.from_dataset(dataset, class_names)"
    else:
        way = "tlkit.from_arrays(x, y, class_names)"
    raise DataError(
        f"The data is of the type {kind}. Expected a folder, a table, an archive or an address. "
        f"Data in memory becomes data for tlkit by {way}."
    )
