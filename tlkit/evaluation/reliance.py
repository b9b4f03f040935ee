"""Measures how much predictions depend on the pixels that saliency maps highlight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.evaluation.saliency import GradCam, enlarged
from tlkit.words import counted

if TYPE_CHECKING:
    import keras


MASKED = 0.3  # share of the pixels that are masked
EDGE = 0.125  # of the side, from each border inwards: the edge of an image


def without(images: np.ndarray, maps: np.ndarray, share: float = MASKED) -> np.ndarray:
    """The images with their most salient pixels set to the image's mean colour: uint8, the same shape."""
    large = enlarged(maps.astype("float32"), images.shape[1])
    flat = large.reshape(len(large), -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, : round(share * flat.shape[1])]
    covered = np.zeros_like(flat, bool)
    np.put_along_axis(covered, order, True, axis=1)
    means = images.reshape(len(images), -1, 3).mean(1).astype(images.dtype)
    return np.where(covered.reshape(large.shape)[..., None], means[:, None, None, :], images)


@dataclass(frozen=True)
class Reliance:
    """How much a classifier's predictions depend on the most salient pixels.

    Attributes:
        n: Number of images, without those whose saliency map is empty.
        accuracy: With no pixel masked.
        without_evidence, without_random: Accuracy with the 30 % most salient pixels masked, and with a random 30 %.
        fall_evidence, fall_random: How far the predicted class's probability falls in either case, on average.
        falls: The same for each image, float, shape (n, 2).
        at_edge: Share of the saliency in the outer eighth on each side, which is 44 % of the area.
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

    @property
    def explains(self) -> bool:
        """Whether masking the most salient pixels lowers the probability more than masking random ones does.

        True if the 95 % interval of the mean paired difference lies above 0.
        """
        if self.n < 2:
            return False
        difference = self.falls[:, 0] - self.falls[:, 1]
        return bool(difference.mean() > 1.96 * difference.std(ddof=1) / np.sqrt(self.n))

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
        if not self.explains:
            lines.append(
                "Masking the most salient pixels does not lower the probability more than masking random ones, by more "
                "than chance: on these images the saliency maps are not shown to explain the predictions."
            )
            return lines
        lines.append(
            f"{self.at_edge:.0%} of the saliency lies near the border: in the outer eighth on each side, which is 44 % "
            "of the area."
        )
        if self.at_edge > 0.6:
            lines.append("That is more than chance: look for borders, marks or captions that give the class away.")
        if self.n >= 50 and self.accuracy - self.without_evidence < 0.02:
            lines.append(
                "Masking the most salient pixels hardly lowers accuracy: the classes can be told from almost any part "
                "of the image, perhaps from the background."
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON values."""
        names = (
            "n",
            "accuracy",
            "without_evidence",
            "without_random",
            "fall_evidence",
            "fall_random",
            "at_edge",
            "empty",
        )
        return {name: getattr(self, name) for name in names} | {
            "explains": self.explains,
            "sentences": self.sentences(),
        }


def reliance(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, *, cam: GradCam | None = None, seed: int = 0
) -> Reliance:
    """Mask the most salient pixels, and predict again. Takes three forward passes for each image.

    Args:
        images: uint8, RGB, shape (n, height, width, 3).
        labels: int, shape (n,).
        cam: Default one of `model`.
        seed: Of the random pixels.
    """
    cam = cam or GradCam(model)
    maps, before = cam(images)
    drawn = maps.max(axis=(1, 2)) > 0
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
    salient_masked, random_masked = (float((after.argmax(1) == labels).mean()) for after in answers)
    return Reliance(
        n=len(images),
        accuracy=float((predicted == labels).mean()),
        without_evidence=salient_masked,
        without_random=random_masked,
        fall_evidence=float(falls[:, 0].mean()),
        fall_random=float(falls[:, 1].mean()),
        falls=falls,
        at_edge=float(1 - inside.mean()),
        maps={int(c): maps[labels == c].mean(0) for c in np.unique(labels)},
        empty=empty,
    )
