"""LeNet-5 (LeCun et al. 1998, Gradient-based learning applied to document recognition, Proc. IEEE 86)."""

from __future__ import annotations

from typing import Any

from tlkit.backbones.backbone import Backbone, _after
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.plan.recipe import Head

# the maps of S2 that each of the 16 maps of C3 reads: table I of the paper
CONNECTIONS = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip


def lenet5(pixels: Any) -> Any:
    """Apply the layers C1 to S4 to pixels from 0 to 1, shape (n, size, size, 3), which are made grey first.

    As in the paper, black is -0.1 and white 1.175, and C3 has its table of connections. Unlike in the paper, pooling
    has no weights, and the activation is tanh itself, not 1.7159 tanh(2 x / 3). Returns (n, 5, 5, 16) for 32 pixels.
    """
    import keras

    layers = keras.layers
    x = keras.ops.image.rgb_to_grayscale(pixels)
    x = layers.Rescaling(1.275, offset=-0.1, name="paper_range")(x)
    x = layers.Conv2D(6, 5, activation="tanh", name="c1")(x)
    x = layers.AveragePooling2D(2, name="s2")(x)
    maps = [_map(x, inputs, number) for number, inputs in enumerate(CONNECTIONS, start=1)]
    x = layers.Concatenate(name="c3")(maps)
    return layers.AveragePooling2D(2, name="s4")(x)


def _map(x: Any, inputs: tuple[int, ...], number: int) -> Any:
    """Return one map of C3: a convolution of its own, of the maps of S2 that it reads."""
    import keras

    chosen = keras.ops.take(x, inputs, axis=-1)
    return keras.layers.Conv2D(1, 5, activation="tanh", name=f"c3_{number}")(chosen)


def lenet5_top(features: Any, classes: int) -> Any:
    """Apply the layers C5, F6 and the output to the features at 32 pixels. Returns probabilities, shape (n, classes).

    The output is a softmax layer in place of the paper's radial basis functions.
    """
    import keras

    layers = keras.layers
    x = layers.Conv2D(120, 5, activation="tanh", name="c5")(features)
    x = layers.Flatten()(x)
    x = layers.Dense(84, activation="tanh", name="f6")(x)
    return layers.Dense(classes, activation="softmax", name="output")(x)


ROWS = (
    Backbone(
        name="lenet5",
        builder=NormalisedNetwork("unit", lenet5),
        size=32,
        smallest=16,
        boundaries=_after("s2"),
        parameters=156 + 1_516,
        year=1998,
        own_head=Head(pooling="flatten", hidden=(120, 84), activation="tanh"),
    ),
)
