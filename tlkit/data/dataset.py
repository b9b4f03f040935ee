"""The images of a part as examples: their pixels, labels, keys and groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlkit.data.images import ImageSet

if TYPE_CHECKING:
    from tlkit.data.examples import Examples
    from tlkit.data.pixels import Pixels


def examples_of(images: ImageSet, pixels: Pixels, *parts: str) -> Examples:
    """The decoded images of one part, or of several behind each other, with their labels, as `tlkit.train` takes them."""
    from tlkit.data.examples import Examples

    chosen = images.part(*parts)
    return Examples(pixels.of(chosen), chosen.labels(), chosen.keys(), chosen.groups())
