"""Training in half precision: the gradients are those of float32, whatever is frozen, and averages are never zeros."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tests.training.test_training import BACKBONE, examples, recipe
from tlkit import Stage, build_classifier
from tlkit.training.optimizers import make_optimizer
from tlkit.training.train import train

SOLVED = Stage(1, 1e-3, solver="logistic", strength=10.0)  # small gradients, which vanish in float16


def moved(precision: str, unfreeze: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, Any]:
    """By how much one epoch of plain gradient descent moves the weights of the blocks, and the optimizer."""
    kept: list[keras.Model] = []
    compile_model = keras.Model.compile

    def spy(self: keras.Model, *args: Any, **settings: Any) -> None:
        kept.append(self)
        compile_model(self, *args, **settings)

    monkeypatch.setattr(keras.Model, "compile", spy)
    model = build_classifier(BACKBONE, 3, precision=precision, seed=1)
    weights: list[np.ndarray] = []
    pool = examples(24, 6301)
    stage = Stage(1, 1e-2, unfreeze=unfreeze, optimizer="sgd")
    begins = train(model, BACKBONE, recipe(SOLVED, precision=precision, monitor="last"), pool, pool, seed=2)
    assert begins.rows
    before = [np.array(one) for one in model.get_weights()]
    train(model, BACKBONE, recipe(stage, precision=precision, monitor="last"), pool, pool, seed=2)
    weights = [after - earlier for after, earlier in zip(model.get_weights(), before, strict=True)]
    return np.concatenate([one.ravel() for one in weights]), kept[-1].optimizer


@pytest.mark.parametrize("unfreeze", [1, "all"])
def test_half_precision_moves_the_weights_as_float32_does(unfreeze: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    full, optimizer = moved("float32", unfreeze, monkeypatch)
    assert not isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    for precision, scaled, likeness in (("mixed_float16", True, 0.99), ("mixed_bfloat16", False, 0.95)):
        half, optimizer = moved(precision, unfreeze, monkeypatch)
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer) == scaled, precision
        cosine = float(full @ half / np.linalg.norm(full) / np.linalg.norm(half))
        assert cosine > likeness, (precision, cosine)
        assert np.linalg.norm(half) == pytest.approx(np.linalg.norm(full), rel=0.05), precision


def test_an_average_of_weights_begins_at_the_weights_even_if_every_step_is_skipped() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, kernel_initializer="ones")])
    optimizer = make_optimizer(Stage(1, 0.1, ema=0.9), 1, {}, scale_loss=True)
    optimizer.build(model.trainable_variables)
    gradients = [keras.ops.full(variable.shape, np.inf) for variable in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)
    averages = optimizer.inner_optimizer._model_variables_moving_average
    assert np.array_equal(model.get_weights()[0], np.ones((2, 3))), "the step was skipped"
    for average, variable in zip(averages, model.trainable_variables, strict=True):
        assert np.array_equal(np.array(average), np.array(variable))
