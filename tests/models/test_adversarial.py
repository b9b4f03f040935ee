"""Adversarial training: the step, the loss, and what a stage does with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from tests.training.test_training import BACKBONE, examples, recipe, tiny, weights_by_path
from tlkit import Stage
from tlkit.errors import SpecError
from tlkit.models.adversarial import Adversarial
from tlkit.plan.recipe import recipe_from_dict, to_dict
from tlkit.training.train import train

WEIGHTS = np.array([[1.0, -2.0], [0.0, 3.0]])  # of two classes for two values


def linear(alpha: float = 0.5, epsilon: float = 8.0) -> Adversarial:
    """Softmax regression on two values, whose gradient is known: weights @ (p - y)."""
    inputs = keras.Input((2,))
    scaled = keras.layers.Rescaling(0.01)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", use_bias=False)(scaled))
    model.layers[-1].set_weights([WEIGHTS])
    found = Adversarial(model, alpha, epsilon)
    found.compile("sgd", "categorical_crossentropy")
    return found


def log_losses(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    logits = 0.01 * x @ WEIGHTS
    return np.log(np.exp(logits).sum(1)) - (y * logits).sum(1)


def test_each_value_moves_by_epsilon_along_the_sign_of_the_gradient_and_stays_a_pixel() -> None:
    x, y = np.array([[100.0, 50.0], [4.0, 253.0]], "float32"), np.eye(2)
    logits = 0.01 * x @ WEIGHTS
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = (x + 8 * np.sign((p - y) @ WEIGHTS.T)).clip(0, 255)
    moved = np.asarray(linear().attacked(x, y))
    np.testing.assert_array_equal(moved, expected)
    assert (log_losses(moved, y) > log_losses(x, y)).all()
    assert {0.0, 12.0} & set(moved[1].tolist()) and moved.max() <= 255


def test_the_loss_is_the_share_of_the_clean_one_and_of_the_moved_one() -> None:
    x, y = np.array([[100.0, 50.0], [4.0, 253.0]], "float32"), np.eye(2, dtype="float32")
    for alpha in (0.0, 0.3):
        model = linear(alpha)
        moved = np.asarray(model.attacked(x, y))
        clean, adversarial = log_losses(x, y).mean(), log_losses(moved, y).mean()
        assert adversarial > clean + 0.01
        in_training = float(model.compute_loss(x, y, model(x), training=True))
        assert in_training == pytest.approx(alpha * clean + (1 - alpha) * adversarial, rel=1e-4)
        assert float(model.compute_loss(x, y, model(x), training=False)) == pytest.approx(clean, rel=1e-4)


@pytest.mark.slow
def test_a_stage_trains_its_blocks_on_moved_images_and_repeats_itself() -> None:
    data, validation, found = examples(16, 1), examples(6, 2), []
    stage = Stage(1, 1e-2, unfreeze=2, adversarial=16.0, optimizer="sgd", augmented=False)
    for one in (stage, stage, replace(stage, adversarial=0.0), replace(stage, clean_share=0.0)):
        model = tiny(seed=2)
        before = weights_by_path(model)
        history = train(model, BACKBONE, recipe(one, monitor="last"), data, validation)
        after = weights_by_path(model)
        assert not np.array_equal(before["conv_32/kernel"], after["conv_32/kernel"])
        assert np.array_equal(before["conv_8/kernel"], after["conv_8/kernel"]), "frozen"
        found.append((after["conv_32/kernel"], history.rows[-1]["loss"]))
    first, again, plain, moved_only = found
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], plain[0]) and not np.array_equal(first[0], moved_only[0])
    assert plain[1] < first[1] < moved_only[1], "the moved images are harder"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adversarial": -1.0}, r"Stage\.adversarial is -1"),
        ({"clean_share": 1.0}, r"Stage\.clean_share is 1"),
        ({"adversarial": 8.0, "solver": "logistic"}, "takes no steps"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Stage(1, 1e-3, **settings)


def test_fields_survive_json_and_another_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = recipe(Stage(1, 1e-3, adversarial=8.0, clean_share=0.25))
    assert recipe_from_dict(to_dict(plan)) == plan
    monkeypatch.setattr("keras.backend.backend", lambda: "numpy")
    with pytest.raises(SpecError, match="tensorflow and jax, but Keras runs on numpy"):
        Adversarial(keras.Sequential(), 0.5, 8.0)
