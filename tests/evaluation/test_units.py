"""Units and guided back-projection: on networks whose units are known."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.tiny import predicted
from tlkit import SpecError
from tlkit.evaluation.gradients import guided, logits_of
from tlkit.evaluation.units import BackProjection, montage, most_active


class Rows:
    """Images in memory, as `Examples.pixels` gives them."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]


def colour_units() -> keras.Model:
    """Unit 0 is dead; unit 1 is redness, unit 2 blueness, of 4 x 4 pixels."""
    image = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(3, 4, strides=4, activation="relu", name="maps")(image)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(maps))
    kernel = np.zeros((4, 4, 3, 3), "float32")
    kernel[..., 0, 1] = kernel[..., 2, 2] = 1 / 16
    kernel[..., 2, 1] = kernel[..., 0, 2] = -1 / 16
    model.get_layer("maps").set_weights([kernel, np.zeros(3, "float32")])
    return model


def one_patch_each() -> np.ndarray:
    """24 grey images; the first twelve have a red patch, each at another place, redder from one to the next."""
    images = np.full((24, 32, 32, 3), 100, "uint8")
    for number in range(12):
        row, column = divmod(number, 8)
        images[number, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = (120 + 10 * number, 100, 100)
    return images


def test_the_nine_images_that_activate_a_unit_most_are_found_with_the_place() -> None:
    model = colour_units()
    (red,), dead = most_active(model, model.get_layer("maps").output, Rows(one_patch_each()), batch_size=7)
    assert dead == 2 and red.number == 1 and red.selectivity > 1
    assert red.rows == tuple(range(11, 2, -1))
    assert red.places == tuple(divmod(number, 8) for number in red.rows)
    assert red.activations == pytest.approx([20 + 10 * number for number in red.rows])


def test_patches_are_the_receptive_field_and_projections_what_excites() -> None:
    model, images = colour_units(), one_patch_each()
    tensor = model.get_layer("maps").output
    (red,), _ = most_active(model, tensor, Rows(images))
    projection = BackProjection(model, tensor)
    assert projection.field is not None and projection.field.size == (4, 4) and projection.guided == 1
    patches, drawn = projection.pictures(images[list(red.rows)], red)
    assert [patch.shape for patch in patches] == [(4, 4, 3)] * 9
    assert (patches[0] == (230, 100, 100)).all()
    assert (drawn[0] == (255, 128, 1)).all(), "redder excites, bluer inhibits, green does nothing"
    sheet = montage(patches)
    assert sheet.shape == (224, 224, 3) and tuple(sheet[10, 10]) == (230, 100, 100)


def test_a_vector_has_no_patches() -> None:
    model = colour_units()
    with pytest.raises(SpecError, match="Expected a feature map"):
        most_active(model, model.output, Rows(one_patch_each()))


def rectified(activation: str) -> keras.Model:
    """y = -f(f(x)): the gradient at the upper rectifier is negative."""
    image = keras.Input((1, 1, 3))
    x = keras.layers.Conv2D(3, 1, activation=activation, name="below")(image)
    x = keras.layers.ReLU()(x) if activation == "relu" else keras.layers.Activation(activation)(x)
    model = keras.Model(image, keras.layers.Conv2D(3, 1, name="above")(x))
    kernel = np.zeros((1, 1, 3, 3), "float32")
    kernel[0, 0] = np.diag([1, -1, 1])
    model.get_layer("below").set_weights([np.eye(3, dtype="float32")[None, None], np.zeros(3, "float32")])
    model.get_layer("above").set_weights([kernel, np.zeros(3, "float32")])
    return model


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_guided_gradients_keep_only_what_excites(activation: str) -> None:
    import tensorflow as tf

    model = rectified(activation)
    copy, count = guided(model)
    x = tf.constant([[[[2.0, 3.0, -1.0]]]])
    assert count == 2
    assert np.allclose(predicted(copy, x), predicted(model, x))
    slopes = []
    for one in (model, copy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = one(x)
        slopes.append(tape.gradient(y, x).numpy()[0, 0, 0])
    plain, kept = slopes
    assert plain[0] > 0 and plain[1] < 0
    assert kept[0] == pytest.approx(plain[0]) and kept[1] == 0, "what inhibits is cut off"
    if activation == "relu":
        assert kept[2] == plain[2] == 0


def test_logits_are_the_softmax_inputs_whatever_the_model_ends_in() -> None:
    model = colour_units()
    keras.utils.set_random_seed(1)
    answer = keras.Model(model.input, keras.layers.Dense(4, activation="softmax")(model.output))
    apart = keras.Model(answer.input, keras.layers.Softmax()(keras.layers.Dense(4)(model.output)))
    apart.set_weights(answer.get_weights())
    images = one_patch_each()[:5].astype("float32")
    expected = predicted(answer, images)
    for one in (answer, apart):
        logits = np.asarray(logits_of(one)(images))
        assert np.allclose(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), expected, atol=1e-5)
