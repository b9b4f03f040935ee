"""What a network looks for: its first filters, and images drawn to excite a class most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tlkit.errors import SpecError

CONTRAST = 45.0  # standard deviation of a drawn picture, of 255


def first_filters(model: keras.Model) -> np.ndarray:
    """The filters of the first convolution that sees colours, each spread over 0-255: uint8, shape (filters, height, width, 3).

    Raises SpecError where there is none.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel.shape[2] == 3:
            filters = np.asarray(layer.kernel).transpose(3, 0, 1, 2)
            reach = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
            return ((filters / np.maximum(reach, 1e-12) + 1) * 127.5).astype("uint8")
    raise SpecError(f"The model '{model.name}' has no convolution over three colours.")


def most_typical(
    model: keras.Model,
    class_number: int,
    *,
    steps: int = 128,
    seed: int = 0,
    done: Callable[[int], None] = lambda step: None,
) -> np.ndarray:
    """A picture drawn by climbing a class's log odds from grey noise: uint8, shape (height, width, 3).

    As in Simonyan, Vedaldi and Zisserman 2013 (arXiv:1312.6034), with small shifts and smoothing between the steps, without which only
    speckles come out.
    """
    import tensorflow as tf
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    picture = (128 + random.normal(0, 12, (1, *model.input_shape[1:]))).astype("float32")

    @tf.function(autograph=False)
    def slope(image: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(image)
            chosen = model(image, training=False)[:, class_number]
            score = tf.math.log(chosen + 1e-9) - tf.math.log(1 - chosen + 1e-6)  # does not saturate near 1
        return tape.gradient(score, image)

    for step in range(steps):
        shift = tuple(random.integers(-8, 9, 2))
        moved = np.roll(picture, shift, (1, 2))
        gradient = slope(tf.constant(moved)).numpy()
        moved = moved + 6 * gradient / (np.abs(gradient).mean() * 4 + 1e-9)
        picture = np.roll(moved, (-shift[0], -shift[1]), (1, 2))
        if step % 4 == 3:
            picture = gaussian_filter(picture, (0, 0.7, 0.7, 0))
        picture = picture.clip(0, 255)
        done(step + 1)
    faint = picture[0] - picture[0].mean()
    return (128 + faint * max(1.0, CONTRAST / max(float(faint.std()), 1e-6))).clip(0, 255).astype("uint8")
