"""Adapting BatchNormalization statistics to new images."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tlkit.errors import SpecError
from tlkit.models.adapt import adapt_statistics, reference_moments, statistics_of


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = x = keras.Input((8, 8, 3))
    for i, filters in enumerate((4, 6)):
        x = keras.layers.Conv2D(filters, 3, name=f"conv_{i}")(x)
        normal = keras.layers.BatchNormalization(name=f"bn_{i}", epsilon=1e-6)
        x = keras.layers.Activation("relu")(normal(x))
        normal.moving_mean.assign(np.linspace(-20, 20, filters))  # not those of the images, as in a pretrained network
        normal.moving_variance.assign(np.linspace(500, 900, filters))
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))


def images(seed: int, n: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (n, 8, 8, 3)).astype("float32")


def test_brightness_and_contrast_are_undone_and_equal_images_change_nothing() -> None:
    model, x = network(), images(0)
    before, wanted = model.get_weights(), np.asarray(model(x))
    reference = reference_moments(model, x)
    (made,) = adapt_statistics(model, reference, x, source=0)
    np.testing.assert_allclose(made, np.asarray(model(x)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.asarray(model(x)), wanted, rtol=1e-3, atol=1e-3)
    model.set_weights(before)
    darker = 0.3 * x + 20
    assert np.abs(np.asarray(model(darker)) - wanted).max() > 0.05
    adapt_statistics(model, reference, darker, source=0)
    np.testing.assert_allclose(np.asarray(model(darker)), wanted, rtol=1e-2, atol=1e-2)


def test_few_images_count_for_less_and_only_the_statistics_change() -> None:
    model, x = network(), images(0)
    reference, before = reference_moments(model, x), {name: mean for name, mean, _ in statistics_of(model)}
    kernels = [np.array(one) for one in model.trainable_variables]

    def moved(n: int) -> float:
        other = keras.models.clone_model(model)
        other.set_weights(model.get_weights())
        adapt_statistics(other, reference, 0.5 * x[:n])
        assert all((np.array(a) == b).all() for a, b in zip(other.trainable_variables, kernels, strict=True))
        after = {name: mean for name, mean, _ in statistics_of(other)}
        return float(np.abs(after["bn_0"] - before["bn_0"]).mean())

    assert 0 < moved(4) < moved(32)


def test_a_network_without_batch_normalization_is_refused() -> None:
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Flatten()(image), name="plain")
    with pytest.raises(SpecError, match="'plain' has no BatchNormalization"):
        adapt_statistics(model, {}, images(0))
