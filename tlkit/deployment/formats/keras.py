"""The Keras file: written without the optimizer, opened in safe mode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlkit.deployment.formats.shared import Answer, Format
from tlkit.models.files import open_model, save_model

if TYPE_CHECKING:
    import keras


def _write(model: keras.Model, file: Path, images: np.ndarray | None) -> None:
    save_model(model, file)


def _open(file: Path) -> Answer:
    model = open_model(file)
    return lambda pixels: np.asarray(model.predict(pixels, verbose=0))


KERAS = Format("model.keras", _write, _open)
