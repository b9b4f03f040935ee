"""Statistics of classifiers: intervals, paired differences, calibration error, log loss. Knows neither Keras nor images."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

ECE_BINS = 15


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean natural log loss, probabilities held above 1e-7.

    Scikit-learn's holds float32 above 1.2e-7, and warns of float32 sums that are off 1 when these are made float64.
    """
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(right, 1e-7)).mean())


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score method (1927); (0, 1) for n = 0.

    >>> [round(x, 3) for x in wilson_interval(93, 100)]
    [0.863, 0.966]
    """
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(right, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean distance between confidence and accuracy over equal bins of the top probability, weighted by their images."""
    return calibration_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def calibration_gap(confidence: np.ndarray, right: np.ndarray, bins: int = ECE_BINS) -> float:
    """The same from top probabilities, shape (n,), and whether each answer was right."""
    return sum(abs(said - was) * count for said, was, count in reliability_bins(confidence, right, bins)) / len(right)


def reliability_bins(confidence: np.ndarray, right: np.ndarray, bins: int = ECE_BINS) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, images) of each of the equal bins that holds an image."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    chosen = [place == b for b in sorted(set(place.tolist()))]
    return [(float(confidence[one].mean()), float(right[one].mean()), int(one.sum())) for one in chosen]


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """By how much the first is more often right than the second on the same images, and the standard error of that."""
    difference = first.astype(float) - second.astype(float)
    n = len(difference)
    return float(difference.mean()), float(difference.std(ddof=1) / n**0.5) if n > 1 else 1.0
