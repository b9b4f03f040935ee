"""Dense maps and receptive fields: against the model's own answers on crops, and against what a pixel changes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.tiny import predicted, tiny_file
from tlkit import Head, SpecError, build_classifier, find_backbone
from tlkit.evaluation.dense import DenseNetwork
from tlkit.evaluation.receptive_field import receptive_field
from tlkit.models.blocks import feature_maps


def unpadded(pooling: str = "avg", side: int = 29) -> keras.Model:
    """A plain Keras classifier whose layers do not pad: a position every 4 pixels."""
    keras.utils.set_random_seed(3)
    image = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = keras.layers.Conv2D(8, 5, strides=2, activation="relu", name="first")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool")(x)
    x = keras.layers.Conv2D(6, 3, activation="relu", name="last")(x)
    pooled = keras.layers.Flatten()(x) if pooling == "flatten" else keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(4, activation="softmax", name="answer")(pooled))


def noise(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(20501).integers(0, 256, (count, side, side, 3)).astype("uint8")


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["avg", "flatten"])
def test_without_padding_the_map_is_the_answer_on_every_crop(pooling: str) -> None:
    model = unpadded(pooling)
    dense = DenseNetwork(model, 50)
    assert (dense.window, dense.step, dense.size, dense.side) == (29, 4, 53, 7)
    images = noise(2, dense.size)
    maps = dense(images)
    for row in range(7):
        for column in range(7):
            crops = images[(slice(None), *dense.crop_at(row, column))]
            assert np.abs(predicted(model, crops.astype("float32")) - maps[:, row, column]).max() < 1e-5
    found = dense.compared(images, maps)
    assert found["crops"] == 18 and found["largest"] < 1e-5 and found["same_class"] == 1


def test_a_flattened_map_is_read_as_by_a_convolution_of_its_size() -> None:
    model = unpadded("flatten")
    dense = DenseNetwork(model, 53)
    kernel, bias = (np.asarray(one) for one in model.get_layer("answer").weights)
    convolution = keras.layers.Conv2D(4, 4, activation="softmax")
    below = keras.models.clone_model(
        keras.Model(model.input, model.get_layer("last").output),
        input_tensors=keras.Input((53, 53, 3)),
        clone_function=lambda layer: layer,
    )
    images = noise(1, 53)
    features = predicted(below, images.astype("float32"))
    convolution.build(features.shape)
    convolution.set_weights([kernel.reshape(4, 4, 6, 4), bias])
    assert np.abs(np.asarray(convolution(features)) - dense(images)).max() < 1e-5


@pytest.mark.parametrize("head", [Head(), Head(taps=(2, 4), pooling="avg+max", hidden=(8,), batch_norm=True)])
@pytest.mark.slow
def test_at_the_native_size_the_map_is_the_answer_and_padding_is_measured(head: Head) -> None:
    model = build_classifier(find_backbone(tiny_file()), 3, head=head, image_size=32)
    images = noise(2, 32)
    alone = DenseNetwork(model, 32)
    assert alone.side == 1
    assert np.abs(alone(images)[:, 0, 0] - predicted(model, images.astype("float32"))).max() < 1e-5
    dense = DenseNetwork(model, 64)
    larger = noise(2, dense.size)
    maps = dense(larger)
    assert maps.shape == (2, 3, 3, 3) and np.allclose(maps.sum(-1), 1, atol=1e-5)
    assert 0 < dense.compared(larger, maps)["largest"] < 1, "this network pads"


def test_a_map_is_drawn_where_its_crops_have_their_centres() -> None:
    dense = DenseNetwork(unpadded(), 53)
    image = np.full((53, 53, 3), 90, "uint8")
    map_ = np.zeros((7, 7))
    map_[1, 5] = 1
    drawn = dense.drawn(image, map_)
    assert (drawn[:12] == 90).all() and (drawn[:, -12:] == 90).all(), "the margin stays as it is"
    row, column = np.unravel_index(drawn[..., 0].argmax(), (53, 53))
    assert (row, column) == pytest.approx((14.5 + 4, 14.5 + 20), abs=1)


def test_a_model_that_fixes_its_size_is_refused() -> None:
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Resizing(16, 16)(image))
    fixed = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(SpecError, match="Resizing"):
        DenseNetwork(fixed, 64)
    x = keras.layers.Dense(8)(keras.layers.Reshape((16 * 16, 12))(image))
    flat = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(x)))
    with pytest.raises(SpecError, match="no feature maps"):
        DenseNetwork(flat, 64)


def branches(side: int = 33) -> keras.Model:
    """Padding, dilation, branches of different kernels, and an average over the whole image."""
    layers, image = keras.layers, keras.Input((side, side, 3))
    x = layers.ZeroPadding2D(((1, 0), (2, 1)))(image)
    x = layers.Conv2D(2, 3, strides=2, kernel_initializer="ones", name="strided")(x)
    wide = layers.Conv2D(2, (1, 5), padding="same", kernel_initializer="ones", name="wide")(x)
    spread = layers.Conv2D(2, 3, dilation_rate=2, padding="same", kernel_initializer="ones", name="spread")(x)
    x = layers.AveragePooling2D(3, 2, padding="same", name="pool")(layers.Add()([wide, spread]))
    weight = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.Model(image, [x, layers.Multiply(name="weighed")([x, weight])])


@pytest.mark.parametrize("position", [(0, 0), (3, 4), (7, 7)])
def test_a_unit_sees_its_receptive_field_and_no_more(position: tuple[int, int]) -> None:
    import tensorflow as tf

    model = branches()
    field = receptive_field(model, model.outputs[0])
    assert field.step == (4, 4) and not field.whole
    pixels = tf.ones((1, 33, 33, 3))
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        unit = model(pixels)[0][0, position[0], position[1], 0]
    rows, columns = np.nonzero(np.abs(tape.gradient(unit, pixels).numpy()[0]).sum(-1))
    seen = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    top, left, bottom, right = field.box(*position, 33, 33)
    if position == (7, 7):  # the last row of pixels is below the last stride of the first convolution
        bottom -= 1
    assert seen == (top, left, bottom, right)


def test_a_unit_behind_an_average_of_the_whole_image_is_said_to_see_it() -> None:
    model = branches()
    plain, weighed = (receptive_field(model, out) for out in model.outputs)
    assert weighed.whole and weighed.size == plain.size
    with pytest.raises(SpecError, match="no feature map"):
        receptive_field(model, keras.layers.Flatten()(model.outputs[0]))


def test_convolutions_inside_nested_models_count() -> None:
    layers, image = keras.layers, keras.Input((32, 32, 3))
    x = keras.Sequential([layers.Conv2D(4, 4, strides=4), layers.LayerNormalization()])(image)
    x = keras.Sequential([layers.LayerNormalization(), layers.Conv2D(4, 2, strides=2)])(x)
    field = receptive_field(keras.Model(image, x), x)
    assert field.size == field.step == (8, 8) and field.start == (0, 0)
    answer = layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    dense, images = DenseNetwork(keras.Model(image, answer), 40), noise(1, 40)
    assert dense.compared(images, dense(images))["largest"] < 1e-5, "nothing pads"


@pytest.mark.slow
def test_the_receptive_field_of_a_mobilenet_is_the_published_one() -> None:
    """315 pixels, as in Araujo, Norris and Sim 2019, Computing receptive fields (doi 10.23915/distill.00021)."""
    model = build_classifier("mobilenet_0.25", 2, image_size=64, weights="none")
    field = receptive_field(model, feature_maps(model)[-1])
    assert field.size == (315, 315) and field.step == (32, 32)
