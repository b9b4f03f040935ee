"""Assigns every image to the train, validation or test split, by a hash of its content.

Equal files, near duplicates and groups stay in one split.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from tlkit.data.classes import about_classes, check_no_class_is_lost, losses
from tlkit.data.images import ImageSet, problem, raise_if_strict, summary
from tlkit.data.sources.records import likely_table
from tlkit.data.targets import about_regression
from tlkit.errors import DataError
from tlkit.words import counted

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

PASSES = 5  # over all classes, where units hold images of several
GOLDEN = 0.618033988749895  # the step to other hashes


def split(
    images: ImageSet,
    *,
    validation: float = 0.2,
    seed: int = 0,
    strict: bool = False,
    pairs: np.ndarray | None = None,
    trained_on: Collection[str] = (),
    test_drawn: bool = False,
) -> ImageSet:
    """Assign every image to a split.

    Splits given with the data are kept. A missing validation split is drawn from train. Images of one group,
    byte-identical files and the given pairs are a unit, which stays in one split. A unit's split follows from a hash of
    its group or content and the seed, so that adding images moves no others:

    - A unit is a validation unit if its hash, a number from 0 to 1, is below the share. So a class of n units has a
      binomial number of them: share * n, with a standard deviation of sqrt(n * share * (1 - share)), such as 20 +- 4 of
      100.
    - A class keeps at least one unit, and about half the share of its images, in validation, and at most one and a half
      times the share. Where the hashes give less or more, the units with the next hash are moved. Only these may move
      again when their class grows. Of classes of 20, 50 and 100 units, 16, 5 and 1 % need this at a share of 0.2.
    - A new image may join units, by its group or as a near duplicate of several images. Only these may move with it.

    A class that cannot be in both train and validation is left out, and is named in the problems. So are classes of
    which half of the files or more are left out, and classes without validation or test images.

    Args:
        images: from `tlkit.scan`.
        validation: share of the training images, above 0 and below 1.
        seed: the same seed and files give the same split, in whatever order the files are.
        strict: raise DataError for any problem that is more than a note.
        pairs: row numbers of the table, int, shape (pairs, 2): images that must stay together, such as near duplicates.
        trained_on: SHA-256 of the files that the initial weights were trained on. They are kept in train, with the
            units that they are in, and validation images are drawn from the others up to the whole share.
        test_drawn: whether the test images were drawn (see `tlkit.data.held_out.draw_test`), so that a small class
            without any is no problem of the data.

    Returns: the images with their splits.

    Raises:
        DataError: if fewer than two classes remain, no file of a class can be used, a given test or validation split
            has a class that train lacks, or all images are in `trained_on`.
    """
    if not 0 < validation < 1:
        raise DataError(f"validation is {validation!r}. Expected a share above 0 and below 1, such as 0.2.")
    given = set(images.table["split"]) - {""}
    links = () if pairs is None else [(images.table["path"].iat[i], images.table["path"].iat[j]) for i, j in pairs]
    if given:
        images = _check_given(images)
    check_no_class_is_lost(images)
    before = images
    if "validation" not in given:
        images = _draw_validation(images, validation, seed, links, frozenset(trained_on))
    if len(images.class_names) < 2:
        raise DataError(too_few_classes(images))
    check_no_class_is_lost(before, set(images.class_names))
    images = about_classes(images, test_drawn=test_drawn)
    if strict:
        raise_if_strict(images)
    return images


def too_few_classes(images: ImageSet) -> str:
    """What to say of a set with fewer than two classes, and where the data may be instead."""
    number = about_regression([*images.table["label"], *images.problems["label"]])
    if number:
        return f"{counted(len(images.class_names), 'usable class', 'usable classes')} in '{images.root}': {number}."
    return (
        f"{counted(len(images.class_names), 'usable class', 'usable classes')} in '{images.root}' "
        f"({', '.join(images.class_names) or 'none'}). "
        f"Expected at least two classes with two images each. Problems: {summary(images) or 'none'}."
        + _hint_elsewhere(images)
    )


def _check_given(images: ImageSet) -> ImageSet:
    """Check splits given with the data: leave out files that are also in a held-out split, and note shared groups.

    Raises DataError if the validation or test split has a class that train lacks, before or after that.
    """
    table = images.table
    _check_classes(images, "Add training images of it, or remove it.")
    findings = []
    rank = {"test": 0, "validation": 1, "train": 2}
    for _, same in table[table.duplicated("sha256", keep=False)].groupby("sha256", sort=False):
        kept = min(same["split"], key=rank.__getitem__)
        for path, label, name in zip(same["path"], same["label"], same["split"], strict=True):
            if name != kept:
                detail = f"left out of {name}: the same bytes are in {kept}"
                findings.append(problem(path, label, "duplicate-across-parts", detail))
    for group, rows in table[table["group"] != ""].groupby("group", sort=True):
        if rows["split"].nunique() > 1:
            splits = ", ".join(sorted(set(rows["split"])))
            first = rows.iloc[0]
            detail = f"group '{group}' is in {splits}: accuracy will look better than it is"
            findings.append(problem(first["path"], first["label"], "group-across-parts", detail))
    images = images.without(findings)
    _check_classes(
        images,
        "Its training images are left out, because the same files are held out. "
        "Add other training images of it, or remove these files from the held-out part.",
    )
    return images


def check_held_out_classes(images: ImageSet) -> None:
    """Raise DataError if a given validation or test split has a class that a given train split lacks."""
    if (images.table["split"] == "train").any():
        _check_classes(images, "Add training images of it, or remove it.")


def _check_classes(images: ImageSet, remedy: str) -> None:
    """Raise DataError if the validation or test split has a class that train lacks."""
    table = images.table
    train = set(table.loc[table["split"] == "train", "label"])
    for name in ("validation", "test"):
        for label in sorted(set(table.loc[table["split"] == name, "label"]) - train):
            gone = [one for one in losses(images) if one.label == label]
            why = f" Of its files, {gone[0].lost:,} are left out, such as {gone[0].first}." if gone else ""
            raise DataError(f"Class '{label}' is in {name} but not in train.{why} {remedy}")


def _draw_validation(
    images: ImageSet, share: float, seed: int, links: Sequence[tuple[str, str]], trained_on: frozenset[str]
) -> ImageSet:
    """Draw the validation split from train, and leave out classes that cannot be in both."""
    import numpy as np

    pool = images.table[images.table["split"].isin(["", "train"])]
    units = _units(pool, links)
    findings = []
    spread = pool.assign(unit=units).groupby("label")["unit"].nunique()
    for label in spread.index[spread < 2]:
        rows = images.table[images.table["label"] == label]
        why = (
            "only one image" if len(rows) == 1 else "only identical or nearly identical images, or images of one group"
        )
        for path in rows["path"]:
            detail = f"class '{label}' has {why}, so it cannot be in both train and validation"
            findings.append(problem(path, label, "class-too-small", detail))
    images = images.without(findings)
    pool = images.table[images.table["split"].isin(["", "train"])]
    if pool.empty:
        return images
    units = _units(pool, links)
    kept = np.unique(units[pool["sha256"].isin(trained_on).to_numpy()])
    if len(kept) and np.isin(units, kept).all():
        raise DataError(
            f"The initial weights were trained on all {counted(len(pool), 'training image')} in '{images.root}', "
            "or on others of their groups, so no validation image can be drawn. "
            "Add images, or give a validation split that those weights have not seen."
        )
    chosen = _drawn(pool["label"].to_numpy(), units, _hashes(pool, units, seed), share, kept)
    if chosen is None:
        raise DataError(
            f"No split keeps the {len(set(units.tolist()))} groups whole and has all {len(images.class_names)} classes "
            "in train and validation. Use finer groups, or give the split in a CSV column 'split'."
        )
    table = images.table.copy()
    table.loc[pool.index, "split"] = np.where(chosen[units], "validation", "train")
    return dataclasses.replace(images, table=table)


def _units(pool: pd.DataFrame, links: Sequence[tuple[str, str]]) -> np.ndarray:
    """A unit number per image, from 0. Images of one unit must stay together: int64, shape (n,).

    They have the same bytes or group, or are linked: pairs of paths.
    """
    import numpy as np

    parent = list(range(len(pool)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for column in ("sha256", "group"):
        first: dict[str, int] = {}
        for i, value in enumerate(pool[column]):
            if value:
                parent[find(i)] = find(first.setdefault(value, i))
    if links:
        place = {path: i for i, path in enumerate(pool["path"])}
        for one, other in links:
            if one in place and other in place:
                parent[find(place[one])] = find(place[other])
    return np.unique([find(i) for i in range(len(pool))], return_inverse=True)[1].astype("int64")


def _hashes(pool: pd.DataFrame, units: np.ndarray, seed: int | str) -> np.ndarray:
    """A number per unit, uniform from 0 to 1, from the seed and the first of its groups or contents: float64."""
    import numpy as np

    names = "sha256 " + pool["sha256"]
    names = names.where(pool["group"] == "", "group " + pool["group"])
    # the first by name, not the least by hash, which would draw units of several images more often than their share
    first = names.groupby(units).min()
    digests = [hashlib.sha256(f"{seed} {name}".encode()).digest()[:8] for name in first]
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype="float64") / 2.0**64


def _drawn(
    labels: np.ndarray, units: np.ndarray, hashes: np.ndarray, share: float, kept: np.ndarray
) -> np.ndarray | None:
    """Whether each unit is in validation: bool, shape (units,). See `split` for the rule.

    Units of several classes (a patient with both) may need several passes. Where these do not give every class a unit
    in both, other hashes are tried.

    Args:
        labels, units: of each image.
        hashes: of each unit.
        kept: the units that stay in train.

    Returns: None if no draw was found with every class in both train and validation.
    """
    import numpy as np

    free = np.ones(len(hashes), dtype=bool)
    free[kept] = False
    _, numbers = np.unique(labels, return_inverse=True)
    cells, sizes = np.unique(np.stack([numbers, units]), axis=1, return_counts=True)
    starts = np.searchsorted(cells[0], np.arange(1, cells[0].max() + 1))
    classes = list(zip(np.split(cells[1], starts), np.split(sizes, starts), strict=True))
    for attempt in range(20):
        tried = (hashes + attempt * GOLDEN) % 1
        chosen = free & (tried < share)
        for _ in range(PASSES):
            before = chosen.copy()
            for members, counts in classes:
                chosen[members] = _within_bounds(chosen[members], counts, tried[members], share, free[members])
            if (chosen == before).all():
                break
        inside = [(chosen[members].any() or not free[members].any(), chosen[members].all()) for members, _ in classes]
        if all(some and not every for some, every in inside):
            return chosen
    return None


def _within_bounds(
    chosen: np.ndarray, sizes: np.ndarray, hashes: np.ndarray, share: float, free: np.ndarray
) -> np.ndarray:
    """Move units of one class until the number of its validation images is within bounds.

    chosen, sizes, hashes, free: of each unit. Returns: the units in validation: bool, shape (units,).
    """
    import numpy as np

    chosen, total = chosen.copy(), int(sizes.sum())
    least = max(1, int(total * share / 2)) if free.all() else max(1, round(total * share))
    most = min(total - 1, max(least, round(total * min(1.5 * share, (1 + share) / 2))))
    order = np.argsort(hashes, kind="stable")
    chosen &= sizes <= most
    count = int(sizes[chosen].sum())
    for unit in order[::-1] if count > most else ():
        if count > most and chosen[unit] and count > sizes[unit]:
            chosen[unit], count = False, count - int(sizes[unit])
    for unit in order if count < least else ():
        if count < least and free[unit] and not chosen[unit] and count + sizes[unit] <= most:
            chosen[unit], count = True, count + int(sizes[unit])
    if not chosen.any() and free.any():  # every unit is larger than the bound
        chosen[min(np.flatnonzero(free), key=lambda unit: (sizes[unit], hashes[unit]))] = True
    return chosen


def _hint_elsewhere(images: ImageSet) -> str:
    """A hint where the data may be instead: in a table beside the folders. Data that was a table gets none."""
    was_folder = "beside-images" in set(images.problems["problem"])
    table = likely_table(images.root) if was_folder else None
    return f" Did you mean '{table}'?" if table else ""
