"""Grouped convolutions by TensorFlow's own operation, without a layer of our own.

Keras 3.15 compiles them with XLA on TensorFlow. On two cores, a training step of one layer (32 images, 14 x 14
positions, 128 channels, 32 groups) took 2.4 s with it, and 0.02 s with TensorFlow's operation. Compiled code cannot be
converted to ONNX either. The layers stay plain `keras.layers.Conv2D`, so that their files load without tlkit.
"""

from __future__ import annotations

from functools import partial
from typing import Any


def compute_groups(layer: Any) -> Any:
    """Let a layer use TensorFlow's operation if it is a convolution with groups, on TensorFlow. Returns the layer."""
    import keras

    grouped = type(layer) is keras.layers.Conv2D and layer.groups > 1
    if grouped and layer.data_format == "channels_last" and keras.backend.backend() == "tensorflow":
        layer.convolution_op = partial(_convolve, layer)
    return layer


def compute_groups_of(model: Any) -> Any:
    """Let all layers of a model do so, before the model is first called. Returns the model."""
    for layer in model._flatten_layers():
        compute_groups(layer)
    return model


def _convolve(layer: Any, x: Any, kernel: Any) -> Any:
    import tensorflow as tf

    return tf.nn.convolution(x, kernel, list(layer.strides), layer.padding.upper(), dilations=list(layer.dilation_rate))
