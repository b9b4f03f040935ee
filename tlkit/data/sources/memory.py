"""Images that were given in memory, as a source of data."""

from __future__ import annotations

import hashlib
import shutil
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tlkit.data.sources.item import _Found
from tlkit.plan.in_memory import InMemory


class InMemoryImages(InMemory):
    """Images that were given in memory, with their labels. It goes wherever `tlkit` takes a path of data.

    found: one entry per image. findings: the problems found so far. class_names: in class order; () for alphabetical.
    """

    found: tuple[_Found, ...]
    findings: tuple[dict[str, str], ...]
    class_names: tuple[str, ...]

    def __init__(
        self,
        name: str,
        root: Path,
        found: Iterable[_Found],
        *,
        findings: Iterable[dict[str, str]] = (),
        class_names: Iterable[str] = (),
        keys: Iterable[str] = (),
        temporary: bool = False,
    ) -> None:
        found = tuple(found)
        rows = sorted(
            f"{key or one.path}\0{one.label}\0{one.split}\0{one.group}"
            for key, one in zip([*keys] or [""] * len(found), found, strict=True)
        )
        digest = hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()
        super().__init__(name, len(found), digest, root)
        for attribute, value in (
            ("found", found),
            ("findings", tuple(findings)),
            ("class_names", tuple(class_names)),
            ("temporary", temporary),
        ):
            object.__setattr__(self, attribute, value)
        if temporary:
            weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __deepcopy__(self, memo: Any) -> InMemoryImages:
        return self

    def __len__(self) -> int:
        return self.images

    def files(self) -> list[Path]:
        """The images as files. Of arrays these are PNGs, which are removed with this value."""
        return [self.folder / one.path for one in self.found]

    def to_dict(self) -> dict[str, Any]:
        """As in `InMemory`. The folder of arrays is left out, since it does not stay."""
        values = super().to_dict()
        return {**values, "root": None} if self.temporary else values  # type: ignore[attr-defined]
