"""Images inside the page: small JPEGs with their captions and saliency maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlkit.evaluation.saliency import overlay
from tlkit.reporting.findings import Material

SHOWN = 12  # pictures of a gallery
SIDE = 168  # pixels of a picture on the page


class _Album:
    """Pictures as the model sees them, as small JPEGs inside the page."""

    def __init__(self, material: Material) -> None:
        self._rows, self._place, self._of_key = None, {}, {}
        if material.dataset is not None:
            examples = material.dataset.examples()
            self._rows = examples.pixels
            self._place = {path: i for i, path in enumerate(material.dataset.images.table["path"])}
            self._of_key = {key: i for i, key in enumerate(examples.keys)}

    def pixels(self, path: str) -> np.ndarray | None:
        place = self._place.get(path)
        return None if self._rows is None or place is None else self._rows.gather(np.array([place]))[0]

    def of_key(self, key: str) -> np.ndarray | None:
        place = self._of_key.get(key)
        return None if self._rows is None or place is None else self._rows.gather(np.array([place]))[0]

    def picture(self, path: str, alt: str) -> dict[str, Any]:
        return as_data(self.pixels(path), alt)

    def figure(self, path: str, alt: str, said: str) -> dict[str, Any]:
        return {"pictures": [self.picture(path, alt)], "said": said, "path": path}


def as_data(pixels: np.ndarray | None, alt: str, smooth: bool = True) -> dict[str, Any]:
    """A picture as the page embeds it: a data URI and its words. None gives the words alone."""
    from PIL import Image

    if pixels is None:
        return {"data": "", "alt": alt, "width": SIDE, "height": SIDE}
    image = Image.fromarray(pixels)
    if smooth or image.width > SIDE:
        image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82)
    data = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return {"data": data, "alt": alt, "width": image.width, "height": image.height}


def _answered(row: Any, album: _Album, said: str | None = None) -> dict[str, Any]:
    words = said or f"{row.label}, called {row.prediction} at {row.probability:.0%}"
    return album.figure(row.path, f"{row.path}: labelled {row.label}, answered {row.prediction}", words)


def _evidence(paths: Sequence[str], album: _Album, cam: Any) -> list[list[dict[str, Any]]]:
    """For each picture its evidence drawn over it; nothing where there is no map."""

    pictures = [album.pixels(path) for path in paths]
    if cam is None or not pictures or any(one is None for one in pictures):
        return [[] for _ in paths]
    maps, _ = cam(np.stack([one for one in pictures if one is not None]))
    return [
        [as_data(overlay(one, each), f"evidence in {path} for what was answered")]
        for path, one, each in zip(paths, pictures, maps, strict=True)
        if one is not None
    ]
