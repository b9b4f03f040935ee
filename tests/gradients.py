"""Compares the gradients of a layer with finite differences. Every layer of our own is tested by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# The largest relative error, by dtype, and the step of the difference: about the cube root of the dtype's precision
LIMITS = {"float64": (1e-6, 1e-5), "float32": (2e-2, 1e-2)}


def gradient_errors(
    layer: Callable[[Any], Any], inputs: np.ndarray, *, dtype: str = "float64", probes: int = 12, seed: int = 0
) -> dict[str, float]:
    """Compare the gradients of a random weighted sum of a layer's outputs with central differences.

    The layer is built, and is deterministic: for a layer that draws random numbers, give a function that resets its
    state first.

    Args:
        layer: called on a tensor. If it has `trainable_variables`, these are compared too.
        inputs: shape (n, ...). Away from kinks, such as the zeros of a ReLU.
        dtype: "float64" or "float32", of inputs and weights.
        probes: random directions, for the inputs and for each variable.
        seed: of the weights of the sum, and of the directions.

    Returns:
        The largest relative error by name, "inputs" or a variable's path: |a - d| / max(|a|, |d|, norm of the gradient
        / 100), where a is the analytic slope along a direction and d the difference.
    """
    random, step = np.random.default_rng(seed), LIMITS[dtype][1]
    given = tf.Variable(inputs, dtype=dtype)
    weights = tf.constant(random.normal(size=np.shape(layer(given))), dtype)
    variables = {"inputs": given}
    variables |= {one.path: one.value for one in getattr(layer, "trainable_variables", ())}

    def total() -> tf.Tensor:
        return tf.reduce_sum(weights * tf.cast(layer(tf.convert_to_tensor(given)), dtype))

    with tf.GradientTape() as tape:
        value = total()
    gradients = tape.gradient(value, variables)
    errors = {}
    for name, variable in variables.items():
        gradient, worst = tf.convert_to_tensor(gradients[name]).numpy(), 0.0
        start = variable.numpy()
        for _ in range(probes):
            direction = random.normal(size=start.shape).astype(dtype)
            direction /= np.linalg.norm(direction)
            ends = []
            for sign in (1, -1):
                variable.assign(start + sign * step * direction)
                ends.append(float(total()))
            variable.assign(start)
            analytic, difference = float((gradient * direction).sum()), (ends[0] - ends[1]) / (2 * step)
            scale = max(abs(analytic), abs(difference), float(np.linalg.norm(gradient)) / 100, 1e-12)
            worst = max(worst, abs(analytic - difference) / scale)
        errors[name] = worst
    return errors


def check_gradients(layer: Callable[[Any], Any], inputs: np.ndarray, *, dtype: str = "float64", seed: int = 0) -> None:
    """Assert that no gradient of a layer differs from finite differences by more than the dtype's limit."""
    errors = gradient_errors(layer, inputs, dtype=dtype, seed=seed)
    assert max(errors.values()) <= LIMITS[dtype][0], errors


def own_layers() -> dict[str, type[keras.layers.Layer]]:
    """Every layer that tlkit registers with Keras, by its registered name. Import their modules first."""
    known = keras.saving.get_custom_objects()
    return {
        name: one
        for name, one in known.items()
        if name.startswith("tlkit>") and isinstance(one, type) and issubclass(one, keras.layers.Layer)
    }
