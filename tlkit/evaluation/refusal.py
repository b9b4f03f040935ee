"""Finds when to answer "unsure" (selective classification): a probability threshold that keeps the error in a limit.

The threshold is found on validation images, with its confidence bound. Imports NumPy and SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tlkit.stats import wilson_interval

CONFIDENCE = 0.95
TRIED = 20  # thresholds that are tested


def coverage_and_risk(confidence: np.ndarray, correct: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """The risk-coverage curve at up to 100 points: coverage, risk and threshold.

    Risk is the share of wrong predictions among those with a probability at or above the threshold.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~correct[order])
    ends = np.unique(np.linspace(1, len(correct), min(100, len(correct))).round().astype(int))
    return (ends / len(correct)).tolist(), (wrong[ends - 1] / ends).tolist(), confidence[order][ends - 1].tolist()


@dataclass(frozen=True)
class Refusal:
    """A threshold on the top probability.

    assured: the error of predictions at or above it is at most `max_error` with 95 % confidence. Otherwise it is so on
    the validation images only.
    """

    max_error: float
    threshold: float
    assured: bool

    def measured(self, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Measure the coverage and the error of the answered images: JSON values."""
        answered = probabilities.max(1) >= self.threshold
        wrong = int((probabilities.argmax(1) != labels)[answered].sum())
        count = int(answered.sum())
        return {
            "n": len(labels),
            "answered": count,
            "coverage": count / max(len(labels), 1),
            "error": wrong / count if count else None,
            "error_95": list(wilson_interval(wrong, count)),
        }


def refusal_threshold(probabilities: np.ndarray, labels: np.ndarray, max_error: float) -> Refusal:
    """Find the lowest threshold that keeps the error of the answered images at or below `max_error`.

    If there are enough images, the limit holds with 95 % confidence for new images of the same kind. For that,
    thresholds are tested in a fixed order, the strictest with enough images first, until one fails (fixed-sequence
    testing, Angelopoulos et al. 2021, arXiv:2110.01052). Each test is the exact binomial bound (Clopper and Pearson
    1934). A limit of 5 % needs at least 59 images without an error.

    If no threshold passes, it is the lowest one that held on these images, with `assured` false. If none held either,
    it is above 1, so that every answer is "unsure".

    Args:
        probabilities: float, shape (n, classes).
        labels: int, shape (n,).
        max_error: The limit, between 0 and 1.
    """
    order = np.argsort(-probabilities.max(1), kind="stable")
    confidence = probabilities.max(1)[order].astype("float64")
    wrong = np.cumsum((probabilities.argmax(1) != labels)[order])
    ends = np.flatnonzero(np.append(np.diff(confidence) != 0, True))  # equal probabilities are answered together
    best = None
    for end in _tried(ends, max_error):
        if _bound(int(wrong[end]), int(end) + 1) > max_error:
            break
        best = end
    if best is not None:
        return Refusal(max_error, _below(confidence[best]), True)
    held = ends[wrong[ends] / (ends + 1) <= max_error]
    return Refusal(max_error, _below(confidence[held[-1]]) if len(held) else 2.0, False)


def _tried(ends: np.ndarray, max_error: float) -> list[int]:
    """Which ends of the ranked predictions are tested, strictest first. Does not depend on the labels.

    The first has enough predictions to pass with a third of the allowed error. There are 20 in all, evenly spaced.
    """
    count = int(ends[-1]) + 1
    enough = next((n for n in range(1, count + 1) if _bound(round(n * max_error / 3), n) <= max_error), count)
    sizes = np.unique(np.linspace(enough, count, TRIED).round().astype(int))
    return sorted({int(ends[np.searchsorted(ends, size - 1)]) for size in sizes})


def _bound(wrong: int, n: int) -> float:
    """The upper bound of the error, with 95 % confidence."""
    from scipy.stats import beta

    return 1.0 if wrong >= n else float(beta.ppf(CONFIDENCE, wrong + 1, n - wrong))


def _below(probability: float) -> float:
    """Slightly lower, because the exported model may round the same image's probability differently."""
    return float(probability - 1e-6)
