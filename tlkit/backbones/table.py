"""The table of backbones, one row each, and how a row is built.

A row knows the `keras.applications` function, how its pixels are normalised, its native size, where its blocks end, and
its ImageNet weights. Parameters are counted without the top. Hashes are those that Keras itself checks (none for MobileNet and
MobileNetV2). Weights were trained on ImageNet, whose images are for research and education; the licence is that of the
weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.backbones.nano import nano
from tlkit.errors import SpecError
from tlkit.spec import Unfreeze

if TYPE_CHECKING:
    import keras

_STORAGE = "https://storage.googleapis.com/tensorflow/keras-applications/"
_EFFICIENTNET_STORAGE = "https://storage.googleapis.com/keras-applications/"


@dataclass(frozen=True)
class Backbone:
    """A pretrained network without its top.

    name: as on the command line. application: the function in `keras.applications`, "" for nano and one's own file.
    preprocessing: "caffe" (BGR, means subtracted), "tf" (-1 to 1), "torch" (0 to 1, mean and deviation), "efficientnet", "unit"
        (0 to 1), or "included" when the network normalises by itself. The classifier holds it; its input is raw RGB 0-255.
    size: native image size in pixels. smallest: the least it takes.
    boundaries: "after LAYER" or "before LAYER", bottom first; the last block ends at the network's output.
    parameters: numbers without the top. weights_file, weights_url, weights_hash: the ImageNet weights without the top.
    alpha: width of a MobileNet. shipped: the weights come with tlkit.
    source: "table", or what it is read from: "keras" (one's own `.keras` file), "module" (a SavedModel, TF-Hub's or one's own) or
        "kerashub". file: that file, folder or preset, which brings its own weights; "" for a row of the table.
    frozen_because: why it cannot be fine-tuned, "" where it can.
    """

    name: str
    application: str
    preprocessing: str
    size: int
    smallest: int
    boundaries: tuple[str, ...]
    parameters: int
    weights_file: str
    weights_url: str
    weights_hash: str | None
    licence: str
    alpha: float | None = None
    file: str = ""
    shipped: bool = False
    source: str = "table"
    frozen_because: str = ""

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return len(self.boundaries) + 1

    @property
    def blocks_to_unfreeze(self) -> int:
        """How many of them may train."""
        return 0 if self.frozen_because else self.blocks

    @property
    def short_name(self) -> str:
        """What a folder is named by: a row's name, or the last words of a file or an address."""
        where = self.name.removeprefix("hub:").removeprefix("kerashub:").rstrip("/")
        words = (
            where.split("/")[-3:]
            if "://" in where
            else [Path(where).stem if self.source == "keras" else Path(where).name]
        )
        return "-".join(words)

    def block_count(self, unfreeze: Unfreeze) -> int:
        """How many blocks from the top `Stage.unfreeze` reaches down. Raises SpecError when there are not that many, or none may train."""
        if self.frozen_because and unfreeze not in (0, ()):
            raise SpecError(
                f"unfreeze is {unfreeze}, and '{self.name}' cannot be fine-tuned: {self.frozen_because}. Use a recipe that trains the "
                "head alone, such as small_similar, or a module that is a TF2 reusable SavedModel."
            )
        if isinstance(unfreeze, tuple):
            if max(unfreeze) > self.blocks:
                raise SpecError(f"unfreeze names block {max(unfreeze)}, and {self.name} has {self.blocks} blocks.")
            return self.blocks - min(unfreeze) + 1
        count = self.blocks if unfreeze == "all" else int(unfreeze)
        if count > self.blocks:
            raise SpecError(
                f"unfreeze is {unfreeze}, and {self.name} has {self.blocks} blocks. Use at most {self.blocks}, or 'all'."
            )
        return count


@dataclass(frozen=True)
class _Family:
    preprocessing: str
    licence: str
    url: str
    boundaries: tuple[str, ...]
    smallest: int = 32


def _before(*layers: str) -> tuple[str, ...]:
    return tuple(f"before {layer}" for layer in layers)


def _after(*layers: str) -> tuple[str, ...]:
    return tuple(f"after {layer}" for layer in layers)


_EFFICIENTNET_BLOCKS = _before(
    "block2a_expand_conv", "block3a_expand_conv", "block4a_expand_conv", "block6a_expand_conv"
)

_FAMILIES = {
    "vgg": _Family(
        "caffe",
        "CC BY 4.0",
        _STORAGE + "{name}/",
        _before("block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1"),
    ),
    "resnet": _Family(
        "caffe",
        "MIT",
        _STORAGE + "resnet/",
        _before("conv2_block1_1_conv", "conv3_block1_1_conv", "conv4_block1_1_conv", "conv5_block1_1_conv"),
    ),
    "resnetv2": _Family(
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
        "tf",
        "Apache-2.0",
        _STORAGE + "inception_v3/",
        _after("mixed0", "mixed2", "mixed5", "mixed7"),
        smallest=75,
    ),
    "inceptionresnetv2": _Family(
        "tf",
        "Apache-2.0",
        _STORAGE + "inception_resnet_v2/",
        _after("mixed_5b", "block35_10_ac", "block17_10_ac", "block17_20_ac"),
        smallest=75,
    ),
    "xception": _Family(
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
        "torch",
        "BSD-3-Clause",
        _STORAGE + "densenet/",
        _before("conv2_block1_0_bn", "conv3_block1_0_bn", "conv4_block1_0_bn", "conv5_block1_0_bn"),
    ),
    "mobilenet": _Family(
        "tf",
        "Apache-2.0",
        _STORAGE + "mobilenet/",
        _before("conv_pad_2", "conv_pad_4", "conv_pad_6", "conv_pad_12"),
    ),
    "mobilenetv2": _Family(
        "tf",
        "Apache-2.0",
        _STORAGE + "mobilenet_v2/",
        _before("block_1_expand", "block_3_expand", "block_6_expand", "block_10_expand", "block_13_expand"),
    ),
    "mobilenetv3small": _Family(
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
    "efficientnet": _Family("efficientnet", "Apache-2.0", _EFFICIENTNET_STORAGE, _EFFICIENTNET_BLOCKS),
    "efficientnetv2": _Family("included", "Apache-2.0", _STORAGE + "efficientnet_v2/", _EFFICIENTNET_BLOCKS),
    "convnext": _Family(
        "included",
        "MIT",
        _STORAGE + "convnext/",
        _before("*_downsampling_block_0", "*_downsampling_block_1", "*_downsampling_block_2"),
    ),
    "nasnetmobile": _Family(
        "tf",
        "Apache-2.0",
        _STORAGE + "nasnet/",
        _after("normal_concat_3", "normal_concat_6", "normal_concat_8", "normal_concat_10"),
    ),
    "nasnetlarge": _Family(
        "tf",
        "Apache-2.0",
        _STORAGE + "nasnet/",
        _after("normal_concat_5", "normal_concat_9", "normal_concat_12", "normal_concat_15"),
    ),
}

_UPSTREAM_NAMES = {  # Keras stores these under a name of its own
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
        application=application,
        preprocessing=kind.preprocessing,
        size=size,
        smallest=kind.smallest,
        boundaries=tuple(b.replace("*", prefix) for b in kind.boundaries),
        parameters=parameters,
        weights_file=weights_file,
        weights_url=kind.url.format(name=name) + _UPSTREAM_NAMES.get(weights_file, weights_file),
        weights_hash=weights_hash,
        licence=kind.licence,
        alpha=alpha,
    )


_NANO = Backbone(
    name="nano",
    application="",
    preprocessing="tf",
    size=96,
    smallest=64,
    boundaries=_before("block2_down", "block3_down", "block4_down", "block5_1_reduce"),
    parameters=1_364_944,
    weights_file="nano.npz",
    weights_url="",
    weights_hash="947c1df6f978cc1a6cc66676a06aef8f7c3ebfd031c16f0540d9be3b0c424f8c",
    licence="research and education",
    shipped=True,
)

# fmt: off
BACKBONES: dict[str, Backbone] = {
    "nano": _NANO,
    "vgg16": _row("VGG16", "vgg", 224, 14_714_688, "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc"),
    "vgg19": _row("VGG19", "vgg", 224, 20_024_384, "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", "253f8cb515780f3b799900260a226db6"),
    "resnet50": _row("ResNet50", "resnet", 224, 23_587_712, "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": _row("ResNet101", "resnet", 224, 42_658_176, "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5", "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": _row("ResNet152", "resnet", 224, 58_370_944, "resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "resnet50v2": _row("ResNet50V2", "resnetv2", 224, 23_564_800, "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "fac2f116257151a9d068a22e544a4917"),
    "resnet101v2": _row("ResNet101V2", "resnetv2", 224, 42_626_560, "resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "c0ed64b8031c3730f411d2eb4eea35b5"),
    "resnet152v2": _row("ResNet152V2", "resnetv2", 224, 58_331_648, "resnet152v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "ed17cf2e0169df9d443503ef94b23b33"),
    "inceptionv3": _row("InceptionV3", "inceptionv3", 299, 21_802_784, "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5", "bcbd6486424b2319ff4ef7d526e38f63"),
    "inceptionresnetv2": _row("InceptionResNetV2", "inceptionresnetv2", 299, 54_336_736, "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "d19885ff4a710c122648d3b5c3b684e4"),
    "xception": _row("Xception", "xception", 299, 20_861_480, "xception_weights_tf_dim_ordering_tf_kernels_notop.h5", "b0042744bf5b25fce3cb969f33bebb97"),
    "densenet121": _row("DenseNet121", "densenet", 224, 7_037_504, "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5", "30ee3e1110167f948a6b9946edeeb738"),
    "densenet169": _row("DenseNet169", "densenet", 224, 12_642_880, "densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5", "b8c4d4c20dd625c148057b9ff1c1176b"),
    "densenet201": _row("DenseNet201", "densenet", 224, 18_321_984, "densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5", "c13680b51ded0fb44dff2d8f86ac8bb1"),
    "mobilenet_0.25": _row("MobileNet", "mobilenet", 224, 218_544, "mobilenet_2_5_224_tf_no_top.h5", None, alpha=0.25),
    "mobilenet_0.5": _row("MobileNet", "mobilenet", 224, 829_536, "mobilenet_5_0_224_tf_no_top.h5", None, alpha=0.5),
    "mobilenet_0.75": _row("MobileNet", "mobilenet", 224, 1_832_976, "mobilenet_7_5_224_tf_no_top.h5", None, alpha=0.75),
    "mobilenet": _row("MobileNet", "mobilenet", 224, 3_228_864, "mobilenet_1_0_224_tf_no_top.h5", None, alpha=1.0),
    "mobilenetv2_0.35": _row("MobileNetV2", "mobilenetv2", 224, 410_208, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5", None, alpha=0.35),
    "mobilenetv2_0.5": _row("MobileNetV2", "mobilenetv2", 224, 706_224, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.5_224_no_top.h5", None, alpha=0.5),
    "mobilenetv2_0.75": _row("MobileNetV2", "mobilenetv2", 224, 1_382_064, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.75_224_no_top.h5", None, alpha=0.75),
    "mobilenetv2": _row("MobileNetV2", "mobilenetv2", 224, 2_257_984, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", None, alpha=1.0),
    "mobilenetv2_1.3": _row("MobileNetV2", "mobilenetv2", 224, 3_766_048, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.3_224_no_top.h5", None, alpha=1.3),
    "mobilenetv2_1.4": _row("MobileNetV2", "mobilenetv2", 224, 4_363_712, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.4_224_no_top.h5", None, alpha=1.4),
    "mobilenetv3small_0.75": _row("MobileNetV3Small", "mobilenetv3small", 224, 583_160, "weights_mobilenet_v3_small_224_0.75_float_no_top_v2.h5", "ebdb5cc8e0b497cd13a7c275d475c819", alpha=0.75),
    "mobilenetv3small": _row("MobileNetV3Small", "mobilenetv3small", 224, 939_120, "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", "d3e8ec802a04aa4fc771ee12a9a9b836", alpha=1.0),
    "mobilenetv3large_0.75": _row("MobileNetV3Large", "mobilenetv3large", 224, 1_808_736, "weights_mobilenet_v3_large_224_0.75_float_no_top_v2.h5", "40af19a13ebea4e2ee0c676887f69a2e", alpha=0.75),
    "mobilenetv3large": _row("MobileNetV3Large", "mobilenetv3large", 224, 2_996_352, "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5", "07fb09a5933dd0c8eaafa16978110389", alpha=1.0),
    "efficientnetb0": _row("EfficientNetB0", "efficientnet", 224, 4_049_571, "efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnetb1": _row("EfficientNetB1", "efficientnet", 240, 6_575_239, "efficientnetb1_notop.h5", "74c4e6b3e1f6a1eea24c589628592432"),
    "efficientnetb2": _row("EfficientNetB2", "efficientnet", 260, 7_768_569, "efficientnetb2_notop.h5", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "efficientnetb3": _row("EfficientNetB3", "efficientnet", 300, 10_783_535, "efficientnetb3_notop.h5", "af6d107764bb5b1abb91932881670226"),
    "efficientnetb4": _row("EfficientNetB4", "efficientnet", 380, 17_673_823, "efficientnetb4_notop.h5", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "efficientnetb5": _row("EfficientNetB5", "efficientnet", 456, 28_513_527, "efficientnetb5_notop.h5", "38879255a25d3c92d5e44e04ae6cec6f"),
    "efficientnetb6": _row("EfficientNetB6", "efficientnet", 528, 40_960_143, "efficientnetb6_notop.h5", "9ecce42647a20130c1f39a5d4cb75743"),
    "efficientnetb7": _row("EfficientNetB7", "efficientnet", 600, 64_097_687, "efficientnetb7_notop.h5", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    "efficientnetv2b0": _row("EfficientNetV2B0", "efficientnetv2", 224, 5_919_312, "efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"),
    "efficientnetv2b1": _row("EfficientNetV2B1", "efficientnetv2", 240, 6_931_124, "efficientnetv2-b1_notop.h5", "0e80663031ca32d657f9caa404b6ec37"),
    "efficientnetv2b2": _row("EfficientNetV2B2", "efficientnetv2", 260, 8_769_374, "efficientnetv2-b2_notop.h5", "1dfe2e7a5d45b6632553a8961ea609eb"),
    "efficientnetv2b3": _row("EfficientNetV2B3", "efficientnetv2", 300, 12_930_622, "efficientnetv2-b3_notop.h5", "f6abf7b5849ac99a89b50dd3fd532856"),
    "efficientnetv2s": _row("EfficientNetV2S", "efficientnetv2", 384, 20_331_360, "efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070"),
    "efficientnetv2m": _row("EfficientNetV2M", "efficientnetv2", 480, 53_150_388, "efficientnetv2-m_notop.h5", "1b8dc055df72dde80d614482840fe342"),
    "efficientnetv2l": _row("EfficientNetV2L", "efficientnetv2", 480, 117_746_848, "efficientnetv2-l_notop.h5", "b0b66b5c863aef5b46e8608fe1711615"),
    "convnexttiny": _row("ConvNeXtTiny", "convnext", 224, 27_820_128, "convnext_tiny_notop.h5", "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"),
    "convnextsmall": _row("ConvNeXtSmall", "convnext", 224, 49_454_688, "convnext_small_notop.h5", "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab"),
    "convnextbase": _row("ConvNeXtBase", "convnext", 224, 87_566_464, "convnext_base_notop.h5", "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45"),
    "convnextlarge": _row("ConvNeXtLarge", "convnext", 224, 196_230_336, "convnext_large_notop.h5", "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd"),
    "convnextxlarge": _row("ConvNeXtXLarge", "convnext", 224, 348_147_968, "convnext_xlarge_notop.h5", "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05"),
    "nasnetmobile": _row("NASNetMobile", "nasnetmobile", 224, 4_269_716, "nasnet_mobile_no_top.h5", "1ed92395b5b598bdda52abe5c0dbfd63"),
    "nasnetlarge": _row("NASNetLarge", "nasnetlarge", 331, 84_916_818, "nasnet_large_no_top.h5", "d81d89dc07e6e56530c4e77faddd61b5"),
}
# fmt: on


# -- building ---------------------------------------------------------------------------------------------

_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels in 0-1
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # BGR, of pixels in 0-255


def build_backbone(backbone: Backbone, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """A row's network on raw RGB 0-255, its normalisation included; weights are random until they are loaded.

    inputs: a Keras input, shape (n, size, size, 3). Returns the last feature map.
    """
    import keras

    if backbone.name == "nano":
        return nano(normalise(backbone.preprocessing, inputs))
    function = getattr(keras.applications, backbone.application)
    width = {} if backbone.alpha is None else {"alpha": backbone.alpha}
    network = function(
        include_top=False,
        weights=None,
        input_shape=tuple(inputs.shape[1:]),
        input_tensor=normalise(backbone.preprocessing, inputs),
        **width,
    )
    return network.output


def normalise(preprocessing: str, x: Any) -> Any:
    """What `keras.applications` does to pixels before a network of this kind, as layers of the graph, in float32.

    EfficientNet's ImageNet weights carry variances of 0.229, 0.224, 0.225, which Keras mends by one more division, but only
    when it loads them itself by name (keras/src/applications/efficientnet.py). Here the pixels are prepared so that the
    network's own Normalization then gives (pixel / 255 - mean) / deviation, from whichever file the weights come.
    """
    import keras

    layers = keras.layers
    if preprocessing == "caffe":
        x = keras.ops.flip(x, axis=-1)  # RGB to BGR
        return layers.Rescaling(1.0, offset=[-m for m in _CAFFE_MEAN], dtype="float32", name="normalise")(x)
    if preprocessing == "unit":
        return layers.Rescaling(1 / 255, dtype="float32", name="normalise")(x)
    if preprocessing == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="normalise")(x)
    if preprocessing == "torch":
        scale = [1 / (255 * d) for d in _IMAGENET_DEVIATION]
        offset = [-m / d for m, d in zip(_IMAGENET_MEAN, _IMAGENET_DEVIATION, strict=True)]
        return layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(x)
    if preprocessing == "efficientnet":
        scale = [d**-0.5 for d in _IMAGENET_DEVIATION]
        offset = [255 * m * (1 - s) for m, s in zip(_IMAGENET_MEAN, scale, strict=True)]
        return layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(x)
    return x
