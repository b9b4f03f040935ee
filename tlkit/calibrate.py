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
PRIOR = 0.5  # standard deviation of ln T expected before any image is seen: a few images cannot move T far
CONFIDENCE = 0.95
RESAMPLED = 200


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which the log loss is lowest (Guo et al. 2017, arXiv:1706.04599), between 0.25 and 5; above 1 = was too sure.

    probabilities: float, shape (n, classes). labels: int, shape (n,). A normal prior on ln T with deviation 0.5 weighs as much as an image
    or two, so that twenty images that are all right do not drive T to its border.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        return 1.0
    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        powers = logits / np.exp(log_temperature)
        highest = powers.max(1)
        losses = np.log(np.exp(powers - highest[:, None]).sum(1)) + highest - powers[np.arange(len(labels)), labels]
        return float(losses.sum() + (log_temperature / PRIOR) ** 2 / 2)

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """What a softmax would have answered had its inputs been divided by the temperature: float32, the same shape.

    >>> temper(np.array([[0.8, 0.2]]), 1.0).round(3).tolist()
    [[0.8, 0.2]]
    """
    return softmax(_logits(probabilities) / temperature).astype("float32")


def _logits(probabilities: np.ndarray) -> np.ndarray:
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

    Where the images allow it, with 95 % confidence for new images of the same kind (selection with guaranteed risk, Geifman and El-Yaniv 2017,
    arXiv:1705.08500: exact binomial bounds, the confidence shared among the steps of a binary search over thresholds). Five per cent needs
    about 110 images without an error. With fewer, the lowest threshold that held on these images, `assured` false; where none did, one
    above 1: every answer is unsure.
    """
    from scipy.stats import beta

    order = np.argsort(-probabilities.max(1), kind="stable")
    confidence = probabilities.max(1)[order].astype("float64")
    wrong = np.cumsum((probabilities.argmax(1) != labels)[order])
    ends = np.flatnonzero(np.append(np.diff(confidence) != 0, True))  # equal probabilities are answered together
    steps = max(1, int(np.ceil(np.log2(max(len(ends), 2)))))
    bounds = beta.ppf(1 - (1 - CONFIDENCE) / steps, wrong[ends] + 1, ends + 1 - wrong[ends])
    bounds = np.where(wrong[ends] == ends + 1, 1.0, bounds)
    low, high, best = 0, len(ends) - 1, None
    while low <= high:  # the bound is no monotone function of the threshold; each step's answer holds by itself
        middle = (low + high) // 2
        if bounds[middle] <= max_error:
            best, low = middle, middle + 1
        else:
            high = middle - 1
    if best is not None:
        return Refusal(max_error, _below(confidence[ends[best]]), True)
    held = np.flatnonzero(wrong[ends] / (ends + 1) <= max_error)
    return Refusal(max_error, _below(confidence[ends[held[-1]]]) if len(held) else 2.0, False)


def _below(probability: float) -> float:
    """A hair lower, as the same picture served may round otherwise."""
    return float(probability - 1e-6)
