"""The sources of a stage's inputs, and the order in which learning rates are tried, without training."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tlkit import Examples
from tlkit.cache import in_memory
from tlkit.features.extract import Features
from tlkit.training.inputs import Source
from tlkit.training.learning_rate import DIVERGED, Sweep, _LossRecorder


@pytest.fixture
def images() -> Examples:
    pixels = np.arange(5, dtype="uint8").repeat(48).reshape(5, 4, 4, 3)
    return Examples(in_memory(pixels), np.arange(5) % 3, [f"{i:064x}" for i in range(5)], made_by="drawn")


def brighter(inputs: list[np.ndarray], indices: np.ndarray, epoch: int) -> list[np.ndarray]:
    return [one + 10 * (epoch + 1) for one in inputs]


def test_pixels_are_augmented_and_nothing_else(images: Examples) -> None:
    source = Source(images)
    assert source.count == 5 and source.labels.tolist() == [0, 1, 2, 0, 1]
    assert source.views == [[images.pixels]]
    assert source.transform(None, 2) is None and source.transform(brighter, 2) is brighter


def test_cached_features_are_taken_as_they_are_as_far_as_time_allowed(images: Examples) -> None:
    views = [[in_memory(np.zeros((3, 7)))], [in_memory(np.ones((3, 7)))]]
    source = Source(images, features=Features(views, count=3, computed=6))
    assert source.count == 3 and source.labels.tolist() == [0, 1, 2] and source.views is views
    assert source.transform(brighter, 2) is None


def test_frozen_layers_that_are_not_cached_run_behind_the_augmentation(images: Examples) -> None:
    inputs = keras.Input((4, 4, 3))
    prefix = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    source = Source(images, streamed=prefix)
    assert source.count == 5 and source.views == [[images.pixels]]
    rows = [images.pixels.gather(np.array([1, 4])).astype("float32")]
    for augment, expected in ((None, [1, 4]), (brighter, [21, 24])):
        transform = source.transform(augment, 2)
        assert transform is not None
        (found,) = transform(rows, np.array([1, 4]), 1)
        np.testing.assert_allclose(found, np.repeat(expected, 3).reshape(2, 3))


def test_a_sweep_rises_by_one_factor_and_the_optimizer_takes_the_same_rates() -> None:
    sweep = Sweep(1e-4, 1.0, steps=5)
    assert sweep.rates(5).tolist() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert [float(sweep.schedule()(step)) for step in range(5)] == pytest.approx(sweep.rates(5).tolist(), rel=1e-4)


def test_the_loss_of_each_batch_is_found_from_the_mean_and_a_diverged_search_ends() -> None:
    watch = _LossRecorder(steps=100)
    watch.set_model(keras.Sequential([keras.Input((1,))]))
    watch.model.stop_training = False
    losses = [2.0, 2.0, 2.0, 2.0]
    for batch in range(4):
        watch.on_train_batch_end(batch, {"loss": np.mean(losses[: batch + 1])})
    assert watch.losses == pytest.approx(losses) and not watch.model.stop_training
    watch.on_train_batch_end(4, {"loss": np.mean([*losses, 1e3])})
    assert watch.losses[-1] > DIVERGED * 2.0 and watch.model.stop_training
