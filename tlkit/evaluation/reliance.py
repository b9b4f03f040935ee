"""Measures how much predictions depend on the pixels that saliency maps highlight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from tlkit.evaluation.saliency import ClassActivationMaps, enlarged, has_map
from tlkit.stats import FEWEST_TO_TELL, wilson_interval
from tlkit.words import counted

if TYPE_CHECKING:
    import keras


MASKED = 0.3  # share of the pixels that are masked
EDGE = 0.125  # of the side, from each border inwards: the edge of an image
EDGE_AREA = 1 - (1 - 2 * EDGE) ** 2  # share of the area: of saliency that is spread evenly
HARDLY = 0.05  # share of correct predictions whose loss still counts as hardly any


def without(images: np.ndarray, maps: np.ndarray, share: float = MASKED) -> np.ndarray:
    """The images with their most salient pixels set to the image's mean colour: uint8, the same shape."""
    large = enlarged(maps.astype("float32"), images.shape[1])
    flat = large.reshape(len(large), -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, : round(share * flat.shape[1])]
    covered = np.zeros_like(flat, bool)
    np.put_along_axis(covered, order, True, axis=1)
    means = images.reshape(len(images), -1, 3).mean(1).astype(images.dtype)
    return np.where(covered.reshape(large.shape)[..., None], means[:, None, None, :], images)


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of some values and its interval by Student's t (1908); an infinite one for fewer than two.

    values: float, shape (n,). level: the confidence, 0 to 1.

    >>> [round(one, 2) for one in mean_interval(np.array([0.1, 0.2, 0.3]))]
    [0.2, -0.05, 0.45]
    """
    n = len(values)
    mean = float(np.mean(values)) if n else float("nan")
    if n < 2:
        return mean, float("-inf"), float("inf")
    half = float(student.ppf((1 + level) / 2, n - 1)) * float(np.std(values, ddof=1)) / n**0.5
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class Reliance:
    """How much a classifier's predictions depend on the most salient pixels.

    Attributes:
        n: Number of images, without those whose saliency map is empty.
        accuracy: With no pixel masked.
        without_evidence, without_random: Accuracy with the 30 % most salient pixels masked, and with a random 30 %.
        fall_evidence, fall_random: How far the predicted class's probability falls in either case, on average.
        falls: The same for each image, float, shape (n, 2).
        at_edge: Share of the saliency in the outer eighth on each side, which is 44 % of the area, on average.
        at_edge_95: Its interval.
        lost: Number of correct predictions that become wrong with the most salient pixels masked.
        maps: Class index -> the mean saliency map of that class's images.
        empty: Number of images left out, since no position supports the prediction.
    """

    n: int
    accuracy: float
    without_evidence: float
    without_random: float
    fall_evidence: float
    fall_random: float
    falls: np.ndarray
    at_edge: float
    maps: dict[int, np.ndarray]
    empty: int = 0
    at_edge_95: tuple[float, float] = (0.0, 1.0)
    lost: int = 0

    @property
    def difference_95(self) -> tuple[float, float]:
        """The 95 % interval of how much further the probability falls if salient pixels are masked than random ones.

        Of the mean paired difference, by Student's t.
        """
        return mean_interval(self.falls[:, 0] - self.falls[:, 1])[1:]

    @property
    def explains(self) -> bool:
        """Whether masking the most salient pixels costs more than masking random ones does.

        True from 30 images on, if the interval of the difference in probability lies above 0, and accuracy does not
        fall less than with random pixels masked.
        """
        costs = self.difference_95[0] > 0 and self.without_evidence <= self.without_random
        return bool(self.n >= FEWEST_TO_TELL and costs)

    def sentences(self) -> list[str]:
        """The numbers in words."""
        left_out = f" {counted(self.empty, 'image')} left out: no saliency map." if self.empty else ""
        if not self.n:
            return ["No saliency map: no position supports the prediction of any image."]
        lines = [
            f"With the 30 % most salient pixels masked, accuracy is {self.without_evidence:.1%}; with a random 30 % "
            f"masked, {self.without_random:.1%}; with none masked, {self.accuracy:.1%} "
            f"(n = {counted(self.n, 'image')}).{left_out}"
        ]
        if self.n < FEWEST_TO_TELL:
            lines.append(
                f"These are fewer than {FEWEST_TO_TELL} images: too few to tell whether the saliency maps explain the "
                "predictions."
            )
            return lines
        low, high = self.difference_95
        fall = (
            f"The probability falls by {self.fall_evidence:.2f} with the most salient pixels masked, and by "
            f"{self.fall_random:.2f} with random ones masked (95 % interval of the difference {low:.2f} to {high:.2f})"
        )
        if not self.explains:
            lines.append(f"{fall}: on these images the saliency maps are not shown to explain the predictions.")
            return lines
        low, high = self.at_edge_95
        lines.append(
            f"{fall}. {self.at_edge:.0%} of the saliency lies near the border (95 % interval {low:.0%} to {high:.0%}): "
            f"in the outer eighth on each side, which is {EDGE_AREA:.0%} of the area."
        )
        if self.at_edge > 0.6 and low > EDGE_AREA:
            lines.append("That is more than chance: look for borders, marks or captions that give the class away.")
        most_lost = wilson_interval(self.lost, self.n)[1]
        if most_lost < HARDLY:
            lines.append(
                "Masking the most salient pixels makes "
                f"{self.lost / self.n:.1%} of the predictions wrong that were correct (at most {most_lost:.1%}, with "
                "97.5 % confidence): the classes can be told from almost any part of the image, perhaps from the "
                "background."
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON values: None for those that no image gives."""
        names = (
            "n",
            "accuracy",
            "without_evidence",
            "without_random",
            "fall_evidence",
            "fall_random",
            "at_edge",
            "lost",
            "empty",
        )
        return {name: None if math.isnan(getattr(self, name)) else getattr(self, name) for name in names} | {
            "at_edge_95": list(self.at_edge_95),
            "difference_95": list(self.difference_95) if self.n > 1 else None,
            "explains": self.explains,
            "sentences": self.sentences(),
        }


