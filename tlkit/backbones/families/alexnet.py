"""AlexNet as in its paper (Krizhevsky et al. 2012), and the network of Zeiler and Fergus that followed it (2014)."""

from __future__ import annotations

from typing import Any

from tlkit.backbones.backbone import Backbone, _after
from tlkit.backbones.families.layers import convolution, convolution_relu, local_response_normalisation, max_pool, relu
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.plan.recipe import Head


def alexnet(pixels: Any) -> Any:
    """Apply the five convolutions of AlexNet (ImageNet Classification with Deep Convolutional Neural Networks).

    conv2, conv4 and conv5 have two streams, which the paper computed on two GPUs: each reads half of the channels and
    makes half of the next. Normalisation reaches over the channels of both. Returns (n, 6, 6, 256) for 227 pixels,
    which the paper calls 224.
    """
    x = convolution_relu(pixels, 96, 11, "conv1", stride=4, padding=0)
    x = max_pool(local_response_normalisation(x), 3, "pool1")
    x = _streams(x, 256, 5, "conv2")
    x = max_pool(local_response_normalisation(x), 3, "pool2")
    x = convolution_relu(x, 384, 3, "conv3")
    x = _streams(x, 384, 3, "conv4")
    x = _streams(x, 256, 3, "conv5")
    return max_pool(x, 3, "pool5")


def _streams(x: Any, channels: int, kernel: int, name: str) -> Any:
    """Apply a convolution with ReLU to each half of the channels.

    This is a convolution of two groups, written as two: Keras 3.15 compiles grouped ones, which is slow on a processor.
    """
    import keras

    halves = keras.ops.split(x, 2, axis=-1)
    made = [
        convolution(half, channels // 2, kernel, f"{name}_{side}", bias=True)
        for half, side in zip(halves, ("a", "b"), strict=True)
    ]
    return relu(keras.layers.Concatenate(name=name)(made), f"{name}_relu")


def zfnet(pixels: Any) -> Any:
    """Apply the five convolutions of Zeiler and Fergus (Visualizing and Understanding Convolutional Networks).

    It is AlexNet with 7 x 7 filters at stride 2 in the first layer, stride 2 in the second, and no streams. The paper
    normalises contrast across feature maps; this is AlexNet's normalisation. Returns (n, 6, 6, 256) for 224 pixels.
    """
    x = convolution_relu(pixels, 96, 7, "conv1", stride=2, padding=1)
    x = local_response_normalisation(max_pool(x, 3, "pool1", ceil=True))
    x = convolution_relu(x, 256, 5, "conv2", stride=2, padding=0)
    x = local_response_normalisation(max_pool(x, 3, "pool2", ceil=True))
    x = convolution_relu(x, 384, 3, "conv3")
    x = convolution_relu(x, 384, 3, "conv4")
    x = convolution_relu(x, 256, 3, "conv5")
    return max_pool(x, 3, "pool5")


def alexnet_top(features: Any, classes: int) -> Any:
    """Apply the three fully connected layers of both networks. Returns probabilities, shape (n, classes)."""
    import keras

    layers = keras.layers
    x = layers.Flatten()(features)
    for number in (6, 7):
        x = layers.Dense(4096, activation="relu", name=f"fc{number}")(x)
        x = layers.Dropout(0.5, name=f"drop{number}")(x)
    return layers.Dense(classes, activation="softmax", name="fc8")(x)


# dropout also precedes fc6 here, as in Krizhevsky's one-stream network of 2014; in the paper it follows fc6 and fc7
_TOP = Head(pooling="flatten", hidden=(4096, 4096), dropout=0.5)

ROWS = (
    Backbone(
        name="alexnet",
        builder=NormalisedNetwork("torch", alexnet),
        size=227,
        smallest=67,
        boundaries=_after("pool1", "pool2", "conv3_relu", "conv4_relu"),
        parameters=2_334_080,
        year=2012,
        own_head=_TOP,
    ),
    Backbone(
        name="zfnet",
        builder=NormalisedNetwork("torch", zfnet),
        size=224,
        smallest=63,
        boundaries=_after("pool1", "pool2", "conv3_relu", "conv4_relu"),
        parameters=3_726_464,
        year=2013,
        own_head=_TOP,
    ),
)
