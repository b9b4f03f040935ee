"""Labels that are probably wrong, found by a linear probe that was not trained on the image.

A confident probe that disagrees with a label proves little: every probe disagrees with the labels of hard images. What
tells wrong labels from hard images is how disagreement falls with confidence. Hard images become rare as the probe
becomes sure; labels that are wrong at random do not. `estimate_noise` fits both to the data themselves.

Imports scikit-learn through `features.linear`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import log_softmax, logsumexp

from tlkit.features.folds import stratified_folds
from tlkit.features.linear import UNSCALED, solve
from tlkit.features.principal import principal_components

COMPONENTS = 256  # principal components that the probe is fitted on
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # candidates for C of the probe
PROBABLE = 0.5  # a label is probably wrong if that is at least as likely as not
SURPRISING = 10  # minimum odds of the suggested label over the given one
FEWEST = 5  # images per class, below which its labels are not judged
SHARES = np.geomspace(1e-4, 0.5, 60)  # grid of the share of wrong labels
TEMPERATURES = np.geomspace(0.25, 8, 41)  # grid of the factor (an inverse temperature) on the probe's log probabilities
PRIOR = 20  # prior of the share: Beta(1, 20), mean 4.8 %. Ten public test sets had 3.3 % (arXiv:2103.14749)


@dataclass(frozen=True)
class LabelNoise:
    """What the labels of a data set are like, as far as a probe can tell. All are NaN if nothing could be judged.

    accuracy: of the cross-validated probe, 0 to 1.
    share: estimated share of wrong labels, 0 to 1. low, high: its 95 % credible interval.
    precision: estimated share of wrong labels among those named probable; NaN if none is.
    recall: the share of wrong labels that would be named, if they were spread evenly over images and other classes.
    """

    accuracy: float = float("nan")
    share: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    precision: float = float("nan")
    recall: float = float("nan")

    @property
    def judged(self) -> bool:
        return not np.isnan(self.accuracy)


@dataclass(frozen=True)
class NoiseEstimate:
    """The result of `estimate_noise` on n images.

    wrong: the probability that each label is wrong, float, shape (n,).
    probabilities: of the classes, with the temperature that was found, float, shape (n, classes).
    share, low, high: as in `LabelNoise`.
    evidence: log of the likelihood of the labels, averaged over the grid; higher is better.
    """

    wrong: np.ndarray
    probabilities: np.ndarray
    share: float
    low: float
    high: float
    evidence: float


def label_errors(
    features: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, LabelNoise]:
    """Find images whose label is probably wrong, and images whose label surprises a cross-validated probe.

    The probe is logistic regression on 256 principal components, with five folds. `estimate_noise` turns its
    probabilities into the probability that each label is wrong. Images whose label is probably wrong are then left out
    of the training of the probe, which judges all images a second time.

    A label is `probable` (probably wrong) if it is estimated to be wrong with a probability of 0.5 or more. It is
    `surprising` if it is not probable, and another class is ten times as probable: most of these are hard images with
    the right label.

    Five data sets (4,720 images, `nano` at 96 pixels, 2026-11-26): 2 labels were named as they are. With 1, 3, 5 and
    10 % flipped at random, the stated precision was 0.84, 0.81, 0.83 and 0.86, the true one 0.70, 0.80, 0.83 and 0.87
    (three seeds; benchmarks/faults_labels.csv).

    Args:
        features: float32, shape (n, features).
        labels: int, shape (n,).
        class_names: one name per label.
        groups: int, shape (n,). Images of one group stay in one fold.
        seed: of the folds.

    Returns: a table with the columns row, suggested, probability (of the given label), suggested_probability, probable
        (bool), wrong (the probability that the label is wrong) and surprising (bool), in the order of the rows, with
        all images for which the probe predicts another class; and what the labels are like. Both are empty if fewer
        than two classes have FEWEST images.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    judged = np.flatnonzero(counts[labels] >= FEWEST)
    present, given = np.unique(labels[judged], return_inverse=True)
    if len(present) < 2:
        nothing = np.zeros(0)
        return _table(nothing.astype(int), nothing.astype(str), nothing, nothing, nothing), LabelNoise()
    rows = principal_components(features[judged], COMPONENTS)
    folds = stratified_folds(given, None if groups is None else groups[judged], seed=seed)
    found, accuracy = _judge(rows, given, folds, len(present))
    n = np.arange(len(given))
    own, others = found.probabilities[n, given], found.probabilities.copy()
    others[n, given] = -1
    suggested = others.argmax(1)
    listed = np.flatnonzero((others.max(1) > own) | (found.wrong >= PROBABLE))
    names = np.array(class_names)[present[suggested[listed]]]
    table = _table(judged[listed], names, own[listed], others.max(1)[listed], found.wrong[listed])
    named = found.wrong >= PROBABLE
    precision = float(found.wrong[named].mean()) if named.any() else float("nan")
    return table, LabelNoise(accuracy, found.share, found.low, found.high, precision, _recall(found, given))


