"""The row `pixels`: no network at all, so that a head is a linear classifier, or a perceptron, on raw pixels.

What any network has to beat. A solved head is a linear classifier; a head with hidden layers is a perceptron (Rosenblatt
1958; LeCun et al. 1998 compare both with LeNet-5 on digits).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlkit.backbones.backbone import Backbone
from tlkit.backbones.normalise import NormalisedNetwork

if TYPE_CHECKING:
    import keras


def pixels(inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Flatten pixels from -1 to 1, shape (n, size, size, 3), to features of shape (n, 3 * size**2)."""
    import keras

    return keras.layers.Flatten(name="pixels")(inputs)


PIXELS: dict[str, Backbone] = {
    "pixels": Backbone(
        name="pixels",
        builder=NormalisedNetwork("tf", pixels),
        size=32,
        smallest=4,
        boundaries=(),
        parameters=0,
        brings_weights=True,
        frozen_because="it has no weights: its features are the pixels",
    ),
}
