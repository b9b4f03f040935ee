"""Which decoded images are of one colour, and which are equal although their files differ.

Such images teach nothing, and often come from a fault: all that was to be seen was transparent, or too dark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.cache import Store, describe
from tlkit.data.examples import RowSource
from tlkit.data.images import problem
from tlkit.progress import log
from tlkit.words import counted

if TYPE_CHECKING:
    import pandas as pd

MANY = 0.5  # share of the images from which on it is said aloud


class Looks:
    """A digest of each image's pixels, and whether they are of one colour, kept beside the cached pixels."""

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder)
        self._new: dict[str, np.ndarray] = {}

    def add(self, keys: Sequence[str], pixels: np.ndarray) -> None:
        """Look at images: uint8, shape (n, size, size, 3)."""
        for key, image in zip(keys, pixels, strict=True):
            self._new[key] = _look(image)

    def complete(self, keys: Sequence[str], pixels: RowSource | None) -> None:
        """Look at the cached images that were not looked at yet, and keep what was found.

        pixels: a row for each of the keys; None if there are none. Damaged digests are computed again.
        """
        first: dict[str, int] = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        known = dict(zip(first, self._store.known(list(first)), strict=True))
        missing = [key for key, there in known.items() if not there and key not in self._new]
        for start in range(0, len(missing), 64):
            some = missing[start : start + 64]
            assert pixels is not None
            self.add(some, pixels.gather([first[key] for key in some]))
        here = [key for key, there in known.items() if there]

        def again(indices: np.ndarray) -> np.ndarray:
            assert pixels is not None
            some = [here[i] for i in indices]
            return np.stack([_look(image) for image in pixels.gather([first[key] for key in some])])

        kept: Sequence[np.ndarray] = list(self._store.rows(here, again).gather(slice(None))) if here else []
        fresh = [key for key in self._new if key not in set(here)]
        if fresh:
            self._keep(fresh)
        self._new.update(zip(here, kept, strict=True))

    def _keep(self, keys: Sequence[str]) -> None:
        try:
            with self._store.writer(len(keys), (2,), "uint64") as writer:
                writer.add(keys, np.stack([self._new[key] for key in keys]))
            describe(self._store.folder, "digests of decoded images")
        except OSError:  # without room on the disk they are computed again
            return

    def findings(self, table: pd.DataFrame) -> list[dict[str, str]]:
        """A problem for each image of one colour, and for each that equals an image of another file."""
        looks = np.stack([self._new[key] for key in table["sha256"]]) if len(table) else np.zeros((0, 2), "uint64")
        flat = looks[:, 1].astype(bool)
        same: dict[int, Any] = {}  # digest -> the row of the first file
        found, equal = [], 0
        for row, (digest, _), one_colour in zip(table.itertuples(), looks, flat, strict=True):
            first = same.setdefault(int(digest), row)
            if one_colour:
                found.append(problem(row.path, row.label, "one-colour", "it is of one colour after decoding"))
            elif first.sha256 != row.sha256:
                found.append(problem(row.path, row.label, "equal-pixels", f"decoded, it equals {first.path}"))
            equal += first.sha256 != row.sha256
        _warn(int(flat.sum()), equal, len(table))
        return found


def _look(image: np.ndarray) -> np.ndarray:
    """A digest of an image's pixels, and whether they are of one colour: uint64, shape (2,)."""
    digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=8).digest()
    one_colour = bool((image == image[:1, :1]).all())
    return np.array([int.from_bytes(digest, "little"), one_colour], "uint64")


def _warn(flat: int, equal: int, count: int) -> None:
    if flat and flat >= MANY * count:
        log.warning(f"{flat:,} of {counted(count, 'image')} are of one colour after decoding: nothing is to be seen.")
    elif equal and equal >= MANY * count:
        log.warning(f"{equal:,} of {counted(count, 'image')} equal another one after decoding.")
