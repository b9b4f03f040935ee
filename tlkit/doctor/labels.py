"""Probable label errors, found by a linear head that did not see the image. Imports scikit-learn through `features.linear`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tlkit.features.folds import stratified_folds
from tlkit.features.linear import UNSCALED, choose_strength

DIRECTIONS = 256  # principal directions on which labels are judged
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # C of the head that judges labels
SURELY = 10  # times as probable as the given label is the one for which it may be mistaken
FEWEST = 5  # images of a class for its labels to be judged out of fold


def label_errors(
    features: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, float]:
    """Images that a probe which did not see them calls something else, the label's probability beside; and the probe's accuracy.

    features: float32, shape (n, numbers). labels: int, shape (n,). groups: equal ones stay in one fold.
    A logistic head on 256 principal directions, five folds. `probable`: the other class is at least as probable as it is on average where
    it is given (confident learning, Northcutt et al. 2021, arXiv:1911.00068), and ten times as probable as the label: with 5 % of the labels
    flipped, 49 to 100 % of those called so were (three data sets, two backbones). Ranked by the label's probability.
    """
    columns = ["row", "suggested", "probability", "suggested_probability", "probable"]
    counts = np.bincount(labels, minlength=len(class_names))
    judged = np.flatnonzero(counts[labels] >= FEWEST)
    if len(np.unique(labels[judged])) < 2:
        return pd.DataFrame(columns=columns).astype({"probable": bool, "row": int}), float("nan")
    rows, given = _principal(features[judged]), labels[judged]
    folds = stratified_folds(given, None if groups is None else groups[judged], seed=seed)
    found = choose_strength(rows, given, folds, len(class_names), strengths=STRENGTHS, solver=UNSCALED)
    probabilities, n = found.probabilities, len(given)
    own = probabilities[np.arange(n), given]
    usual = np.array([own[given == c].mean() if (given == c).any() else 1.0 for c in range(len(class_names))])
    called = probabilities.argmax(1)
    sure = (probabilities >= usual) & (probabilities >= SURELY * own[:, None])
    sure[np.arange(n), given] = False
    wrong = np.flatnonzero(called != given)
    frame = pd.DataFrame(
        {
            "row": judged[wrong],
            "suggested": [class_names[c] for c in called[wrong]],
            "probability": own[wrong].round(5),
            "suggested_probability": probabilities.max(1)[wrong].round(5),
            "probable": sure[wrong, called[wrong]],
        }
    )
    return frame, float((called == given).mean())


def _principal(features: np.ndarray) -> np.ndarray:
    """Standardised features in their principal directions: fewer numbers, and fewer of them noise."""
    rows = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    # PCA gives such rows by an SVD, eleven times as slow; its covariance_eigh (scikit-learn 1.5) agrees to 2e-5 only
    _, vectors = np.linalg.eigh(rows.T @ rows)
    return (rows @ vectors[:, ::-1][:, :DIRECTIONS]).astype("float32")
