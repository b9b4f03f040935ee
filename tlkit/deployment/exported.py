"""Opens an export that takes pixels as a function from files to predictions, with the decoder that training used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.data.convert import convert
from tlkit.data.decode import square_decoder
from tlkit.data.headers import why_not
from tlkit.data.limits import FULL_DEPTH
from tlkit.deployment.formats import open_target
from tlkit.errors import DataError

Opened = Callable[[list[bytes]], tuple[Any, Any, Any]]


def _opened_target(folder: Path) -> tuple[list[str], Opened]:
    description, ask = open_target(folder)
    size, names = description["image_size"], description["classes"]

    def decoded(data: bytes) -> np.ndarray | None:
        try:
            return decoded_pixels(data, size, description["fit"], description.get("depth", FULL_DEPTH))
        except DataError:
            return None

    def answer(data: list[bytes]) -> tuple[Any, Any, Any]:
        images = [decoded(one) for one in data]
        ok = np.array([one is not None for one in images])
        values = np.zeros((len(data), len(names)), "float32")
        if ok.any():
            values[ok] = ask(np.stack([one for one in images if one is not None]))
        return ok, ok & (values.max(1) >= description["unsure_below"]), values

    return names, answer


def decoded_pixels(data: bytes, size: int, fit: str, depth: int = FULL_DEPTH) -> np.ndarray:
    """Decode an image file's bytes as the model sees them: uint8, shape (size, size, 3).

    What the graph does not decode is converted first. Raises DataError for bytes that do not decode.
    """
    import tensorflow as tf

    data = convert(data)
    try:
        return square_decoder(size, fit, depth)(tf.constant(data)).numpy()
    except (tf.errors.OpError, ValueError):
        raise DataError(f"no image that decodes: {': '.join(why_not(data))}. Leave it out.") from None
