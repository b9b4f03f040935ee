"""The network `nano`: a small residual network that comes with tlkit, weights included. See NANO.md for its training.

At high resolution it has plain 3x3 convolutions, which two CPU cores run many times faster than depthwise ones. At low
resolution it has bottlenecks with squeeze and excitation (Hu et al. 2018, arXiv:1709.01507). Its output stride is 16,
so that an image of 96 pixels still gives 6 x 6 positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlkit.backbones.backbone import Backbone, Weights, _before
from tlkit.backbones.normalise import NormalisedNetwork

if TYPE_CHECKING:
    import keras


WIDTHS = (24, 48, 96, 192)  # channels at 1/2, 1/4, 1/8 and 1/16 of the input's size
BOTTLENECK = 96
FEATURES = 640


def nano(inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Apply the network to pixels from -1 to 1, shape (n, size, size, 3), size 64 to 224.

    Returns features of shape (n, size/16, size/16, 640). The first layers of the blocks are stem, block2_down,
    block3_down, block4_down and block5_1_reduce.
    """
    stem, second, third, fourth = WIDTHS
    x = _convolution(inputs, stem, 3, "stem", strides=2)
    x = _convolution(x, second, 3, "block2_down", strides=2)
    x = _residual(x, "block2_1")
    x = _convolution(x, third, 3, "block3_down", strides=2)
    x = _residual(x, "block3_1")
    x = _convolution(x, fourth, 3, "block4_down", strides=2)
    for block, units in (("block4", 3), ("block5", 4)):
        for unit in range(1, units + 1):
            x = _bottleneck(x, f"{block}_{unit}")
    return _convolution(x, FEATURES, 1, "top")


def _convolution(
    x: keras.KerasTensor, channels: int, kernel: int, name: str, strides: int = 1, activation: bool = True
) -> keras.KerasTensor:
    import keras

    layers = keras.layers
    x = layers.Conv2D(
        channels, kernel, strides, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if activation else x


def _residual(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Add one convolution to the identity."""
    import keras

    return keras.layers.Add(name=f"{name}_add")([x, _convolution(x, x.shape[-1], 3, name)])


def _bottleneck(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Add a bottleneck (1x1, 3x3, 1x1) to the identity (He et al. 2016, arXiv:1512.03385).

    Its channels are scaled by squeeze and excitation.
    """
    import keras

    layers = keras.layers
    channels = x.shape[-1]
    y = _convolution(x, BOTTLENECK, 1, f"{name}_reduce")
    y = _convolution(y, BOTTLENECK, 3, f"{name}_middle")
    y = _convolution(y, channels, 1, f"{name}_expand", activation=False)
    weight = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(y)
    weight = layers.Dense(channels // 8, activation="relu", name=f"{name}_excite_1")(weight)
    weight = layers.Dense(channels, activation="sigmoid", name=f"{name}_excite_2")(weight)
    y = layers.Multiply(name=f"{name}_weighed")([y, weight])
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))


_NANO = Backbone(
    name="nano",
    builder=NormalisedNetwork("tf", nano),
    size=96,
    smallest=64,
    boundaries=_before("block2_down", "block3_down", "block4_down", "block5_1_reduce"),
    parameters=1_364_944,
    weights=Weights(
        file="nano.npz",
        url="",
        digest="947c1df6f978cc1a6cc66676a06aef8f7c3ebfd031c16f0540d9be3b0c424f8c",
        number_bytes=2,
    ),
    licence="research and education",
    year=2026,
)
