"""Turns raw RGB pixels from 0 to 255 into what each family of networks was trained on."""

from __future__ import annotations

from typing import Any

_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels in 0-1
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # BGR, of pixels in 0-255


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
