"""DenseNet-161 as torchvision has it, and how torchvision's files fit the DenseNets of `keras.applications`.

Huang et al. 2017, Densely Connected Convolutional Networks, arXiv:1608.06993.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from tlkit.backbones.backbone import Backbone, Weights, _before
from tlkit.backbones.checkpoint import Checkpoint
from tlkit.backbones.families.layers import batch_norm, concatenate, convolution, linear_top, max_pool, relu
from tlkit.backbones.normalise import NormalisedNetwork

_TORCHVISION = "https://download.pytorch.org/models/"

_OLD_NAMES = ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),)  # the published files have "norm.1" for "norm1"


@dataclass(frozen=True)
class DenseNet:
    """Four blocks of dense layers, each of which sees the outputs of all before it in the block.

    Between blocks, a 1x1 convolution halves the channels. Layers are named as in torchvision's files.

    layers: in each block. growth: channels that a layer adds. first: channels of the first convolution.
    """

    layers: tuple[int, int, int, int]
    growth: int
    first: int

    def __call__(self, pixels: Any) -> Any:
        """Return the last feature map. pixels: normalised, a Keras tensor of shape (n, size, size, 3)."""
        import keras

        x = convolution(pixels, self.first, 7, "features.conv0", stride=2)
        x = relu(batch_norm(x, "features.norm0"), "features.relu0")
        x = max_pool(x, 3, "features.pool0", padding=1)
        for block, layers in enumerate(self.layers, start=1):
            for number in range(1, layers + 1):
                x = self._dense_layer(x, f"features.denseblock{block}.denselayer{number}")
            if block < len(self.layers):
                name = f"features.transition{block}"
                x = relu(batch_norm(x, f"{name}.norm"), f"{name}.relu")
                x = convolution(x, x.shape[-1] // 2, 1, f"{name}.conv")
                x = keras.layers.AveragePooling2D(2, name=f"{name}.pool")(x)
        return relu(batch_norm(x, "features.norm5"), "features.relu5")

    def _dense_layer(self, x: Any, name: str) -> Any:
        y = relu(batch_norm(x, f"{name}.norm1"), f"{name}.relu1")
        y = convolution(y, 4 * self.growth, 1, f"{name}.conv1")
        y = relu(batch_norm(y, f"{name}.norm2"), f"{name}.relu2")
        return concatenate([x, convolution(y, self.growth, 3, f"{name}.conv2")], f"{name}.concat")


def _checkpoint(*names: tuple[str, str]) -> Checkpoint:
    return Checkpoint(
        top=partial(linear_top, name="classifier"), top_names=("classifier",), names=(*_OLD_NAMES, *names)
    )


def _keras_names() -> list[tuple[str, str]]:
    """Return pairs that turn torchvision's names into those of `keras.applications`."""
    names = [(r"^features\.(conv|norm)0\.", r"conv1_\1."), (r"^features\.norm5\.", "bn.")]
    for block in (1, 2, 3, 4):
        layer, its_name = rf"^features\.denseblock{block}\.denselayer(\d+)", rf"conv{block + 1}_block\1"
        names += [
            (rf"{layer}\.norm1\.", rf"{its_name}_0_bn."),
            (rf"{layer}\.conv1\.", rf"{its_name}_1_conv."),
            (rf"{layer}\.norm2\.", rf"{its_name}_1_bn."),
            (rf"{layer}\.conv2\.", rf"{its_name}_2_conv."),
            (rf"^features\.transition{block}\.(conv|norm)\.", rf"pool{block + 1}_\1."),
        ]
    return [*names, (r"^(conv1|pool\d)_norm\.", r"\1_bn.")]


KERAS_CHECKPOINT = _checkpoint(*_keras_names())

ROWS = (
    Backbone(
        name="densenet161",
        builder=NormalisedNetwork("torch", DenseNet((6, 12, 36, 24), growth=48, first=96)),
        size=224,
        smallest=32,
        boundaries=_before(*(f"features.denseblock{block}.denselayer1.norm1" for block in (1, 2, 3, 4))),
        parameters=26_691_936,
        weights=Weights("densenet161-8d451a50.pth", _TORCHVISION + "densenet161-8d451a50.pth", None),
        checkpoint=_checkpoint(),
        licence="BSD-3-Clause",
        year=2016,
    ),
)
