"""The networks of the lectures that have no public weights: their sizes as in their papers, and what is particular."""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.tiny import predicted
from tlkit.backbones import BACKBONES
from tlkit.backbones.families import (
    alexnet,
    fractional_pooling,
    googlenet,
    lenet,
    maxout,
    nin,
    spatial_transformer,
    stochastic_depth,
)
from tlkit.backbones.families.layers import drop_path, local_response_normalisation
from tlkit.backbones.registered import AffineSampler, FractionalMaxPooling2D
from tlkit.errors import WeightsError
from tlkit.models.blocks import blocks, set_trainable
from tlkit.models.classifier import build_classifier
from tlkit.models.files import open_model
from tlkit.plan.recipe import Head

FAMILIES = (alexnet, fractional_pooling, googlenet, lenet, maxout, nin, spatial_transformer, stochastic_depth)
NAMES = [row.name for family in FAMILIES for row in family.ROWS]
LARGE = ("alexnet", "zfnet", "nin_imagenet", "googlenet", "stochastic_depth_20", "stochastic_depth_110")
OF_CLASSES = 2  # the last layer of a classifier in these tests


def network(name: str, size: int | None = None) -> keras.Model:
    keras.backend.clear_session()
    return keras.Model(*BACKBONES[name].build(size or BACKBONES[name].size))


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


@pytest.mark.parametrize(
    ("name", "top", "classes", "parameters"),
    [
        ("lenet5", lenet.lenet5_top, 10, 60_806),  # Table I of the paper
        pytest.param("alexnet", alexnet.alexnet_top, 1000, 60_965_224, marks=pytest.mark.slow),
        pytest.param("zfnet", alexnet.alexnet_top, 1000, 62_357_608, marks=pytest.mark.slow),
        ("nin", nin.nin_top, 10, 966_986),
        pytest.param("nin_imagenet", nin.nin_top, 1000, 7_595_176, marks=pytest.mark.slow),
        pytest.param("googlenet", googlenet.googlenet_top, 1000, 6_998_552, marks=pytest.mark.slow),
        ("maxout", maxout.maxout_top, 10, 4_240_320 + (5 * 5 * 192 + 1) * 2500 + 5010),
        ("fractional_pooling", fractional_pooling.fractional_pooling_top, 10, 287_776 + 172_256 + 57_600 + 2_570),
    ],
)
def test_with_its_own_top_a_network_has_the_parameters_of_its_paper(
    name: str, top: Callable[[Any, int], Any], classes: int, parameters: int
) -> None:
    below = network(name)
    features = keras.Input(below.output_shape[1:])
    above = keras.Model(features, top(features, classes))  # apart, so that no large weights are made twice
    assert below.count_params() == BACKBONES[name].parameters
    assert below.count_params() + above.count_params() == parameters
    assert above.output_shape == (None, classes)


def test_lenet5_has_the_parameters_of_each_layer_of_its_paper() -> None:
    model = build_classifier("lenet5", 10, weights="none")  # with the head that its row brings
    counts = {layer.name: layer.count_params() for layer in model.layers if layer.weights}
    assert sum(count for name, count in counts.items() if name.startswith("c3_")) == 1_516
    rest = [count for name, count in counts.items() if not name.startswith("c3_")]
    assert rest == [156, 48_120, 10_164, 850] and model.count_params() == 60_806
    assert model.get_layer("c1").output.shape == (None, 28, 28, 6) and model.input_shape == (None, 32, 32, 3)


def test_each_map_of_c3_reads_the_maps_of_s2_that_the_papers_table_says() -> None:
    model = network("lenet5")
    s2, c3 = model.get_layer("s2").output, model.get_layer("c3").output
    part = keras.Model(s2, c3)
    plain = np.random.default_rng(0).normal(size=(1, 14, 14, 6)).astype("float32")
    before, table = predicted(part, plain), np.zeros((6, 16), bool)
    for one in range(6):
        changed = plain.copy()
        changed[..., one] += 1
        table[one] = np.abs(predicted(part, changed) - before).max(axis=(0, 1, 2)) > 1e-6
    crosses = [
        "X   XXX  XXXX XX",
        "XX   XXX  XXXX X",
        "XXX   XXX  X XXX",
        " XXX  XXXX  X XX",
        "  XXX  XXXX XX X",
        "   XXX  XXXX XXX",
    ]
    assert ["".join("X" if mark else " " for mark in row) for row in table] == crosses


