"""The one number that a run is known by: its accuracy on new images, with an interval and with what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlkit.stats import AT_CHANCE, effective_images, paired_p_value, wilson_interval

RESAMPLED = 500  # bootstrap resamplings
# By how much a cross-fitted accuracy differs more from the true one than independent images would make it: the folds
# share training images, and the head that is delivered is another one (Nadeau and Bengio 2003; Bates, Hastie and
# Tibshirani 2021, arXiv:2104.00673). 1.25 was chosen among 1.0 to 1.5 on draws of 100 to 400 images from two data sets
# (`benchmarks/coverage.py`).
CROSS_FITTED_SPREAD = 1.25


@dataclass(frozen=True)
class Estimate:
    """An estimate of the accuracy on new images of the same kind.

    Attributes:
        accuracy, low, high: The estimate with its 95 % interval, 0 to 1.
        n: On how many images.
        how: On which images, in words.
        also_chose: What was chosen on these images too, so that the estimate may be too high. Empty if nothing was, or
            if the estimate is corrected for it.
        optimism: By how much the accuracy of the chosen model was corrected, 0 to 1.
        no_better_than: The number of the class that could always be answered with no lower accuracy, as far as the
            images can tell; None if there is none.
    """

    accuracy: float
    low: float
    high: float
    n: int
    how: str
    also_chose: tuple[str, ...] = ()
    optimism: float = 0.0
    no_better_than: int | None = None

    def sentence(self, class_names: Sequence[str]) -> str:
        """The estimate, for a person to read."""
        text = (
            f"{self.accuracy:.1%} of new images like these are predicted correctly (95 % interval {self.low:.1%} to "
            f"{self.high:.1%}; {self.how}, n = {self.n:,})"
        )
        if self.also_chose:
            text += f". These images also chose {_listed(self.also_chose)}, so it may be too high"
        if self.no_better_than is not None:
            text += f". This is no better than always answering '{class_names[self.no_better_than]}'"
        return text

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The estimate as JSON values, for metrics.json."""
        return {
            "accuracy": self.accuracy,
            "accuracy_95": [self.low, self.high],
            "n": self.n,
            "how": self.how,
            "also_chose": list(self.also_chose),
            "optimism": self.optimism,
            "no_better_than": None if self.no_better_than is None else class_names[self.no_better_than],
            "sentence": self.sentence(class_names),
        }


def estimate_from(
    correct: np.ndarray,
    labels: np.ndarray,
    how: str,
    *,
    groups: np.ndarray | None = None,
    also_chose: Sequence[str] = (),
    optimism: float = 0.0,
    spread: float = 1.0,
) -> Estimate:
    """Estimate the accuracy from predictions.

    Args:
        correct: Whether each prediction is correct, bool, shape (n,), n 1 or more.
        labels: int, shape (n,).
        how, also_chose, optimism: As in `Estimate`.
        groups: As in `tlkit.stats.effective_images`.
        spread: How many times as wide as for independent images the interval is, 1 or more.
    """
    share, effective = max(0.0, float(correct.mean()) - optimism), effective_images(correct, groups) / spread**2
    low, high = wilson_interval(share * effective, effective)
    commonest = int(np.bincount(labels).argmax())
    constant = labels == commonest
    ahead = correct.mean() > constant.mean() and paired_p_value(correct, constant, groups) < AT_CHANCE
    return Estimate(share, low, high, len(correct), how, tuple(also_chose), optimism, None if ahead else commonest)


def selection_optimism(
    losses: np.ndarray, correct: np.ndarray, groups: np.ndarray | None = None, *, seed: int = 0
) -> float:
    """By how much the accuracy of the best of several models is too high because it was chosen on the same images.

    The bootstrap of Tsamardinos, Greasidou and Borboudakis 2018 (arXiv:1708.07180): choose again on each resampling,
    and compare, on the images that the resampling left out, what it chose with what was chosen on all images. It trains
    nothing, unlike nested cross-validation, which would solve every head five times as often.

    Args:
        losses: What the choice minimises the mean of, for each model and image, shape (models, n).
        correct: Whether each prediction is correct, bool, shape (models, n).
        groups: Shape (n,); images with equal values are drawn together.
        seed: Of the resamplings.

    Returns:
        The difference in accuracy, 0 or more.
    """
    if len(losses) < 2:
        return 0.0
    n, random = losses.shape[1], np.random.default_rng(seed)
    _, index = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)
    count, chosen, differences = int(index.max()) + 1, int(losses.mean(1).argmin()), []
    for _ in range(RESAMPLED):
        drawn = np.bincount(random.integers(0, count, count), minlength=count)[index]
        left_out = drawn == 0
        again = int((losses @ drawn).argmin())
        if again != chosen and left_out.any():
            differences.append(float(correct[chosen, left_out].mean() - correct[again, left_out].mean()))
        else:
            differences.append(0.0)
    return max(0.0, float(np.mean(differences)))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
