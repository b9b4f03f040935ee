"""Images inside the page: small JPEGs with their captions and saliency maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tlkit.evaluation.saliency import has_map, overlay

if TYPE_CHECKING:
    from tlkit.data.dataset import Dataset

SHOWN = 12  # images of a gallery
SIDE = 168  # pixels of a thumbnail's longer side
NO_MAP = {"data": "", "alt": "no saliency map: no position supports this prediction", "width": SIDE, "height": SIDE}

SaliencyMaps = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Thumbnails:
    """The images of a run as the model sees them, as small JPEGs inside the page.

    dataset: None if the images are no longer there; then every thumbnail is only its text.
    """

    def __init__(self, dataset: Dataset | None) -> None:
        self._pixels, self._index, self._index_of_key = None, {}, {}
        if dataset is not None:
            examples = dataset.examples()
            self._pixels = examples.pixels
            self._index = {path: i for i, path in enumerate(dataset.images.table["path"])}
            self._index_of_key = {key: i for i, key in enumerate(examples.keys)}

    def pixels(self, path: str) -> np.ndarray | None:
        return self._at(self._index.get(path))

    def of_key(self, key: str) -> np.ndarray | None:
        return self._at(self._index_of_key.get(key))

    def _at(self, index: int | None) -> np.ndarray | None:
        return None if self._pixels is None or index is None else self._pixels.gather(np.array([index]))[0]

    def image(self, path: str, alt: str, side: int = SIDE) -> dict[str, Any]:
        return as_data(self.pixels(path), alt, side)

    def figure(self, path: str, alt: str, caption: str) -> dict[str, Any]:
        """An image with its caption and its path, as a gallery shows it."""
        return {"images": [self.image(path, alt)], "caption": caption, "path": path}

    def prediction(self, row: Any, caption: str = "") -> dict[str, Any]:
        """The figure of a row of predictions. caption: default its label, its prediction and that one's probability."""
        alt = f"{row.path}: labelled {row.label}, predicted {row.prediction}"
        return self.figure(row.path, alt, caption or f"{row.label}, predicted {row.prediction} ({row.probability:.0%})")

    def saliency(self, paths: Sequence[str], maps_of: SaliencyMaps | None) -> list[list[dict[str, Any]]]:
        """Each image with its saliency map drawn over it, or words where its map is empty.

        An empty list for each if there are no maps.
        """
        images = [self.pixels(path) for path in paths]
        known = [one for one in images if one is not None]
        if maps_of is None or not known or len(known) < len(images):
            return [[] for _ in paths]
        maps, _ = maps_of(np.stack(known))
        return [
            [as_data(overlay(image, one), f"saliency map of {path} for the predicted class")] if shown else [NO_MAP]
            for path, image, one, shown in zip(paths, known, maps, has_map(maps), strict=True)
        ]


def as_data(pixels: np.ndarray | None, alt: str, side: int = SIDE) -> dict[str, Any]:
    """An image as the page embeds it: a data URI and its alternative text. For None, only the text.

    side: pixels of the longer side.
    """
    if pixels is None:
        return {"data": "", "alt": f"{alt} (image no longer there)", "width": SIDE, "height": SIDE}
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82)
    data = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return {"data": data, "alt": alt, "width": image.width, "height": image.height}