def test_lenet5_sees_greys_only() -> None:
    model, image = network("lenet5"), pixels(1, 32, 32, 3)
    grey = np.repeat(image @ np.array([[0.2989], [0.587], [0.114]], "float32"), 3, axis=-1)
    assert np.allclose(predicted(model, image), predicted(model, grey), atol=1e-3)


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow) if one in LARGE else one for one in NAMES])
def test_blocks_cover_every_row_and_no_layer_is_in_two(name: str) -> None:
    backbone = BACKBONES[name]
    keras.backend.clear_session()
    model = build_classifier(backbone, OF_CLASSES, head=Head(), image_size=backbone.smallest, weights="none")
    parts = blocks(model, backbone)
    covered = [layer for block in parts for layer in block.layers]
    assert len({id(layer) for layer in covered}) == len(covered)
    assert sum(layer.count_params() for layer in covered if layer.weights) == backbone.parameters
    counts = [set_trainable(model, backbone, unfreeze=count) for count in range(len(parts) + 1)]
    assert counts == sorted(set(counts)) and len(parts) == backbone.blocks


@pytest.mark.parametrize("name", NAMES)
def test_a_row_says_that_it_has_no_weights_and_when_it_was_published(name: str) -> None:
    assert 1998 <= BACKBONES[name].year <= 2016
    with pytest.raises(WeightsError, match=r"has no pretrained weights.*`weights=none` trains from random weights"):
        build_classifier(name, OF_CLASSES)


def test_a_row_brings_its_papers_head_unless_another_is_given() -> None:
    own = build_classifier("lenet5", OF_CLASSES, weights="none")
    assert [layer.units for layer in own.layers if isinstance(layer, keras.layers.Dense)] == [120, 84, OF_CLASSES]
    assert own.get_layer("head_tanh_2").activation is keras.activations.tanh
    given = build_classifier("lenet5", OF_CLASSES, weights="none", head=Head())
    assert [layer.units for layer in given.layers if isinstance(layer, keras.layers.Dense)] == [OF_CLASSES]


def test_local_response_normalisation_is_the_papers_formula() -> None:
    inputs = keras.Input((2, 2, 7))
    model = keras.Model(inputs, local_response_normalisation(inputs))
    values = np.random.default_rng(0).normal(0, 100, (3, 2, 2, 7)).astype("float32")
    expected = np.empty_like(values)
    for i in range(7):
        total = (values[..., max(0, i - 2) : min(6, i + 2) + 1] ** 2).sum(axis=-1)
        expected[..., i] = values[..., i] / (2 + 1e-4 * total) ** 0.75
    assert np.allclose(predicted(model, values), expected, rtol=1e-5)


def test_each_stream_of_alexnet_reads_half_of_the_channels() -> None:
    model = network("alexnet", 67)
    first, second = (model.get_layer(f"conv2_{side}") for side in "ab")
    for layer, half in ((first, slice(0, 48)), (second, slice(48, 96))):
        part = keras.Model(model.get_layer("pool1").output, layer.output)
        plain = np.random.default_rng(0).normal(size=(1, *part.input_shape[1:])).astype("float32")
        changed, untouched = plain.copy(), plain.copy()
        changed[..., half] += 1
        untouched[..., [c for c in range(96) if not half.start <= c < half.stop]] += 1
        assert np.array_equal(predicted(part, plain), predicted(part, untouched))
        assert not np.allclose(predicted(part, plain), predicted(part, changed))


def test_drop_path_drops_whole_branches_of_single_images_and_keeps_their_mean() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2, 2, 3))
    model = keras.Model(inputs, drop_path(inputs, 0.25, "drop"))
    ones = np.ones((4000, 2, 2, 3), "float32")
    dropped = np.asarray(model(ones, training=True)).reshape(4000, -1)
    assert set(np.unique(dropped.round(4))) == {0.0, np.float32(1.3333)}
    assert (dropped == dropped[:, :1]).all() and abs(dropped.mean() - 1) < 0.04
    assert np.array_equal(predicted(model, ones), ones)
    assert drop_path(inputs, 0.0, "none") is inputs


def test_the_chance_of_survival_falls_linearly_to_a_half() -> None:
    model = network("stochastic_depth_20", 16)
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert np.allclose(rates, np.arange(1, 10) / 9 * 0.5)


