"""What gradients are taken of: logits, and units with guided back-projection. Needs the TensorFlow backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

RECTIFIERS = ("relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "hard_silu")


def logits_of(model: keras.Model) -> Callable[[Any], Any]:
    """The inputs of a classifier's softmax, as a function of pixels: (n, height, width, 3) to (n, classes).

    For a model that does not end in a dense softmax layer, such as an ensemble: the logarithms of its probabilities,
    which are logits too.
    """
    import tensorflow as tf

    last = model.layers[-1]
    if isinstance(last, keras.layers.Dense) and last.activation is keras.activations.softmax:
        below = keras.Model(model.input, last.input)

        def logits(pixels: Any) -> Any:
            features = tf.cast(below(pixels, training=False), tf.float32)
            return features @ tf.convert_to_tensor(last.kernel) + tf.convert_to_tensor(last.bias)

        return logits
    return lambda pixels: tf.math.log(tf.cast(model(pixels, training=False), tf.float32) + 1e-30)


def guided(model: keras.Model) -> tuple[keras.Model, int]:
    """A copy of a model for guided back-projection (Springenberg et al. 2015, arXiv:1412.6806).

    It gives the same outputs. Behind each rectifier (ReLU, and its smooth kin), the gradient keeps only its positive
    part, so that what reaches the image is what excites a unit, without what would have inhibited it. Rectifiers inside
    nested models are left as they are.

    Returns: the copy, and how many of its layers are guided.
    """
    copied: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []
    count = 0

    def replaced(layer: keras.layers.Layer) -> keras.layers.Layer:
        nonlocal count
        activation: Any = getattr(layer, "activation", None)
        if isinstance(layer, keras.layers.ReLU | keras.layers.LeakyReLU):
            count += 1
            return keras.layers.Activation(_guided(layer.call), name=layer.name)
        if getattr(activation, "__name__", "") not in RECTIFIERS:
            return layer
        count += 1
        if isinstance(layer, keras.layers.Activation):
            return keras.layers.Activation(_guided(activation), name=layer.name)
        copy = type(layer).from_config(layer.get_config())
        copy.activation = _guided(activation)
        copied.append((layer, copy))
        return copy

    copy = keras.models.clone_model(model, clone_function=replaced)
    for old, new in copied:
        new.set_weights(old.get_weights())
    return copy, count


def _guided(activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same activation, through which only the positive part of a gradient passes."""
    import tensorflow as tf

    @tf.custom_gradient
    def run(x: Any) -> Any:
        def gradient(above: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = activation(x)
            return tape.gradient(y, x, output_gradients=tf.maximum(above, 0))

        return activation(x), gradient

    return lambda x: run(x)


def as_picture(values: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Signed values as colours around mid grey: uint8, of the same shape.

    share: of the values that are drawn as they are; the largest of them is at full contrast, those beyond it too.
    """
    reach = float(np.quantile(np.abs(values), share)) or max(float(np.abs(values).max()), 1e-12)
    return (128 + 127 * values / reach).round().clip(0, 255).astype("uint8")
