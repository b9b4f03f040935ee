"""Draws test images from data that has none, by a hash of their content."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING

from tlkit.data.images import ImageSet
from tlkit.data.split import PASSES, _hashes, _units, _within_bounds
from tlkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np

LEFT = 2  # units of each class that stay out of test, at least: one for train and one for validation


def draw_test(
    images: ImageSet,
    share: float,
    *,
    seed: int = 0,
    pairs: np.ndarray | None = None,
    seen: Collection[str] = (),
) -> ImageSet:
    """Draw test images, before a validation split is drawn from the others by `tlkit.data.split.split`.

    Units (see `split`) are drawn by a hash of their group or content and the seed. It is another hash than that of the
    validation split, so that the images which are not drawn keep the split that they would have had.

    - A unit is a test unit if its hash, a number from 0 to 1, is below the share.
    - A class of 1 / share units or more has at least half the share of its images in test, and at most one and a half
      times the share. Where the hashes give less or more, the units with the next hash are moved. A smaller class may
      have none.
    - Two units or more of each class stay out of test.
    - Images of a given validation split, those in `seen`, and the units that they are in are never test images.

    Args:
        images: Without test images.
        share: Of the images, above 0 and below 1.
        seed: The same seed and files give the same test images, in whatever order the files are.
        pairs: As in `split`.
        seen: SHA-256 of the files that the initial weights were trained on or chosen by.

    Returns:
        The images; those that were drawn have the split "test", and those without a split "train". Maybe none is drawn.

    Raises:
        DataError: `share` is out of its range.
    """
    import numpy as np

    if not 0 < share < 1:
        raise DataError(f"test is {share!r}. Expected a share above 0 and below 1, such as 0.15.")
    table = images.table.reset_index(drop=True)
    if table.empty:
        return images
    links = () if pairs is None else [(table["path"].iat[i], table["path"].iat[j]) for i, j in pairs]
    units = _units(table, links)
    used = (table["sha256"].isin(seen) | (table["split"] == "validation")).to_numpy()
    free = np.bincount(units, weights=used) == 0
    hashes = _hashes(table, units, f"{seed} test")
    chosen = _drawn(table["label"].to_numpy(), units, hashes, share, free)
    if not chosen.any():
        return images
    split = np.where(chosen[units], "test", table["split"].replace("", "train"))
    return dataclasses.replace(images, table=table.assign(split=split))


def _drawn(labels: np.ndarray, units: np.ndarray, hashes: np.ndarray, share: float, free: np.ndarray) -> np.ndarray:
    """Whether each unit is in test: bool, shape (units,). See `draw_test` for the rule.

    labels, units: Of each image. hashes, free: Of each unit; free: whether it may be in test.
    """
    import numpy as np

    chosen = free & (hashes < share)
    classes = [np.unique(units[labels == label], return_counts=True) for label in np.unique(labels)]
    large = [(members, sizes) for members, sizes in classes if len(members) * share >= 1 and free[members].all()]
    for _ in range(PASSES):
        before = chosen.copy()
        for members, sizes in large:
            chosen[members] = _within_bounds(chosen[members], sizes, hashes[members], share, free[members])
        if (chosen == before).all():
            break
    for members, _ in classes:
        order = members[np.argsort(-hashes[members], kind="stable")]
        missing = LEFT - int((~chosen[members]).sum())
        chosen[order[chosen[order]][: max(0, missing)]] = False
    return chosen
