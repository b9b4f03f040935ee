"""Statistics of classifiers: intervals, paired differences, calibration error, log loss.

Knows neither Keras nor images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, norm

ECE_BINS = 15
AT_CHANCE = 0.05  # a difference with a higher p-value is not told from chance
FEWEST_TO_TELL = 30  # images a temperature was fitted on, from which its effect is worth telling


def log_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each row's log loss (natural logarithm), with probabilities clipped below at 1e-7: float, shape (n,).

    scikit-learn's clips float32 at 1.2e-7, and warns when float32 rows, converted to float64, do not sum to exactly 1.
    """
    return -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-7))


def log_loss(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the mean of `log_losses`. weights: of the rows, shape (n,); see `balancing_weights`."""
    return float(np.average(log_losses(probabilities, labels), weights=weights))


def balancing_weights(labels: np.ndarray) -> np.ndarray:
    """Return a weight for each row that gives every class that occurs the same total: float, shape (n,), mean 1.

    >>> balancing_weights(np.array([0, 0, 0, 1])).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(counts) * counts[index])


def wilson_interval(correct: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a proportion by Wilson's score method (1927); (0, 1) for n = 0.

    correct, n: whole numbers, or the effective ones of `proportion_interval`. level: the confidence, 0 to 1.

    >>> [round(x, 3) for x in wilson_interval(93, 100)]
    [0.863, 0.966]
    """
    if n == 0:
        return 0.0, 1.0
    share, z = correct / n, float(norm.ppf((1 + level) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def proportion_interval(correct: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, for images that may come in groups, such as those of one patient.

    It is Wilson's interval at `effective_images`, so it is not empty where all predictions are correct.

    >>> [round(x, 3) for x in proportion_interval(np.arange(100) < 93)]
    [0.863, 0.966]
    """
    effective = effective_images(correct, groups)
    return wilson_interval(float(np.mean(correct)) * effective if len(correct) else 0.0, effective)


def effective_images(correct: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return how many independent images would tell an accuracy as precisely: at most n.

    Images of one group are alike, so they say less than as many independent ones. The variance is that of a cluster
    bootstrap of the accuracy, in its limit of infinitely many resamplings (Rao and Scott 1992).

    Args:
        correct: bool, shape (n,).
        groups: shape (n,); images with equal values belong together. None: all images are independent.
    """
    n = len(correct)
    if groups is None or n == 0:
        return float(n)
    share = float(np.mean(correct))
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    count = len(sizes)
    if count < 2 or share in (0.0, 1.0):  # the residuals say nothing: as if all images of a group were the same
        return min(float(n), n**2 / float((sizes.astype(float) ** 2).sum()))
    residuals = np.bincount(index, weights=np.asarray(correct, float) - share, minlength=count)
    variance = count / (count - 1) * float((residuals**2).sum()) / n**2
    return min(float(n), share * (1 - share) / max(variance, 1e-12))


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


def paired_p_value(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return the two-sided p-value of the exact McNemar test: whether two classifiers are equally accurate.

    It counts the images that exactly one of the two predicts correctly; if both are equally accurate, either is as
    likely to be that one (McNemar 1947; a binomial test). 1 if there is no such image. Groups of images are counted
    instead of images if there are any: those in which one of the two predicts more images correctly (a sign test).

    first, second: whether each prediction is correct, bool, shape (n,). groups: as in `effective_images`.

    >>> paired_p_value(np.array([1, 1, 1, 0], bool), np.array([1, 0, 0, 0], bool))
    0.5
    """
    ahead = first.astype(int) - second.astype(int)
    if groups is not None:
        _, index = np.unique(groups, return_inverse=True)
        ahead = np.bincount(index, weights=ahead).round().astype(int)
    gained, lost = int((ahead > 0).sum()), int((ahead < 0).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number by Holm's method (1979), in their order.

    >>> holm([0.01, 0.04, 0.5])
    [0.03, 0.08, 0.5]
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[int(index)] = highest
    return corrected


def paired_difference(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Return the difference in accuracy of two classifiers on the same images, and its standard error.

    For groups of images, the error is that of a cluster bootstrap in its limit of infinitely many resamplings.

    first, second: whether each prediction is correct, bool, shape (n,). groups: as in `effective_images`.
    """
    difference = first.astype(float) - second.astype(float)
    n = len(difference)
    if groups is not None and len(np.unique(groups)) < n:
        _, index = np.unique(groups, return_inverse=True)
        sums = np.bincount(index, weights=difference - difference.mean())
        count = len(sums)
        return float(difference.mean()), float((count / (count - 1) * (sums**2).sum()) ** 0.5 / n) if count > 1 else 1.0
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
