"""The row `pixels`: no network at all, so that a head is a linear classifier, or a perceptron, on raw pixels.

What any network has to beat. A solved head is a linear classifier; a head with hidden layers is a multilayer
perceptron. LeCun et al. 1998 compare both with LeNet-5 on digits. The year is that of Rosenblatt's perceptron.
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


ROWS = (
    Backbone(
        name="pixels",
        builder=NormalisedNetwork("tf", pixels),
        size=32,
        smallest=4,
        boundaries=(),
        parameters=0,
        brings_weights=True,
        year=1958,
        frozen_because="it has no weights: its features are the pixels",
    ),
)
