"""Fooling images: on a classifier that is linear in the pixels, where the smallest changes are known."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.tiny import predicted
from tlkit.evaluation.feature_visualization import most_typical
from tlkit.evaluation.fooling import Fooling, feature_step


def linear(classes: int = 3, temperature: float = 1.0) -> keras.Model:
    """A softmax of a linear function of 8 x 8 pixels."""
    random = np.random.default_rng(20502)
    image = keras.Input((8, 8, 3))
    answer = keras.layers.Dense(classes, activation="softmax", name="predictions")
    model = keras.Model(image, answer(keras.layers.Flatten()(image)))
    kernel = random.normal(0, 0.004, (192, classes))
    answer.set_weights([kernel / temperature, np.zeros(classes)])
    return model


def picture() -> np.ndarray:
    return np.random.default_rng(20503).integers(60, 196, (8, 8, 3)).astype("uint8")


def margins(model: keras.Model, image: np.ndarray, norm: int) -> tuple[int, list[float]]:
    """The image's class, and the distance to the border of each class, in the dual of the norm."""
    kernel = np.asarray(model.layers[-1].kernel, "float64")
    logits = image.ravel() @ kernel
    own = int(logits.argmax())
    gaps = [np.linalg.norm(kernel[:, own] - kernel[:, other], norm) for other in range(len(logits))]
    return own, [(logits[own] - logits[other]) / gap if gap else np.inf for other, gap in enumerate(gaps)]


def test_on_a_linear_classifier_the_step_along_w_is_the_distance_to_the_border() -> None:
    model, image = linear(), picture()
    own, distances = margins(model, image, 2)
    change = Fooling(model).gradient_step(image)
    assert change.found and change.amount == pytest.approx(min(distances), rel=2e-3)
    assert change.class_number == int(np.argmin(distances)) != own
    farther = int(np.argsort(distances)[1])
    aimed = Fooling(model).gradient_step(image, farther)
    assert aimed.found and aimed.class_number == farther and aimed.amount > change.amount
    kernel = np.asarray(model.layers[-1].kernel, "float64")
    border = (image.ravel() @ kernel)[[own, change.class_number]]
    w = kernel[:, change.class_number] - kernel[:, own]
    share = (border[0] - border[1]) / np.linalg.norm(w) / np.linalg.norm(image)
    assert feature_step(model, image) == pytest.approx(share, rel=1e-4), "its features are the pixels"


def test_on_a_linear_classifier_the_sign_step_is_the_smallest_whole_one() -> None:
    model, image = linear(), picture()
    _, distances = margins(model, image, 1)
    change = Fooling(model).sign_step(image)
    assert change.found and change.kept
    assert change.amount == np.ceil(min(distances)) == change.largest == change.mean
    assert change.length == pytest.approx(change.amount * np.sqrt(192))
    assert predicted(model, change.image[None].astype("float32"))[0].argmax() == change.class_number
    json = change.to_dict(["a", "b", "c"])
    assert json["class"] == "abc"[change.class_number] and json["probability"] > json["before"]


def test_a_step_that_cannot_succeed_says_so() -> None:
    model = linear(2)
    model.layers[-1].set_weights([np.zeros((192, 2)), np.array([1.0, 0.0])])
    for change in (Fooling(model).sign_step(picture()), Fooling(model).gradient_step(picture())):
        assert not change.found and not change.kept and change.class_number == 1 and change.mean == 0


def test_a_step_below_half_a_level_is_undone_by_rounding() -> None:
    model = linear(2)
    kernel = np.zeros((192, 2))
    kernel[:, 0], kernel[:, 1] = 1.0, -1.0
    image = np.full((8, 8, 3), 100, "uint8")
    model.layers[-1].set_weights([kernel, np.array([-100 * 192 + 1.0, 100 * 192 - 1.0])])
    change = Fooling(model).gradient_step(image)
    assert change.found and change.amount < 0.1 and not change.kept and change.length == 0


def test_noise_is_raised_until_the_network_is_sure_by_its_calibrated_probability() -> None:
    steps = []
    for temperature in (1.0, 2.0):
        model = linear(temperature=temperature)
        start, change = Fooling(model).noise(2)
        assert change.found and change.probability >= 0.99
        assert predicted(model, change.image[None].astype("float32"))[0, 2] == pytest.approx(change.probability)
        assert np.abs(start.astype(float) - change.image).mean() == pytest.approx(change.mean)
        steps.append(change.amount)
    assert 0 < steps[0] < steps[1], "less sure probabilities take more steps"
    again, _ = Fooling(model).noise(2)
    assert (again == start).all()
    _, stopped = Fooling(model).noise(2, steps=1)
    assert not stopped.found and stopped.amount == 1


def test_an_image_that_maximises_a_class_stays_near_grey_with_a_stronger_penalty() -> None:
    loose, tight = (most_typical(linear(), 1, steps=12, decay=decay, contrast=0) for decay in (0.0, 0.3))
    assert np.abs(loose.astype(float) - 128).mean() > 1.2 * np.abs(tight.astype(float) - 128).mean()
    assert (most_typical(linear(), 1, steps=12, contrast=0, decay=0.0) == loose).all(), "the seed fixes it"
