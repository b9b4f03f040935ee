"""The rules of the check: how much skill must be left, and when a class counts as become another.

All are functions of values. What probes answered goes in, what follows from it comes out. Imports NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

KEPT = 0.75  # of the better probe's skill: with less, meaning is lost ...
SURELY = 0.9  # ... if 19 of 20 resamplings, too, keep less than this
MOST = 0.5  # of a class: what one kind of evidence alone must surely see become another class
SOME = 0.25  # of a class: what both kinds must surely see become another class
EXPECTED = 0.1  # of a class: what one kind must surely see become the class that the names suggest
FEWEST_CHANGED = 3  # images, net
WEAKEST = 0.2  # skill that a probe must surely have to be asked
HURTS = 0.02  # share of a class's images that a probe loses, beyond two standard errors, for it to be said
CAREFUL = {"rotate": 10.0, "shift_x": 0.1, "shift_y": 0.1, "zoom": 1.1, "stretch": 1.1, "crop": 0.8}
CAREFUL |= {"brightness": 0.1, "contrast": 0.1, "colour_cast": 0.05, "pca_colour": 0.1, "vignette": 0.3}

Interval = tuple[float, float, float]  # a value, and the ends of its interval


@dataclass(frozen=True)
class Answers:
    """What one kind of evidence says of images. called: class numbers, int (n,). distance: to the nearest image of
    each class that the fold leaves, in units of what is usual in that class, float (n, classes): up to 1 is usual.
    """

    called: np.ndarray
    distance: np.ndarray

    def far(self) -> np.ndarray:
        """Beyond the usual distance from every class: bool (n,)."""
        return self.distance.min(axis=1) > 1


class Known(Protocol):
    """What the rules need to know of a probe, such as `tlkit.safety.evidence.Evidence`. truth: the classes of the
    judged images, int (n,). classes: how many there are. untouched: the answers about the images as they are.
    """

    truth: np.ndarray
    classes: int
    untouched: Answers


@dataclass(frozen=True)
class Ruling:
    """What the rules make of the answers about one version of the judged images.

    pairs: (class, the class it becomes, share of its images, net), most first. kept: share of the better probe's
    skill that is left, with its 90 % interval. kind: which probe that is. lost: whether that is too little. far:
    share of the images further from every class than is usual, the mean over probes.
    """

    pairs: tuple[tuple[int, int, float], ...]
    kept: Interval
    kind: str
    lost: bool
    far: float

    @property
    def fine(self) -> bool:
        return not self.pairs and not self.lost


def rule(
    answers: Mapping[str, Answers],
    probes: Mapping[str, Known],
    expected: Sequence[tuple[int, int]] = (),
    seed: int = 0,
) -> Ruling:
    """Judge one version of the judged images by what each kind of evidence, at least one, says of it.

    answers: about the version, by kind of evidence. probes: what is known of each. expected: pairs of classes, both
    ways, that their names say are exchanged. seed: of the resampling.
    """
    kept = {kind: kept_skill(probes[kind], answer.called, seed) for kind, answer in answers.items()}
    kind = max(kept, key=lambda one: kept[one][0])
    lost = loses_meaning(kept[kind])
    shares, surely = zip(*(moved(probes[one], answer) for one, answer in answers.items()), strict=True)
    changed, share = changes_class(surely, expected, lost), np.maximum.reduce(shares)
    pairs = [(int(a), int(b), float(share[a, b])) for a, b in np.argwhere(changed)]
    far = float(np.mean([answer.far().mean() for answer in answers.values()]))
    return Ruling(tuple(sorted(pairs, key=lambda one: -one[2])), kept[kind], kind, lost, far)


# -- meaning ----------------------------------------------------------------------------------------------


def skill(called: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """Mean over classes of the share that is right, from 0 = chance to 1.

    >>> skill(np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1]), 2)
    0.5
    """
    right = called == truth
    mean = np.mean([right[truth == c].mean() for c in range(classes) if (truth == c).any()])
    return float((mean - 1 / classes) / (1 - 1 / classes))


def resampled_skill(known: Known, *calls: np.ndarray, seed: int = 0, count: int = 200) -> list[np.ndarray]:
    """The skill of several calls on the same resamplings of images within their classes: float (count,) each."""
    random = np.random.default_rng(seed)
    shares = [np.zeros(count) for _ in calls]
    places = [np.flatnonzero(known.truth == c) for c in np.unique(known.truth)]
    for mine in places:
        drawn = random.integers(0, len(mine), (count, len(mine)))
        for share, called in zip(shares, calls, strict=True):
            share += (called[mine] == known.truth[mine])[drawn].mean(1) / len(places)
    k = known.classes
    return [(share - 1 / k) / (1 - 1 / k) for share in shares]


def skill_with_interval(known: Known, seed: int = 0) -> Interval:
    """A probe's skill on untouched images, and its 95 % interval."""
    middle = skill(known.untouched.called, known.truth, known.classes)
    low, high = np.quantile(resampled_skill(known, known.untouched.called, seed=seed)[0], (0.025, 0.975))
    return round(middle, 4), round(float(low), 4), round(float(high), 4)


