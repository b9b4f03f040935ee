"""Residual networks for small images with stochastic depth (Huang et al. 2016, arXiv:1603.09382).

In training, each residual branch is dropped at random. Its chance of survival falls linearly from 1 below the first
block to 0.5 at the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tlkit.backbones.backbone import Backbone, _before
from tlkit.backbones.families.layers import drop_path
from tlkit.backbones.normalise import NormalisedNetwork

SURVIVAL = 0.5  # of the last block


@dataclass(frozen=True)
class StochasticDepth:
    """A residual network of three groups of blocks, 16, 32 and 64 channels wide (He et al. 2016, section 4.2).

    blocks: residual blocks per group, of two convolutions each. survival: of the last block, above 0 to 1.
    """

    blocks: int
    survival: float = SURVIVAL

    def __call__(self, pixels: Any) -> Any:
        """Return (n, 8, 8, 64) for pixels of shape (n, 32, 32, 3)."""
        import keras

        x = _convolution(pixels, 16, "stem")
        x = keras.layers.ReLU(name="stem_relu")(x)
        count = 3 * self.blocks
        for number in range(count):
            group, block = divmod(number, self.blocks)
            rate = (number + 1) / count * (1 - self.survival)
            x = _block(x, 16 * 2**group, f"group{group + 1}_{block + 1}", rate)
        return x


def _convolution(x: Any, channels: int, name: str, strides: int = 1) -> Any:
    import keras

    layers = keras.layers
    x = layers.Conv2D(channels, 3, strides, padding="same", use_bias=False, kernel_initializer="he_normal", name=name)(
        x
    )
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def _block(x: Any, channels: int, name: str, rate: float) -> Any:
    """Add two convolutions to the identity, which is averaged and padded with zeros where the shape changes."""
    import keras

    layers = keras.layers
    strides = 1 if x.shape[-1] == channels else 2
    y = _convolution(x, channels, f"{name}_conv1", strides)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = drop_path(_convolution(y, channels, f"{name}_conv2"), rate, f"{name}_drop")
    if strides == 2:
        x = layers.AveragePooling2D(2, padding="same", name=f"{name}_pool")(x)
        x = keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))


def _row(blocks: int, parameters: int) -> Backbone:
    return Backbone(
        name=f"stochastic_depth_{6 * blocks + 2}",
        builder=NormalisedNetwork("torch", StochasticDepth(blocks)),
        size=32,
        smallest=16,
        boundaries=_before("group1_1_conv1", "group2_1_conv1", "group3_1_conv1"),
        parameters=parameters,
        year=2016,
    )


ROWS = (
    _row(3, 270_448),
    _row(18, 1_735_408),
)
