"""AlexNet as in its paper (Krizhevsky et al. 2012), and the network of Zeiler and Fergus that followed it (2014)."""

from __future__ import annotations

from typing import Any

from tlkit.backbones.backbone import Backbone, _after
from tlkit.backbones.families.common import convolution, local_response_normalisation, max_pool
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.plan.recipe import Head


def alexnet(pixels: Any) -> Any:
    """Apply the five convolutions of AlexNet (ImageNet Classification with Deep Convolutional Neural Networks).

    The paper's two streams, one on each of its two GPUs, are groups: conv2, conv4 and conv5 have two. Normalisation
    reaches over the channels of both. Returns (n, 6, 6, 256) for 227 pixels, which the paper calls 224.
    """
    x = convolution(pixels, 96, 11, "conv1", strides=4, padding="valid")
    x = max_pool(local_response_normalisation(x), "pool1")
    x = convolution(x, 256, 5, "conv2", groups=2)
    x = max_pool(local_response_normalisation(x), "pool2")
    x = convolution(x, 384, 3, "conv3")
    x = convolution(x, 384, 3, "conv4", groups=2)
    x = convolution(x, 256, 3, "conv5", groups=2)
    return max_pool(x, "pool5")


def zfnet(pixels: Any) -> Any:
    """Apply the five convolutions of Zeiler and Fergus (Visualizing and Understanding Convolutional Networks).

    It is AlexNet with 7 x 7 filters at stride 2 in the first layer, stride 2 in the second, and no streams. The paper
    normalises contrast across feature maps; this is AlexNet's normalisation. Returns (n, 6, 6, 256) for 224 pixels.
    """
    import keras

    x = keras.layers.ZeroPadding2D(1, name="conv1_pad")(pixels)
    x = convolution(x, 96, 7, "conv1", strides=2, padding="valid")
    x = local_response_normalisation(max_pool(x, "pool1", padding="same"))
    x = convolution(x, 256, 5, "conv2", strides=2, padding="valid")
    x = local_response_normalisation(max_pool(x, "pool2", padding="same"))
    x = convolution(x, 384, 3, "conv3")
    x = convolution(x, 384, 3, "conv4")
    x = convolution(x, 256, 3, "conv5")
    return max_pool(x, "pool5")


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

ALEXNET = {
    "alexnet": Backbone(
        name="alexnet",
        builder=NormalisedNetwork("torch", alexnet),
        size=227,
        smallest=67,
        boundaries=_after("pool1", "pool2", "conv3_relu", "conv4_relu"),
        parameters=2_334_080,
        own_head=_TOP,
    ),
    "zfnet": Backbone(
        name="zfnet",
        builder=NormalisedNetwork("torch", zfnet),
        size=224,
        smallest=53,
        boundaries=_after("pool1", "pool2", "conv3_relu", "conv4_relu"),
        parameters=3_726_464,
        own_head=_TOP,
    ),
}
