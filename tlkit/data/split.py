"""Gives every image its part: training, validation or test. Equal files and groups stay in one part."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from typing import TYPE_CHECKING

from tlkit.data.images import ImageSet, problem, raise_if_strict, summary
from tlkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def split(images: ImageSet, *, validation: float = 0.2, seed: int = 0, strict: bool = False) -> ImageSet:
    """Give every image a part. Parts that the data came with are kept; a missing validation part is drawn from train.

    validation: share of the training images, above 0 to below 1.
    seed: the same seed and files give the same split, whatever the order of the files.

    Stratified: every class is in train and in validation. Byte-identical files and images of one group stay in one
    part. A class that cannot be in both parts is left out and named. Raises DataError if fewer than two classes
    remain, or a given test or validation part holds a class that train lacks.
    """
    if not 0 < validation < 1:
        raise DataError(f"validation is {validation!r}. Expected a share above 0 and below 1, such as 0.2.")
    given = set(images.table["split"]) - {""}
    if given:
        images = _check_given(images)
    if "validation" not in given:
        images = _draw_validation(images, validation, seed)
    if len(images.class_names) < 2:
        raise DataError(
            f"{len(images.class_names)} usable class in '{images.root}' ({', '.join(images.class_names) or 'none'}). "
            f"Expected at least two classes with two images each. Problems: {summary(images) or 'none'}."
            + _elsewhere(images)
        )
    if strict:
        raise_if_strict(images)
    return images


def _check_given(images: ImageSet) -> ImageSet:
    table = images.table
    train = set(table.loc[table["split"] == "train", "label"])
    for part in ("validation", "test"):
        for label in sorted(set(table.loc[table["split"] == part, "label"]) - train):
            raise DataError(f"Class '{label}' is in {part} but not in train. Add training images of it, or remove it.")
    findings = []
    rank = {"test": 0, "validation": 1, "train": 2}
    for _, same in table[table.duplicated("sha256", keep=False)].groupby("sha256", sort=False):
        kept = min(same["split"], key=rank.__getitem__)
        for path, label, part in zip(same["path"], same["label"], same["split"], strict=True):
            if part != kept:
                detail = f"left out of {part}: the same bytes are in {kept}"
                findings.append(problem(path, label, "duplicate-across-parts", detail))
    for group, rows in table[table["group"] != ""].groupby("group", sort=True):
        if rows["split"].nunique() > 1:
            parts = ", ".join(sorted(set(rows["split"])))
            first = rows.iloc[0]
            detail = f"group '{group}' is in {parts}: accuracy will look better than it is"
            findings.append(problem(first["path"], first["label"], "group-across-parts", detail))
    return images.without(findings)


def _draw_validation(images: ImageSet, validation: float, seed: int) -> ImageSet:
    import numpy as np

    pool = images.table[images.table["split"].isin(["", "train"])]
    units = _units(pool)
    findings = []
    spread = pool.assign(unit=units).groupby("label")["unit"].nunique()
    for label in spread.index[spread < 2]:
        rows = images.table[images.table["label"] == label]
        why = "one image" if len(rows) == 1 else "images of one group only, or all alike"
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
    """A number per image; images with the same number (same group, same bytes) must stay together."""
    import numpy as np

    # scipy's connected_components numbers the same units in another order, and so would draw another split for a seed
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
    """Class by class, whole units at random until the share is reached; at least one and not all of them."""
    import numpy as np

    chosen = np.zeros(len(labels), dtype=bool)
    for label in sorted(set(labels)):
        sizes = Counter(units[labels == label].tolist())
        order = rng.permutation(sorted(sizes)).tolist()
        target = max(1, round(sum(sizes.values()) * share))
        taken: list[int] = []
        count = 0
        for unit in order:
            if count + sizes[unit] <= target and len(taken) < len(sizes) - 1:
                taken.append(unit)
                count += sizes[unit]
        if not taken:  # every group is larger than the share
            taken = [min(order, key=sizes.__getitem__)]
        chosen |= np.isin(units, taken)
    return chosen


def _grouped_validation(labels: np.ndarray, units: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Groups that hold several classes: the best of scikit-learn's stratified group folds over a few shuffles."""
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    folds = max(2, round(1 / share))
    classes = set(labels)
    best, best_miss = None, np.inf
    for attempt in range(20):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + attempt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about classes smaller than the number of folds
            for train, val in splitter.split(labels, labels, units):
                miss = abs(len(val) / len(labels) - share)
                if miss < best_miss and set(labels[val]) == classes == set(labels[train]):
                    best, best_miss = val, miss
    if best is None:
        raise DataError(
            f"No split keeps the {len(set(units.tolist()))} groups whole with every one of the {len(classes)} classes in "
            "train and validation. Use finer groups, or give the split yourself in a CSV column 'split'."
        )
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[best] = True
    return chosen


def _elsewhere(images: ImageSet) -> str:
    """A hint when the data are one step away: a CSV beside the folders, or class folders inside the only folder."""
    tables = sorted(images.root.glob("*.csv"))
    if tables:
        return f" Did you mean '{tables[0]}'?"
    deeper = {path.split("/")[0] for path in images.table["path"] if path.count("/") > 1}
    return f" Did you mean '{images.root / deeper.pop()}'?" if len(deeper) == 1 else ""
