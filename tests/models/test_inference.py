"""A model with its weights as constants gives the predictions of the model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tests.tiny import predicted, tiny_file
from tlkit import build_classifier, cut, find_backbone
from tlkit.devices import while_memory_lasts
from tlkit.features.extract import all_cached, all_rows, extract_features
from tlkit.models import inference as module
from tlkit.models.inference import bfloat16_pays, frozen_call, inference_batch, multiplications

PICTURES = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype="uint8")


@pytest.fixture(params=["constants", "predict"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    if request.param == "predict":
        monkeypatch.setattr(module, "MOST_BYTES", 0)
    return build_classifier(tiny_file(), 3, image_size=32)


def test_it_answers_what_the_model_answers_in_whole_and_short_batches(model: keras.Model) -> None:
    call, expected = frozen_call(model, 4), predicted(model, PICTURES)
    assert np.allclose(call(PICTURES[:4])[0], expected[:4], atol=1e-6)
    (short,) = call(PICTURES[4:])
    assert short.shape == (3, 3) and np.allclose(short, expected[4:], atol=1e-6)


def test_dropout_and_batch_statistics_are_those_of_inference(model: keras.Model) -> None:
    before = [w.copy() for w in model.get_weights()]
    inputs = keras.Input((32, 32, 3))
    dropped = keras.Model(inputs, keras.layers.Dropout(0.9)(model(inputs, training=True)))
    first, again = (frozen_call(dropped, 7)(PICTURES)[0] for _ in range(2))
    assert np.array_equal(first, again) and np.allclose(first, predicted(model, PICTURES), atol=1e-6)
    assert all(np.array_equal(w, b) for w, b in zip(model.get_weights(), before, strict=True))


def test_several_inputs_and_outputs_pass_through(model: keras.Model) -> None:
    one, two = keras.Input((4,)), keras.Input((4,))
    both = keras.Model([one, two], [keras.layers.Add()([one, two]), keras.layers.Subtract()([one, two])])
    rows: list[Any] = [np.full((2, 4), 3, "float32"), np.ones((2, 4), "float32")]
    added, taken = frozen_call(both, 5)(rows)
    assert (added == 4).all() and (taken == 2).all() and added.shape == (2, 4)


def test_a_prefix_gives_its_boundary(model: keras.Model) -> None:
    prefix, suffix = cut(model, find_backbone(tiny_file()), 2)
    assert prefix is not None
    (boundary,) = frozen_call(prefix, 8)(PICTURES)
    assert np.allclose(frozen_call(suffix, 8)(boundary)[0], predicted(model, PICTURES), atol=1e-6)


def test_on_a_gpu_more_images_run_at_once_until_memory_ends(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0"])
    tried: list[int] = []

    def work(batch: int) -> str:
        tried.append(batch)
        if batch > 64:
            raise RuntimeError("Out of memory while trying to allocate 17179869184 bytes.")
        return "done"

    assert while_memory_lasts(work, inference_batch(32)) == "done"
    assert tried == [256, 128, 64] and said[-1] == "out of memory: going on with batches of 64"
    monkeypatch.undo()
    assert inference_batch(32) == 32
    with pytest.raises(MemoryError):
        while_memory_lasts(lambda batch: (_ for _ in ()).throw(MemoryError), 4)


def test_multiplications_are_those_of_the_kernels_at_every_place() -> None:
    inputs = keras.Input((8, 8, 3))
    convolved = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(convolved)))
    assert multiplications(model) == 8 * 8 * (3 * 3 * 3 * 4) + 4 * 5


def test_bfloat16_is_for_heavy_networks_in_float32_on_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_classifier(tiny_file(), 3, image_size=32)
    monkeypatch.setattr(module, "_processor_has_bfloat16", lambda: True)
    assert not bfloat16_pays(model)
    monkeypatch.setattr(module, "HEAVY", multiplications(model))
    assert bfloat16_pays(model)
    assert not bfloat16_pays(build_classifier(tiny_file(), 3, image_size=32, precision="mixed_bfloat16"))
    monkeypatch.setattr(module, "_processor_has_bfloat16", lambda: False)
    assert not bfloat16_pays(model)


@pytest.mark.slow
def test_bfloat16_changes_the_answers_a_little_and_those_after_it_not_at_all() -> None:
    model = build_classifier("mobilenet_0.25", 3, image_size=64, weights="none", seed=3)
    features = keras.Model(model.input, model.layers[-2].output)
    images = np.random.default_rng(1).integers(0, 256, (8, 64, 64, 3), dtype="uint8")
    exact, rounded = frozen_call(features, 8), frozen_call(features, 8, bfloat16=True)
    (before,), (fast,), (after,) = exact(images), rounded(images), exact(images)
    assert np.array_equal(before, after) and fast.dtype == np.float32
    assert np.abs(fast - before).max() <= 0.05 * np.abs(before).max()
    if module._processor_has_bfloat16():
        assert not np.array_equal(fast, before), "nothing was computed in bfloat16"


def test_features_in_bfloat16_have_a_cache_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.training.test_training import BACKBONE, examples
    from tests.training.test_training import tiny as tiny_model

    monkeypatch.setattr("tlkit.features.extract.bfloat16_pays", lambda prefix: True)
    (prefix, _), pool = cut(tiny_model(seed=51), BACKBONE, 0), examples(10, 5100)
    assert prefix is not None
    fast = extract_features(prefix, pool, fast=True)
    assert fast is not None and fast.computed == 10 and all_cached(prefix, pool, fast=True)
    assert not all_cached(prefix, pool)
    exact = extract_features(prefix, pool)
    assert exact is not None and exact.computed == 10
    assert np.allclose(all_rows(fast), all_rows(exact), rtol=0.05, atol=0.05)
