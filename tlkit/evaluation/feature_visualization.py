"""Shows what a network looks for: its first filters, and images that maximise the score of a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tlkit.errors import SpecError

CONTRAST = 45.0  # standard deviation of a synthetic image, of 255


def first_filters(model: keras.Model) -> np.ndarray:
    """The filters of the first convolution over RGB, each scaled to 0-255: uint8, shape (filters, height, width, 3).

    Raises SpecError if the model has no such convolution.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel.shape[2] == 3:
            filters = np.asarray(layer.kernel).transpose(3, 0, 1, 2)
            reach = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
            return ((filters / np.maximum(reach, 1e-12) + 1) * 127.5).astype("uint8")
    raise SpecError(f"The model '{model.name}' has no convolution over three colour channels.")


def most_typical(
    model: keras.Model,
    class_number: int,
    *,
    steps: int = 128,
    seed: int = 0,
    done: Callable[[int], None] = lambda step: None,
) -> np.ndarray:
    """Synthesise an image by gradient ascent on a class's log odds, from grey noise: uint8, shape (height, width, 3).

    As in Simonyan, Vedaldi and Zisserman 2013 (arXiv:1312.6034), with small shifts and smoothing between the steps;
    without these, the result is speckle.

    Args:
        class_number: Index of the class.
        steps: Of the ascent.
        seed: Of the noise and the shifts.
        done: Called after each step with the number of steps done.
    """
    import tensorflow as tf
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    image = (128 + random.normal(0, 12, (1, *model.input_shape[1:]))).astype("float32")

    @tf.function(autograph=False)
    def gradient_of(pixels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            chosen = model(pixels, training=False)[:, class_number]
            score = tf.math.log(chosen + 1e-9) - tf.math.log(1 - chosen + 1e-6)  # does not saturate near 1
        return tape.gradient(score, pixels)

    for step in range(steps):
        shift = tuple(random.integers(-8, 9, 2))
        moved = np.roll(image, shift, (1, 2))
        gradient = gradient_of(tf.constant(moved)).numpy()
        moved = moved + 6 * gradient / (np.abs(gradient).mean() * 4 + 1e-9)
        image = np.roll(moved, (-shift[0], -shift[1]), (1, 2))
        if step % 4 == 3:
            image = gaussian_filter(image, (0, 0.7, 0.7, 0))
        image = image.clip(0, 255)
        done(step + 1)
    faint = image[0] - image[0].mean()
    return (128 + faint * max(1.0, CONTRAST / max(float(faint.std()), 1e-6))).clip(0, 255).astype("uint8")
