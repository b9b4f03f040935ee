"""The convolutional maxout network for CIFAR-10 (Goodfellow et al. 2013, arXiv:1302.4389)."""

from __future__ import annotations

from typing import Any

from tlkit.backbones.backbone import Backbone, _after
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.plan.recipe import Head


def maxout(pixels: Any) -> Any:
    """Apply the three convolutional maxout layers: (n, 5, 5, 192) for 32 pixels.

    Each unit is the largest of two filters, without a nonlinearity. Filters have the largest norms of the authors'
    published settings, and a fifth of the inputs is dropped in training.
    """
    import keras

    layers = keras.layers
    x = layers.Dropout(0.2, name="drop_pixels")(pixels)
    x = layers.ZeroPadding2D(4, name="pad1")(x)
    x = layers.MaxPooling2D(4, 2, padding="same", name="pool1")(_maxout(x, 96, 8, 0.9, "conv1"))
    x = layers.Dropout(0.5, name="drop1")(x)
    x = layers.ZeroPadding2D(3, name="pad2")(x)
    x = layers.MaxPooling2D(4, 2, padding="same", name="pool2")(_maxout(x, 192, 8, 1.9365, "conv2"))
    x = layers.Dropout(0.5, name="drop2")(x)
    x = layers.ZeroPadding2D(3, name="pad3")(x)
    return layers.MaxPooling2D(2, name="pool3")(_maxout(x, 192, 5, 1.9365, "conv3"))


def _maxout(x: Any, units: int, kernel: int, norm: float, name: str) -> Any:
    """Apply a convolution of two filters per unit, and take the larger.

    The initial filters are small enough for `norm`, the largest norm of a filter.
    """
    import keras

    x = keras.layers.Conv2D(
        2 * units, kernel, kernel_constraint=keras.constraints.MaxNorm(norm, axis=[0, 1, 2]), name=name
    )(x)
    rows, columns = x.shape[1:3]
    x = keras.layers.Reshape((rows, columns, units, 2), name=f"{name}_pieces")(x)
    return keras.ops.max(x, axis=-1)


def maxout_top(features: Any, classes: int) -> Any:
    """Apply 500 maxout units of five pieces and the last layer. Returns probabilities, shape (n, classes)."""
    import keras

    layers = keras.layers
    limits = {norm: keras.constraints.MaxNorm(norm) for norm in (1.9, 1.9365)}
    x = layers.Dropout(0.5)(layers.Flatten()(features))
    x = layers.Dense(2500, kernel_constraint=limits[1.9], name="dense")(x)
    x = keras.ops.max(layers.Reshape((500, 5))(x), axis=-1)
    x = layers.Dropout(0.5)(x)
    return layers.Dense(classes, activation="softmax", kernel_constraint=limits[1.9365], name="output")(x)


ROWS = (
    Backbone(
        name="maxout",
        builder=NormalisedNetwork("torch", maxout),
        size=32,
        smallest=16,
        boundaries=_after("pool1", "pool2"),
        parameters=4_240_320,
        year=2013,
        # a head of tlkit has ReLU units in place of the 500 maxout units
        own_head=Head(pooling="flatten", hidden=(500,), dropout=0.5, max_norm=1.9),
    ),
)