def reliance(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, *, cam: ClassActivationMaps | None = None, seed: int = 0
) -> Reliance:
    """Mask the most salient pixels, and predict again. Takes three forward passes for each image.

    Args:
        images: uint8, RGB, shape (n, height, width, 3).
        labels: int, shape (n,).
        cam: Default one of `model`.
        seed: Of the random pixels.
    """
    cam = cam or ClassActivationMaps(model)
    maps, before = cam(images)
    drawn = has_map(maps)
    empty = int((~drawn).sum())
    images, labels, maps, before = images[drawn], labels[drawn], maps[drawn], before[drawn]
    if not len(images):
        nan = float("nan")
        return Reliance(0, nan, nan, nan, nan, nan, np.zeros((0, 2)), nan, {}, empty)
    random = np.random.default_rng(seed).random(maps.shape)
    predicted = before.argmax(1)
    answers = [cam(without(images, one))[1] for one in (maps, random)]
    rows = np.arange(len(images))
    falls = np.stack([before[rows, predicted] - after[rows, predicted] for after in answers], axis=1)
    large = enlarged(maps, 64)
    inner = slice(round(64 * EDGE), 64 - round(64 * EDGE))
    inside = large[:, inner, inner].sum((1, 2)) / np.maximum(large.sum((1, 2)), 1e-9)
    correct = predicted == labels
    still = [after.argmax(1) == labels for after in answers]
    at_edge, low, high = mean_interval(1 - inside)
    return Reliance(
        n=len(images),
        accuracy=float(correct.mean()),
        without_evidence=float(still[0].mean()),
        without_random=float(still[1].mean()),
        fall_evidence=float(falls[:, 0].mean()),
        fall_random=float(falls[:, 1].mean()),
        falls=falls,
        at_edge=at_edge,
        maps={int(c): maps[labels == c].mean(0) for c in np.unique(labels)},
        empty=empty,
        at_edge_95=(max(low, 0.0), min(high, 1.0)),
        lost=int((correct & ~still[0]).sum()),
    )
