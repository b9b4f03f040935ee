"""Synthetic shifts: corruptions of several strengths and pairs of them, which teach how an estimate errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlkit.data.corruptions import CORRUPTIONS, corrupt

# Strength of one corruption: a severity, or below 1 the share of severity 1 that is mixed into the image. In the order
# in which they are used where a network is too slow for all.
STRENGTHS = (1.0, 3.0, 2.0, 5.0, 0.66)
PAIRS = 12  # of two kinds, one after the other, at severity 1


@dataclass(frozen=True)
class Shift:
    """Corruptions that are applied one after another. steps: (name, strength) of each; () leaves images unchanged."""

    steps: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        return " and ".join(f"{kind} {strength:g}" for kind, strength in self.steps) or "unchanged"

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(kind for kind, _ in self.steps)

    def apply(self, images: np.ndarray, seed: int) -> np.ndarray:
        """Shift images: uint8, shape (n, height, width, 3), RGB."""
        for number, (kind, strength) in enumerate(self.steps):
            changed = corrupt(images, kind, max(1, int(strength)), seed + number)
            if strength < 1:
                changed = np.rint(strength * changed.astype("float32") + (1 - strength) * images).astype("uint8")
            images = changed
        return images


def all_shifts(kinds: Sequence[str] = tuple(CORRUPTIONS)) -> list[Shift]:
    """Unchanged images first, then every kind at each of STRENGTHS, then PAIRS pairs of kinds, drawn with a fixed seed.

    kinds: corruptions of `tlkit.data.corruptions`, all by default.
    """
    single = [Shift(((kind, strength),)) for strength in STRENGTHS for kind in kinds]
    pairs = [(one, other) for one in kinds for other in kinds if one != other]
    drawn = np.random.default_rng(5).permutation(len(pairs))[:PAIRS]
    return [Shift(()), *single, *[Shift(((pairs[i][0], 1.0), (pairs[i][1], 1.0))) for i in drawn]]
