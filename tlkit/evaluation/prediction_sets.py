"""Prediction sets: all classes that an image may show, so that the true one is among them at a stated rate.

Conformal prediction with class-conditional thresholds (Sadinle, Lei and Wasserman 2019, arXiv:1609.00451): a class is
in the set if its probability is at or above the class's threshold, which held-out images of that class give. Imports
NumPy and SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlkit.stats import wilson_interval

FEWEST_OF_A_CLASS = 20  # held-out images, from which a class has a threshold of its own
# From how many images a class's own threshold counts as much as that of all classes. 30, 50, 75 and 100 were tried on
# one data set (clothing, features of `nano` and MobileNetV2 at 128 pixels, n = 761): with 75, sets had 2.13 and 1.41
# classes instead of 2.62 and 1.62, and of 10 classes the intervals of 1 and 1 did not hold 0.9, instead of 2 and 3
SHARED_COUNTS = 75
SERVED_DIFFERENCE = 1e-5  # the exported model may round the same image's probability differently by this much


@dataclass(frozen=True)
class PredictionSets:
    """Thresholds on the probabilities.

    Attributes:
        coverage: The share of new images like the held-out ones whose set has the true class, at least.
        thresholds: For each class; a probability at or above it puts the class in the set. 0 = always.
        held_out: How many images each threshold is from.
        pooled: Whether a class has too few images, so that its threshold is from all such classes together.
    """

    coverage: float
    thresholds: tuple[float, ...]
    held_out: tuple[int, ...]
    pooled: tuple[bool, ...]

    def sets(self, probabilities: np.ndarray) -> np.ndarray:
        """Which classes are in the set of each image: bool, shape (n, classes). A set may be empty."""
        return np.asarray(probabilities) >= np.asarray(self.thresholds, "float32")

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """JSON values, for metrics.json and an export's description."""
        return {
            "coverage": self.coverage,
            "thresholds": dict(zip(class_names, self.thresholds, strict=True)),
            "held_out": dict(zip(class_names, self.held_out, strict=True)),
            "pooled": [name for name, one in zip(class_names, self.pooled, strict=True) if one],
        }


def thresholds_of(described: Mapping[str, Any] | None, class_names: Sequence[str]) -> np.ndarray | None:
    """The thresholds in an export's description, in class order: float32, shape (classes,). None if it has none."""
    if not described:
        return None
    return np.array([described["thresholds"][name] for name in class_names], "float32")


def fit_prediction_sets(probabilities: np.ndarray, labels: np.ndarray, coverage: float) -> PredictionSets:
    """Find the thresholds on held-out images, each predicted by a head that was not trained on it.

    A class's own threshold is its probability's ceil((n + 1) * coverage)-th highest value among the n held-out images
    of the class, so that at least this share of its new images would be covered. With few images it is far from the
    true one by chance. So it is drawn towards the threshold of all images together: the logarithm of each counts as
    n ** 2 and as 75 ** 2. Classes with fewer than 20 images share one threshold, found on all their images.

    Args:
        probabilities: Calibrated, float, shape (n, classes).
        labels: int, shape (n,).
        coverage: Above 0 and below 1.
    """
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels].astype("float64")
    counts = np.bincount(labels, minlength=classes)
    few = counts < FEWEST_OF_A_CLASS
    together = few[labels]
    shared = threshold(own[together] if together.sum() >= FEWEST_OF_A_CLASS else own, coverage)
    everything = threshold(own, coverage)
    at = [shared if few[one] else _between(own[labels == one], everything, coverage) for one in range(classes)]
    n = [int(together.sum()) if few[one] else int(counts[one]) for one in range(classes)]
    return PredictionSets(coverage, tuple(at), tuple(n), tuple(few.tolist()))


def _between(own: np.ndarray, everything: float, coverage: float) -> float:
    """The threshold of a class between its own and that of all images. own: its probability for its images."""
    alone = threshold(own, coverage)
    if not alone or not everything:
        return everything
    weight = len(own) ** 2 / (len(own) ** 2 + SHARED_COUNTS**2)
    return float(np.exp(weight * np.log(alone) + (1 - weight) * np.log(everything)))


def threshold(own: np.ndarray, coverage: float) -> float:
    """The probability of the true class that a share of `coverage` of new images reaches; 0 if n is too small to tell.

    own: of held-out images, shape (n,).
    """
    rank = math.ceil(round((len(own) + 1) * coverage, 9))
    if rank > len(own):
        return 0.0
    return max(float(np.sort(own)[::-1][rank - 1]) - SERVED_DIFFERENCE, 0.0)


def covered(sets: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Measure sets of images whose labels are known: JSON values.

    n, covered, coverage, coverage_95 (Wilson interval), mean_size, empty and several (how many sets have no class, and
    more than one), and by class n, covered and coverage_95.
    """
    hit = sets[np.arange(len(labels)), labels]
    sizes = sets.sum(1)
    found = _share(hit) | {
        "mean_size": float(sizes.mean()) if len(sizes) else 0.0,
        "empty": int((sizes == 0).sum()),
        "several": int((sizes > 1).sum()),
    }
    found["classes"] = {name: _share(hit[labels == number]) for number, name in enumerate(class_names)}
    return found


def _share(hit: np.ndarray) -> dict[str, Any]:
    n, count = len(hit), int(hit.sum())
    return {
        "n": n,
        "covered": count,
        "coverage": count / n if n else None,
        "coverage_95": list(wilson_interval(count, n)),
    }
