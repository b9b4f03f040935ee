"""Mixed precision: a stage learns in float16 and bfloat16 what it learns in float32."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from tests.training.test_training import BACKBONE, examples, recipe, tiny
from tlkit import Stage, build_classifier
from tlkit.devices import _precision
from tlkit.features.extract import extract_features, prefix_key
from tlkit.models.blocks import cut
from tlkit.plan.recipe import Unfreeze
from tlkit.training import fit, optimizers
from tlkit.training.learning_rate import Sweep, lr_find
from tlkit.training.optimizers import HEADROOM, find_loss_scale, make_optimizer, with_loss_scale
from tlkit.training.train import train

RATE = 1000.0  # of plain gradient descent: the first update divided by it is the gradient
LOGIT = 16.0  # of the right class, the others 0: the gradient of each logit is then 1e-8, which float16 rounds to 0
DATA = examples(24, 6310)


def confident(precision: str) -> keras.Model:
    """A classifier that is nearly sure of its answers to DATA."""
    model = tiny(seed=2, precision=precision)
    prefix, _ = cut(model, BACKBONE, 0)
    assert prefix is not None
    features = keras.ops.convert_to_numpy(prefix(DATA.pixels.gather(slice(None)).astype("float32")))
    features = np.concatenate([features.astype("float64"), np.ones((24, 1))], axis=1)
    solution = np.linalg.lstsq(features, LOGIT * np.eye(3)[DATA.labels], rcond=1e-4)[0]
    model.get_layer("predictions").set_weights([solution[:-1], solution[-1]])
    return model


@functools.cache
def gradient(precision: str, unfreeze: Unfreeze) -> np.ndarray:
    """The gradient by all weights, 0 for frozen ones, from the first update of a stage; one vector."""
    model = confident(precision)
    before = model.get_weights()
    stage = Stage(1, RATE, unfreeze=unfreeze, optimizer="sgd")
    history = train(model, BACKBONE, replace(recipe(stage, monitor="last"), batch_size=24), DATA, examples(6, 6311))
    assert history.rows[0]["loss"] < 1e-5
    moved = [after - start for after, start in zip(model.get_weights(), before, strict=True)]
    return np.concatenate([one.ravel() for one in moved]) / -RATE


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", [pytest.param(2, marks=pytest.mark.slow), "all"])
@pytest.mark.parametrize(
    ("precision", "error"),
    [("mixed_float16", 0.01), pytest.param("mixed_bfloat16", 0.1, marks=pytest.mark.slow)],
)
def test_small_gradients_are_those_of_float32_whatever_is_frozen(
    precision: str, error: float, unfreeze: Unfreeze
) -> None:
    """error: relative; numbers in float16 and bfloat16 have 11 and 8 significant bits."""
    exact, found = gradient("float32", unfreeze), gradient(precision, unfreeze)
    assert np.linalg.norm(found - exact) < error * np.linalg.norm(exact)
    assert (found[exact != 0] != 0).mean() > 0.999, "gradients underflowed"


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


@pytest.mark.slow
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


def trained(monkeypatch: pytest.MonkeyPatch, scale: float, stage: Stage) -> tuple[keras.Model, Any, Any]:
    """A model trained in float16, with the loss scale that is tried first; its history; and its optimizer."""
    monkeypatch.setattr(optimizers, "LOSS_SCALE", scale)
    used: list[Any] = []
    original = fit.with_loss_scale
    monkeypatch.setattr(fit, "with_loss_scale", lambda *args: used.append(original(*args)) or used[-1])
    model = tiny(seed=2, precision="mixed_float16")
    history = train(model, BACKBONE, recipe(stage, monitor="last"), examples(16, 6312), examples(6, 6313))
    return model, history, used[-1]


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", [2, pytest.param("all", marks=pytest.mark.slow)])
def test_no_step_is_skipped_though_the_loss_scale_began_too_high(
    unfreeze: Unfreeze, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, history, optimizer = trained(monkeypatch, 2.0**24, Stage(2, 1e-3, unfreeze=unfreeze, warmup=1))
    assert int(optimizer.iterations) == 2 * 2  # epochs, batches
    assert 1 <= float(optimizer.dynamic_scale) < 2.0**24 / HEADROOM
    assert history.rows[0]["loss"] != history.rows[1]["loss"]


@pytest.mark.slow
def test_finding_the_loss_scale_changes_nothing_else() -> None:
    model = tiny(seed=2, precision="mixed_float16")
    batch = (DATA.pixels.gather(slice(None)), np.eye(3, dtype="float32")[DATA.labels])
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1, use_ema=True), initial_scale=2.0**24)
    model.compile(scaled, "categorical_crossentropy")
    scaled.build(model.trainable_variables)

    def state() -> list[np.ndarray]:
        values = [np.array(one) for one in scaled.variables if one is not scaled.dynamic_scale]
        return [*model.get_weights(), *values]

    before = state()
    find_loss_scale(model, batch)
    assert float(scaled.dynamic_scale) < 2.0**24
    for now, start in zip(state(), before, strict=True):
        np.testing.assert_array_equal(now, start)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_other_precisions_have_no_loss_scale(precision: str) -> None:
    model, optimizer = tiny(precision=precision), keras.optimizers.Adam()
    assert with_loss_scale(optimizer, model) is optimizer


@pytest.mark.slow
def test_an_average_of_weights_is_never_zero_where_all_steps_were_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "find_loss_scale", lambda model, batch: None)
    start = tiny(seed=2, precision="mixed_float16").get_weights()
    model, _, optimizer = trained(monkeypatch, 2.0**60, Stage(1, 1e-3, unfreeze=2, ema=0.99))
    assert int(optimizer.iterations) == 0
    for one, before in zip(model.get_weights(), start, strict=True):
        np.testing.assert_allclose(one, before, rtol=1e-6)


def test_an_average_of_weights_begins_at_the_weights_even_if_every_step_is_skipped() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, kernel_initializer="ones")])
    optimizer = keras.optimizers.LossScaleOptimizer(make_optimizer(Stage(1, 0.1, ema=0.9), 1, {}))
    optimizer.build(model.trainable_variables)
    gradients = [keras.ops.full(variable.shape, np.inf) for variable in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)
    averages = optimizer.inner_optimizer._model_variables_moving_average
    assert np.array_equal(model.get_weights()[0], np.ones((2, 3))), "the step was skipped"
    for average, variable in zip(averages, model.trainable_variables, strict=True):
        assert np.array_equal(np.array(average), np.array(variable))


@pytest.mark.slow
def test_the_rate_of_a_scaled_optimizer_can_be_followed_and_lowered() -> None:
    model = tiny(seed=2, precision="mixed_float16")
    stage = Stage(2, 1e-3, unfreeze=2, schedule="plateau", layer_decay=0.5)
    history = train(model, BACKBONE, recipe(stage, monitor="last"), examples(16, 6316), examples(6, 6317))
    assert history.rows[0]["learning_rate"] == pytest.approx(1e-3)


@pytest.mark.slow
def test_the_learning_rate_finder_scales_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    original = keras.Model.compile
    monkeypatch.setattr(
        keras.Model,
        "compile",
        lambda model, optimizer, *rest, **more: (
            compiled.append(optimizer),
            original(model, optimizer, *rest, **more),
        )[-1],
    )
    lr_find(tiny(seed=2, precision="mixed_float16"), BACKBONE, examples(16, 6318), unfreeze=2, sweep=Sweep(steps=10))
    assert isinstance(compiled[0], keras.optimizers.LossScaleOptimizer)


@pytest.mark.slow
def test_features_of_one_precision_are_not_taken_for_those_of_another() -> None:
    """A run trains in mixed precision and is evaluated in float32, on the same images."""
    data, keys = examples(6, 6319), set()
    for precision in ("float32", "mixed_float16", "mixed_bfloat16"):
        prefix, _ = cut(tiny(seed=2, precision=precision), BACKBONE, 0)
        assert prefix is not None
        found = extract_features(prefix, data)
        assert found is not None and found.computed == 6
        keys.add(prefix_key(prefix))
    assert len(keys) == 3


# -- the default ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ([], "float32"),
        ([(7, 5)], "mixed_float16"),
        ([(8, 0)], "mixed_bfloat16"),
        ([(12, 0)], "mixed_bfloat16"),
        ([(9, 0), (7, 0)], "mixed_float16"),
        ([None], "mixed_float16"),
        ([(6, 1)], "float32"),
    ],
)
def test_the_default_precision_is_bfloat16_on_gpus_that_compute_in_it(
    capabilities: list[tuple[int, int] | None], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    details = [{} if one is None else {"compute_capability": one} for one in capabilities]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: list(range(len(details))))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[gpu])
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    assert _precision("auto") == precision
    assert _precision("float32") == "float32"


@pytest.mark.parametrize(
    ("told", "precision"),
    [("8.6", "mixed_bfloat16"), ("10.0", "mixed_bfloat16"), ("7.0", "mixed_float16"), ("gfx90a", "mixed_float16")],
)
def test_on_jax_the_compute_capability_is_what_jax_tells(
    told: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [SimpleNamespace(platform="gpu", compute_capability=told), SimpleNamespace(platform="cpu")]
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(local_devices=lambda: devices))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert _precision("auto") == precision
