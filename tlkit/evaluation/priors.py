"""How common each class is among images without labels, and probabilities for that: Saerens et al. 2002."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

STEPS = 500  # of expectation maximisation, at most
TOLERANCE = 1e-6
PRIOR_IMAGES = 10.0  # how many images the source's shares count for, so that no share falls to 0 by chance
SIGNIFICANT = 0.01  # p-value below which the classes are taken to be differently common


@dataclass(frozen=True)
class Priors:
    """The estimated share of each class.

    shares: shape (classes,). p_value: of the likelihood ratio test that they are the source's.
    """

    shares: np.ndarray
    p_value: float

    @property
    def changed(self) -> bool:
        return self.p_value < SIGNIFICANT


def estimate_priors(probabilities: np.ndarray, source: np.ndarray) -> Priors:
    """Estimate how common each class is, by expectation maximisation (Saerens, Latinne and Decaestecker 2002).

    It assumes calibrated probabilities, and that images of one class look as they did in training. Where they look
    otherwise, a class that the network confuses with others seems more common than it is.

    Args:
        probabilities: calibrated, shape (n, classes), for classes as common as `source`.
        source: shares of the classes that the probabilities are for, shape (classes,), each above 0.
    """
    ratios = np.asarray(probabilities, "float64") / source
    shares, prior = source.astype("float64"), PRIOR_IMAGES * source
    for _ in range(STEPS):
        weighted = ratios * shares
        posterior = weighted / np.maximum(weighted.sum(1, keepdims=True), 1e-300)
        found = (posterior.sum(0) + prior) / (len(ratios) + PRIOR_IMAGES)
        moved, shares = np.abs(found - shares).max(), found
        if moved < TOLERANCE:
            break
    before, after = (np.log(np.maximum(ratios @ one, 1e-300)).sum() for one in (source, shares))
    return Priors(shares, float(chi2.sf(max(0.0, 2 * (after - before)), max(1, len(source) - 1))))


def with_priors(probabilities: np.ndarray, source: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Probabilities for classes that are as common as `shares`, from those for `source`: float32, the same shape.

    >>> with_priors(np.array([[0.5, 0.5]]), np.array([0.5, 0.5]), np.array([0.75, 0.25])).tolist()
    [[0.75, 0.25]]
    """
    weighted = np.asarray(probabilities, "float64") * (shares / source)
    return (weighted / weighted.sum(1, keepdims=True)).astype("float32")
