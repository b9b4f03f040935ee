"""The data set that all other packages work on: scanned images, their decoded pixels and the cache."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tlkit.cache import Cache
from tlkit.data.examples import Examples
from tlkit.data.held_out import draw_test
from tlkit.data.images import ImageSet
from tlkit.data.near import LIMIT, near_duplicates
from tlkit.data.pixels import Pixels, decode
from tlkit.data.split import split


@dataclass(frozen=True)
class Dataset:
    """Images that decode, and where their pixels are. Methods return a new data set and never copy pixels.

    images: the table of images, with the split of each once they are split.
    pixels: the decoded pixels of all images.
    cache: where results computed from the pixels are kept.
    """

    images: ImageSet
    pixels: Pixels
    cache: Cache = field(default_factory=Cache)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def class_names(self) -> Sequence[str]:
        return self.images.class_names

    def split(
        self,
        *,
        validation: float = 0.2,
        seed: int = 0,
        strict: bool = False,
        pairs: np.ndarray | None = None,
        trained_on: Collection[str] = (),
        test_drawn: bool = False,
    ) -> Dataset:
        """Assign every image to a split: see `tlkit.split`. pairs: None for those of `near_duplicates`."""
        images = split(
            self.images,
            validation=validation,
            seed=seed,
            strict=strict,
            pairs=self.near_duplicates() if pairs is None else pairs,
            trained_on=trained_on,
            test_drawn=test_drawn,
        )
        return replace(self, images=images)

    def draw_test(self, share: float, *, seed: int, pairs: np.ndarray, seen: Collection[str] = ()) -> Dataset:
        """Draw test images from data that has none: see `tlkit.data.held_out.draw_test`."""
        return replace(self, images=draw_test(self.images, share, seed=seed, pairs=pairs, seen=seen))

    @property
    def compared(self) -> bool:
        """Whether `near_duplicates` compares the images: it needs cached pixels, of at most LIMIT different images."""
        return not self.pixels.streamed and len(set(self.images.keys())) <= LIMIT

    def near_duplicates(self, *, for_test: bool = False) -> np.ndarray:
        """Find near duplicates among the images that a validation split is drawn from: see `tlkit.data.near`.

        for_test: Among those that test images are drawn from. These must not be like images of a given validation
            split either.

        Returns: pairs of row numbers, int64, shape (pairs, 2). None where the data have a validation split and it is
            not `for_test`, or where the images are not `compared`.
        """
        table = self.images.table
        parts = ["", "train", "validation"] if for_test else ["", "train"]
        rows = np.flatnonzero(table["split"].isin(parts) & ~table.duplicated("sha256"))
        if ((table["split"] == "validation").any() and not for_test) or not self.compared:
            rows = rows[:0]
        return rows[near_duplicates(self.pixels.of(self.images.take(rows.tolist())))]

    def take(self, places: Sequence[int]) -> Dataset:
        """Select images by index, in the given order."""
        return replace(self, images=self.images.take(places))

    def count(self, part: str) -> int:
        """The number of images in a split: "train", "validation" or "test"."""
        return len(self.images.part(part))

    def part(self, *parts: str) -> Examples:
        """The images of one split, or of several concatenated, as `tlkit.train` takes them."""
        return replace(self, images=self.images.part(*parts)).examples()

    def examples(self) -> Examples:
        """All images with their labels, keys and groups, in the order of the table."""
        images = self.images
        return Examples(
            self.pixels.of(images),
            images.labels(),
            images.keys(),
            images.groups(),
            made_by=self.pixels.key,
            cache=self.cache,
        )


def decode_images(images: ImageSet, size: int, fit: str = "squash", cache: Cache | None = None) -> Dataset:
    """Decode the images that are not cached yet.

    Images that do not decode are left out, and are named in the data set's `images.problems`.

    Args:
        images: from `tlkit.scan`.
        size: pixels per side.
        fit: how an image becomes a square: "squash", "crop" or "pad".
        cache: default `Cache()`. A set larger than the cache's limit is decoded again at each use.
    """
    cache = cache or Cache()
    pixels, findings = decode(images, size, fit, cache)
    return Dataset(images.without(findings), pixels, cache)
