"""Networks of Inception modules with batch normalisation, as PyTorch's libraries have them.

- Szegedy et al. 2015, Going Deeper with Convolutions, arXiv:1409.4842: GoogLeNet. torchvision's has batch
  normalisation, and 3x3 convolutions in place of the paper's 5x5.
- Ioffe and Szegedy 2015, Batch Normalization, arXiv:1502.03167: BN-Inception, as pretrainedmodels has it. Its
  convolutions have biases although BatchNormalization follows.
- Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision, arXiv:1512.00567: Inception v3. The
  row `inceptionv3` of `keras.applications` has no gamma in BatchNormalization, and counts no zeros in its mean pools.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tlkit.backbones.backbone import Backbone, Weights, _after
from tlkit.backbones.checkpoint import Checkpoint
from tlkit.backbones.families.googlenet import INCEPTIONS
from tlkit.backbones.families.layers import (
    batch_norm,
    concatenate,
    convolution,
    convolution_unit,
    linear_top,
    max_pool,
    mean_pool,
    relu,
)
from tlkit.backbones.normalise import NormalisedNetwork

_TORCHVISION = "https://download.pytorch.org/models/"

BN_INCEPTION = {  # channels: 1x1; 1x1, then 3x3; 1x1, then two 3x3; 1x1 after the pool. 0: no such branch, stride 2
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (0, 128, 160, 64, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "4e": (0, 128, 192, 192, 256, 0),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}


def googlenet_bn(pixels: Any) -> Any:
    """Return the last feature map of torchvision's GoogLeNet. pixels: -1 to 1, shape (n, size, size, 3)."""
    x = convolution_unit(pixels, 64, 7, "conv1", stride=2)
    x = max_pool(x, 3, "maxpool1", ceil=True)
    x = convolution_unit(x, 64, 1, "conv2")
    x = convolution_unit(x, 192, 3, "conv3")
    x = max_pool(x, 3, "maxpool2", ceil=True)
    for name, channels in INCEPTIONS.items():
        if name in ("4a", "5a"):
            x = max_pool(x, 3 if name == "4a" else 2, f"maxpool{int(name[0]) - 1}", ceil=True)
        x = _googlenet_module(x, channels, f"inception{name}")
    return x


def _googlenet_module(x: Any, channels: tuple[int, ...], name: str) -> Any:
    """Apply four branches. torchvision's third has 3x3 where the paper has 5x5."""
    one, reduced, three, reduced_again, other_three, projected = channels
    first = convolution_unit(x, one, 1, f"{name}.branch1")
    second = convolution_unit(x, reduced, 1, f"{name}.branch2.0")
    second = convolution_unit(second, three, 3, f"{name}.branch2.1")
    third = convolution_unit(x, reduced_again, 1, f"{name}.branch3.0")
    third = convolution_unit(third, other_three, 3, f"{name}.branch3.1")
    pooled = max_pool(x, 3, f"{name}.branch4.0", stride=1, padding=1)
    pooled = convolution_unit(pooled, projected, 1, f"{name}.branch4.1")
    return concatenate([first, second, third, pooled], f"{name}.concat")


def bn_inception(pixels: Any) -> Any:
    """Return the last feature map of BN-Inception. pixels: normalised, shape (n, size, size, 3)."""
    x = _biased(pixels, 64, 7, "conv1_7x7_s2", stride=2)
    x = max_pool(x, 3, "pool1_3x3_s2", ceil=True)
    x = _biased(x, 64, 1, "conv2_3x3_reduce")
    x = _biased(x, 192, 3, "conv2_3x3")
    x = max_pool(x, 3, "pool2_3x3_s2", ceil=True)
    for name, channels in BN_INCEPTION.items():
        x = _bn_inception_module(x, channels, f"inception_{name}")
    return x


