"""Estimates a classifier's accuracy on images without labels, and learns from synthetic shifts how to.

Four known estimates are computed: average confidence, difference of confidences (Guillory et al. 2021,
arXiv:2107.03315), average thresholded confidence (Garg et al. 2022, arXiv:2201.04234) and the agreement of several
heads (Jiang et al. 2022, arXiv:2106.13799). Each of them errs where a network is sure and wrong. So none of them is the
answer: a Gaussian process learns the accuracy from ten statistics of a set of images, on held-out images with labels
that were shifted in many ways (the idea of Deng and Zheng 2021, arXiv:2007.02915). Imports NumPy and SciPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

HEADS = 12  # of the committee
FEATURES = 0.25  # share of the features that each of its heads sees
PENALTY = 0.1  # of its ridge regressions, as a share of the number of training images
FAR = 30.0  # standard deviations at which features are clipped
# Of the Gaussian process; lengths of 2 to 5 were compared on the five development sets (see benchmarks/README.md): the
# longer, the better for kinds of shift that it has not seen, and the worse for the others, by half a point in all.
LENGTH = 3.5  # in standard deviations of the statistics over the shifts
VARIANCE = 0.05  # of the smooth part, accuracy squared
SLOPE = 0.003  # variance of each statistic's slope
NOISE = 1.5  # times the binomial variance of a measured accuracy
STATISTICS = (
    "distance of the mean feature",
    "average confidence",
    "entropy of the mean probabilities",
    "entropy of the predicted classes",
    "mean distance of features",
    "agreement with the committee",
    "agreement within the committee",
    "score of the predicted class by the committee",
    "average thresholded confidence",
    "average thresholded entropy",
)


@dataclass(frozen=True)
class Seen:
    """Images as the network sees them.

    features: what the head reads, float32, shape (n, features). probabilities: float32, shape (n, classes).
    """

    features: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def confidence(self) -> np.ndarray:
        return self.probabilities.max(1)

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(1)


class Committee:
    """Heads that are fitted to training images by ridge regression, each on a random quarter of the features.

    Where they disagree, the features no longer mean what they meant. They predict worse than the run's own head.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0) -> None:
        """features: of training images, float, shape (n, features). labels: class numbers, shape (n,)."""
        random = np.random.default_rng(seed)
        self._mean, self._spread = features.mean(0), features.std(0) + 1e-6
        rows = self._standardised(features)
        targets = np.eye(classes)[labels]
        self._shares = targets.mean(0)
        self._heads = []
        for _ in range(HEADS):
            columns = random.permutation(rows.shape[1])[: max(32, int(FEATURES * rows.shape[1]))]
            self._heads.append((columns, _ridge(rows[:, columns], targets - self._shares)))

    def _standardised(self, features: np.ndarray) -> np.ndarray:
        return ((features - self._mean) / self._spread).clip(-10, 10).astype("float64")

    def scores(self, features: np.ndarray) -> np.ndarray:
        """The score of each class by each head: float64, shape (heads, n, classes)."""
        rows = self._standardised(features)
        return np.stack([rows[:, columns] @ kernel + self._shares for columns, kernel in self._heads])


