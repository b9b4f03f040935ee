"""Network in Network (Lin et al. 2014, arXiv:1312.4400): each convolution is followed by two of 1 x 1."""

from __future__ import annotations

from typing import Any

from tlkit.backbones.backbone import Backbone, _after
from tlkit.backbones.families.layers import convolution_relu, max_pool
from tlkit.backbones.normalise import NormalisedNetwork


def nin(pixels: Any) -> Any:
    """Apply the network for CIFAR-10 up to the layer before the last: (n, 8, 8, 192) for 32 pixels.

    Widths and pooling are those of the authors' published settings.
    """
    import keras

    layers = keras.layers
    x = _mlp(pixels, (192, 160, 96), 5, "block1")
    x = layers.Dropout(0.5, name="drop1")(max_pool(x, 3, "pool1", ceil=True))
    x = _mlp(x, (192, 192, 192), 5, "block2")
    x = layers.AveragePooling2D(3, 2, padding="same", name="pool2")(x)
    x = layers.Dropout(0.5, name="drop2")(x)
    return _mlp(x, (192, 192), 3, "block3")


def nin_imagenet(pixels: Any) -> Any:
    """Apply the authors' later network for ImageNet up to the layer before the last: (n, 6, 6, 1024) for 224 pixels."""
    import keras

    x = _mlp(pixels, (96, 96, 96), 11, "block1", stride=4, padding=0)
    x = _mlp(max_pool(x, 3, "pool1", ceil=True), (256, 256, 256), 5, "block2")
    x = _mlp(max_pool(x, 3, "pool2", ceil=True), (384, 384, 384), 3, "block3")
    x = keras.layers.Dropout(0.5, name="drop3")(max_pool(x, 3, "pool3", ceil=True))
    return _mlp(x, (1024, 1024), 3, "block4")


def _mlp(
    x: Any, widths: tuple[int, ...], kernel: int, name: str, *, stride: int = 1, padding: int | None = None
) -> Any:
    """Apply a convolution, and convolutions of 1 x 1 after it, which are a small network at every position."""
    x = convolution_relu(x, widths[0], kernel, f"{name}_conv", stride=stride, padding=padding)
    for number, width in enumerate(widths[1:], start=1):
        x = convolution_relu(x, width, 1, f"{name}_cccp{number}")
    return x


def nin_top(features: Any, classes: int) -> Any:
    """Apply the last layer, one map per class, and average each map. Returns probabilities, shape (n, classes).

    tlkit's own head (averages, then one dense layer) is the same but for the ReLU of this layer.
    """
    import keras

    x = convolution_relu(features, classes, 1, "cccp_classes")
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.layers.Softmax()(x)


ROWS = (
    Backbone(
        name="nin",
        builder=NormalisedNetwork("torch", nin),
        size=32,
        smallest=16,
        boundaries=_after("drop1", "drop2"),
        parameters=965_056,
        year=2013,
    ),
    Backbone(
        name="nin_imagenet",
        builder=NormalisedNetwork("torch", nin_imagenet),
        size=224,
        smallest=39,
        boundaries=_after("pool1", "pool2", "drop3"),
        parameters=6_570_176,
        year=2013,
    ),
)
