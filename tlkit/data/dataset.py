"""A data set: scanned images, their decoded pixels and the cache they are kept in. What every room above works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tlkit.cache import Cache
from tlkit.data.examples import Examples
from tlkit.data.images import ImageSet
from tlkit.data.pixels import Pixels, decode
from tlkit.data.split import split


@dataclass(frozen=True)
class Dataset:
    """Images that decode, and where their pixels are. Every change gives a new value; pixels are never copied.

    images: the set's table, with the part of each image once it is split. pixels: of all of them. cache: what is computed from them
    is kept there.
    """

    images: ImageSet
    pixels: Pixels
    cache: Cache = field(default_factory=Cache)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def class_names(self) -> Sequence[str]:
        return self.images.class_names

    def split(self, *, validation: float = 0.2, seed: int = 0, strict: bool = False) -> Dataset:
        """The same with a part for each image: see `tlkit.split`."""
        return replace(self, images=split(self.images, validation=validation, seed=seed, strict=strict))

    def take(self, places: Sequence[int]) -> Dataset:
        """Some of the images, in the order of `places`."""
        return replace(self, images=self.images.take(places))

    def count(self, part: str) -> int:
        """How many images are of a part: "train", "validation" or "test"."""
        return int((self.images.table["split"] == part).sum())

    def part(self, *parts: str) -> Examples:
        """The images of one part, or of several behind each other, as `tlkit.train` takes them."""
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
    """Decode what is not cached yet. The data set's `images.problems` name the images that do not decode and were left out.

    size: pixels of each side. fit: how an image becomes a square, "squash", "crop" or "pad". cache: default `Cache()`. A set larger than
    its limit is decoded anew at each use.
    """
    cache = cache or Cache()
    pixels, findings = decode(images, size, fit, cache)
    return Dataset(images.without(findings), pixels, cache)
