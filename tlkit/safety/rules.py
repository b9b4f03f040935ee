"""The rules of the safety check: how much skill must remain, and when a class counts as changed into another.

All are pure functions from the probes' predictions to decisions. Imports only NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Shares of a class are lower confidence bounds (95 %, one-sided) on the images that change into another class.
KEPT = 0.75  # of the better probe's skill: with less, the class information is lost ...
KEPT_UPPER = 0.9  # ... if 19 of 20 resamplings also keep less than this
MOST = 0.5  # of a class: it has changed if one kind of features shows this
SOME = 0.25  # of a class: it has changed if all kinds show this
EXPECTED = 0.1  # of a class: it has changed into the class that names suggest if one kind shows this
FEWEST_CHANGED = 3  # images, net
WEAKEST = 0.2  # a probe is used only if the lower bound of its skill is at least this
HURTS = 0.02  # loss of accuracy on a class, beyond two standard errors, that is reported
CAREFUL = {"rotate": 10.0, "shift_x": 0.1, "shift_y": 0.1, "zoom": 1.1, "stretch": 1.1, "crop": 0.8}
CAREFUL |= {"brightness": 0.1, "contrast": 0.1, "colour_cast": 0.05, "pca_colour": 0.1, "vignette": 0.3}

Interval = tuple[float, float, float]  # a value, and the ends of its interval


@dataclass(frozen=True)
class Predictions:
    """The predictions of one kind of probe for images.

    predicted: class numbers, int, shape (n,).
    distance: to the nearest image of each class in other folds, float, shape (n, classes). Up to 1 is usual.
    """

    predicted: np.ndarray
    distance: np.ndarray

    def far(self) -> np.ndarray:
        """Whether images are beyond the usual distance from every class: bool, shape (n,)."""
        return self.distance.min(axis=1) > 1


class Probe(Protocol):
    """What the rules need of a probe, such as `tlkit.safety.evidence.ProbeSet`.

    truth: the true class numbers of the judged images, int, shape (n,).
    classes: the number of classes.
    untouched: the predictions for the untouched images.
    """

    truth: np.ndarray
    classes: int
    untouched: Predictions


@dataclass(frozen=True)
class Ruling:
    """The decision of the rules on one transformed version of the judged images.

    pairs: (class, the class it becomes, net share of its images), largest share first.
    kept: the share of the better probe's skill that remains, with its 90 % interval.
    kind: which probe that is.
    lost: whether too little skill remains.
    far: the share of images beyond the usual distance from every class, averaged over probes.
    """

    pairs: tuple[tuple[int, int, float], ...]
    kept: Interval
    kind: str
    lost: bool
    far: float

    @property
    def fine(self) -> bool:
        """Whether the version is safe."""
        return not self.pairs and not self.lost


def rule(
    predictions: Mapping[str, Predictions],
    probes: Mapping[str, Probe],
    expected: Sequence[tuple[int, int]] = (),
    seed: int = 0,
) -> Ruling:
    """Decide whether one transformed version of the judged images is safe.

    Args:
        predictions: for the version, by kind of features, at least one kind.
        probes: by kind.
        expected: pairs of class numbers, in both orders, that the field exchanges according to their names.
        seed: of the resampling.
    """
    kept = {kind: kept_skill(probes[kind], one.predicted, seed) for kind, one in predictions.items()}
    kind = max(kept, key=lambda one: kept[one][0])
    lost = loses_meaning(kept[kind])
    shares, lower = zip(*(moved(probes[name], one) for name, one in predictions.items()), strict=True)
    changed, share = changes_class(lower, expected, lost), np.maximum.reduce(shares)
    pairs = [(int(a), int(b), float(share[a, b])) for a, b in np.argwhere(changed)]
    far = float(np.mean([one.far().mean() for one in predictions.values()]))
    return Ruling(tuple(sorted(pairs, key=lambda one: -one[2])), kept[kind], kind, lost, far)


# -- skill ------------------------------------------------------------------------------------------------


def skill(predicted: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """Balanced accuracy, adjusted for chance: 0 is chance, 1 is perfect, as `balanced_accuracy_score(adjusted=True)`.

    >>> skill(np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1]), 2)
    0.5
    """
    correct = predicted == truth
    mean = np.mean([correct[truth == c].mean() for c in range(classes) if (truth == c).any()])
    return float((mean - 1 / classes) / (1 - 1 / classes))


def resampled_skill(probe: Probe, *predictions: np.ndarray, seed: int = 0, count: int = 200) -> list[np.ndarray]:
    """Bootstrap the skill of several predictions, with the same images drawn for each, within classes.

    Returns: float, shape (count,), per prediction.
    """
    random = np.random.default_rng(seed)
    accuracies = [np.zeros(count) for _ in predictions]
    by_class = [np.flatnonzero(probe.truth == c) for c in np.unique(probe.truth)]
    for mine in by_class:
        drawn = random.integers(0, len(mine), (count, len(mine)))
        for accuracy, predicted in zip(accuracies, predictions, strict=True):
            accuracy += (predicted[mine] == probe.truth[mine])[drawn].mean(1) / len(by_class)
    k = probe.classes
    return [(accuracy - 1 / k) / (1 - 1 / k) for accuracy in accuracies]


def skill_with_interval(probe: Probe, seed: int = 0) -> Interval:
    """A probe's skill on untouched images, and its 95 % bootstrap interval."""
    middle = skill(probe.untouched.predicted, probe.truth, probe.classes)
    low, high = np.quantile(resampled_skill(probe, probe.untouched.predicted, seed=seed)[0], (0.025, 0.975))
    return round(middle, 4), round(float(low), 4), round(float(high), 4)