def kept_skill(known: Known, called: np.ndarray, seed: int = 0) -> Interval:
    """Which share of a probe's skill is left, and its 90 % interval by resampling images within classes."""
    before, after = resampled_skill(known, known.untouched.called, called, seed=seed)
    low, high = np.quantile(after / np.maximum(before, 0.05), (0.05, 0.95))
    untouched = skill(known.untouched.called, known.truth, known.classes)
    middle = skill(called, known.truth, known.classes) / max(untouched, 0.05)
    return round(middle, 4), round(float(low), 4), round(float(high), 4)


def loses_meaning(kept: Interval) -> bool:
    """Whether too little skill is left, and surely so.

    >>> loses_meaning((0.7, 0.6, 0.85)), loses_meaning((0.7, 0.6, 0.95))
    (True, False)
    """
    return kept[0] < KEPT and kept[2] < SURELY


def trusted(skills: Mapping[str, Interval]) -> tuple[str, ...]:
    """The kinds of evidence that may be asked: surely better than chance, and not far behind the best.

    >>> trusted({"layout": (0.9, 0.8, 1.0), "content": (0.4, 0.3, 0.5)})
    ('layout',)
    """
    strongest = max(middle for middle, _, _ in skills.values())
    return tuple(k for k, (middle, low, _) in skills.items() if low >= WEAKEST and middle >= strongest / 2)


# -- classes ----------------------------------------------------------------------------------------------


def moved(known: Known, answer: Answers) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of classes, the share of a's images that went over to b, net of those that did so untouched, and
    what it surely is (19 of 20, normal approximation of the paired difference); -1 where too few images moved. Each
    float, shape (k, k).
    """
    k, before = known.classes, known.untouched
    share, surely = np.zeros((k, k)), np.full((k, k), -1.0)
    over = [(one.called[:, None] == np.arange(k)) & (one.distance <= 1) for one in (answer, before)]
    for a in range(k):
        mine = known.truth == a
        n = int(mine.sum())
        came = (over[0][mine] & ~over[1][mine]).sum(0)
        left = (over[1][mine] & ~over[0][mine]).sum(0)
        net = (came - left) / n
        error = np.sqrt(np.maximum(came + left - (came - left) ** 2 / n, 0.5)) / n
        enough = (came - left >= FEWEST_CHANGED) & (np.arange(k) != a)
        share[a], surely[a] = net, np.where(enough, net - 1.645 * error, -1.0)
    return share, surely


def changes_class(
    surely: Sequence[np.ndarray], expected: Sequence[tuple[int, int]] = (), lost: bool = False
) -> np.ndarray:
    """Which classes became which: surely most of a class by one kind of evidence, or some of it by all of several.

    surely: of each kind, as `moved` gives it. expected: pairs that names suggest; where something is wrong, because the
    meaning is lost or some class changes, they need less to be believed. Returns bool, shape (k, k).
    """
    changed = np.maximum.reduce(surely) > MOST
    if len(surely) > 1:
        changed |= np.minimum.reduce(surely) > SOME
    if lost or changed.any():
        for a, b in expected:
            changed[a, b] |= any(one[a, b] > EXPECTED for one in surely)
    return changed


def survives(learned: float, untouched: float) -> bool:
    """Whether classes can still be told in the versions: a blank image resembles some class, too, and has become none.

    learned, untouched: the skill of a probe that learns from the versions, and of one that learns from images as they
    are.
    """
    return learned >= KEPT * untouched


# -- verdicts ---------------------------------------------------------------------------------------------


def verdict_at(limit: float | None) -> str:
    """The verdict on a field that is safe up to a share of its range, None where at no size.

    >>> verdict_at(1.0), verdict_at(0.5), verdict_at(None)
    ('safe', 'limited', 'unsafe')
    """
    if limit is None:
        return "unsafe"
    return "safe" if limit == 1.0 else "limited"


def careful_size(name: str, asked: float, hinted: bool) -> float | None:
    """The size that a field is held to where nothing can be measured: no larger than asked, None = dropped.

    Flips are dropped, for nothing speaks for them; so is a field that the classes' names speak against (`hinted`).
    asked: see `tlkit.plan.augmentation.size_of`.

    >>> careful_size("rotate", 45.0, False), careful_size("crop", 0.5, False), careful_size("rotate", 45.0, True)
    (10.0, 0.8, None)
    """
    careful = CAREFUL.get(name)
    if careful is None or hinted:
        return None
    return max(asked, careful) if name == "crop" else min(asked, careful)


def hurt(effect: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """The classes on which a probe that learned from versions, too, is surely worse: class -> gain, below 0.

    effect: by class, the gain in the share that is right, and its standard error.
    """
    return {name: gain for name, (gain, error) in effect.items() if gain < -2 * error - HURTS}
