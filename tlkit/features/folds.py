"""Folds for cross-validation, so that every image is predicted by a head that was not trained on it."""

from __future__ import annotations

import warnings

import numpy as np

from tlkit.words import counted

FOLDS = 5
ENOUGH_VALIDATION = 300  # validation images from which a single held-out split is used
ALWAYS_TRAINING = -1  # the fold of rows that are never held out

Labelled = tuple[np.ndarray, np.ndarray | None]


def solving_folds(training: Labelled, validation: Labelled, *, seed: int = 0) -> tuple[np.ndarray, str]:
    """Return the fold of each row, training rows first, for comparing values of C, and a phrase that describes them.

    A validation split of 300 images or more is held out once. The accuracy on a smaller one is too uncertain, so five
    folds over both splits are used (Kohavi 1995).

    training, validation: (labels, groups) of each split.
    """
    (labels, groups), (validation_labels, validation_groups) = training, validation
    if len(validation_labels) >= ENOUGH_VALIDATION:
        folds = np.concatenate([np.full(len(labels), ALWAYS_TRAINING), np.zeros(len(validation_labels), "int64")])
        return folds, f"chosen on {len(validation_labels):,} validation images"
    all_groups = None
    if groups is not None and validation_groups is not None:  # each split may number its own; no group is in both
        all_groups = np.concatenate([groups, validation_groups + groups.max(initial=0) + 1])
    folds = stratified_folds(np.concatenate([labels, validation_labels]), all_groups, seed=seed)
    return folds, f"chosen by {counted(int(folds.max()) + 1, 'fold')} over {counted(len(folds), 'image')}"


def stratified_folds(labels: np.ndarray, groups: np.ndarray | None, count: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Return a stratified fold for each row, 0 to count - 1, that keeps groups together: int, shape (n,).

    A class with fewer images than folds is absent from some folds. There are never more folds than groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    folds = np.zeros(len(labels), "int64")
    largest_class = np.bincount(labels).max()
    count = min(count, int(largest_class), len(labels) if groups is None else len(np.unique(groups)))
    if count < 2:
        return folds
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        if groups is None or len(np.unique(groups)) == len(groups):
            splits = StratifiedKFold(count, shuffle=True, random_state=seed).split(labels, labels)
        else:
            splits = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(labels, labels, groups)
        for number, (_, held_out) in enumerate(splits):
            folds[held_out] = number
    return folds
