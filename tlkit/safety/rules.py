"""The rules of the check: how much skill must be left, and when an image counts as moved to another class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlkit.plan.augmentation import Augmentation
from tlkit.safety.evidence import Answers, Evidence

KEPT = 0.75  # of the better probe's skill: with less, meaning is lost ...
SURELY = 0.9  # ... if 19 of 20 resamplings, too, keep less than this
MOST = 0.5  # of a class: what one kind of evidence alone must surely see become another class
SOME = 0.25  # of a class: what both kinds must surely see become another class
EXPECTED = 0.1  # of a class: what one kind must surely see become the class that the names suggest
FEWEST_CHANGED = 3  # pictures, net
CAREFUL = {"rotate": 10.0, "shift_x": 0.1, "shift_y": 0.1, "zoom": 1.1, "stretch": 1.1, "crop": 0.8}
CAREFUL |= {"brightness": 0.1, "contrast": 0.1, "colour_cast": 0.05, "pca_colour": 0.1, "vignette": 0.3}


@dataclass(frozen=True)
class _Finding:
    """What one version of the judged pictures showed."""

    names: tuple[str, ...]
    version: Augmentation
    seen: dict[str, np.ndarray]
    pairs: tuple[tuple[int, int, float], ...]
    kept: tuple[float, float, float]
    kind: str
    lost: bool
    far: float
    in_frame: float | None

    @property
    def fine(self) -> bool:
        return not self.pairs and not self.lost


def _moved(evidence: Evidence, answer: Answers) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of classes, the share of a's pictures that went over to b, net of those that did so untouched, and what it surely
    is (19 of 20, normal approximation of the paired difference); -1 where too few pictures moved. Each float, shape (k, k).
    """
    k, before = evidence.classes, evidence.untouched
    share, surely = np.zeros((k, k)), np.full((k, k), -1.0)
    over = [(one.called[:, None] == np.arange(k)) & (one.distance <= 1) for one in (answer, before)]
    for a in range(k):
        mine = evidence.truth == a
        n = int(mine.sum())
        came = (over[0][mine] & ~over[1][mine]).sum(0)
        left = (over[1][mine] & ~over[0][mine]).sum(0)
        net = (came - left) / n
        error = np.sqrt(np.maximum(came + left - (came - left) ** 2 / n, 0.5)) / n
        enough = (came - left >= FEWEST_CHANGED) & (np.arange(k) != a)
        share[a], surely[a] = net, np.where(enough, net - 1.645 * error, -1.0)
    return share, surely
