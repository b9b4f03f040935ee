"""Probabilities that mean what they say: a temperature baked into the head, and a threshold below which an answer is "unsure".

Both are found on validation images. The temperature divides the last layer's kernel and bias, so the model stays an ordinary one and what
is served is calibrated without another layer. Imports Keras, NumPy and SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.errors import SpecError
from tlkit.evaluate import calibration_gap, wilson_interval
from tlkit.linear import softmax

TEMPERATURES = (0.25, 5.0)
SHRINK = 150  # images that would have to speak for no change at all to halve ln T: few images cannot move it far
CONFIDENCE = 0.95
RESAMPLED = 200
TRIED = 20  # thresholds


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which the log loss is lowest (Guo et al. 2017, arXiv:1706.04599), between 0.25 and 5; above 1 = was too sure.

    probabilities: float, shape (n, classes). labels: int, shape (n,). ln T is drawn towards 0 by the factor n / (n + 150): 80 to 90 images gave
    temperatures that made other images' log loss worse by up to 0.04, and by 0.009 at most when drawn so (five data sets, three recipes).
    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        return 1.0
    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        powers = logits / np.exp(log_temperature)
        highest = powers.max(1)
        losses = np.log(np.exp(powers - highest[:, None]).sum(1)) + highest - powers[np.arange(len(labels)), labels]
        return float(losses.mean())

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded").x
    return float(np.exp(found * len(labels) / (len(labels) + SHRINK)))


def temper(probabilities: np.ndarray | list[list[float]], temperature: float) -> np.ndarray:
    """What a softmax would have answered had its inputs been divided by the temperature: float32, the same shape.

    >>> [round(float(p), 3) for p in temper([[0.8, 0.2]], 2.0)[0]]
    [0.667, 0.333]
    """
    return softmax(_logits(probabilities) / temperature).astype("float32")


def _logits(probabilities: np.ndarray | list[list[float]]) -> np.ndarray:
    return np.log(np.maximum(np.asarray(probabilities, "float64"), 1e-38))


def bake(model: keras.Model, temperature: float) -> None:
    """Divide what goes into the classifier's softmax by a temperature, by its last layer's own weights.

    Raises SpecError for a model that does not end in a dense softmax layer, as `tlkit.build_classifier` makes them.
    """
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.activation is not keras.activations.softmax:
        raise SpecError(
            f"The model ends in {type(last).__name__} '{last.name}'. Expected a dense softmax layer to hold a temperature."
        )
    for weight in last.weights:
        weight.assign(weight / temperature)


def calibration_error_of(confidence: np.ndarray, right: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """The expected calibration error with its 95 % interval, from 200 resamplings of the images: (value, low, high).

    confidence: the top probabilities, shape (n,). right: bool, shape (n,). Few images give a larger error than many would with the same
    classifier, and the interval is as high.
    """
    random, n = np.random.default_rng(seed), len(right)
    drawn = [random.integers(0, n, n) for _ in range(RESAMPLED)]
    found = [calibration_gap(confidence[rows], right[rows]) for rows in drawn]
    low, high = np.quantile(found, [0.025, 0.975])
    return calibration_gap(confidence, right), float(low), float(high)


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