def _bn_inception_module(x: Any, channels: tuple[int, ...], name: str) -> Any:
    one, reduced, three, reduced_again, double, projected = channels
    stride = 1 if one else 2
    branches = [_biased(x, one, 1, f"{name}_1x1")] if one else []
    y = _biased(x, reduced, 1, f"{name}_3x3_reduce")
    branches.append(_biased(y, three, 3, f"{name}_3x3", stride=stride))
    y = _biased(x, reduced_again, 1, f"{name}_double_3x3_reduce")
    y = _biased(y, double, 3, f"{name}_double_3x3_1")
    branches.append(_biased(y, double, 3, f"{name}_double_3x3_2", stride=stride))
    if not projected:
        y = max_pool(x, 3, f"{name}_pool", ceil=True)
    elif name == "inception_5b":
        y = max_pool(x, 3, f"{name}_pool", stride=1, padding=1)
    else:
        y = mean_pool(x, f"{name}_pool")
    branches.append(_biased(y, projected, 1, f"{name}_pool_proj") if projected else y)
    return concatenate(branches, f"{name}_output")


def _biased(x: Any, channels: int, kernel: int, name: str, stride: int = 1) -> Any:
    x = convolution(x, channels, kernel, name, stride=stride, bias=True)
    return relu(batch_norm(x, f"{name}_bn"), f"{name}_relu")


def inception_v3(pixels: Any) -> Any:
    """Return the last feature map of torchvision's Inception v3. pixels: -1 to 1, shape (n, size, size, 3)."""
    x = convolution_unit(pixels, 32, 3, "Conv2d_1a_3x3", stride=2, padding=0)
    x = convolution_unit(x, 32, 3, "Conv2d_2a_3x3", padding=0)
    x = convolution_unit(x, 64, 3, "Conv2d_2b_3x3")
    x = max_pool(x, 3, "maxpool1")
    x = convolution_unit(x, 80, 1, "Conv2d_3b_1x1")
    x = convolution_unit(x, 192, 3, "Conv2d_4a_3x3", padding=0)
    x = max_pool(x, 3, "maxpool2")
    for name, channels in (("5b", 32), ("5c", 64), ("5d", 64)):
        x = _module_5(x, channels, f"Mixed_{name}")
    x = _module_6a(x)
    for name, channels in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        x = _module_6(x, channels, f"Mixed_{name}")
    x = _module_7a(x)
    for name in ("Mixed_7b", "Mixed_7c"):
        x = _module_7(x, name)
    return x


Unit = tuple[str, int, int | tuple[int, int]]  # name, channels, kernel


def _chain(x: Any, name: str, *units: Unit, last_stride: int = 1) -> Any:
    """Apply convolutions one after another. last_stride: of the last, which is not padded if it is 2."""
    for number, (unit, channels, kernel) in enumerate(units, start=1):
        if number == len(units) and last_stride > 1:
            x = convolution_unit(x, channels, kernel, f"{name}.{unit}", stride=last_stride, padding=0)
        else:
            x = convolution_unit(x, channels, kernel, f"{name}.{unit}")
    return x


def _pooled(x: Any, channels: int, name: str) -> Any:
    return convolution_unit(mean_pool(x, f"{name}.pool"), channels, 1, f"{name}.branch_pool")


