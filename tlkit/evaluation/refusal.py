"""When to answer "unsure": a threshold on the probability that keeps errors below a limit, with its bound.

It is found on validation images. Imports NumPy and SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tlkit.stats import wilson_interval

CONFIDENCE = 0.95
TRIED = 20  # thresholds


def coverage_and_risk(confidence: np.ndarray, right: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """What share of the answers is wrong if only the surest are given: coverage, risk and the threshold, at up to 100 steps."""
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~right[order])
    ends = np.unique(np.linspace(1, len(right), min(100, len(right))).round().astype(int))
    return (ends / len(right)).tolist(), (wrong[ends - 1] / ends).tolist(), confidence[order][ends - 1].tolist()


@dataclass(frozen=True)
class Refusal:
    """A threshold on the top probability. assured: the error among answers at or above it is at most max_error with 95 % confidence, else
    only on the validation images seen.
    """

    max_error: float
    threshold: float
    assured: bool

    def measured(self, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Coverage and the error of what is answered: JSON values."""
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
    """The lowest threshold that keeps the error of what is answered at or below `max_error`.

    Where the images allow it, with 95 % confidence for new images of the same kind: thresholds are tried in a fixed order, the strictest with
    enough images first, each by the exact binomial bound (Clopper and Pearson 1934), until one fails (fixed-sequence testing, Angelopoulos et
    al. 2021, arXiv:2110.01052). Five per cent needs 59 images without an error at least. Where none passes, the lowest threshold that held on
    these images, `assured` false; where none did, one above 1: every answer is unsure.
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
    """Which ends of the ranked answers are tested, strictest first, no matter what is right: from so many answers that an error of a third of
    the allowed one would pass, every twentieth of them all.
    """
    count = int(ends[-1]) + 1
    enough = next((n for n in range(1, count + 1) if _bound(round(n * max_error / 3), n) <= max_error), count)
    sizes = np.unique(np.linspace(enough, count, TRIED).round().astype(int))
    return sorted({int(ends[np.searchsorted(ends, size - 1)]) for size in sizes})


def _bound(wrong: int, n: int) -> float:
    """What the error is below with 95 % confidence."""
    from scipy.stats import beta

    return 1.0 if wrong >= n else float(beta.ppf(CONFIDENCE, wrong + 1, n - wrong))


def _below(probability: float) -> float:
    """A hair lower, as the same picture served may round otherwise."""
    return float(probability - 1e-6)
