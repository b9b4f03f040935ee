"""Residual networks as torchvision and timm have them: ResNet, ResNeXt, SE-ResNet, SE-ResNeXt and SENet-154.

- He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385.
- Xie et al. 2017, Aggregated Residual Transformations for Deep Neural Networks, arXiv:1611.05431.
- Hu et al. 2018, Squeeze-and-Excitation Networks, arXiv:1709.01507. Its own networks were written in Caffe; timm keeps
  them as "legacy". SE-ResNet-50 has its stride there in the first 1x1 convolution.

"v1.5" is the usual name of a ResNet whose bottlenecks have their stride in the 3x3 convolution, as torchvision has it.
`resnet50` of `keras.applications` has it in the first 1x1 convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from tlkit.backbones.backbone import Backbone, Weights, _before
from tlkit.backbones.checkpoint import Checkpoint
from tlkit.backbones.families.layers import batch_norm, convolution, linear_top, max_pool, relu
from tlkit.backbones.normalise import NormalisedNetwork

_TORCHVISION = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class ResNet:
    """A residual network of four stages, without its top. Its layers are named as in the public weight files.

    units: residual units of each stage. bottleneck: whether a unit is 1x1, 3x3, 1x1 instead of 3x3, 3x3.
    groups, width: of the 3x3 convolution in a bottleneck: its groups, and its channels in the first stage.
    attention: the name of the squeeze-and-excitation layers in the files; "" for none.
    legacy: whether it is one of the SENet paper's networks: "" (no), "resnet" (stride in the first 1x1 convolution),
        "resnext" (stride in the 3x3 convolution), or "senet" (three 3x3 convolutions below, and 3x3 projections).
    """

    units: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    width: int = 64
    attention: str = ""
    legacy: str = ""

    def __call__(self, pixels: Any) -> Any:
        """Return the last feature map. pixels: normalised, a Keras tensor of shape (n, size, size, 3)."""
        x = self._stem(pixels)
        for stage, units in enumerate(self.units, start=1):
            for unit in range(units):
                x = self._unit(x, stage, 2 if stage > 1 and unit == 0 else 1, f"layer{stage}.{unit}")
        return x

    def _stem(self, x: Any) -> Any:
        prefix = "layer0." if self.legacy else ""
        if self.legacy == "senet":
            for number, channels in ((1, 64), (2, 64), (3, 128)):
                x = convolution(x, channels, 3, f"layer0.conv{number}", stride=2 if number == 1 else 1)
                x = relu(batch_norm(x, f"layer0.bn{number}"), f"layer0.relu{number}")
        else:
            x = convolution(x, 64, 7, f"{prefix}conv1", stride=2)
            x = relu(batch_norm(x, f"{prefix}bn1"), f"{prefix}relu1")
        if self.legacy:
            return max_pool(x, 3, "layer0.pool", ceil=True)
        return max_pool(x, 3, "maxpool", padding=1)

    def _unit(self, x: Any, stage: int, stride: int, name: str) -> Any:
        """Add the outputs of two or three convolutions to the identity, or to its projection."""
        import keras

        planes = 64 * 2 ** (stage - 1)
        channels = 4 * planes if self.bottleneck else planes
        y = x
        kernels = self._convolutions(stage, stride)
        for number, (width, kernel, its_stride, groups) in enumerate(kernels, start=1):
            y = convolution(y, width, kernel, f"{name}.conv{number}", stride=its_stride, groups=groups)
            y = batch_norm(y, f"{name}.bn{number}")
            if number < len(kernels):
                y = relu(y, f"{name}.relu{number}")
        if self.attention:
            y = _excite(y, f"{name}.{self.attention}")
        if stride > 1 or x.shape[-1] != channels:
            kernel = 3 if self.legacy == "senet" and stage > 1 else 1
            x = convolution(x, channels, kernel, f"{name}.downsample.0", stride=stride)
            x = batch_norm(x, f"{name}.downsample.1")
        return relu(keras.layers.Add(name=f"{name}.add")([y, x]), f"{name}.relu")

    def _convolutions(self, stage: int, stride: int) -> list[tuple[int, int, int, int]]:
        """Return (channels, kernel, stride, groups) of each convolution of a unit."""
        planes = 64 * 2 ** (stage - 1)
        if not self.bottleneck:
            return [(planes, 3, stride, 1), (planes, 3, 1, 1)]
        if self.legacy == "senet":
            return [(2 * planes, 1, 1, 1), (4 * planes, 3, stride, 64), (4 * planes, 1, 1, 1)]
        width = planes * self.width // 64
        first = stride if self.legacy == "resnet" else 1
        return [(width, 1, first, 1), (width, 3, stride // first, self.groups), (4 * planes, 1, 1, 1)]


def _excite(x: Any, name: str) -> Any:
    """Scale each channel by a number between 0 and 1 that follows from the means of all (squeeze and excitation)."""
    import keras

    channels = x.shape[-1]
    y = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.squeeze")(x)
    y = relu(convolution(y, channels // 16, 1, f"{name}.fc1", bias=True), f"{name}.relu")
    y = convolution(y, channels, 1, f"{name}.fc2", bias=True)
    y = keras.layers.Activation("sigmoid", name=f"{name}.sigmoid")(y)
    return keras.layers.Multiply(name=f"{name}.scale")([x, y])


def _row(name: str, network: ResNet, parameters: int, year: int, file: str = "", timm: str = "") -> Backbone:
    """Make a row. file: its default weights among torchvision's. timm: the same network's name in timm."""
    top = "last_linear" if network.legacy else "fc"
    return Backbone(
        name=name,
        builder=NormalisedNetwork("torch", network),
        size=224,
        smallest=32,
        boundaries=_before(*(f"layer{stage}.0.conv1" for stage in (1, 2, 3, 4))),
        parameters=parameters,
        weights=Weights(file, _TORCHVISION + file, None) if file else None,
        checkpoint=Checkpoint(
            top=partial(linear_top, name=top),
            top_names=(top,),
            names=((r"^last_linear\.", f"{top}."), (r"^fc\.", f"{top}."), (r"\.se_module\.", f".{network.attention}.")),
        ),
        licence="BSD-3-Clause" if file else "",
        year=year,
    )


# fmt: off
ROWS = (
    _row("resnet18", ResNet((2, 2, 2, 2), bottleneck=False), 11_186_112, 2015, "resnet18-f37072fd.pth"),
    _row("resnet34", ResNet((3, 4, 6, 3), bottleneck=False), 21_301_696, 2015, "resnet34-b627a593.pth"),
    _row("resnet50v1.5", ResNet((3, 4, 6, 3)), 23_561_152, 2015, "resnet50-0676ba61.pth"),
    _row("resnet101v1.5", ResNet((3, 4, 23, 3)), 42_605_504, 2015, "resnet101-63fe2227.pth"),
    _row("resnet152v1.5", ResNet((3, 8, 36, 3)), 58_295_232, 2015, "resnet152-394f9c45.pth"),
    _row("resnext50_32x4d", ResNet((3, 4, 6, 3), groups=32, width=128), 23_048_128, 2016,
         "resnext50_32x4d-7cdf4587.pth"),
    _row("resnext101_32x8d", ResNet((3, 4, 23, 3), groups=32, width=256), 86_945_216, 2016,
         "resnext101_32x8d-8ba56ff5.pth"),
    _row("seresnet50", ResNet((3, 4, 6, 3), attention="se"), 26_092_144, 2017),
    _row("seresnext50_32x4d", ResNet((3, 4, 6, 3), groups=32, width=128, attention="se"), 25_579_120, 2017),
    _row("legacy_seresnet50", ResNet((3, 4, 6, 3), attention="se_module", legacy="resnet"), 26_092_144, 2017),
    _row("legacy_seresnext50_32x4d",
         ResNet((3, 4, 6, 3), groups=32, width=128, attention="se_module", legacy="resnext"), 25_579_120, 2017),
    _row("legacy_senet154", ResNet((3, 8, 36, 3), attention="se_module", legacy="senet"), 113_287_536, 2017),
)
# fmt: on
