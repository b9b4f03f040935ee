"""The image set: a table of images with labels, and a table of every problem found.

No file is dropped silently: every file that is left out, or used in changed form, gets a row in `ImageSet.problems`.
Decodes nothing.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tlkit.data.limits import FULL_DEPTH
from tlkit.errors import DataError, unknown
from tlkit.notebook import card, lines, rows
from tlkit.plan.in_memory import InMemory
from tlkit.plan.job import PARTS
from tlkit.words import counted, text_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from tlkit.data.sources.member import Root


TABLE_COLUMNS = ("path", "label", "split", "group", "sha256", "format", "width", "height")
PROBLEM_COLUMNS = ("path", "label", "problem", "severity", "action", "detail")

LEFT_OUT = "left out"  # the action of a problem whose image is not used

# problem -> (severity, action). A "note" means that nothing is lost. `strict` makes every "problem" an error.
PROBLEMS: dict[str, tuple[str, str]] = {
    "system-file": ("note", "ignored"),
    "beside-images": ("note", "ignored"),
    "repeated-link": ("note", "ignored"),
    "wrapper-folder": ("note", "used"),
    "sub-folders": ("note", "used"),
    "class-name": ("note", "used"),
    "grey": ("note", "used"),
    "exif-rotated": ("note", "used"),
    "duplicate": ("note", "used"),
    "other-path": ("note", "used"),
    "converted": ("note", "used"),
    "colour-profile": ("note", "used"),
    "cmyk": ("problem", "used"),
    "16-bit": ("problem", "used"),
    "transparent": ("problem", "used"),
    "animated": ("problem", "used"),
    "one-colour": ("problem", "used"),
    "equal-pixels": ("problem", "used"),
    "tiny": ("problem", "used"),
    "group-across-parts": ("problem", "used"),
    "alike-names": ("problem", "used"),
    "repeated-name": ("problem", "used"),
    "named-as-part": ("problem", "used"),
    "class-nearly-lost": ("problem", "used"),
    "class-not-measured": ("problem", "used"),
    "empty-file": ("problem", "left out"),
    "not-an-image": ("problem", "left out"),
    "unsupported-format": ("problem", "left out"),
    "truncated": ("problem", "left out"),
    "corrupt": ("problem", "left out"),
    "too-large": ("problem", "left out"),
    "missing-file": ("problem", "left out"),
    "unreadable": ("problem", "left out"),
    "bad-row": ("problem", "left out"),
    "no-label": ("problem", "left out"),
    "repeated-row": ("problem", "left out"),
    "two-labels": ("problem", "left out"),
    "duplicate-across-parts": ("problem", "left out"),
    "outside-class-folder": ("problem", "left out"),
    "name-not-utf-8": ("problem", "left out"),
    "outside-archive": ("problem", "left out"),
    "link-in-archive": ("problem", "left out"),
    "hidden-file": ("problem", "left out"),
    "unlabelled": ("problem", "left out"),
    "outside-parts": ("problem", "left out"),
    "empty-part": ("problem", "left out"),
    "symlink-loop": ("problem", "left out"),
    "broken-link": ("problem", "left out"),
    "empty-class": ("problem", "left out"),
    "class-too-small": ("problem", "left out"),
}

NOT_OF_FILES = {  # problems of a folder or a class, whose path is that of the folder, or the class
    *("beside-images", "repeated-link", "wrapper-folder", "sub-folders", "class-name", "alike-names", "named-as-part"),
    *("class-nearly-lost", "class-not-measured", "empty-class", "empty-part", "symlink-loop"),
}


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels and splits, and the problems found.

    root: the folder that paths are relative to, on disk or in an archive.
    table: one row per usable image: path, label, split ("train", "validation", "test", or "" before `split`), group,
        sha256 (of the file), format, width, height (pixels, as stored).
    class_names: alphabetical, unless an order was given; the index of a label here is its class number.
    problems: one row per finding: path, label, problem, severity, action, detail.
    depth: the bits that the images of 16 bits use, 8 to 16: one factor scales them all to 8.
    source: the data in memory that the files were written from; they are removed when nothing holds it any more.
    further: by path, the values of a table's columns that are not used otherwise, such as the camera.
    """

    root: Root
    table: pd.DataFrame
    class_names: tuple[str, ...]
    problems: pd.DataFrame
    depth: int = FULL_DEPTH
    source: InMemory | None = field(default=None, repr=False, compare=False)
    further: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        found = counted(int((self.problems["severity"] == "problem").sum()), "problem")
        classes = counted(len(self.class_names), "class", "classes")
        return f"ImageSet('{self.root}': {counted(len(self), 'image')}, {classes}, {found})"

    def _repr_html_(self) -> str:
        """Show in a notebook how many images each class has, and the problems by kind."""
        splits = [part for part in PARTS if (self.table["split"] == part).any()]
        of_class = self.table.groupby("label")
        cells = []
        for name in self.class_names:
            mine = of_class.get_group(name)["split"] if name in of_class.groups else self.table["split"][:0]
            cells.append((name, len(mine), *[int((mine == part).sum()) for part in splits]))
        kinds = self.problems.groupby(["severity", "problem", "action"], sort=True)
        found = [
            f"{severity}: {len(some):,} {kind} ({action}), such as {some.iloc[0]['path']}"
            for (severity, kind, action), some in kinds
        ]
        title = f"{self.root}: {counted(len(self), 'image')}, {counted(len(self.class_names), 'class', 'classes')}"
        return card(title, None, [rows(["class", "images", *splits], cells), lines(found or ["no problems found"])])

    def part(self, *names: str) -> ImageSet:
        """The images of one split ("train", "validation", "test"), or of several concatenated, with all class names.

        Raises NameUnknown for any other name.
        """
        import pandas as pd

        for name in names:
            if name not in PARTS:
                raise unknown("part of the split", name, PARTS)

        rows = pd.concat([self.table[self.table["split"] == name] for name in names], ignore_index=True)
        return dataclasses.replace(self, table=rows)

    def take(self, places: Sequence[int]) -> ImageSet:
        """Select images by index, with all class names."""
        return dataclasses.replace(self, table=self.table.iloc[list(places)].reset_index(drop=True))

    def labels(self) -> np.ndarray:
        """Class numbers: int64, shape (n,)."""
        import numpy as np

        number = {name: i for i, name in enumerate(self.class_names)}
        return np.array([number[label] for label in self.table["label"]], dtype="int64")

    def groups(self) -> np.ndarray:
        """Group numbers: one per group, or per content where an image has no group. int64, shape (n,)."""
        import pandas as pd

        names = self.table["group"].where(self.table["group"] != "", self.table["sha256"])
        return pd.factorize(names)[0].astype("int64")

    def further_columns(self) -> pd.DataFrame:
        """The table's further columns for these images, in their order, as text; "" where an image has no value."""
        import pandas as pd

        names = list(dict.fromkeys(name for values in self.further.values() for name in values))
        rows = [[self.further.get(path, {}).get(name, "") for name in names] for path in self.table["path"]]
        return pd.DataFrame(rows, columns=names, index=self.table.index, dtype=object)

    def files(self) -> list[Root]:
        """The images, ready to be read: `read_bytes()` gives a file, `str()` its name. Paths, if they are on disk."""
        return [self.root / path for path in self.table["path"]]

    def keys(self) -> list[str]:
        """The images' content hashes. Everything computed from an image is cached by its hash."""
        return list(self.table["sha256"])

    def without(self, findings: Iterable[Mapping[str, str]]) -> ImageSet:
        """Add problems; an image whose problem has the action "left out" leaves the table."""
        findings = list(findings)
        if not findings:
            return self
        import pandas as pd

        gone = {f["path"] for f in findings if f["action"] == LEFT_OUT}
        table = self.table[~self.table["path"].isin(gone)].reset_index(drop=True)
        there = set(table["label"])
        before = self.problems[~(self.problems["path"].isin(gone) & (self.problems["action"] == "used"))]
        more = pd.DataFrame(findings, columns=list(PROBLEM_COLUMNS))
        return dataclasses.replace(
            self,
            table=table,
            class_names=tuple(name for name in self.class_names if name in there),
            problems=pd.concat([before, more], ignore_index=True),
        )


def problem(path: str, label: str, kind: str, detail: str) -> dict[str, str]:
    """One row for `ImageSet.problems`."""
    severity, action = PROBLEMS[kind]
    return {
        "path": text_of(path),
        "label": label,
        "problem": kind,
        "severity": severity,
        "action": action,
        "detail": text_of(detail),
    }


def raise_if_strict(images: ImageSet) -> None:
    """Raise DataError if any finding is more than a note; the message counts them by kind."""
    bad = images.problems[images.problems["severity"] == "problem"]
    if len(bad):
        first = bad.iloc[0]
        raise DataError(
            f"{counted(len(bad), 'problem')} in '{images.root}' ({summary(images)}), and `strict` was asked for. "
            f"The first: {first['path']}: {first['problem']} ({first['detail']}). "
            "`tlkit inspect` lists them all."
        )


def summary(images: ImageSet) -> str:
    """The problems counted by kind, without notes: "3 truncated, 1 cmyk"."""
    kinds = images.problems.loc[images.problems["severity"] == "problem", "problem"]
    return ", ".join(f"{n} {kind}" for kind, n in Counter(kinds).most_common())
