"""Grouped convolutions are TensorFlow's own, whoever makes the layer, and give what Keras gives."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tlkit.backbones.families.layers import convolution
from tlkit.backbones.grouped import compute_groups_of
from tlkit.models.files import open_model, save_model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    inputs = keras.Input((9, 9, 8))
    return keras.Model(inputs, convolution(inputs, 12, 3, "grouped", stride=2, groups=4, bias=True))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 9, 9, 8)).astype("float32")


def is_compiled(model: keras.Model) -> bool:
    """Whether any part of a model's graph must be compiled by XLA."""
    graph = tf.function(model, autograph=False).get_concrete_function(tf.TensorSpec((None, 9, 9, 8)))
    return any(key.startswith("_Xla") for one in graph.graph.as_graph_def().library.function for key in one.attr)


def gradients(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images) ** 2)
    return [np.asarray(one) for one in tape.gradient(loss, model.trainable_variables)]


def test_outputs_and_gradients_are_those_of_keras(model: keras.Model, images: np.ndarray) -> None:
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    assert np.allclose(model(images), plain(images), atol=1e-5)
    for ours, theirs in zip(gradients(model, images), gradients(plain, images), strict=True):
        assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_model_that_is_read_from_a_file_is_not_compiled(model: keras.Model, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model.keras")
    plain = keras.saving.load_model(tmp_path / "model.keras")  # plain Keras needs no tlkit for it
    assert is_compiled(plain) and not is_compiled(model)
    assert not is_compiled(open_model(tmp_path / "model.keras"))
    assert not is_compiled(compute_groups_of(plain))
