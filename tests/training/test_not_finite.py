"""Numbers that are NaN or infinite are found where they arise, named, and never trained on."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_file
from tests.training.test_training import examples
from tlkit.backbones import find_backbone
from tlkit.backbones.finite import check_array
from tlkit.backbones.weights import load_backbone_weights
from tlkit.data.convert import Unreadable, convert
from tlkit.errors import TrainingError, WeightsError
from tlkit.features.extract import extract_features
from tlkit.features.linear import choose_strength, solve
from tlkit.models.files import open_model
from tlkit.training.callbacks import StopOnNaN

NAMED = "hold numbers that are not finite: 1 of .* in '.*/kernel' .NaN or infinite.. Expected trained weights"


def spoil(model: keras.Model, value: float = np.nan) -> keras.Model:
    """Make one number of a network's first kernel NaN or infinite."""
    kernel = next(one for one in model.weights if one.path.endswith("kernel"))
    values = np.array(kernel)
    values.flat[5] = value
    kernel.assign(values)
    return model


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_in_a_keras_file_is_named_with_its_layer(value: float, tmp_path: Path) -> None:
    file = tmp_path / "own.keras"
    spoil(keras.saving.load_model(tiny_file()), value).save(file)
    with pytest.raises(WeightsError, match=NAMED):
        find_backbone(str(file))
    with pytest.raises(WeightsError, match=NAMED):
        open_model(file)


@pytest.mark.parametrize("suffix", [".weights.h5", ".npz"])
@pytest.mark.slow
def test_one_number_in_a_weights_file_is_named_with_its_layer(suffix: str, tmp_path: Path) -> None:
    nano, file = find_backbone("nano"), tmp_path / f"mine{suffix}"
    network = nano.builder(64)
    network = keras.Model(*network) if isinstance(network, tuple) else network
    spoil(network)
    if suffix == ".npz":
        np.savez(file, **{one.path: np.array(one) for one in network.variables})
    else:
        network.save_weights(file)
    with pytest.raises(WeightsError, match=f"The weights in '.*{suffix}' {NAMED}"):
        load_backbone_weights(nano, network, file)


def test_one_number_in_a_legacy_h5_file_is_named(tmp_path: Path) -> None:
    row, file = find_backbone("mobilenet_0.25"), tmp_path / "legacy.h5"
    network = row.builder(32)
    network = keras.Model(*network) if isinstance(network, tuple) else network
    network.save(file)
    with h5py.File(file, "r+") as opened:
        kernels: list[h5py.Dataset] = []
        opened["model_weights"].visititems(
            lambda _, one: kernels.append(one) if isinstance(one, h5py.Dataset) else None
        )
        kernels[0][...] = np.inf
    with pytest.raises(WeightsError, match="not finite"):
        load_backbone_weights(row, network, file)


def test_one_number_of_a_pytorch_or_safetensors_file_is_named() -> None:
    with pytest.raises(WeightsError, match=r"The weights in 'a' hold .* 1 of 3 in 'conv.weight'"):
        check_array(np.array([1, np.nan, 2], "float16"), "conv.weight", "The weights in 'a'")
    check_array(np.array([1, 2]), "counter", "The weights in 'a'")


def test_features_that_are_not_finite_are_neither_cached_nor_returned() -> None:
    prefix = spoil(keras.saving.load_model(tiny_file()))
    some = examples(4)
    for _ in range(2):  # nothing was stored the first time
        with pytest.raises(TrainingError, match=r"not finite for 4 images of 4, such as that of SHA-256 .*float32"):
            extract_features(prefix, some)


def test_a_head_is_not_solved_on_a_row_that_is_not_finite() -> None:
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(30, 8)).astype("float32"), np.arange(30) % 3
    rows[17, 3] = np.nan
    for call in (
        lambda: solve(rows, labels, 3, strength=1.0),
        lambda: choose_strength(rows, labels, np.arange(30) % 2, 3),
    ):
        with pytest.raises(TrainingError, match="features of 1 of 30 images are NaN or infinite, the first in row 17"):
            call()


def test_a_loss_scale_that_falls_without_end_is_an_error() -> None:
    stop = StopOnNaN(2, 0.5)
    for scale, raises in ((2.0**15, False), (1.0, False), (2.0**-12, True)):
        stop.set_model(SimpleNamespace(optimizer=SimpleNamespace(dynamic_scale=scale)))
        if raises:
            with pytest.raises(TrainingError, match=r"NaN or infinite in stage 2, even at a loss scale of 0.000244"):
                stop.on_epoch_end(0)
        else:
            stop.on_epoch_end(0)


def test_a_file_of_float_pixels_is_never_decoded() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20), np.nan, "float32")).save(buffer, "TIFF")
    with pytest.raises(Unreadable, match="floating-point numbers"):
        convert(buffer.getvalue())
