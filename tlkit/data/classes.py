"""What happened to whole classes: those that lost their files, and those that a part of the split does not measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlkit.data.images import LEFT_OUT, ImageSet, problem
from tlkit.errors import DataError
from tlkit.words import counted

if TYPE_CHECKING:
    import pandas as pd

NEARLY = 0.5  # share of a class's files from which its loss is named
# Problems that leave a whole file out, with the class in their label.
OF_FILES = {
    "empty-file",
    "not-an-image",
    "unsupported-format",
    "truncated",
    "corrupt",
    "too-large",
    "missing-file",
    "unreadable",
    "broken-link",
    "two-labels",
    "name-not-utf-8",
    "hidden-file",
}
OF_CLASSES = ("class-nearly-lost", "class-too-small", "empty-class", "named-as-part", "class-not-measured")
NOT_MEASURED = {
    "validation": "it takes no part in choosing settings, and precision, recall and F1 of it are not measured there",
    "test": "precision, recall and F1 of it are not measured there",
}


@dataclass(frozen=True)
class Loss:
    """A class of which many files are left out. reasons: files by problem. first: one of them, as "path: detail"."""

    label: str
    used: int
    lost: int
    reasons: tuple[tuple[str, int], ...]
    first: str

    def sentence(self) -> str:
        """What happened to the class, without a full stop."""
        why = ", ".join(f"{count:,} {kind}" for kind, count in self.reasons)
        all_of = counted(self.used + self.lost, "file")
        rest = f"{self.used:,} {'is' if self.used == 1 else 'are'} used" if self.used else "nothing is left of it"
        were = "is" if self.lost == 1 else "are"
        return f"class '{self.label}': {self.lost:,} of {all_of} {were} left out ({why}), {rest}"


def losses(images: ImageSet) -> list[Loss]:
    """The classes of which half of the files or more are left out, those with nothing left first."""
    problems, used = images.problems, Counter(images.table["label"])
    gone = problems[(problems["action"] == LEFT_OUT) & problems["problem"].isin(OF_FILES) & (problems["label"] != "")]
    found = []
    for label, rows in gone.groupby("label", sort=True):
        if len(rows) >= NEARLY * (len(rows) + used[label]):
            first = f"{rows['path'].iat[0]}: {rows['detail'].iat[0]}"
            reasons = tuple(Counter(rows["problem"]).most_common())
            found.append(Loss(str(label), used[label], len(rows), reasons, first))
    return sorted(found, key=lambda one: (one.used > 0, -one.lost, one.label))


def check_no_class_is_lost(images: ImageSet, kept: Collection[str] | None = None) -> None:
    """Raise DataError if a class lost its files, so that a model would be trained without it.

    kept: the classes that are left after the split. None: those of which at least one file can be used.
    """
    lost = [one for one in losses(images) if (not one.used if kept is None else one.label not in kept)]
    if lost:
        more = f" The same holds for {counted(len(lost) - 1, 'other class', 'other classes')}." if len(lost) > 1 else ""
        sentence = lost[0].sentence()
        few = ", too few to be in both train and validation" if lost[0].used else ""
        raise DataError(
            f"{sentence[0].upper()}{sentence[1:]}{few}. The first: {lost[0].first}.{more} "
            "Repair or convert its files, or take the class out of the data to train without it."
        )


def about_classes(images: ImageSet, *, test_drawn: bool = False) -> ImageSet:
    """Add to the problems which classes lost most of their files, and which a given or drawn part does not measure.

    test_drawn: Whether the test images were drawn. Small classes may then have none, which is no problem of the data.
    """
    rows = [
        problem(one.label, one.label, "class-nearly-lost", f"{one.sentence()}, such as {one.first}")
        for one in losses(images)
        if one.used
    ]
    known = set(zip(images.problems["problem"], images.problems["label"], images.problems["detail"], strict=True))
    for part, consequence in NOT_MEASURED.items():
        there = set(images.table.loc[images.table["split"] == part, "label"])
        for label in images.class_names if there and not (test_drawn and part == "test") else ():
            if label not in there:
                detail = f"class '{label}' has no {part} images: {consequence}"
                rows.append(problem(label, label, "class-not-measured", detail))
    return images.without([one for one in rows if (one["problem"], one["label"], one["detail"]) not in known])


def sentences(images: ImageSet) -> list[str]:
    """What `about_classes` and the split found of whole classes, in words."""
    return told_of_classes(images.problems)


def told_of_classes(problems: pd.DataFrame) -> list[str]:
    """The details of the problems of whole classes, each once. problems: of an `ImageSet`, or a run's problems.csv."""
    return list(dict.fromkeys(problems.loc[problems["problem"].isin(OF_CLASSES), "detail"]))
