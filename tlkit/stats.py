"""Statistics of classifiers: intervals, paired differences, calibration error, log loss.

Knows neither Keras nor images.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

ECE_BINS = 15
FEWEST_TO_TELL = 30  # images a temperature was fitted on, from which its effect is worth telling


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean log loss (natural logarithm), with probabilities clipped below at 1e-7.

    scikit-learn's clips float32 at 1.2e-7, and warns when float32 rows, converted to float64, do not sum to exactly 1.
    """
    of_label = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_label, 1e-7)).mean())


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion by Wilson's score method (1927); (0, 1) for n = 0.

    >>> [round(x, 3) for x in wilson_interval(93, 100)]
    [0.863, 0.966]
    """
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(correct, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error: the mean of |confidence - accuracy| over bins of the top probability.

    The bins have equal width and are weighted by their number of images. probabilities: shape (n, classes).
    """
    return calibration_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def calibration_gap(confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error from top probabilities and correct predictions, each of shape (n,)."""
    rows = reliability_bins(confidence, correct, bins)
    return sum(abs(mean - accuracy) * count for mean, accuracy, count in rows) / len(correct)


def reliability_bins(
    confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS
) -> list[tuple[float, float, int]]:
    """Return (mean confidence, accuracy, number of images) of each bin of equal width that is not empty."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    masks = [index == b for b in sorted(set(index.tolist()))]
    return [(float(confidence[mask].mean()), float(correct[mask].mean()), int(mask.sum())) for mask in masks]


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the difference in accuracy of two classifiers on the same images, and its standard error.

    first, second: whether each prediction is correct, bool, shape (n,).
    """
    difference = first.astype(float) - second.astype(float)
    n = len(difference)
    return float(difference.mean()), float(difference.std(ddof=1) / n**0.5) if n > 1 else 1.0


def chance_log_loss(labels: np.ndarray) -> float:
    """Return the log loss of always predicting the classes' shares, in nats: the entropy of the labels.

    labels: int, shape (n,), n 1 or more.

    >>> round(chance_log_loss(np.array([0, 1, 0, 1])), 4)
    0.6931
    """
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
