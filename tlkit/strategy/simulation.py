"""Measures what choosing images to label would have gained over a random choice, on labels that are there already.

Most labels are hidden, a strategy asks for them in batches, and a head is solved after each. Its accuracy on images
that are never asked for is compared with that of a random choice from the same start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from tlkit.features.linear import LinearHead, solve
from tlkit.strategy.active_learning import STRATEGIES, Pool, choose, scaled

START = 5  # labels a class to start with, at most a quarter of those that may be asked for
END = 4  # times as many labels at the end, at most three quarters of those that may be asked for
ROUNDS = 5
HELD_OUT = 0.3  # of the images, which judge
CHOOSING, MEASURING = 4, 6  # repetitions that choose the strategy, and others that measure its gain
STRENGTH = 0.01  # C of the heads
FEWEST = 40  # images that may be asked for


@dataclass(frozen=True)
class Curve:
    """Accuracies of one strategy by the number of labels. steps: int, shape (rounds + 1,). accuracy: the same shape."""

    steps: np.ndarray
    accuracy: np.ndarray


@dataclass(frozen=True)
class Gain:
    """What a strategy gains over a random choice, in a simulation.

    Attributes:
        strategy: One of STRATEGIES; "random" if none was better in the repetitions that chose.
        gain, low, high: The difference in accuracy, averaged over the batches, with its 95 % interval over repetitions.
        share: How many labels it needs for the accuracy of a random choice at the end, as a share of that one's labels.
            1 or more if it does not need fewer.
        start, end: The numbers of labels. images: How many labelled images were there. repetitions: How many measured.
    """

    strategy: str
    gain: float
    low: float
    high: float
    share: float
    start: int
    end: int
    images: int
    repetitions: int

    @property
    def beyond_chance(self) -> bool:
        return self.low > 0

    def sentence(self) -> str:
        """For a person to read."""
        about = (
            f"in a simulation on your {self.images:,} labelled images, from {self.start:,} to {self.end:,} labels, "
            f"{self.repetitions} repetitions"
        )
        if self.strategy == "random":
            return f"no strategy was better than a random choice, {about}: the images are chosen at random"
        found = f"{100 * self.gain:+.1f} points (95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f})"
        if not self.beyond_chance:
            return f"'{self.strategy}' gained {found} over a random choice, {about}: no gain beyond chance"
        needs = f"; it needs {self.share:.0%} of the labels for the same accuracy" if self.share < 1 else ""
        return f"'{self.strategy}' gained {found} over a random choice, {about}{needs}"


def simulate(
    features: np.ndarray, labels: np.ndarray, *, strategies: Sequence[str] = tuple(STRATEGIES), seed: int = 0
) -> Gain | None:
    """Choose a strategy by simulation, and measure its gain in repetitions that did not choose it.

    Args:
        features: Of the labelled images, float32, shape (n, features).
        labels: int, shape (n,).
        strategies: Which are tried, besides "random".
        seed: Of what is drawn.

    Returns:
        The gain; None if there are too few images.
    """
    if round((1 - HELD_OUT) * len(labels)) < FEWEST or len(np.unique(labels)) < 2:
        return None
    rows = scaled(features)
    others = [one for one in strategies if one != "random"]
    gains = {one: np.mean([_gain(features, rows, labels, one, seed + k) for k in range(CHOOSING)]) for one in others}
    best = max(gains, key=lambda one: gains[one], default="random")
    if best == "random" or gains[best] <= 0:
        best = "random"
    measured = range(seed + CHOOSING, seed + CHOOSING + MEASURING)
    baseline = [curve(features, rows, labels, "random", one) for one in measured]
    mine = baseline if best == "random" else [curve(features, rows, labels, best, one) for one in measured]
    differences = np.array(
        [(a.accuracy[1:] - b.accuracy[1:]).mean() for a, b in zip(mine, baseline, strict=True)], "float64"
    )
    spread = (1 / MEASURING + HELD_OUT / (1 - HELD_OUT)) ** 0.5  # repetitions share images (Nadeau and Bengio 2003)
    half = float(t.ppf(0.975, MEASURING - 1)) * float(differences.std(ddof=1)) * spread
    gain, steps = float(differences.mean()), mine[0].steps
    share = needed_share(steps, np.mean([one.accuracy for one in mine], 0), np.mean([b.accuracy for b in baseline], 0))
    counts = int(steps[0]), int(steps[-1]), len(labels), MEASURING
    return Gain(best, gain, gain - half, gain + half, share, *counts)


def _gain(features: np.ndarray, rows: np.ndarray, labels: np.ndarray, strategy: str, seed: int) -> float:
    mine, other = (curve(features, rows, labels, one, seed) for one in (strategy, "random"))
    return float((mine.accuracy[1:] - other.accuracy[1:]).mean())


def curve(features: np.ndarray, rows: np.ndarray, labels: np.ndarray, strategy: str, seed: int) -> Curve:
    """Label images batch by batch, and measure the accuracy on others after each.

    Args:
        features: As in `simulate`. rows: The same, of `tlkit.strategy.active_learning.scaled`.
        labels: int, shape (n,).
        strategy: One of STRATEGIES.
        seed: Of the images that judge, of those that are labelled at the start, and of the strategy.
    """
    random, classes = np.random.default_rng((seed, 11)), int(labels.max()) + 1
    order = random.permutation(len(labels))
    judging, asked = np.split(order, [round(HELD_OUT * len(labels))])
    present = len(np.unique(labels))
    start = max(present, min(START * present, len(asked) // 4))
    end = max(start + 1, min(END * start, 3 * len(asked) // 4))
    steps = np.unique(np.linspace(start, end, ROUNDS + 1).round().astype(int))
    known = _first(labels[asked], start, random)
    accuracies: list[float] = []
    head: LinearHead | None = None
    for count in steps:
        if head is not None:
            free = np.setdiff1d(np.arange(len(asked)), known)
            pool = Pool(rows[asked[known]], rows[asked[free]], head.probabilities(features[asked[free]]))
            known = np.concatenate([known, free[choose(strategy, pool, int(count) - len(known), seed=seed)]])
        mine = asked[known]
        head = solve(features[mine], labels[mine], classes, strength=STRENGTH)
        accuracies.append(float((head.probabilities(features[judging]).argmax(1) == labels[judging]).mean()))
    return Curve(steps, np.array(accuracies))


def _first(labels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """The images that are labelled at the start: as many of each class as possible, drawn at random."""
    order = random.permutation(len(labels))
    place = np.zeros(len(labels), int)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        place[mine] = np.arange(len(mine))
    return order[np.argsort(place[order], kind="stable")][:count]


def needed_share(steps: np.ndarray, accuracy: np.ndarray, random: np.ndarray) -> float:
    """How many labels a strategy needs for the last accuracy of a random choice, as a share of that one's labels.

    steps, accuracy, random: shape (rounds + 1,). Between two steps the accuracy is a straight line. Infinite if the
    strategy never has it.

    >>> needed_share(np.array([10, 20, 30]), np.array([0.5, 0.7, 0.8]), np.array([0.5, 0.6, 0.7]))
    0.6666666666666666
    """
    goal = float(random[-1])
    reached = np.flatnonzero(accuracy >= goal)
    if not len(reached):
        return float("inf")
    first = int(reached[0])
    if first == 0:
        return float(steps[0] / steps[-1])
    low, high = accuracy[first - 1], accuracy[first]
    count = steps[first - 1] + (goal - low) / (high - low) * (steps[first] - steps[first - 1])
    return float(count / steps[-1])
