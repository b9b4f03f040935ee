"""Shared by the formats: `Format`, and the check for the packages that it needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.errors import ExportError

if TYPE_CHECKING:
    import keras

Answer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Format:
    """A format in which a classifier can be written.

    Attributes:
        file: Name of the model's file.
        write: Writes a model into a file. Takes training images, uint8, shape (n, size, size, 3), or None.
        open: Opens a file as a function from pixels to probabilities.
        runs_with, writes_with: Packages that are needed beside tlkit's own, each with the extra of tlkit that installs
            it.
        by_images: Whether `write` needs training images.
        rounds: Whether it computes with 8-bit integers, so that probabilities may differ from the model's at will.
        tolerance: The largest difference of a probability from the model's; of float16 weights it is larger.
        batch: How many images it takes at once: 1, or "any".
        finish: Completes the written file by the export's description: names, classes, layout.
    """

    file: str
    write: Callable[[keras.Model, Path, np.ndarray | None], None]
    open: Callable[[Path], Answer]
    runs_with: tuple[tuple[str, str], ...] = ()
    writes_with: tuple[tuple[str, str], ...] = ()
    by_images: bool = False
    rounds: bool = False
    tolerance: float = 1e-3
    batch: int | str = "any"
    finish: Callable[[Path, dict[str, Any]], None] | None = None


def _needed(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(
            f"'{package}' is not installed ({error}). Install it with: pip install 'tlkit[{extra}]'."
        ) from None


def signature(model: keras.Model, batch: int | None) -> list[Any]:
    """The one input of an exported model, `images`: float32, shape (batch, size, size, 3), RGB 0-255."""
    import tensorflow as tf

    return [tf.TensorSpec((batch, *model.input_shape[1:]), tf.float32, name="images")]


def named(model: keras.Model) -> keras.Model:
    """The same model, whose output is called `probabilities` in its signature."""
    import keras

    return keras.Model(model.input, {"probabilities": model.output})
