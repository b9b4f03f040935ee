"""DropConnect: what is dropped, when, and what becomes of it when a model is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from tests.tiny import predicted
from tests.training.test_training import BACKBONE, examples, recipe, tiny, weights_by_path
from tlkit import Head, Recipe, Stage
from tlkit.errors import SpecError
from tlkit.finetuning.build import as_saved
from tlkit.models.classifier import as_float32, with_head
from tlkit.models.drop_connect import DropConnect
from tlkit.models.files import open_model, save_model
from tlkit.plan.recipe import recipe_from_dict, to_dict
from tlkit.training.train import train

HEAD = Head(hidden=(6,), drop_connect=0.4)


def layer(**settings: Any) -> DropConnect:
    keras.utils.set_random_seed(3)
    return DropConnect(50, rate=0.4, use_bias=False, kernel_initializer="ones", **settings)


def test_single_weights_are_dropped_in_training_and_none_in_inference() -> None:
    one, eye = layer(), np.eye(40, dtype="float32")  # so that the outputs are the weights
    dropped = np.asarray(one(eye, training=True))
    assert set(np.round(np.unique(dropped), 4)) == {0.0, np.float32(1.6667)}
    assert 0.35 < (dropped == 0).mean() < 0.45
    assert (dropped == 0).any(axis=0).all() and (dropped == 0).any(axis=1).all(), "neither whole inputs nor whole units"
    assert not np.array_equal(dropped, one(eye, training=True)), "each step has a mask of its own"
    assert np.array_equal(one(eye, training=False), np.ones((40, 50)))


def test_masks_follow_from_the_seed() -> None:
    eye = np.eye(40, dtype="float32")
    first, again, other = (np.asarray(one(eye, training=True)) for one in (layer(), layer(), layer(seed=9)))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.slow
def test_training_drops_weights_and_repeats_itself() -> None:
    found = []
    for head in (HEAD, HEAD, replace(HEAD, drop_connect=0.0)):
        model = tiny(head=head, seed=2)
        train(model, BACKBONE, recipe(Stage(1, 1e-2), head=head, monitor="last"), examples(16, 1), examples(6, 2))
        found.append(weights_by_path(model))
    dropping, again, plain = found
    assert all(np.array_equal(dropping[name], again[name]) for name in dropping)
    assert not np.array_equal(dropping["predictions/kernel"], plain["predictions/kernel"])


def test_a_model_with_the_layer_is_saved_copied_and_given_another_head(tmp_path: Path) -> None:
    model, images = tiny(head=HEAD, seed=2, precision="mixed_bfloat16"), examples(4).pixels.gather(slice(None))
    assert [type(one).__name__ for one in model.layers if one.name in ("head_dense_1", "predictions")] == [
        "DropConnect"
    ] * 2
    assert model.output.dtype == model.get_layer("predictions").compute_dtype == "float32"
    whole = as_float32(model, BACKBONE, HEAD)
    save_model(whole, tmp_path / "model.keras")
    read = open_model(tmp_path / "model.keras")
    assert read.get_layer("predictions").rate == 0.4
    assert np.array_equal(predicted(read, images), predicted(whole, images))
    kernel, bias = whole.get_layer("predictions").get_weights()
    other = with_head(whole, -kernel, -bias)
    assert isinstance(other.layers[-1], DropConnect)
    np.testing.assert_allclose(
        np.log(predicted(other, images)) + np.log(predicted(whole, images)),
        np.log(predicted(other, images)[:, :1]) + np.log(predicted(whole, images)[:, :1]) * np.ones((1, 3)),
        atol=1e-4,
    )


def test_the_model_of_a_finished_run_has_dense_layers_so_that_it_loads_without_tlkit() -> None:
    model, images = tiny(head=HEAD, seed=2), examples(4).pixels.gather(slice(None))
    plan: Any = SimpleNamespace(recipe=recipe(Stage(1, 1e-2), head=HEAD), precision="float32")
    saved = as_saved(model, BACKBONE, plan)
    assert type(saved.get_layer("predictions")) is type(saved.get_layer("head_dense_1")) is keras.layers.Dense
    assert np.array_equal(predicted(saved, images), predicted(model, images))


def test_a_head_that_is_solved_drops_nothing_and_a_rate_has_a_range() -> None:
    with pytest.raises(SpecError, match="solves its head"):
        Recipe("x", stages=(Stage(1, 1e-3, solver="logistic"),), head=Head(drop_connect=0.5))
    with pytest.raises(SpecError, match=r"Head\.drop_connect is 1"):
        Head(drop_connect=1.0)
    with pytest.raises(ValueError, match="rate is 1"):
        DropConnect(2, rate=1)
    plan = recipe(Stage(1, 1e-2), head=HEAD)
    assert recipe_from_dict(to_dict(plan)) == plan
