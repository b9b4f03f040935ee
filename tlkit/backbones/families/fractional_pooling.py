"""A network of fractional max pooling for digits (Graham 2014, arXiv:1412.6071)."""

from __future__ import annotations

from typing import Any

from tlkit.backbones.backbone import Backbone, _after
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.plan.recipe import Head

STAGES = 6


def fractional_pooling(pixels: Any) -> Any:
    """Apply the paper's (32n C2 - FMP sqrt 2)6: six times a 2 x 2 convolution, 32 n filters wide, and pooling.

    With 36 pixels the sizes are 36, 25, 17, 11, 7, 4 and 2. Returns (n, 2, 2, 192).
    """
    import keras

    from tlkit.backbones.registered import FractionalMaxPooling2D

    x = pixels
    for stage in range(1, STAGES + 1):
        x = keras.layers.Conv2D(32 * stage, 2, kernel_initializer="he_normal", name=f"conv{stage}")(x)
        x = keras.layers.LeakyReLU(negative_slope=1 / 3, name=f"conv{stage}_relu")(x)
        x = FractionalMaxPooling2D(2**0.5, name=f"pool{stage}")(x)
    return x


def fractional_pooling_top(features: Any, classes: int) -> Any:
    """Apply the paper's C2 - C1 - output to the features at 36 pixels. Returns probabilities, shape (n, classes)."""
    import keras

    layers = keras.layers
    x = features
    for number, (filters, kernel) in enumerate(((224, 2), (256, 1)), start=STAGES + 1):
        x = layers.Conv2D(filters, kernel, kernel_initializer="he_normal", name=f"conv{number}")(x)
        x = layers.LeakyReLU(negative_slope=1 / 3)(x)
    return layers.Dense(classes, activation="softmax", name="output")(layers.Flatten()(x))


ROWS = (
    Backbone(
        name="fractional_pooling",
        builder=NormalisedNetwork("unit", fractional_pooling),
        size=36,
        smallest=32,
        boundaries=_after("pool1", "pool2", "pool3", "pool4", "pool5"),
        parameters=287_776,
        year=2014,
        own_head=Head(pooling="flatten", hidden=(224, 256)),
        own_layers=True,
    ),
)