def kept_skill(probe: Probe, predicted: np.ndarray, seed: int = 0) -> Interval:
    """The share of a probe's skill that remains, and its 90 % bootstrap interval."""
    before, after = resampled_skill(probe, probe.untouched.predicted, predicted, seed=seed)
    low, high = np.quantile(after / np.maximum(before, 0.05), (0.05, 0.95))
    untouched = skill(probe.untouched.predicted, probe.truth, probe.classes)
    middle = skill(predicted, probe.truth, probe.classes) / max(untouched, 0.05)
    return round(middle, 4), round(float(low), 4), round(float(high), 4)


def loses_meaning(kept: Interval) -> bool:
    """Whether too little skill remains, both the estimate and the upper bound of its interval.

    >>> loses_meaning((0.7, 0.6, 0.85)), loses_meaning((0.7, 0.6, 0.95))
    (True, False)
    """
    return kept[0] < KEPT and kept[2] < KEPT_UPPER


def trusted(skills: Mapping[str, Interval]) -> tuple[str, ...]:
    """The kinds of features whose probes are used: clearly better than chance, and at least half as good as the best.

    >>> trusted({"layout": (0.9, 0.8, 1.0), "content": (0.4, 0.3, 0.5)})
    ('layout',)
    """
    strongest = max(middle for middle, _, _ in skills.values())
    return tuple(k for k, (middle, low, _) in skills.items() if low >= WEAKEST and middle >= strongest / 2)


# -- changes of class -------------------------------------------------------------------------------------


def moved(probe: Probe, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of classes (a, b), the share of a's images that change into b.

    An image changes into b if it is classified as b and is within b's usual distance. Images for which that already
    holds untouched are subtracted.

    Returns: the net shares, and their lower 95 % confidence bounds (one-sided, normal approximation of the paired
        difference), -1 where too few images changed. Float, shape (classes, classes) each.
    """
    k, before = probe.classes, probe.untouched
    share, lower = np.zeros((k, k)), np.full((k, k), -1.0)
    over = [(one.predicted[:, None] == np.arange(k)) & (one.distance <= 1) for one in (predictions, before)]
    for a in range(k):
        mine = probe.truth == a
        n = int(mine.sum())
        came = (over[0][mine] & ~over[1][mine]).sum(0)
        left = (over[1][mine] & ~over[0][mine]).sum(0)
        net = (came - left) / n
        error = np.sqrt(np.maximum(came + left - (came - left) ** 2 / n, 0.5)) / n
        enough = (came - left >= FEWEST_CHANGED) & (np.arange(k) != a)
        share[a], lower[a] = net, np.where(enough, net - 1.645 * error, -1.0)
    return share, lower


def changes_class(
    lower: Sequence[np.ndarray], expected: Sequence[tuple[int, int]] = (), lost: bool = False
) -> np.ndarray:
    """Decide which classes change into which: most of a class by one kind of features, or some of it by several.

    Args:
        lower: lower bounds of each kind, from `moved`.
        expected: pairs that names suggest. They need a smaller share, but only if the class information is lost or
            some class changes.
        lost: whether the class information is lost.

    Returns: bool, shape (classes, classes).
    """
    changed = np.maximum.reduce(lower) > MOST
    if len(lower) > 1:
        changed |= np.minimum.reduce(lower) > SOME
    if lost or changed.any():
        for a, b in expected:
            changed[a, b] |= any(one[a, b] > EXPECTED for one in lower)
    return changed


def survives(learned: float, untouched: float) -> bool:
    """Whether classes remain separable in the transformed images.

    A blank image also resembles some class, but has not changed into it.

    learned, untouched: the skill of a probe trained on transformed images, and of one trained on untouched images.
    """
    return learned >= KEPT * untouched


# -- verdicts ---------------------------------------------------------------------------------------------


def verdict_at(limit: float | None) -> str:
    """The verdict on a field that is safe up to a share of its range. None: at no size.

    >>> verdict_at(1.0), verdict_at(0.5), verdict_at(None)
    ('safe', 'limited', 'unsafe')
    """
    if limit is None:
        return "unsafe"
    return "safe" if limit == 1.0 else "limited"


def careful_size(name: str, asked: float, hinted: bool) -> float | None:
    """The size that a field is limited to if it cannot be measured: never larger than asked. None: it is dropped.

    Flips are dropped: there is no evidence that they are safe. A field that class names advise against is also dropped.

    asked: see `tlkit.plan.augmentation.size_of`. hinted: whether class names advise against the field.

    >>> careful_size("rotate", 45.0, False), careful_size("crop", 0.5, False), careful_size("rotate", 45.0, True)
    (10.0, 0.8, None)
    """
    careful = CAREFUL.get(name)
    if careful is None or hinted:
        return None
    return max(asked, careful) if name == "crop" else min(asked, careful)


def hurt(effect: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """The classes on which a probe also trained on transformed images is clearly worse: class -> gain, below 0.

    effect: class -> (gain in accuracy, its standard error).
    """
    return {name: gain for name, (gain, error) in effect.items() if gain < -2 * error - HURTS}
