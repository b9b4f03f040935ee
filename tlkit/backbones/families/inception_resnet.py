"""Inception-ResNet v2 as timm has it: residual units of Inception modules, scaled before they are added.

Szegedy et al. 2017, Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning,
arXiv:1602.07261. The row `inceptionresnetv2` of `keras.applications` has no gamma in BatchNormalization.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tlkit.backbones.backbone import Backbone, _after
from tlkit.backbones.checkpoint import Checkpoint
from tlkit.backbones.families.layers import (
    concatenate,
    convolution,
    convolution_unit,
    linear_top,
    max_pool,
    mean_pool,
    relu,
)
from tlkit.backbones.normalise import NormalisedNetwork

Unit = tuple[int, int | tuple[int, int]]  # channels, kernel
Branch = tuple[Unit, ...]

# the branches of each residual unit, and by how much its output is multiplied
_35: tuple[Branch, ...] = (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3)))
_17: tuple[Branch, ...] = (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1))))
_8: tuple[Branch, ...] = (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1))))
_SCALES = {_35: 0.17, _17: 0.1, _8: 0.2}


def inception_resnet_v2(pixels: Any) -> Any:
    """Return the last feature map. pixels: -1 to 1, a Keras tensor of shape (n, size, size, 3)."""
    x = convolution_unit(pixels, 32, 3, "conv2d_1a", stride=2, padding=0)
    x = convolution_unit(x, 32, 3, "conv2d_2a", padding=0)
    x = convolution_unit(x, 64, 3, "conv2d_2b")
    x = max_pool(x, 3, "maxpool_3a")
    x = convolution_unit(x, 80, 1, "conv2d_3b")
    x = convolution_unit(x, 192, 3, "conv2d_4a", padding=0)
    x = max_pool(x, 3, "maxpool_5a")
    x = _mixed_5b(x)
    for number in range(10):
        x = _residual(x, _35, f"repeat.{number}")
    x = _reduction(x, (((384, 3),), ((256, 1), (256, 3), (384, 3))), "mixed_6a")
    for number in range(20):
        x = _residual(x, _17, f"repeat_1.{number}")
    x = _reduction(x, (((256, 1), (384, 3)), ((256, 1), (288, 3)), ((256, 1), (288, 3), (320, 3))), "mixed_7a")
    for number in range(9):
        x = _residual(x, _8, f"repeat_2.{number}")
    x = _residual(x, _8, "block8", rectified=False)
    return convolution_unit(x, 1536, 1, "conv2d_7b")


def _branch(x: Any, units: Branch, name: str, last_stride: int = 1) -> Any:
    """Apply convolutions one after another. last_stride: of the last, which is not padded if it is 2."""
    for number, (channels, kernel) in enumerate(units):
        unit = name if len(units) == 1 else f"{name}.{number}"
        if number == len(units) - 1 and last_stride > 1:
            x = convolution_unit(x, channels, kernel, unit, stride=last_stride, padding=0)
        else:
            x = convolution_unit(x, channels, kernel, unit)
    return x


def _mixed_5b(x: Any) -> Any:
    branches: tuple[Branch, ...] = (((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)))
    outputs = [_branch(x, units, f"mixed_5b.branch{number}") for number, units in enumerate(branches)]
    pooled = mean_pool(x, "mixed_5b.branch3.0", counted=False)
    outputs.append(convolution_unit(pooled, 64, 1, "mixed_5b.branch3.1"))
    return concatenate(outputs, "mixed_5b.concat")


def _reduction(x: Any, branches: tuple[Branch, ...], name: str) -> Any:
    """Halve the size by convolutions of stride 2, and by a pool."""
    outputs = [_branch(x, units, f"{name}.branch{number}", last_stride=2) for number, units in enumerate(branches)]
    return concatenate([*outputs, max_pool(x, 3, f"{name}.pool")], f"{name}.concat")


def _residual(x: Any, branches: tuple[Branch, ...], name: str, *, rectified: bool = True) -> Any:
    """Add the scaled output of an Inception module to the identity."""
    import keras

    scale = _SCALES[branches] if rectified else 1.0
    y = concatenate(
        [_branch(x, units, f"{name}.branch{number}") for number, units in enumerate(branches)], f"{name}.concat"
    )
    y = convolution(y, x.shape[-1], 1, f"{name}.conv2d", bias=True)
    if scale != 1:
        y = keras.layers.Rescaling(scale, name=f"{name}.scale")(y)
    x = keras.layers.Add(name=f"{name}.add")([x, y])
    return relu(x, f"{name}.relu") if rectified else x


ROWS = (
    Backbone(
        name="inception_resnet_v2",
        builder=NormalisedNetwork("tf", inception_resnet_v2),
        size=299,
        smallest=75,
        boundaries=_after("mixed_5b.concat", "repeat.9.relu", "repeat_1.9.relu", "repeat_1.19.relu"),
        parameters=54_367_008,
        checkpoint=Checkpoint(top=partial(linear_top, name="classif"), top_names=("classif",), pixels="tf"),
        year=2016,
    ),
)
