"""Opens an export that takes pixels as a function from files to predictions, with the decoder that training used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.data.convert import convert
from tlkit.data.decode import square_decoder
from tlkit.data.headers import why_not
from tlkit.data.limits import FULL_DEPTH
from tlkit.deployment.formats import open_target
from tlkit.deployment.saved_model import UNSURE
from tlkit.errors import DataError
from tlkit.evaluation.known import NONE_OF_THESE
from tlkit.evaluation.prediction_sets import thresholds_of


class Reply(tuple[Any, Any, Any]):
    """What a model answers for n images: (ok, sure, probabilities), and what only some models do.

    Attributes:
        known: The p-values for being like the known images, shape (n,); None if it gives none.
        none: Whether the answer is "none of these", bool, shape (n,); None if it never is.
        prediction_set: Which classes are in the set, bool, shape (n, classes); None if it gives none.
    """

    known: np.ndarray | None = None
    none: np.ndarray | None = None
    prediction_set: np.ndarray | None = None

    def class_of(self, index: int, names: Sequence[str]) -> str:
        """The answer for an image that was read: a class, "none of these" or "unsure"."""
        _, sure, values = self
        if self.none is not None and self.none[index]:
            return NONE_OF_THESE
        return names[int(values[index].argmax())] if sure[index] else UNSURE

    def of_image(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """known, and prediction_set as names, of one image, where the model gives them."""
        found: dict[str, Any] = {} if self.known is None else {"known": float(self.known[index])}
        if self.prediction_set is not None:
            inside = self.prediction_set[index]
            found["prediction_set"] = [name for name, one in zip(names, inside, strict=True) if one]
        return found


Opened = Callable[[list[bytes]], Reply]


def _opened_target(folder: Path) -> tuple[list[str], Opened]:
    description, ask = open_target(folder)
    size, names = description["image_size"], description["classes"]
    thresholds = thresholds_of(description.get("prediction_sets"), names)

    def decoded(data: bytes) -> np.ndarray | None:
        try:
            return decoded_pixels(data, size, description["fit"], description.get("depth", FULL_DEPTH))
        except DataError:
            return None

    def answer(data: list[bytes]) -> Reply:
        images = [decoded(one) for one in data]
        ok = np.array([one is not None for one in images])
        values = np.zeros((len(data), len(names)), "float32")
        if ok.any():
            values[ok] = ask(np.stack([one for one in images if one is not None]))
        reply = Reply((ok, ok & (values.max(1) >= description["unsure_below"]), values))
        if thresholds is not None:
            reply.prediction_set = (values >= thresholds) & ok[:, None]
        return reply

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