def _module_5(x: Any, after_pool: int, name: str) -> Any:
    branches = [
        _chain(x, name, ("branch1x1", 64, 1)),
        _chain(x, name, ("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        _chain(x, name, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        _pooled(x, after_pool, name),
    ]
    return concatenate(branches, f"{name}.concat")


def _module_6a(x: Any) -> Any:
    double: tuple[Unit, ...] = (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3))
    branches = [
        _chain(x, "Mixed_6a", ("branch3x3", 384, 3), last_stride=2),
        _chain(x, "Mixed_6a", *double, last_stride=2),
        max_pool(x, 3, "Mixed_6a.pool"),
    ]
    return concatenate(branches, "Mixed_6a.concat")


def _module_6(x: Any, width: int, name: str) -> Any:
    double: tuple[Unit, ...] = (
        ("branch7x7dbl_1", width, 1),
        ("branch7x7dbl_2", width, (7, 1)),
        ("branch7x7dbl_3", width, (1, 7)),
        ("branch7x7dbl_4", width, (7, 1)),
        ("branch7x7dbl_5", 192, (1, 7)),
    )
    branches = [
        _chain(x, name, ("branch1x1", 192, 1)),
        _chain(x, name, ("branch7x7_1", width, 1), ("branch7x7_2", width, (1, 7)), ("branch7x7_3", 192, (7, 1))),
        _chain(x, name, *double),
        _pooled(x, 192, name),
    ]
    return concatenate(branches, f"{name}.concat")


def _module_7a(x: Any) -> Any:
    seven: tuple[Unit, ...] = (
        ("branch7x7x3_1", 192, 1),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, 3),
    )
    branches = [
        _chain(x, "Mixed_7a", ("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3), last_stride=2),
        _chain(x, "Mixed_7a", *seven, last_stride=2),
        max_pool(x, 3, "Mixed_7a.pool"),
    ]
    return concatenate(branches, "Mixed_7a.concat")


def _module_7(x: Any, name: str) -> Any:
    three = _chain(x, name, ("branch3x3_1", 384, 1))
    double = _chain(x, name, ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3))
    branches = [
        _chain(x, name, ("branch1x1", 320, 1)),
        _chain(three, name, ("branch3x3_2a", 384, (1, 3))),
        _chain(three, name, ("branch3x3_2b", 384, (3, 1))),
        _chain(double, name, ("branch3x3dbl_3a", 384, (1, 3))),
        _chain(double, name, ("branch3x3dbl_3b", 384, (3, 1))),
        _pooled(x, 192, name),
    ]
    return concatenate(branches, f"{name}.concat")


def _checkpoint(pixels: str, top: str, *auxiliary: str) -> Checkpoint:
    return Checkpoint(top=partial(linear_top, name=top), top_names=(top,), auxiliary=auxiliary, pixels=pixels)


def _torchvision(file: str, also: int) -> Weights:
    return Weights(file, _TORCHVISION + file, None, also=also)


# torchvision's files of GoogLeNet and Inception v3 hold TensorFlow's weights: pixels are scaled to -1 to 1
# (torchvision's "transform_input")
ROWS = (
    Backbone(
        name="googlenet_bn",
        builder=NormalisedNetwork("tf", googlenet_bn),
        size=224,
        smallest=32,
        boundaries=_after("maxpool1", "maxpool2", "maxpool3", "maxpool4"),
        parameters=5_614_464,
        weights=_torchvision("googlenet-1378be20.pth", also=7_404_984),
        checkpoint=_checkpoint("tf", "fc", "aux1.", "aux2."),
        licence="BSD-3-Clause",
        year=2014,
    ),
    Backbone(
        name="bn_inception",
        builder=NormalisedNetwork("bn_inception", bn_inception),
        size=224,
        smallest=32,
        boundaries=_after("pool1_3x3_s2", "pool2_3x3_s2", "inception_3c_output", "inception_4e_output"),
        parameters=10_290_272,
        checkpoint=_checkpoint("bn_inception", "last_linear"),
        year=2015,
    ),
    Backbone(
        name="inception_v3",
        builder=NormalisedNetwork("tf", inception_v3),
        size=299,
        smallest=75,
        boundaries=_after("Mixed_5b.concat", "Mixed_5d.concat", "Mixed_6c.concat", "Mixed_6e.concat"),
        parameters=21_820_000,
        weights=_torchvision("inception_v3_google-0cc3c7bd.pth", also=5_375_696),
        checkpoint=_checkpoint("tf", "fc", "AuxLogits."),
        licence="BSD-3-Clause",
        year=2015,
    ),
)