def test_a_maxout_unit_is_the_larger_of_two_filters() -> None:
    model = network("maxout", 16)
    raw = keras.Model(model.input, model.get_layer("conv1").output)
    pooled = keras.Model(model.get_layer("conv1").output, model.get_layer("pool1").output)
    values = predicted(raw, pixels(1, 16, 16, 3))
    filters = values.reshape(*values.shape[:3], 96, 2).max(axis=-1)
    expected = np.asarray(model.get_layer("pool1")(filters))
    assert np.allclose(predicted(pooled, values), expected)


# -- the registered layers --------------------------------------------------------------------------------


IDENTITY = np.array([[1.0, 0, 0, 0, 1, 0]])


def sampled(images: np.ndarray, theta: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    layer = AffineSampler(*(size or images.shape[1:3]), dtype="float64")
    return np.asarray(layer([images, np.repeat(theta, len(images), axis=0)]))


def test_the_sampler_leaves_an_image_under_the_identity_and_turns_and_shifts_it() -> None:
    images = np.random.default_rng(0).normal(size=(2, 5, 5, 3))
    assert np.allclose(sampled(images, IDENTITY), images)
    quarter = np.array([[0.0, 1, 0, -1, 0, 0]])  # reads at (y, -x)
    assert np.allclose(sampled(images, quarter), np.rot90(images, -1, axes=(1, 2)))
    shift = np.array([[1.0, 0, 0.5, 0, 1, 0]])  # half of the way to the edge is one of two steps of pixels
    assert np.allclose(sampled(images, shift)[:, :, :4], images[:, :, 1:])
    assert not sampled(images, shift)[:, :, 4].any()  # nothing outside
    half = np.array([[1.0, 0, 0.25, 0, 1, 0]])
    assert np.allclose(sampled(images, half)[:, :, :4], (images[:, :, :4] + images[:, :, 1:]) / 2)
    wide = sampled(images, IDENTITY, (5, 9))
    assert wide.shape == (2, 5, 9, 3) and np.allclose(wide[:, :, ::2], images)


def regions_of(layer: FractionalMaxPooling2D, length: int, training: bool) -> list[tuple[int, ...]]:
    """Which pixels of a row each region covers. Image i of the batch is 1 at pixel i, and so is what covers it."""
    images = np.eye(length, dtype="float32")[:, None, :, None].repeat(2, axis=1)
    covers = np.asarray(layer(images, training=training))[:, 0, :, 0]
    return [tuple(np.flatnonzero(column)) for column in covers.T]


@pytest.mark.parametrize("length", [10, 17, 36])
def test_fractional_regions_overlap_by_a_pixel_cover_all_and_are_random_in_training_only(length: int) -> None:
    seen = set()
    for seed in range(6):
        layer = FractionalMaxPooling2D(2**0.5, seed=seed)
        regions = regions_of(layer, length, training=True)
        assert len(regions) == round(length / 2**0.5) and {len(region) for region in regions} <= {2, 3}
        assert regions[0][0] == 0 and regions[-1][-1] == length - 1
        assert all(low[-1] == high[0] for low, high in itertools.pairwise(regions))
        seen.add(tuple(regions))
    assert len(seen) > 1
    fixed = {tuple(regions_of(FractionalMaxPooling2D(2**0.5, seed=seed), length, training=False)) for seed in range(3)}
    assert len(fixed) == 1


def test_fractional_pooling_refuses_a_ratio_that_would_leave_pixels_out() -> None:
    with pytest.raises(ValueError, match=r"ratio is 2\.5\. Expected 1 to 2"):
        FractionalMaxPooling2D(2.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "registered"),
    [
        ("spatial_transformer", True),
        pytest.param("fractional_pooling", True, marks=pytest.mark.slow),
        ("lenet5", False),
        pytest.param("nin", False, marks=pytest.mark.slow),
    ],
)
def test_a_file_is_read_again_and_holds_layers_of_ours_only_where_they_are_needed(
    name: str, registered: bool, tmp_path: Path
) -> None:
    keras.backend.clear_session()
    model = build_classifier(name, OF_CLASSES, weights="none", head=Head())
    if name == "spatial_transformer":  # away from the identity
        model.get_layer("theta").set_weights([np.full((50, 6), 0.01), np.full(6, 0.1)])
    model.save(tmp_path / "model.keras")
    images = pixels(2, *model.input_shape[1:])
    assert np.allclose(predicted(open_model(tmp_path / "model.keras"), images), predicted(model, images), atol=1e-6)
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert ('"tlkit>' in json.dumps(json.loads(file.read("config.json")))) == registered
