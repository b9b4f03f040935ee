"""Examples: rows of pixels with labels, keys and groups, as training and evaluation take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from tlkit.cache import Cache, in_memory


class RowSource(Protocol):
    """A source of rows: cached pixels, streamed pixels or cached features."""

    @property
    def row_shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def gather(self, indices: Any) -> np.ndarray: ...

    def take(self, indices: Any) -> Any: ...


@dataclass(frozen=True)
class Examples:
    """Decoded images with their labels.

    pixels: uint8 rows, shape (n, size, size, 3), RGB 0-255; an array, or any source of rows.
    labels: int64, shape (n,).
    keys: content hashes. Results computed from an image are cached by its key, and the key seeds its augmentation.
    groups: int64, shape (n,). Images of one group (a patient, a camera) stay in one fold of cross-validation. None:
        each image is its own group.
    made_by: how the pixels were made from the files (size, fit, decoder version). Features are cached under the key and
        `made_by`, so pass another string for other pixels of the same files.
    cache: where features are kept.
    sharper: uint8 rows of the same images with more pixels, for `tlkit.Stage.scales`; None: it scales `pixels`.
    """

    pixels: RowSource
    labels: np.ndarray
    keys: Sequence[str]
    groups: np.ndarray | None = None
    made_by: str = field(kw_only=True)
    cache: Cache = field(default_factory=Cache, kw_only=True)
    sharper: RowSource | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("pixels", "sharper"):  # an array is taken, too
            if isinstance(getattr(self, name), np.ndarray):
                object.__setattr__(self, name, in_memory(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Examples:
        """Select examples by index, without copying pixels."""
        groups = self.groups[indices] if self.groups is not None else None
        keys = [self.keys[i] for i in indices]
        sharper = None if self.sharper is None else self.sharper.take(indices)
        taken = replace(self, pixels=self.pixels.take(indices), labels=self.labels[indices], keys=keys, groups=groups)
        return replace(taken, sharper=sharper)

    def numbers(self) -> list[int]:
        """An integer per image, derived from its content. It seeds the augmentation."""
        return [int(key[:8], 16) for key in self.keys]


def to_send(pixels: RowSource, indices: np.ndarray) -> Any:
    """Some rows for a worker of a cluster, which calls `received`: decoded, or to be decoded there if they stream."""
    return pixels.sendable(indices) if hasattr(pixels, "sendable") else pixels.gather(indices)


def received(rows: Any) -> np.ndarray:
    """The pixels that were sent: uint8, shape (n, size, size, 3)."""
    return rows if isinstance(rows, np.ndarray) else rows.gather(slice(None))
