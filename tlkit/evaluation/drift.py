"""Tests whether new images differ from held-out ones, without labels, by permutations.

Three things are compared: what the images show, by their features; which classes are predicted; and how the images
look, by measures such as their brightness. Rabanser, Günnemann and Lipton 2019 (arXiv:1810.11953) compare such tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FALSE_ALARMS = 0.05  # share of sets without a shift that are called shifted, all tests together
PERMUTATIONS = 999
MOST = 500  # images of each side at most; the distances of all pairs are held in memory
STEP = 100  # permutations that are evaluated at once


@dataclass(frozen=True)
class DriftTest:
    """One comparison.

    what: "features", "classes" or "appearance". statistic: the distance between the two sets, 0 for equal ones.
    p_value: the probability of a distance as large if nothing had changed. corrected: the same for three tests at once
    (Bonferroni).
    """

    what: str
    statistic: float
    p_value: float
    corrected: float

    @property
    def found(self) -> bool:
        return self.corrected <= FALSE_ALARMS


@dataclass(frozen=True)
class Sample:
    """Images as the tests see them.

    features: float, shape (n, features). predicted: class numbers, int, shape (n,). measures: float, shape (n,
    measures), see `tlkit.data.appearance`.
    """

    features: np.ndarray
    predicted: np.ndarray
    measures: np.ndarray

    def __len__(self) -> int:
        return len(self.predicted)

    def take(self, rows: np.ndarray) -> Sample:
        return Sample(self.features[rows], self.predicted[rows], self.measures[rows])


def drift_tests(reference: Sample, new: Sample, *, seed: int = 0, permutations: int = PERMUTATIONS) -> list[DriftTest]:
    """Compare new images with held-out ones by three permutation tests.

    - features: the energy distance (Székely and Rizzo 2013) of features, standardised over both sets together. (By the
      reference alone, equal sets of 100 images and 1,500 features were called different in 65 % of the cases.)
    - classes: the chi-square distance of the shares of the predicted classes (black box shift detection, Lipton, Wang
      and Smola 2018, arXiv:1802.03916).
    - appearance: the largest Kolmogorov-Smirnov distance over all measures.

    Args:
        reference, new: At most MOST images of each are compared, drawn at random.
        seed: Of the permutations and of what is drawn.
        permutations: How many; the smallest p-value is 1 / (permutations + 1).

    Returns:
        The tests, in this order. All together they are wrong about equal sets in at most 5 % of the cases.
    """
    random = np.random.default_rng(seed)
    reference, new = (one.take(np.sort(random.permutation(len(one))[:MOST])) for one in (reference, new))
    count, total = len(new), len(reference) + len(new)
    is_new = np.zeros((permutations + 1, total), "float32")  # the first row is what is really new
    is_new[0, total - count :] = 1
    for row in is_new[1:]:
        row[random.permutation(total)[:count]] = 1
    statistics: dict[str, Callable[[], np.ndarray]] = {
        "features": lambda: _energy(_standardised(np.concatenate([reference.features, new.features])), is_new),
        "classes": lambda: _chi_square(np.concatenate([reference.predicted, new.predicted]), is_new),
        "appearance": lambda: _largest_step(np.concatenate([reference.measures, new.measures]), is_new),
    }
    found = []
    for what, compute in statistics.items():
        values = compute()
        p_value = float((values >= values[0] - 1e-9).mean())
        found.append(DriftTest(what, float(values[0]), p_value, min(1.0, len(statistics) * p_value)))
    return found


def _standardised(rows: np.ndarray) -> np.ndarray:
    return ((rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-6)).astype("float32")


def _energy(rows: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """The energy distance of each permutation: shape (permutations,)."""
    squares = np.square(rows).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0))
    n, total = is_new[0].sum(), distances.sum()
    m, found = len(rows) - n, []
    for start in range(0, len(is_new), STEP):
        some = is_new[start : start + STEP]
        to_new = some @ distances
        within, across = (to_new * some).sum(1), (to_new * (1 - some)).sum(1)
        found.append(2 * across / (n * m) - within / n**2 - (total - within - 2 * across) / m**2)
    return np.concatenate(found)


def _chi_square(predicted: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """The chi-square distance of two vectors of counts, for each permutation: shape (permutations,)."""
    classes = np.unique(predicted)
    one_hot = (predicted[:, None] == classes).astype("float32")
    counts, n = is_new @ one_hot, is_new[0].sum()
    expected = one_hot.sum(0) * n / len(predicted)
    return (np.square(counts - expected) / expected).sum(1)


def _largest_step(measures: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """The largest Kolmogorov-Smirnov distance over the measures, for each permutation: shape (permutations,)."""
    n, found = is_new[0].sum(), np.zeros(len(is_new), "float32")
    m = len(measures) - n
    for column in measures.T:
        order = np.argsort(column, kind="stable")
        last = np.append(np.diff(column[order]) > 0, True)  # equal values make one step
        for start in range(0, len(is_new), STEP):
            some = is_new[start : start + STEP][:, order]
            steps = np.abs(np.cumsum(some / n - (1 - some) / m, axis=1))[:, last].max(1)
            here = slice(start, start + STEP)
            found[here] = np.maximum(found[here], steps)
    return found


def any_found(tests: Sequence[DriftTest]) -> bool:
    """Whether one of the tests found a shift."""
    return any(one.found for one in tests)
