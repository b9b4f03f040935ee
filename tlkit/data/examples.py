"""Examples: rows of pixels with their labels, keys and groups, as training and evaluation take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from tlkit.cache import Cache


class RowSource(Protocol):
    """Anything rows can be gathered from: cached or streamed pixels, cached features."""

    @property
    def row_shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def gather(self, indices: Any) -> np.ndarray: ...

    def take(self, indices: Any) -> Any: ...


@dataclass(frozen=True)
class Examples:
    """Decoded images with their labels.

    pixels: uint8 rows, shape (n, size, size, 3), RGB 0-255. labels: int64, shape (n,). keys: content hashes, by which
    whatever is computed from a picture is cached and its augmentation is seeded. groups: int64, shape (n,): what belongs together (a
    patient, a camera), which cross-validation does not tear apart; None = every image for itself. made_by: how the pixels were made
    from the files (size, fit, decoder version). A key names a file, made_by what became of it: features are cached under both, so
    give other pixels of the same files another word. cache: where features are kept.
    """

    pixels: RowSource
    labels: np.ndarray
    keys: Sequence[str]
    groups: np.ndarray | None = None
    made_by: str = field(kw_only=True)
    cache: Cache = field(default_factory=Cache, kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Examples:
        """Some of the examples, nothing copied."""
        groups = self.groups[indices] if self.groups is not None else None
        keys = [self.keys[i] for i in indices]
        return replace(self, pixels=self.pixels.take(indices), labels=self.labels[indices], keys=keys, groups=groups)

    def numbers(self) -> list[int]:
        """A whole number per image that stays with its content; seeds its augmentation."""
        return [int(key[:8], 16) for key in self.keys]
