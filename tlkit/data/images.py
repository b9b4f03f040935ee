"""The image set: a table of images and labels, and a table of every problem that was found.

No file is dropped in silence: whatever is not used, or not used as it is, gets a row in `ImageSet.problems`. Decodes nothing.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.errors import DataError, unknown
from tlkit.plan.job import PARTS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


TABLE_COLUMNS = ("path", "label", "split", "group", "sha256", "format", "width", "height")
PROBLEM_COLUMNS = ("path", "label", "problem", "severity", "action", "detail")

LEFT_OUT = "left out"  # the action of a problem whose image is not used

# problem -> (severity, action). A note loses nothing; a problem does, and `strict` makes it an error.
PROBLEMS: dict[str, tuple[str, str]] = {
    "system-file": ("note", "ignored"),
    "grey": ("note", "used"),
    "exif-rotated": ("note", "used"),
    "duplicate": ("note", "used"),
    "cmyk": ("problem", "used"),
    "16-bit": ("problem", "used"),
    "transparent": ("problem", "used"),
    "animated": ("problem", "used"),
    "orientation-ignored": ("problem", "used"),
    "group-across-parts": ("problem", "used"),
    "empty-file": ("problem", "left out"),
    "not-an-image": ("problem", "left out"),
    "unsupported-format": ("problem", "left out"),
    "truncated": ("problem", "left out"),
    "corrupt": ("problem", "left out"),
    "too-large": ("problem", "left out"),
    "missing-file": ("problem", "left out"),
    "unreadable": ("problem", "left out"),
    "no-label": ("problem", "left out"),
    "repeated-row": ("problem", "left out"),
    "two-labels": ("problem", "left out"),
    "duplicate-across-parts": ("problem", "left out"),
    "outside-class-folder": ("problem", "left out"),
    "symlink-loop": ("problem", "left out"),
    "broken-link": ("problem", "left out"),
    "empty-class": ("problem", "left out"),
    "class-too-small": ("problem", "left out"),
}


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels and parts, and what was wrong on the way.

    root: the folder that paths are relative to.
    table: one row per usable image: path, label, part ("train", "validation", "test" or "" before `split`), group,
        sha256 (of the file), format, width, height (pixels, as stored).
    class_names: sorted; an image's class number is its label's place here.
    problems: one row per finding: path, label, problem, severity, action, detail.
    """

    root: Path
    table: pd.DataFrame
    class_names: tuple[str, ...]
    problems: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    def part(self, *names: str) -> ImageSet:
        """Only the images of one part ("train", "validation", "test"), or of several behind each other, all class names kept.

        Raises NameUnknown for another part.
        """
        import pandas as pd

        for name in names:
            if name not in PARTS:
                raise unknown("part of the split", name, PARTS)

        rows = pd.concat([self.table[self.table["split"] == name] for name in names], ignore_index=True)
        return dataclasses.replace(self, table=rows)

    def take(self, places: Sequence[int]) -> ImageSet:
        """The images at some places, with all class names kept."""
        return dataclasses.replace(self, table=self.table.iloc[list(places)].reset_index(drop=True))

    def labels(self) -> np.ndarray:
        """Class numbers: int64, shape (n,)."""
        import numpy as np

        number = {name: i for i, name in enumerate(self.class_names)}
        return np.array([number[label] for label in self.table["label"]], dtype="int64")

    def groups(self) -> np.ndarray:
        """A number for what belongs together: equal groups, else equal bytes. int64, shape (n,)."""
        import pandas as pd

        names = self.table["group"].where(self.table["group"] != "", self.table["sha256"])
        return pd.factorize(names)[0].astype("int64")

    def files(self) -> list[Path]:
        """The images' paths, ready to open."""
        return [self.root / path for path in self.table["path"]]

    def keys(self) -> list[str]:
        """The images' content hashes, by which everything computed from them is cached."""
        return list(self.table["sha256"])

    def without(self, findings: Iterable[Mapping[str, str]]) -> ImageSet:
        """The set with more problems named; images whose problem's action is "left out" leave the table."""
        findings = list(findings)
        if not findings:
            return self
        import pandas as pd

        gone = {f["path"] for f in findings if f["action"] == LEFT_OUT}
        table = self.table[~self.table["path"].isin(gone)].reset_index(drop=True)
        before = self.problems[~(self.problems["path"].isin(gone) & (self.problems["action"] == "used"))]
        more = pd.DataFrame(findings, columns=list(PROBLEM_COLUMNS))
        return dataclasses.replace(
            self,
            table=table,
            class_names=tuple(sorted(set(table["label"]))),
            problems=pd.concat([before, more], ignore_index=True),
        )


def problem(path: str, label: str, kind: str, detail: str) -> dict[str, str]:
    """One row for `ImageSet.problems`."""
    severity, action = PROBLEMS[kind]
    return {
        "path": path,
        "label": label,
        "problem": kind,
        "severity": severity,
        "action": action,
        "detail": detail,
    }


def raise_if_strict(images: ImageSet) -> None:
    """Raise DataError if any finding is more than a note; the message counts them by kind."""
    bad = images.problems[images.problems["severity"] == "problem"]
    if len(bad):
        first = bad.iloc[0]
        raise DataError(
            f"{len(bad)} problems in '{images.root}' ({summary(images)}), and `strict` was asked for. "
            f"The first: {first['path']}: {first['problem']} ({first['detail']}). "
            "`tlkit inspect` lists them all."
        )


def summary(images: ImageSet) -> str:
    """The problems counted by kind, notes left out: "3 truncated, 1 cmyk"."""
    kinds = images.problems.loc[images.problems["severity"] == "problem", "problem"]
    return ", ".join(f"{n} {kind}" for kind, n in Counter(kinds).most_common())