def _ridge(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    penalty = PENALTY * len(rows)
    if rows.shape[1] > len(rows):
        return rows.T @ np.linalg.solve(rows @ rows.T + penalty * np.eye(len(rows)), targets)
    return np.linalg.solve(rows.T @ rows + penalty * np.eye(rows.shape[1]), rows.T @ targets)


class Statistician:
    """Computes STATISTICS of sets of images, relative to held-out images with labels."""

    def __init__(self, reference: Seen, labels: np.ndarray, committee: Committee) -> None:
        """reference: held-out images. labels: their class numbers, shape (n,)."""
        self._committee = committee
        spread = reference.features.std(0)
        self._mean, self._spread = reference.features.mean(0), spread + 1e-3 * reference.features.std() + 1e-6
        self.accuracy = float((reference.predicted == labels).mean())
        self.confidence = float(reference.confidence.mean())
        # the thresholds of average thresholded confidence: as many reference images are above them as are correct
        self._least_confidence = float(np.quantile(reference.confidence, 1 - self.accuracy))
        self._most_entropy = float(np.quantile(_entropy(reference.probabilities), self.accuracy))
        self.agreement = float(self.statistics(reference)[5])

    def statistics(self, seen: Seen) -> np.ndarray:
        """STATISTICS of a set of images: float64, shape (10,)."""
        classes = seen.probabilities.shape[1]
        rows = ((seen.features - self._mean) / self._spread).clip(-FAR, FAR)
        scores, predicted = self._committee.scores(seen.features), seen.predicted
        votes = scores.argmax(2)
        counts = np.stack([(votes == one).sum(0) for one in range(classes)], axis=1)
        within = (counts * (counts - 1)).sum(1) / (HEADS * (HEADS - 1))
        shares = np.bincount(predicted, minlength=classes) / len(seen)
        mean = seen.probabilities.mean(0)
        return np.array(
            [
                np.log(np.abs(rows.mean(0)).mean() + 0.05),
                seen.confidence.mean(),
                _entropy(mean[None])[0] / np.log(classes),
                _entropy(shares[None])[0] / np.log(classes),
                np.log(np.abs(rows).mean(1) + 1e-6).mean(),
                (votes == predicted).mean(),
                within.mean(),
                scores.mean(0)[np.arange(len(seen)), predicted].mean(),
                (seen.confidence >= self._least_confidence).mean(),
                (_entropy(seen.probabilities) <= self._most_entropy).mean(),
            ]
        )

    def simple_estimates(self, statistics: np.ndarray) -> dict[str, float]:
        """The known estimates of the accuracy, by name."""
        agreement = self.accuracy * float(statistics[5]) / max(self.agreement, 1e-6)
        return {
            "average confidence": float(statistics[1]),
            "difference of confidences": float(np.clip(self.accuracy - self.confidence + statistics[1], 0, 1)),
            "average thresholded confidence": float(statistics[9]),
            "agreement of heads": float(np.clip(agreement, 0, 1)),
        }


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    clipped = np.clip(probabilities.astype("float64"), 1e-12, 1)
    return -(clipped * np.log(clipped)).sum(1)


@dataclass(frozen=True)
class Taught:
    """What held-out images were like under synthetic shifts, and how accurate the classifier was.

    statistics: shape (shifts, 10). accuracy: shape (shifts,). kinds: the corruptions of each shift. n: images of each.
    """

    statistics: np.ndarray
    accuracy: np.ndarray
    kinds: Sequence[frozenset[str]]
    n: int

    def without(self, kinds: frozenset[str]) -> Taught:
        """Without the shifts that have one of these corruptions."""
        kept = [i for i, one in enumerate(self.kinds) if not one & kinds]
        return Taught(self.statistics[kept], self.accuracy[kept], [self.kinds[i] for i in kept], self.n)


class AccuracyModel:
    """A Gaussian process from the statistics of a set of images to the classifier's accuracy on it.

    Its error is measured by leaving out one kind of corruption after the other, so that it holds for kinds of shift
    that it has not seen.
    """

    def __init__(self, taught: Taught, classes: int, *, unchanged: tuple[float, float] | None = None) -> None:
        """Fit the process.

        classes: their number. unchanged: the accuracy on unchanged images, as the shifted ones were drawn from, and as
        measured on more images that were held out in turn. Answers are moved by the difference, in proportion to how
        far they are above chance. None: they are not.
        """
        self._unchanged = unchanged
        self._classes, self._lowest = (
            classes,
            0.7 / classes,
        )  # a classifier that collapsed to one class is right by chance
        self._taught = taught
        self._mean, self._spread = taught.statistics.mean(0), taught.statistics.std(0) + 1e-6
        self._rows = (taught.statistics - self._mean) / self._spread
        noise = NOISE * (taught.accuracy * (1 - taught.accuracy) + 0.02) / taught.n
        self._factor = cho_factor(self._kernel(self._rows, self._rows) + np.diag(noise + 1e-6))
        self._weights = cho_solve(self._factor, taught.accuracy - taught.accuracy.mean())
        self.quantile = 1.96
        self.mean_error = float("nan")

    def _kernel(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        squares = np.square(rows[:, None] - others[None]).sum(2)
        return VARIANCE * np.exp(-squares / (2 * LENGTH**2)) + SLOPE * rows @ others.T

    def predict(self, statistics: np.ndarray) -> tuple[float, float]:
        """The accuracy, and the process's own standard deviation of it, both from 0 to 1."""
        row = ((statistics - self._mean) / self._spread)[None]
        across = self._kernel(row, self._rows)[0]
        value = float(self._taught.accuracy.mean() + across @ self._weights)
        variance = float(self._kernel(row, row)[0, 0] - across @ cho_solve(self._factor, across))
        if self._unchanged is not None and self._unchanged[0] > self._lowest:
            few, many = self._unchanged
            value += (many - few) * max(0.0, value - self._lowest) / (few - self._lowest)
        return float(np.clip(value, self._lowest, 1)), float(np.sqrt(max(variance, 1e-6)))

    def calibrated(self) -> AccuracyModel:
        """Measure the error on each kind of corruption with a process that did not learn from it. Returns itself."""
        taught, errors, ratios = self._taught, [], []
        for kind in sorted({one for kinds in taught.kinds for one in kinds}):
            held_out = [i for i, kinds in enumerate(taught.kinds) if kinds == {kind}]
            other = AccuracyModel(taught.without(frozenset({kind})), self._classes)
            for i in held_out:
                value, deviation = other.predict(taught.statistics[i])
                accuracy = taught.accuracy[i]
                errors.append(abs(value - accuracy))
                ratios.append(errors[-1] / np.hypot(deviation, _sampling_error(accuracy, taught.n)))
        if errors:
            self.mean_error = float(np.mean(errors))
            self.quantile = max(float(np.quantile(ratios, 0.95)), 1.96)
        return self

    def interval(self, statistics: np.ndarray, n: int) -> tuple[float, float, float]:
        """The estimate with its 95 % interval, for n images: (accuracy, low, high)."""
        value, deviation = self.predict(statistics)
        half = self.quantile * float(np.hypot(deviation, _sampling_error(value, n)))
        return value, max(0.0, value - half), min(1.0, value + half)


def _sampling_error(accuracy: float, n: int) -> float:
    """The standard deviation of an accuracy measured on n images; one image is added so that it is never 0."""
    return float(np.sqrt((accuracy * (1 - accuracy) + 0.02) / (n + 1)))
