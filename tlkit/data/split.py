"""Assigns every image to the train, validation or test split. Equal files and groups stay in one split."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from typing import TYPE_CHECKING

from tlkit.data.images import ImageSet, problem, raise_if_strict, summary
from tlkit.errors import DataError
from tlkit.words import counted

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def split(images: ImageSet, *, validation: float = 0.2, seed: int = 0, strict: bool = False) -> ImageSet:
    """Assign every image to a split.

    Splits given with the data are kept. A missing validation split is drawn from train, stratified: every class is in
    train and in validation. Byte-identical files and images of one group stay in one split. A class that cannot be in
    both is left out, and is named in the problems.

    Args:
        images: from `tlkit.scan`.
        validation: share of the training images, above 0 and below 1.
        seed: the same seed and files give the same split, in whatever order the files are.
        strict: raise DataError for any problem that is more than a note.

    Returns: the images with their splits.

    Raises:
        DataError: if fewer than two classes remain, or a given test or validation split has a class that train lacks.
    """
    if not 0 < validation < 1:
        raise DataError(f"validation is {validation!r}. Expected a share above 0 and below 1, such as 0.2.")
    given = set(images.table["split"]) - {""}
    if given:
        images = _check_given(images)
    if "validation" not in given:
        images = _draw_validation(images, validation, seed)
    if len(images.class_names) < 2:
        raise DataError(too_few_classes(images))
    if strict:
        raise_if_strict(images)
    return images


def too_few_classes(images: ImageSet) -> str:
    """What to say of a set with fewer than two classes, and where the data may be instead."""
    return (
        f"{counted(len(images.class_names), 'usable class', 'usable classes')} in '{images.root}' "
        f"({', '.join(images.class_names) or 'none'}). "
        f"Expected at least two classes with two images each. Problems: {summary(images) or 'none'}."
        + _hint_elsewhere(images)
    )


def _check_given(images: ImageSet) -> ImageSet:
    """Check splits given with the data: leave out files that are also in a held-out split, and note shared groups.

    Raises DataError if the validation or test split has a class that train lacks.
    """
    table = images.table
    train = set(table.loc[table["split"] == "train", "label"])
    for name in ("validation", "test"):
        for label in sorted(set(table.loc[table["split"] == name, "label"]) - train):
            raise DataError(f"Class '{label}' is in {name} but not in train. Add training images of it, or remove it.")
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
    return images.without(findings)


def _draw_validation(images: ImageSet, validation: float, seed: int) -> ImageSet:
    """Draw the validation split from train, and leave out classes that cannot be in both."""
    import numpy as np

    pool = images.table[images.table["split"].isin(["", "train"])]
    units = _units(pool)
    findings = []
    spread = pool.assign(unit=units).groupby("label")["unit"].nunique()
    for label in spread.index[spread < 2]:
        rows = images.table[images.table["label"] == label]
        why = "only one image" if len(rows) == 1 else "only identical images, or images of one group"
        for path in rows["path"]:
            detail = f"class '{label}' has {why}, so it cannot be in both train and validation"
            findings.append(problem(path, label, "class-too-small", detail))
    images = images.without(findings)
    pool = images.table[images.table["split"].isin(["", "train"])]
    if pool.empty:
        return images
    units = _units(pool)
    labels = pool["label"].to_numpy()
    if (pool.assign(unit=units).groupby("unit")["label"].nunique() > 1).any():
        chosen = _grouped_validation(labels, units, validation, seed)
    else:
        chosen = _stratified_validation(labels, units, validation, np.random.default_rng(seed))
    table = images.table.copy()
    table.loc[pool.index, "split"] = np.where(chosen, "validation", "train")
    return dataclasses.replace(images, table=table)


def _units(pool: pd.DataFrame) -> np.ndarray:
    """A unit number per image. Images of one unit (same group or same bytes) must stay together: int64, shape (n,)."""
    import numpy as np

    # scipy's connected_components numbers the same units in another order, which would change the split of a seed
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
    return np.array([find(i) for i in range(len(pool))], dtype="int64")


def _stratified_validation(labels: np.ndarray, units: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Draw whole units at random, class by class, up to the share: at least one unit per class, but never all.

    Returns: bool, shape (n,).
    """
    import numpy as np

    chosen = np.zeros(len(labels), dtype=bool)
    for label in sorted(set(labels)):
        sizes = Counter(units[labels == label].tolist())
        order = rng.permutation(sorted(sizes)).tolist()
        target = max(1, round(sum(sizes.values()) * share))
        drawn: list[int] = []
        count = 0
        for unit in order:
            if count + sizes[unit] <= target and len(drawn) < len(sizes) - 1:
                drawn.append(unit)
                count += sizes[unit]
        if not drawn:  # every group is larger than the share
            drawn = [min(order, key=sizes.__getitem__)]
        chosen |= np.isin(units, drawn)
    return chosen


def _grouped_validation(labels: np.ndarray, units: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw a split where groups hold several classes: the best fold of 20 shuffled StratifiedGroupKFold.

    Returns: bool, shape (n,). The best fold is the one nearest to the share with every class in train and validation.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    folds = max(2, round(1 / share))
    classes = set(labels)
    best, best_miss = None, np.inf
    for attempt in range(20):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + attempt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about classes smaller than the number of folds
            for train, held_out in splitter.split(labels, labels, units):
                miss = abs(len(held_out) / len(labels) - share)
                if miss < best_miss and set(labels[held_out]) == classes == set(labels[train]):
                    best, best_miss = held_out, miss
    if best is None:
        raise DataError(
            f"No split keeps the {len(set(units.tolist()))} groups whole and has all {len(classes)} classes in train "
            "and validation. Use finer groups, or give the split in a CSV column 'split'."
        )
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[best] = True
    return chosen


def _hint_elsewhere(images: ImageSet) -> str:
    """A hint where the data may be instead: in a CSV beside the folders, or in class folders inside the only folder."""
    tables = sorted(images.root.glob("*.csv"))
    if tables:
        return f" Did you mean '{tables[0]}'?"
    inner = {path.split("/")[0] for path in images.table["path"] if path.count("/") > 1}
    return f" Did you mean '{images.root / inner.pop()}'?" if len(inner) == 1 else ""
