"""Folds for cross-validation, so that every image is judged by a head that did not see it."""

from __future__ import annotations

import warnings

import numpy as np

FOLDS = 5
ENOUGH_VALIDATION = 300  # images from which a validation part alone says enough
ALWAYS_TRAINING = -1  # the fold of what is never held out

Labelled = tuple[np.ndarray, np.ndarray | None]


def solving_folds(training: Labelled, validation: Labelled, *, seed: int = 0) -> tuple[np.ndarray, str]:
    """Which rows are held out when strengths are compared, training rows first, and a word on it.

    training, validation: (labels, groups). A validation part of 300 images or more is held out once; a smaller one says too little, and
    five folds over both parts say more (Kohavi 1995).
    """
    (labels, groups), (val_labels, val_groups) = training, validation
    if len(val_labels) >= ENOUGH_VALIDATION:
        folds = np.concatenate([np.full(len(labels), ALWAYS_TRAINING), np.zeros(len(val_labels), "int64")])
        return folds, f"chosen on {len(val_labels):,} validation images"
    together = None
    if groups is not None and val_groups is not None:  # they may be numbered part by part; parts share no group
        together = np.concatenate([groups, val_groups + groups.max(initial=0) + 1])
    folds = stratified_folds(np.concatenate([labels, val_labels]), together, seed=seed)
    return folds, f"chosen by {folds.max() + 1} folds over {len(folds):,} images"


def stratified_folds(labels: np.ndarray, groups: np.ndarray | None, count: int = FOLDS, seed: int = 0) -> np.ndarray:
    """A fold for each row, 0 to count - 1, classes spread evenly and equal groups together: int, shape (n,).

    A class with fewer images than folds is absent from some. Fewer folds are made when there are fewer groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    folds = np.zeros(len(labels), "int64")
    most = np.bincount(labels).max()
    count = min(count, int(most), len(labels) if groups is None else len(np.unique(groups)))
    if count < 2:
        return folds
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        if groups is None or len(np.unique(groups)) == len(groups):
            parts = StratifiedKFold(count, shuffle=True, random_state=seed).split(labels, labels)
        else:
            parts = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(labels, labels, groups)
        for number, (_, held_out) in enumerate(parts):
            folds[held_out] = number
    return folds
