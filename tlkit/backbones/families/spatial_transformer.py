"""A spatial transformer network (Jaderberg et al. 2015, arXiv:1506.02025).

It turns, shifts and scales its image before it reads it.
"""

from __future__ import annotations

from typing import Any

from tlkit.backbones.backbone import Backbone, _after
from tlkit.backbones.families.layers import convolution_relu
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.plan.recipe import Head

SEEN = 20  # pixels of each side at which the localisation network sees the image


def spatial_transformer(pixels: Any) -> Any:
    """Apply the transformer, then the classification network. Returns (n, 5, 5, 32) for 40 pixels."""
    return classification(transformed(pixels))


def transformed(pixels: Any) -> Any:
    """Sample the image where a small localisation network says, which sees it at 20 x 20 pixels.

    The matrix is the identity plus the output of the localisation network's last layer, which starts at 0.
    """
    import keras

    from tlkit.backbones.registered import AffineSampler

    layers = keras.layers
    x = layers.Resizing(SEEN, SEEN, name="localise_small")(pixels)
    x = convolution_relu(x, 20, 5, "localise_conv1", padding=0)
    x = layers.MaxPooling2D(2, name="localise_pool1")(x)
    x = convolution_relu(x, 20, 5, "localise_conv2", padding=0)
    x = layers.Flatten(name="localise_flat")(x)
    x = layers.Dense(50, activation="relu", kernel_initializer="he_normal", name="localise_dense")(x)
    theta = layers.Dense(6, kernel_initializer="zeros", name="theta")(x)
    theta = layers.Rescaling(1.0, offset=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0], name="from_identity")(theta)
    return AffineSampler(pixels.shape[1], pixels.shape[2], name="sampler")([pixels, theta])


def classification(x: Any) -> Any:
    """Apply the paper's convolutional network for distorted digits: 9 x 9 and 7 x 7 filters, each with pooling."""
    import keras

    x = convolution_relu(x, 32, 9, "conv1", padding=0)
    x = keras.layers.MaxPooling2D(2, name="pool1")(x)
    x = convolution_relu(x, 32, 7, "conv2", padding=0)
    return keras.layers.MaxPooling2D(2, name="pool2")(x)


ROWS = (
    Backbone(
        name="spatial_transformer",
        builder=NormalisedNetwork("unit", spatial_transformer),
        size=40,
        smallest=24,
        boundaries=_after("sampler", "pool1"),
        parameters=85_912,
        year=2015,
        own_head=Head(pooling="flatten"),
        own_layers=True,
    ),
)
