"""GoogLeNet as in its paper, without batch normalisation (Szegedy et al. 2015, arXiv:1409.4842)."""

from __future__ import annotations

from typing import Any

from tlkit.backbones.backbone import Backbone, _after
from tlkit.backbones.families.layers import convolution_relu, local_response_normalisation, max_pool
from tlkit.backbones.normalise import NormalisedNetwork
from tlkit.plan.recipe import Head

# filters: 1x1; 1x1 before 3x3, 3x3; 1x1 before 5x5, 5x5; 1x1 after pooling (table 1 of the paper)
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def googlenet(pixels: Any) -> Any:
    """Apply the network up to its last Inception module: (n, 7, 7, 1024) for 224 pixels.

    Without the two auxiliary classifiers, which the paper discards after training: train it with a warmup instead. The
    paper gives no constants of the normalisation; these are the ones with which its authors' network was rebuilt in
    Caffe (k = 1, alpha = 1e-4 / 5).
    """
    x = convolution_relu(pixels, 64, 7, "conv1", stride=2)
    x = _normalised(max_pool(x, 3, "pool1", ceil=True))
    x = convolution_relu(x, 64, 1, "conv2_reduce")
    x = _normalised(convolution_relu(x, 192, 3, "conv2"))
    x = max_pool(x, 3, "pool2", ceil=True)
    for name, filters in INCEPTIONS.items():
        if name in ("4a", "5a"):
            x = max_pool(x, 3, f"pool{int(name[0]) - 1}", ceil=True)
        x = _inception(x, filters, f"inception_{name}")
    return x


def _normalised(x: Any) -> Any:
    return local_response_normalisation(x, k=1.0, alpha=2e-5)


def _inception(x: Any, filters: tuple[int, ...], name: str) -> Any:
    """Concatenate four branches: 1x1, 3x3, 5x5, and pooling."""
    import keras

    one, reduce_3, three, reduce_5, five, after_pool = filters
    pooled = keras.layers.MaxPooling2D(3, 1, padding="same", name=f"{name}_pool")(x)
    branches = [
        convolution_relu(x, one, 1, f"{name}_1x1"),
        convolution_relu(convolution_relu(x, reduce_3, 1, f"{name}_3x3_reduce"), three, 3, f"{name}_3x3"),
        convolution_relu(convolution_relu(x, reduce_5, 1, f"{name}_5x5_reduce"), five, 5, f"{name}_5x5"),
        convolution_relu(pooled, after_pool, 1, f"{name}_pool_proj"),
    ]
    return keras.layers.Concatenate(name=f"{name}_out")(branches)


def googlenet_top(features: Any, classes: int) -> Any:
    """Apply average pooling, dropout of 40 % and the last layer. Returns probabilities, shape (n, classes)."""
    import keras

    layers = keras.layers
    x = layers.GlobalAveragePooling2D()(features)
    x = layers.Dropout(0.4)(x)
    return layers.Dense(classes, activation="softmax", name="classifier")(x)


ROWS = (
    Backbone(
        name="googlenet",
        builder=NormalisedNetwork("torch", googlenet),
        size=224,
        smallest=32,
        boundaries=_after("pool1", "pool2", "pool3", "pool4"),
        parameters=5_973_552,
        year=2014,
        own_head=Head(dropout=0.4),
    ),
)
