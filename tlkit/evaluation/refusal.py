"""Finds when to answer "unsure" (selective classification): a probability threshold that keeps the error in a limit.

The threshold is found on held-out images, with its confidence bound. Imports NumPy and SciPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlkit.stats import effective_images, wilson_interval

CONFIDENCE = 0.95
TRIED = 20  # thresholds that are tested
SERVED_DIFFERENCE = 1e-5  # the exported model may round the same image's probability differently by this much
FEWEST_WRONG = 5  # groups with a wrong prediction, from which it is estimated how alike the images of a group are
HELD, NOT_HELD, TOO_FEW = "held", "not held", "too few images"  # what is known of the limit for a class alone


def coverage_and_risk(confidence: np.ndarray, correct: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """The risk-coverage curve at up to 100 points: coverage, risk and threshold.

    Risk is the share of wrong predictions among those with a probability at or above the threshold.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~correct[order])
    ends = np.unique(np.linspace(1, len(correct), min(100, len(correct))).round().astype(int))
    return (ends / len(correct)).tolist(), (wrong[ends - 1] / ends).tolist(), confidence[order][ends - 1].tolist()


@dataclass(frozen=True)
class Refusal:
    """A threshold on the top probability.

    assured: the error of predictions at or above it is at most `max_error` with 95 % confidence. Otherwise it is so on
    the images only that the threshold was found on.

    classes: for each class with images, by name: n (its images), answered and wrong (of these), and limit, whether the
    limit holds for images of this class alone, in the same sense: "held", "not held", or "too few images" to tell.
    Empty if nothing is answered.
    """

    max_error: float
    threshold: float
    assured: bool
    classes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def measured(self, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """Measure the coverage and the error of the answered images: JSON values."""
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


def refusal_threshold(
    probabilities: np.ndarray,
    labels: np.ndarray,
    max_error: float,
    *,
    class_names: Sequence[str] | None = None,
    groups: np.ndarray | None = None,
) -> Refusal:
    """Find the lowest threshold that keeps the error of the answered images at or below `max_error`.

    If there are enough images, the limit holds with 95 % confidence for new images of the same kind. For that,
    thresholds are tested in a fixed order, the strictest with enough images first, until one fails (fixed-sequence
    testing, Angelopoulos et al. 2021, arXiv:2110.01052). Each test is the exact binomial bound (Clopper and Pearson
    1934). A limit of 5 % needs at least 59 images without an error.

    The same tests are made for the images of each class, since a rare class can be predicted wrongly every time without
    much effect on the error of all. Of the thresholds that hold for all images, the one is taken that holds for most
    classes, and of equals the lowest. Each class's limit has its own 95 % confidence.

    If no threshold passes, it is the lowest one that held on these images, and for each class on its own images if
    these are enough for one error to be allowed, with `assured` false. If none held for all images, it is above 1, so
    that every answer is "unsure".

    The promise is for images that took no part in training. If these images also chose the model, its errors on them
    may be too few. In a simulation that mattered little: with 300 images, a limit of 15 % and the best of 10 equally
    good models by accuracy on the same images, 3 of 102 assured thresholds let more than the limit through; without
    that choice, 4 of 107 (150 draws each, 2026-11-26).

    Args:
        probabilities: float, shape (n, classes).
        labels: int, shape (n,).
        max_error: The limit, between 0 and 1.
        class_names: In class order. Default: the numbers.
        groups: Shape (n,); images with equal values belong together, and count as fewer (see
            `tlkit.stats.effective_images`).
    """
    ranked = _Ranked.of(probabilities, labels, groups)
    everything = np.ones(len(labels), bool)
    classes = {int(label): ranked.labels == label for label in np.unique(labels)}
    tried = ranked.tried(max_error)
    passed = ranked.assured(tried, everything, max_error)
    assured = bool(passed)
    if assured:
        holding = {label: set(ranked.assured(tried, mine, max_error)) for label, mine in classes.items()}
        few = {label for label, mine in classes.items() if ranked.least(mine, max_error) > mine.sum()}
    else:
        passed = alone = ranked.holding(ranked.ends.tolist(), everything, max_error)
        if not passed:
            return Refusal(max_error, 2.0, False)
        few = {label for label, mine in classes.items() if mine.sum() * max_error < 1}
        for label in set(classes) - few:
            alone = ranked.holding(alone, classes[label], max_error)
        passed = [(alone or passed)[-1]]
        holding = {label: set(ranked.holding(passed, mine, max_error)) for label, mine in classes.items()}
    end = max(passed, key=lambda end: (sum(end in holding[label] for label in set(classes) - few), end))
    found = {}
    for label, mine in classes.items():
        limit = TOO_FEW if label in few else HELD if end in holding[label] else NOT_HELD
        answered, wrong = ranked.counts(end, mine)
        name = str(label) if class_names is None else class_names[label]
        found[name] = {"n": int(mine.sum()), "answered": answered, "wrong": wrong, "limit": limit}
    return Refusal(max_error, _below(ranked.confidence[end]), assured, found)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Predictions from the highest top probability to the lowest: shape (n,) each.

    ends: the last index of each run of equal probabilities, since these are answered together. groups: see
    `refusal_threshold`.
    """

    confidence: np.ndarray
    wrong: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    ends: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> _Ranked:
        order = np.argsort(-probabilities.max(1), kind="stable")
        confidence = probabilities.max(1)[order].astype("float64")
        wrong = (probabilities.argmax(1) != labels)[order]
        ends = np.flatnonzero(np.append(np.diff(confidence) != 0, True))
        return cls(confidence, wrong, labels[order], None if groups is None else groups[order], ends)

    def counts(self, end: int, mine: np.ndarray) -> tuple[int, int]:
        """How many of some images are answered if `end` is the last that is, and how many of these are wrong."""
        return int(mine[: end + 1].sum()), int((mine & self.wrong)[: end + 1].sum())

    def tried(self, max_error: float) -> list[int]:
        """Which ends are tested, strictest first: 20 in all, evenly spaced. Does not depend on the labels."""
        count = len(self.wrong)
        least = self.least(np.ones(count, bool), max_error)
        sizes = np.unique(np.linspace(min(least, count), count, TRIED).round().astype(int))
        return sorted({int(self.ends[np.searchsorted(self.ends, size - 1)]) for size in sizes})

    def least(self, mine: np.ndarray, max_error: float) -> int:
        """How many of some images are answered at the first threshold that is tested for them.

        As many as pass with a third of the allowed error, or half of the images if these are fewer, but at least as
        many as pass without any error. One more than there are images if they cannot pass.
        """
        effect, count = self.design_effect(mine), int(mine.sum())
        sizes = np.arange(1, count + 1) / effect
        lenient, fewest = (
            int(np.append(np.flatnonzero(_bound(wrong, sizes) <= max_error), count)[0]) + 1
            for wrong in (np.round(sizes * max_error / 3), np.zeros(count))
        )
        return max(fewest, min(lenient, count // 2))

    def assured(self, tried: Sequence[int], mine: np.ndarray, max_error: float) -> list[int]:
        """The ends, in order, at which the bound of the error of some images is low enough, until one fails."""
        effect, least, passed = self.design_effect(mine), self.least(mine, max_error), []
        for end in tried:
            answered, wrong = self.counts(end, mine)
            if answered < least:
                continue
            if _bound(wrong / effect, answered / effect) > max_error:
                break
            passed.append(end)
        return passed

    def holding(self, ends: Sequence[int], mine: np.ndarray, max_error: float) -> list[int]:
        """The ends at which the error of some images is low enough on these images."""
        at = np.asarray(ends, int)
        answered, wrong = np.cumsum(mine)[at], np.cumsum(mine & self.wrong)[at]
        return at[wrong <= max_error * answered].tolist()

    def design_effect(self, mine: np.ndarray) -> float:
        """How many images of these groups tell as much of the error as one independent image: 1 or more.

        It is estimated on all of some images, whether answered or not. With wrong predictions in fewer than 5 groups
        that cannot be done, and the images of a group count as if they were one. See `tlkit.stats.effective_images`.
        """
        if self.groups is None:
            return 1.0
        wrong, groups = self.wrong[mine], self.groups[mine]
        if len(np.unique(groups)) == len(groups):
            return 1.0
        enough = len(np.unique(groups[wrong])) >= FEWEST_WRONG
        return len(groups) / effective_images(~wrong if enough else np.ones(len(groups), bool), groups)


def class_sentence(classes: Mapping[str, Mapping[str, Any]], most: int = 3) -> str:
    """For which classes alone a limit on the error holds, in words: `Refusal.classes`. "" if there are none."""
    others = [(name, one) for name, one in classes.items() if one["limit"] != HELD]
    if not others:
        return "it holds for each class alone, too" if classes else ""
    few = sum(one["limit"] == TOO_FEW for _, one in others)
    if few == len(classes):
        return "what it is for each class alone is not known: each has too few images"
    others.sort(key=lambda other: -other[1]["wrong"] / max(other[1]["answered"], 1))
    named = [
        f"'{name}' ({one['wrong']:,} of {one['answered']:,} answers wrong"
        + (", too few images to tell)" if one["limit"] == TOO_FEW else ")")
        for name, one in others[:most]
    ]
    if len(others) > most:
        named.append(f"{len(others) - most:,} more")
    kept = len(classes) - len(others)
    return f"it holds for {kept:,} of {len(classes):,} classes alone, not for {', '.join(named)}"


def _bound(wrong: Any, n: Any) -> Any:
    """The upper bound of the error, with 95 % confidence. Numbers, or arrays of one shape; see `design_effect`."""
    from scipy.stats import beta

    wrong, n = np.asarray(wrong, float), np.asarray(n, float)
    bound = beta.ppf(CONFIDENCE, wrong + 1, np.maximum(n - wrong, 1e-9))
    return np.where(wrong >= n, 1.0, bound)


def _below(probability: float) -> float:
    """Slightly lower, because the exported model may round the same image's probability differently."""
    return float(probability - SERVED_DIFFERENCE)
