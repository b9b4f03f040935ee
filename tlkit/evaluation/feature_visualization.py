"""Shows what a network looks for: its first filters, and images that maximise the score of a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tlkit.errors import SpecError
from tlkit.evaluation.gradients import logits_of

CONTRAST = 45.0  # standard deviation of a synthetic image, of 255


def first_filters(model: keras.Model) -> np.ndarray:
    """The filters of the first convolution, each scaled to 0-255, mid grey is 0: uint8, shape (n, height, width, 3).

    They are shown as they act on RGB pixels, whatever the layers between do to these: a network that takes BGR, or
    grey, or divides by each channel's deviation shows the colours that it responds to. A filter without any weight is
    mid grey.

    Raises SpecError if the model has no convolution, or none that is linear in the pixels.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            filters = _on_pixels(model, layer) if layer in model.layers else _kernels(layer)
            break
    else:
        raise SpecError(f"The model '{model.name}' has no convolution, so it has no filters to draw.")
    reach = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    return ((filters / np.maximum(reach, 1e-12) + 1) * 127.5).round().astype("uint8")


def _kernels(layer: keras.layers.Layer) -> np.ndarray:
    """The kernels of a convolution inside a nested model, shape (n, height, width, 3)."""
    filters = np.asarray(layer.kernel).transpose(3, 0, 1, 2)
    if filters.shape[-1] not in (1, 3):
        raise SpecError(
            f"The first convolution, '{layer.name}', reads {filters.shape[-1]} channels. Expected grey or RGB."
        )
    return np.broadcast_to(filters, (*filters.shape[:3], 3))


def _on_pixels(model: keras.Model, layer: keras.layers.Layer) -> np.ndarray:
    """The gradient of each channel of a convolution with respect to pixels: shape (channels, height, width, 3).

    Taken at the middle of the map, and cut to the pixels that any channel depends on.
    """
    import tensorflow as tf

    plain = type(layer).from_config({**layer.get_config(), "activation": "linear"})
    output = keras.Model(model.input, plain(layer.input))
    plain.set_weights(layer.get_weights())
    _, rows, columns, channels = output.output_shape
    found = []
    for start in range(0, channels, 16):
        numbers = range(start, min(start + 16, channels))
        pixels = tf.fill((len(numbers), *model.input_shape[1:]), 128.0)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            at = [(row, rows // 2, columns // 2, number) for row, number in enumerate(numbers)]
            values = tf.gather_nd(output(pixels, training=False), at)
        found.append(tape.gradient(values, pixels).numpy())
    filters = np.concatenate(found)
    seen = np.abs(filters).max(axis=(0, 3)) > 0
    if not seen.any():
        raise SpecError(f"The first convolution, '{layer.name}', does not depend on the pixels at its middle.")
    (top, bottom), (left, right) = ((at.min(), at.max() + 1) for at in np.nonzero(seen))
    return filters[:, top:bottom, left:right]


def most_typical(
    model: keras.Model,
    class_number: int,
    *,
    steps: int = 128,
    decay: float = 0.01,
    contrast: float = CONTRAST,
    seed: int = 0,
    done: Callable[[int], None] = lambda step: None,
) -> np.ndarray:
    """Synthesise an image by gradient ascent on a class's logit, from grey noise: uint8, shape (height, width, 3).

    As in Simonyan, Vedaldi and Zisserman 2013 (arXiv:1312.6034), whose penalty is the L2 norm of the image, with small
    shifts and smoothing between the steps; without these, the result is speckle. The logit, unlike the probability,
    does not saturate.

    Args:
        class_number: Index of the class.
        steps: Of the ascent.
        decay: The penalty: each step moves the image this share of the way back to grey.
        contrast: The standard deviation, of 255, to which a fainter image is stretched in the end; 0 leaves it.
        seed: Of the noise and the shifts.
        done: Called after each step with the number of steps done.
    """
    import tensorflow as tf
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    image = (128 + random.normal(0, 12, (1, *model.input_shape[1:]))).astype("float32")
    logits = logits_of(model)

    @tf.function(autograph=False)
    def gradient_of(pixels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            score = logits(pixels)[:, class_number]
        return tape.gradient(score, pixels)

    for step in range(steps):
        shift = tuple(random.integers(-8, 9, 2))
        moved = np.roll(image, shift, (1, 2))
        gradient = gradient_of(tf.constant(moved)).numpy()
        moved = moved + 6 * gradient / (np.abs(gradient).mean() * 4 + 1e-9)
        image = np.roll(moved, (-shift[0], -shift[1]), (1, 2))
        image = 128 + (1 - decay) * (image - 128)
        if step % 4 == 3:
            image = gaussian_filter(image, (0, 0.7, 0.7, 0))
        image = image.clip(0, 255)
        done(step + 1)
    faint = image[0] - image[0].mean()
    if not contrast:
        return (128 + faint).round().clip(0, 255).astype("uint8")
    return (128 + faint * max(1.0, contrast / max(float(faint.std()), 1e-6))).clip(0, 255).astype("uint8")
