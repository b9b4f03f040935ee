"""The gradients of every layer of our own, compared with finite differences."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from tests.gradients import LIMITS, check_gradients, gradient_errors, own_layers
from tests.test_walls import FILES
from tlkit.backbones.registered import AffineSampler, FractionalMaxPooling2D
from tlkit.models.drop_connect import DropConnect

NOT_DIFFERENTIABLE_HERE = {"tlkit>SavedModelLayer"}  # somebody else's graph, which TensorFlow differentiates


class Repeated:
    """A layer that draws the same random numbers in each call, as finite differences need."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        self._layer, self.trainable_variables = layer, layer.trainable_variables
        self._start = keras.ops.convert_to_numpy(layer.seed_generator.state)

    def __call__(self, inputs: Any) -> Any:
        self._layer.seed_generator.state.assign(self._start)
        return self._layer(inputs, training=True)


def drop_connect(dtype: str) -> tuple[Callable[[Any], Any], np.ndarray]:
    keras.utils.set_random_seed(0)
    layer = DropConnect(3, rate=0.5, seed=1, activation="tanh", dtype=dtype)
    layer.build((None, 5))
    return Repeated(layer), np.random.default_rng(0).normal(size=(4, 5))


def sampler(dtype: str) -> tuple[Callable[[Any], Any], np.ndarray]:
    """The layer on images of 3 x 4 pixels and the six numbers of a transform each, side by side in a row."""
    layer, random = AffineSampler(2, 3, dtype=dtype), np.random.default_rng(2)
    near_identity = np.array([1.0, 0, 0, 0, 1, 0]) + random.normal(0, 0.15, (2, 6))  # some points are outside
    rows = np.concatenate([random.normal(size=(2, 12)), near_identity], axis=1)
    return lambda x: layer([keras.ops.reshape(x[:, :12], (2, 3, 4, 1)), x[:, 12:]]), rows


def fractional_pooling(dtype: str) -> tuple[Callable[[Any], Any], np.ndarray]:
    return FractionalMaxPooling2D(1.4, dtype=dtype), 3 * np.random.default_rng(3).normal(size=(1, 4, 5, 2))


# A layer's registered name -> a function of the dtype that gives the layer, built, and inputs
CASES: dict[str, Callable[[str], tuple[Callable[[Any], Any], np.ndarray]]] = {
    "tlkit>DropConnect": drop_connect,
    "tlkit>AffineSampler": sampler,
    "tlkit>FractionalMaxPooling2D": fractional_pooling,
}


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.slow
def test_gradients_are_those_of_finite_differences(name: str, dtype: str) -> None:
    layer, inputs = CASES[name](dtype)
    check_gradients(layer, inputs, dtype=dtype)


def test_every_registered_layer_has_a_case() -> None:
    for name, file in FILES.items():
        if "register_keras_serializable" in file.read_text(encoding="utf-8"):
            importlib.import_module(f"tlkit.{name}")
    assert set(own_layers()) - NOT_DIFFERENTIABLE_HERE == set(CASES)


def test_a_wrong_gradient_is_found() -> None:
    @keras.ops.custom_gradient
    def wrong(x: Any) -> Any:
        return keras.ops.square(x), lambda *upstream, **_: 2.1 * x * upstream[-1]

    inputs = np.random.default_rng(0).normal(size=(4, 5))
    for dtype, (limit, _) in LIMITS.items():
        assert gradient_errors(keras.ops.square, inputs, dtype=dtype)["inputs"] <= limit
        assert gradient_errors(wrong, inputs, dtype=dtype)["inputs"] > limit
    with pytest.raises(AssertionError, match="inputs"):
        check_gradients(wrong, inputs)
