"""The backbones of `keras.applications`, a row per family.

A row gives the function, how pixels are normalised, the native size, where blocks end, and the ImageNet weights.
Parameters are counted without the top. Hashes are the ones that Keras itself checks; it has none for MobileNet and
MobileNetV2. The licence is that of the weights. They were trained on ImageNet, whose images are for research and
education.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tlkit.backbones.backbone import Backbone, Weights, _after, _before
from tlkit.backbones.families.densenet import KERAS_CHECKPOINT
from tlkit.backbones.families.plain import VGG16_CHECKPOINT, VGG19_CHECKPOINT
from tlkit.backbones.normalise import NormalisedNetwork

_STORAGE = "https://storage.googleapis.com/tensorflow/keras-applications/"
_EFFICIENTNET_STORAGE = "https://storage.googleapis.com/keras-applications/"


@dataclass(frozen=True)
class Application:
    """A network of `keras.applications` without its top, with random weights.

    function: its name in `keras.applications`. alpha: the width multiplier of a MobileNet, else None.
    """

    function: str
    alpha: float | None = None

    def __call__(self, pixels: Any) -> Any:
        """Return the last feature map. pixels: normalised, a Keras tensor of shape (n, size, size, 3)."""
        import keras

        width = {} if self.alpha is None else {"alpha": self.alpha}
        network = getattr(keras.applications, self.function)(
            include_top=False, weights=None, input_shape=tuple(pixels.shape[1:]), input_tensor=pixels, **width
        )
        return network.output


@dataclass(frozen=True)
class _Family:
    year: int  # in which its paper appeared on arXiv
    preprocessing: str
    licence: str
    url: str
    boundaries: tuple[str, ...]
    smallest: int = 32


_EFFICIENTNET_BLOCKS = _before(
    "block2a_expand_conv", "block3a_expand_conv", "block4a_expand_conv", "block6a_expand_conv"
)

_FAMILIES = {
    "vgg": _Family(
        2014,
        "caffe",
        "CC BY 4.0",
        _STORAGE + "{name}/",
        _before("block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1"),
    ),
    "resnet": _Family(
        2015,
        "caffe",
        "MIT",
        _STORAGE + "resnet/",
        _before("conv2_block1_1_conv", "conv3_block1_1_conv", "conv4_block1_1_conv", "conv5_block1_1_conv"),
    ),
    "resnetv2": _Family(
        2016,
        "tf",
        "Apache-2.0",
        _STORAGE + "resnet/",
        _before(
            "conv2_block1_preact_bn",
            "conv3_block1_preact_bn",
            "conv4_block1_preact_bn",
            "conv5_block1_preact_bn",
        ),
    ),
    "inceptionv3": _Family(
        2015,
        "tf",
        "Apache-2.0",
        _STORAGE + "inception_v3/",
        _after("mixed0", "mixed2", "mixed5", "mixed7"),
        smallest=75,
    ),
    "inceptionresnetv2": _Family(
        2016,
        "tf",
        "Apache-2.0",
        _STORAGE + "inception_resnet_v2/",
        _after("mixed_5b", "block35_10_ac", "block17_10_ac", "block17_20_ac"),
        smallest=75,
    ),
    "xception": _Family(
        2016,
        "tf",
        "MIT",
        _STORAGE + "xception/",
        _before(
            "block2_sepconv1",
            "block4_sepconv1_act",
            "block5_sepconv1_act",
            "block9_sepconv1_act",
            "block13_sepconv1_act",
        ),
        smallest=71,
    ),
    "densenet": _Family(
        2016,
        "torch",
        "BSD-3-Clause",
        _STORAGE + "densenet/",
        _before("conv2_block1_0_bn", "conv3_block1_0_bn", "conv4_block1_0_bn", "conv5_block1_0_bn"),
    ),
    "mobilenet": _Family(
        2017,
        "tf",
        "Apache-2.0",
        _STORAGE + "mobilenet/",
        _before("conv_pad_2", "conv_pad_4", "conv_pad_6", "conv_pad_12"),
    ),
    "mobilenetv2": _Family(
        2018,
        "tf",
        "Apache-2.0",
        _STORAGE + "mobilenet_v2/",
        _before("block_1_expand", "block_3_expand", "block_6_expand", "block_10_expand", "block_13_expand"),
    ),
    "mobilenetv3small": _Family(
        2019,
        "included",
        "Apache-2.0",
        _STORAGE + "mobilenet_v3/",
        _before(
            "expanded_conv_1_expand",
            "expanded_conv_3_expand",
            "expanded_conv_6_expand",
            "expanded_conv_8_expand",
        ),
    ),
    "mobilenetv3large": _Family(
        2019,
        "included",
        "Apache-2.0",
        _STORAGE + "mobilenet_v3/",
        _before(
            "expanded_conv_1_expand",
            "expanded_conv_3_expand",
            "expanded_conv_6_expand",
            "expanded_conv_12_expand",
        ),
    ),
    "efficientnet": _Family(2019, "efficientnet", "Apache-2.0", _EFFICIENTNET_STORAGE, _EFFICIENTNET_BLOCKS),
    "efficientnetv2": _Family(2021, "included", "Apache-2.0", _STORAGE + "efficientnet_v2/", _EFFICIENTNET_BLOCKS),
    "convnext": _Family(
        2022,
        "included",
        "MIT",
        _STORAGE + "convnext/",
        _before("*_downsampling_block_0", "*_downsampling_block_1", "*_downsampling_block_2"),
    ),
    "nasnetmobile": _Family(
        2017,
        "tf",
        "Apache-2.0",
        _STORAGE + "nasnet/",
        _after("normal_concat_3", "normal_concat_6", "normal_concat_8", "normal_concat_10"),
    ),
    "nasnetlarge": _Family(
        2017,
        "tf",
        "Apache-2.0",
        _STORAGE + "nasnet/",
        _after("normal_concat_5", "normal_concat_9", "normal_concat_12", "normal_concat_15"),
    ),
}

_CHECKPOINTS = {  # equal to a public PyTorch network
    "vgg16": VGG16_CHECKPOINT,
    "vgg19": VGG19_CHECKPOINT,
    "densenet121": KERAS_CHECKPOINT,
    "densenet169": KERAS_CHECKPOINT,
    "densenet201": KERAS_CHECKPOINT,
}

_UPSTREAM_NAMES = {  # cached file name -> file name at the download address
    "nasnet_mobile_no_top.h5": "NASNet-mobile-no-top.h5",
    "nasnet_large_no_top.h5": "NASNet-large-no-top.h5",
}


def _row(
    application: str,
    family: str,
    size: int,
    parameters: int,
    weights_file: str,
    weights_hash: str | None,
    alpha: float | None = None,
) -> Backbone:
    kind = _FAMILIES[family]
    name = application.lower() + ("" if alpha in (None, 1.0) else f"_{alpha:g}")
    prefix = application.lower().replace("convnext", "convnext_")
    return Backbone(
        name=name,
        builder=NormalisedNetwork(kind.preprocessing, Application(application, alpha)),
        size=size,
        smallest=kind.smallest,
        boundaries=tuple(b.replace("*", prefix) for b in kind.boundaries),
        parameters=parameters,
        weights=Weights(
            file=weights_file,
            url=kind.url.format(name=name) + _UPSTREAM_NAMES.get(weights_file, weights_file),
            digest=weights_hash,
        ),
        checkpoint=_CHECKPOINTS.get(name),
        licence=kind.licence,
        year=kind.year,
    )
