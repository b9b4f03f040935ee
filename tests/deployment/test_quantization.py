"""8-bit integers: each step of their preparation, and that a network of unequal channels survives them."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from tests.tiny import tiny_file
from tlkit import build_classifier, find_backbone, open_target
from tlkit.deployment.formats import quantization, write_target
from tlkit.deployment.formats.quantization import (
    FakeQuantize,
    Graph,
    calibrate,
    equalise,
    fold_batch_norm,
    quantised,
    with_ranges,
    with_rounded_weights,
)

SIZE = 16


def pictures(count: int, seed: int) -> np.ndarray:
    """Noise of various colours and contrasts, so that the answers differ: uint8, shape (count, SIZE, SIZE, 3)."""
    rng = np.random.default_rng(seed)
    colour, contrast = rng.uniform(40, 215, (count, 1, 1, 3)), rng.uniform(5, 60, (count, 1, 1, 1))
    return (colour + contrast * rng.normal(size=(count, SIZE, SIZE, 3))).clip(0, 255).astype("uint8")


def inverted_residuals() -> keras.Model:
    """A small MobileNetV2 (Sandler et al. 2018): linear bottlenecks with a residual, whose channels are alike."""
    keras.utils.set_random_seed(3)

    def normed(x: keras.KerasTensor, linear: str | None = None) -> keras.KerasTensor:
        x = layers.BatchNormalization(name=linear)(x)
        return x if linear else layers.ReLU(6.0)(x)

    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="normalise")(inputs)
    x = normed(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x))
    x = bottom = normed(layers.Conv2D(8, 1, use_bias=False, name="project_1")(x), "linear_1")
    x = normed(layers.Conv2D(24, 1, use_bias=False, name="expand_2")(x))
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = normed(layers.DepthwiseConv2D(2, use_bias=False)(x))
    x = normed(layers.Conv2D(8, 1, use_bias=False, name="project_2")(x), "linear_2")
    x = layers.Add()([bottom, x])
    x = normed(layers.Conv2D(32, 1, use_bias=False, name="expand_3")(x))
    x = layers.GlobalAveragePooling2D(name="head_features")(x)
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="predictions")(x))
    rng = np.random.default_rng(4)
    for norm in (layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)):
        channels = norm.gamma.shape[0]
        drawn = [(0.5, 2), (-0.5, 0.5), (-0.2, 0.2), (0.3, 1)]  # gamma, beta, moving mean, moving variance
        norm.set_weights([rng.uniform(*limits, channels).astype("float32") for limits in drawn])
    features = keras.Model(inputs, x).predict_on_batch(pictures(64, 0))
    kernel = rng.normal(size=(32, 4)) / (features.std(axis=0)[:, None] + 1e-3)
    model.get_layer("predictions").set_weights([kernel, -features.mean(axis=0) @ kernel])
    return model


def spread(model: keras.Model) -> None:
    """Make the channels of the bottlenecks unequal, by factors of 0.01 to 100, without changing the answers."""
    factors = np.logspace(-2, 2, 8)
    for name in ("linear_1", "linear_2"):
        gamma, beta, mean, variance = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([gamma * factors, beta * factors, mean, variance])
    for name in ("expand_2", "expand_3"):
        layer = model.get_layer(name)
        layer.set_weights([layer.get_weights()[0] / factors[:, None]])


@pytest.fixture(scope="module")
def unequal() -> keras.Model:
    model = inverted_residuals()
    before = model.predict_on_batch(pictures(64, 1))
    spread(model)
    assert np.allclose(model.predict_on_batch(pictures(64, 1)), before, atol=1e-4)
    return model


def agreement(one: keras.Model, other: keras.Model) -> float:
    """The share of unseen pictures on which two models predict the same class."""
    images = pictures(400, 2)
    return float((one.predict_on_batch(images).argmax(1) == other.predict_on_batch(images).argmax(1)).mean())


@pytest.mark.slow
def test_a_network_of_unequal_channels_collapses_without_the_preparation_and_survives_with_it(
    unequal: keras.Model,
) -> None:
    images = pictures(64, 0)
    folded = fold_batch_norm(unequal)
    ranges = calibrate(folded, with_rounded_weights(folded), images.astype("float32"))
    assert agreement(with_ranges(with_rounded_weights(folded), ranges), unequal) < 0.8
    prepared, marked = quantised(unequal, images)
    assert marked and agreement(prepared, unequal) > 0.95


def test_folding_and_equalising_leave_the_answers_as_they_are(unequal: keras.Model) -> None:
    images = pictures(64, 1)
    folded = fold_batch_norm(unequal)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    before = folded.get_layer("project_1").get_weights()[0]
    equalise(folded, pictures(64, 0).astype("float32"))
    assert np.abs(folded.get_layer("project_1").get_weights()[0] / before - 1).max() > 0.5, "channels were balanced"
    assert np.abs(folded.predict_on_batch(images) - unequal.predict_on_batch(images)).max() < 1e-5


def test_a_relu6_and_what_feeds_the_head_are_not_equalised(unequal: keras.Model) -> None:
    folded = fold_batch_norm(unequal)
    groups = quantization._channel_groups(Graph.of(folded))
    assert [(sorted(one.makers), sorted(one.readers)) for one in groups] == [
        (["project_1", "project_2"], ["expand_2", "expand_3"])
    ]


def test_biases_make_up_for_what_rounding_takes_in_the_mean(unequal: keras.Model) -> None:
    images = pictures(64, 0)
    folded = fold_batch_norm(unequal)
    rounded, corrected = with_rounded_weights(folded), with_rounded_weights(folded)
    ranges = calibrate(folded, corrected, images.astype("float32"))
    means = [
        keras.Model(one.input, one.get_layer("expand_3").output).predict_on_batch(images).mean(axis=(0, 1, 2))
        for one in (folded, with_ranges(rounded, ranges), with_ranges(corrected, ranges))
    ]
    assert np.abs(means[2] - means[0]).max() < 1e-3 < np.abs(means[1] - means[0]).max() / 10


def test_each_output_channel_of_a_kernel_has_255_levels(unequal: keras.Model) -> None:
    for layer in with_rounded_weights(unequal).layers:
        if layer.name.startswith(("project", "expand")):
            for channel in layer.get_weights()[0][0, 0].T:
                levels = channel / (np.abs(channel).max() / 127)
                assert np.allclose(levels, np.round(levels), atol=1e-3)


@pytest.mark.slow
def test_pixels_and_the_head_stay_in_float32(unequal: keras.Model, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    folder = write_target(unequal, list("abcd"), tmp_path / "out", "litert-int8", representative=pictures(64, 0))
    interpreter = Interpreter(model_path=str(folder / "model.tflite"))
    types = {one["name"]: one["dtype"] for one in interpreter.get_tensor_details()}
    assert {kind for name, kind in types.items() if "normalise" in name and "mul" in name} == {np.float32}
    assert all(kind == np.float32 for name, kind in types.items() if "predictions" in name)
    assert any(kind == np.int8 for name, kind in types.items() if "expand_3" in name)
    answer = open_target(folder)[1]
    found, own = answer(pictures(200, 2)), unequal.predict_on_batch(pictures(200, 2))
    assert (found.argmax(1) == own.argmax(1)).mean() > 0.95


@pytest.mark.parametrize("last", ["silu", "relu"])
def test_layers_that_fake_quantisation_does_not_cover_are_left_to_the_converter(last: str) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.ops.flip(inputs, axis=-1)  # as in networks that take BGR
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Conv2D(4, 3, activation=last)(x)
    x = layers.GlobalAveragePooling2D(name="head_features")(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax", name="predictions")(x))
    prepared, marked = quantised(model, pictures(8, 0))
    assert marked == (last == "relu") == any(isinstance(layer, FakeQuantize) for layer in prepared.layers)
    images = pictures(8, 1)
    assert np.abs(prepared.predict_on_batch(images) - model.predict_on_batch(images)).max() < 0.02


def test_the_model_itself_is_not_changed() -> None:
    model = build_classifier(find_backbone(tiny_file()), 3, image_size=32, seed=1)
    before = model.get_weights()
    quantised(model, np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("uint8"))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
