"""A backbone of four small blocks with BatchNormalization, so that tests that need no real one take seconds."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any


@functools.cache
def tiny_file() -> str:
    """The backbone as a `.keras` file: 32 pixels, blocks end after relu_8, relu_16 and relu_24."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for filters in (8, 16, 24, 32):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", name=f"conv_{filters}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"bn_{filters}")(x)
        x = keras.layers.Activation("relu", name=f"relu_{filters}")(x)
    file = Path(tempfile.mkdtemp()) / "tiny.keras"
    keras.Model(inputs, x).save(file)
    return str(file)


def predicted(model: Any, images: Any) -> Any:
    """What `model.predict` gives for a small batch, without tracing and compiling the model, which take a second."""
    import keras
    import numpy as np

    given = keras.tree.pack_sequence_as(model.input, keras.tree.flatten(images))  # a list of one, where it takes one
    return keras.tree.map_structure(np.asarray, model(given, training=False))
