"""The table of backbones, one row each. A new family is a file in `families/`, and its rows are added here."""

from __future__ import annotations

from tlkit.backbones.applications import _row
from tlkit.backbones.backbone import Backbone
from tlkit.backbones.families import (
    alexnet,
    bag_of_words,
    densenet,
    fractional_pooling,
    googlenet,
    inception,
    inception_resnet,
    lenet,
    maxout,
    nin,
    pixels,
    plain,
    resnet,
    spatial_transformer,
    stochastic_depth,
)
from tlkit.backbones.nano import _NANO

# fmt: off
BACKBONES: dict[str, Backbone] = {
    "nano": _NANO,
    "vgg16": _row(
        "VGG16", "vgg", 224, 14_714_688,
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", "6d6bbae143d832006294945121d1f1fc",
    ),
    "vgg19": _row(
        "VGG19", "vgg", 224, 20_024_384,
        "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", "253f8cb515780f3b799900260a226db6",
    ),
    "resnet50": _row(
        "ResNet50", "resnet", 224, 23_587_712,
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626",
    ),
    "resnet101": _row(
        "ResNet101", "resnet", 224, 42_658_176,
        "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5", "88cf7a10940856eca736dc7b7e228a21",
    ),
    "resnet152": _row(
        "ResNet152", "resnet", 224, 58_370_944,
        "resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5", "ee4c566cf9a93f14d82f913c2dc6dd0c",
    ),
    "resnet50v2": _row(
        "ResNet50V2", "resnetv2", 224, 23_564_800,
        "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "fac2f116257151a9d068a22e544a4917",
    ),
    "resnet101v2": _row(
        "ResNet101V2", "resnetv2", 224, 42_626_560,
        "resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "c0ed64b8031c3730f411d2eb4eea35b5",
    ),
    "resnet152v2": _row(
        "ResNet152V2", "resnetv2", 224, 58_331_648,
        "resnet152v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "ed17cf2e0169df9d443503ef94b23b33",
    ),
    "inceptionv3": _row(
        "InceptionV3", "inceptionv3", 299, 21_802_784,
        "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5", "bcbd6486424b2319ff4ef7d526e38f63",
    ),
    "inceptionresnetv2": _row(
        "InceptionResNetV2", "inceptionresnetv2", 299, 54_336_736,
        "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "d19885ff4a710c122648d3b5c3b684e4",
    ),
    "xception": _row(
        "Xception", "xception", 299, 20_861_480,
        "xception_weights_tf_dim_ordering_tf_kernels_notop.h5", "b0042744bf5b25fce3cb969f33bebb97",
    ),
    "densenet121": _row(
        "DenseNet121", "densenet", 224, 7_037_504,
        "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5", "30ee3e1110167f948a6b9946edeeb738",
    ),
    "densenet169": _row(
        "DenseNet169", "densenet", 224, 12_642_880,
        "densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5", "b8c4d4c20dd625c148057b9ff1c1176b",
    ),
    "densenet201": _row(
        "DenseNet201", "densenet", 224, 18_321_984,
        "densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5", "c13680b51ded0fb44dff2d8f86ac8bb1",
    ),
    "mobilenet_0.25": _row(
        "MobileNet", "mobilenet", 224, 218_544,
        "mobilenet_2_5_224_tf_no_top.h5", None, alpha=0.25,
    ),
    "mobilenet_0.5": _row(
        "MobileNet", "mobilenet", 224, 829_536,
        "mobilenet_5_0_224_tf_no_top.h5", None, alpha=0.5,
    ),
    "mobilenet_0.75": _row(
        "MobileNet", "mobilenet", 224, 1_832_976,
        "mobilenet_7_5_224_tf_no_top.h5", None, alpha=0.75,
    ),
    "mobilenet": _row(
        "MobileNet", "mobilenet", 224, 3_228_864,
        "mobilenet_1_0_224_tf_no_top.h5", None, alpha=1.0,
    ),
    "mobilenetv2_0.35": _row(
        "MobileNetV2", "mobilenetv2", 224, 410_208,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5", None, alpha=0.35,
    ),
    "mobilenetv2_0.5": _row(
        "MobileNetV2", "mobilenetv2", 224, 706_224,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.5_224_no_top.h5", None, alpha=0.5,
    ),
    "mobilenetv2_0.75": _row(
        "MobileNetV2", "mobilenetv2", 224, 1_382_064,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.75_224_no_top.h5", None, alpha=0.75,
    ),
    "mobilenetv2": _row(
        "MobileNetV2", "mobilenetv2", 224, 2_257_984,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", None, alpha=1.0,
    ),
    "mobilenetv2_1.3": _row(
        "MobileNetV2", "mobilenetv2", 224, 3_766_048,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.3_224_no_top.h5", None, alpha=1.3,
    ),
    "mobilenetv2_1.4": _row(
        "MobileNetV2", "mobilenetv2", 224, 4_363_712,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.4_224_no_top.h5", None, alpha=1.4,
    ),
    "mobilenetv3small_0.75": _row(
        "MobileNetV3Small", "mobilenetv3small", 224, 583_160,
        "weights_mobilenet_v3_small_224_0.75_float_no_top_v2.h5", "ebdb5cc8e0b497cd13a7c275d475c819", alpha=0.75,
    ),
    "mobilenetv3small": _row(
        "MobileNetV3Small", "mobilenetv3small", 224, 939_120,
        "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", "d3e8ec802a04aa4fc771ee12a9a9b836", alpha=1.0,
    ),
    "mobilenetv3large_0.75": _row(
        "MobileNetV3Large", "mobilenetv3large", 224, 1_808_736,
        "weights_mobilenet_v3_large_224_0.75_float_no_top_v2.h5", "40af19a13ebea4e2ee0c676887f69a2e", alpha=0.75,
    ),
    "mobilenetv3large": _row(
        "MobileNetV3Large", "mobilenetv3large", 224, 2_996_352,
        "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5", "07fb09a5933dd0c8eaafa16978110389", alpha=1.0,
    ),
    "efficientnetb0": _row(
        "EfficientNetB0", "efficientnet", 224, 4_049_571,
        "efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d",
    ),
    "efficientnetb1": _row(
        "EfficientNetB1", "efficientnet", 240, 6_575_239,
        "efficientnetb1_notop.h5", "74c4e6b3e1f6a1eea24c589628592432",
    ),
    "efficientnetb2": _row(
        "EfficientNetB2", "efficientnet", 260, 7_768_569,
        "efficientnetb2_notop.h5", "111f8e2ac8aa800a7a99e3239f7bfb39",
    ),
    "efficientnetb3": _row(
        "EfficientNetB3", "efficientnet", 300, 10_783_535,
        "efficientnetb3_notop.h5", "af6d107764bb5b1abb91932881670226",
    ),
    "efficientnetb4": _row(
        "EfficientNetB4", "efficientnet", 380, 17_673_823,
        "efficientnetb4_notop.h5", "ebc24e6d6c33eaebbd558eafbeedf1ba",
    ),
    "efficientnetb5": _row(
        "EfficientNetB5", "efficientnet", 456, 28_513_527,
        "efficientnetb5_notop.h5", "38879255a25d3c92d5e44e04ae6cec6f",
    ),
    "efficientnetb6": _row(
        "EfficientNetB6", "efficientnet", 528, 40_960_143,
        "efficientnetb6_notop.h5", "9ecce42647a20130c1f39a5d4cb75743",
    ),
    "efficientnetb7": _row(
        "EfficientNetB7", "efficientnet", 600, 64_097_687,
        "efficientnetb7_notop.h5", "cbcfe4450ddf6f3ad90b1b398090fe4a",
    ),
    "efficientnetv2b0": _row(
        "EfficientNetV2B0", "efficientnetv2", 224, 5_919_312,
        "efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff",
    ),
    "efficientnetv2b1": _row(
        "EfficientNetV2B1", "efficientnetv2", 240, 6_931_124,
        "efficientnetv2-b1_notop.h5", "0e80663031ca32d657f9caa404b6ec37",
    ),
    "efficientnetv2b2": _row(
        "EfficientNetV2B2", "efficientnetv2", 260, 8_769_374,
        "efficientnetv2-b2_notop.h5", "1dfe2e7a5d45b6632553a8961ea609eb",
    ),
    "efficientnetv2b3": _row(
        "EfficientNetV2B3", "efficientnetv2", 300, 12_930_622,
        "efficientnetv2-b3_notop.h5", "f6abf7b5849ac99a89b50dd3fd532856",
    ),
    "efficientnetv2s": _row(
        "EfficientNetV2S", "efficientnetv2", 384, 20_331_360,
        "efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070",
    ),
    "efficientnetv2m": _row(
        "EfficientNetV2M", "efficientnetv2", 480, 53_150_388,
        "efficientnetv2-m_notop.h5", "1b8dc055df72dde80d614482840fe342",
    ),
    "efficientnetv2l": _row(
        "EfficientNetV2L", "efficientnetv2", 480, 117_746_848,
        "efficientnetv2-l_notop.h5", "b0b66b5c863aef5b46e8608fe1711615",
    ),
    "convnexttiny": _row(
        "ConvNeXtTiny", "convnext", 224, 27_820_128,
        "convnext_tiny_notop.h5", "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
    "convnextsmall": _row(
        "ConvNeXtSmall", "convnext", 224, 49_454_688,
        "convnext_small_notop.h5", "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
    ),
    "convnextbase": _row(
        "ConvNeXtBase", "convnext", 224, 87_566_464,
        "convnext_base_notop.h5", "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
    ),
    "convnextlarge": _row(
        "ConvNeXtLarge", "convnext", 224, 196_230_336,
        "convnext_large_notop.h5", "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd",
    ),
    "convnextxlarge": _row(
        "ConvNeXtXLarge", "convnext", 224, 348_147_968,
        "convnext_xlarge_notop.h5", "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05",
    ),
    "nasnetmobile": _row(
        "NASNetMobile", "nasnetmobile", 224, 4_269_716,
        "nasnet_mobile_no_top.h5", "1ed92395b5b598bdda52abe5c0dbfd63",
    ),
    "nasnetlarge": _row(
        "NASNetLarge", "nasnetlarge", 331, 84_916_818,
        "nasnet_large_no_top.h5", "d81d89dc07e6e56530c4e77faddd61b5",
    ),
}
# fmt: on

_FAMILIES = (
    pixels,
    bag_of_words,
    lenet,
    alexnet,
    maxout,
    nin,
    plain,
    googlenet,
    inception,
    spatial_transformer,
    fractional_pooling,
    resnet,
    stochastic_depth,
    inception_resnet,
    densenet,
)
BACKBONES |= {row.name: row for family in _FAMILIES for row in family.ROWS}