def estimate_noise(probabilities: np.ndarray, labels: np.ndarray) -> NoiseEstimate:
    """Estimate the share of wrong labels, and the probability that each one is wrong.

    A label is taken to be drawn from the probe's probabilities, sharpened or softened by a temperature, and then, with
    a probability that is the share of wrong labels, replaced by another class at random (Copas 1988, Binary regression
    models for contaminated data, JRSS B 50; for more classes, Northcutt et al. 2021, arXiv:1911.00068, with one noise
    rate for all pairs of classes). Both numbers are averaged over a grid, weighted by their likelihood on these labels
    and a prior, so few images or a weak probe give cautious answers.

    Args:
        probabilities: of a probe that was not trained on the image, float, shape (n, classes), at least two classes.
        labels: int, shape (n,).
    """
    logs = np.log(np.maximum(probabilities.astype(float), 1e-30))
    n, classes = np.arange(len(labels)), logs.shape[1]

    def weigh(temperatures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = np.stack([np.exp(log_softmax(factor * logs, axis=1)[n, labels]) for factor in temperatures])
        return own, _log_weights(own, temperatures, classes)

    _, weights = weigh(TEMPERATURES)
    likely = np.flatnonzero(logsumexp(weights, axis=1) > weights.max() - 10)
    first, last = max(likely[0] - 1, 0), min(likely[-1] + 1, len(TEMPERATURES) - 1)
    temperatures = np.geomspace(TEMPERATURES[first], TEMPERATURES[last], 25)  # a finer grid where the weight is
    own, weights = weigh(temperatures)
    evidence = float(logsumexp(weights) - np.log(weights.size))
    weights = np.exp(weights - logsumexp(weights))
    kept = np.argwhere(weights > 1e-4 * weights.max())
    wrong = np.sum([weights[t, s] * _wrong(own[t], SHARES[s], classes) for t, s in kept], axis=0)
    wrong = wrong / weights[tuple(kept.T)].sum()
    of_shares = weights.sum(0)
    low, high = np.interp([0.025, 0.975], np.cumsum(of_shares), SHARES)
    temperature = np.exp(weights.sum(1) @ np.log(temperatures))
    softened = np.exp(log_softmax(temperature * logs, axis=1))
    return NoiseEstimate(wrong, softened, float(of_shares @ SHARES), float(low), float(high), evidence)


def _log_weights(own: np.ndarray, temperatures: np.ndarray, classes: int) -> np.ndarray:
    """Log of likelihood times prior: shape (temperatures, shares). own: shape (temperatures, n)."""
    other = (1 - own) / (classes - 1)
    likelihood = np.stack([np.log((1 - s) * own + s * other + 1e-300).sum(1) for s in SHARES], axis=1)
    prior = (PRIOR - 1) * np.log(1 - SHARES) + np.log(SHARES)  # the last term because the grid is geometric
    return likelihood + prior - np.log(temperatures)[:, None] ** 2 / 2


def _wrong(own: np.ndarray, share: float, classes: int) -> np.ndarray:
    """The probability that a label is wrong. own: the probability of its class without wrong labels."""
    by_chance = share * (1 - own) / (classes - 1)
    return by_chance / ((1 - share) * own + by_chance + 1e-300)


def _recall(found: NoiseEstimate, labels: np.ndarray) -> float:
    """The share of images that would be named if their label were changed to another class at random."""
    classes = found.probabilities.shape[1]
    named = _wrong(found.probabilities, found.share, classes) >= PROBABLE
    named[np.arange(len(labels)), labels] = False
    return float(np.average(named.sum(1) / (classes - 1), weights=1 - found.wrong))


def _judge(rows: np.ndarray, labels: np.ndarray, folds: np.ndarray, classes: int) -> tuple[NoiseEstimate, float]:
    """Judge all labels by a probe that was trained without those that are probably wrong; and its first accuracy."""
    strength, found, probabilities = _best_probe(rows, labels, folds, classes, STRENGTHS, np.ones(len(labels), bool))
    accuracy = float((probabilities.argmax(1) == labels).mean())
    trusted = found.wrong < PROBABLE
    if not trusted.all() and len(np.unique(labels[trusted])) == classes:
        stronger = [one for one in STRENGTHS if strength <= one <= 10 * strength]  # less noise needs less penalty
        found = _best_probe(rows, labels, folds, classes, stronger, trusted)[1]
    return found, accuracy


def _best_probe(
    rows: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    classes: int,
    strengths: tuple[float, ...] | list[float],
    trusted: np.ndarray,
) -> tuple[float, NoiseEstimate, np.ndarray]:
    """The value of C under which the labels are most probable, wrong ones included, what it says, and its predictions.

    trusted: the rows that may be trained on, bool. All are predicted, by a probe of the other folds.
    """
    best: tuple[float, NoiseEstimate, np.ndarray] | None = None
    for strength in strengths:
        probabilities = np.zeros((len(labels), classes))
        for number in np.unique(folds):
            here, training = folds == number, (folds != number) & trusted
            head = solve(rows[training], labels[training], classes, strength=strength, solver=UNSCALED)
            probabilities[here] = head.probabilities(rows[here])
        found = estimate_noise(probabilities, labels)
        if best is not None and found.evidence <= best[1].evidence:
            break
        best = strength, found, probabilities
    assert best is not None
    return best


def _table(
    rows: np.ndarray, suggested: np.ndarray, own: np.ndarray, others: np.ndarray, wrong: np.ndarray
) -> pd.DataFrame:
    probable = wrong >= PROBABLE
    return pd.DataFrame(
        {
            "row": rows,
            "suggested": suggested,
            "probability": own.round(5),
            "suggested_probability": others.round(5),
            "probable": probable,
            "wrong": wrong.round(3),
            "surprising": ~probable & (others >= SURPRISING * own),
        }
    )
