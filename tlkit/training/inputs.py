"""What a stage trains on: rows sent through the frozen part of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.models.inference import frozen_call

if TYPE_CHECKING:
    import keras


def _through(prefix: keras.Model, before: Any, batch_size: int) -> Any:
    call = frozen_call(prefix, batch_size)

    def transform(inputs: list[np.ndarray], indices: np.ndarray, epoch: int) -> list[np.ndarray]:
        (images,) = before(inputs, indices, epoch) if before else inputs
        return call(images)

    return transform
