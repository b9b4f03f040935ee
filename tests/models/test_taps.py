"""Heads that read several blocks: the same network and cache, without the blocks that no head reads."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tests.tiny import predicted
from tests.training.test_training import BACKBONE, examples, recipe, tiny, weights_by_path
from tlkit import Head, Stage, blocks, build_classifier, cut, find_backbone, set_trainable
from tlkit.errors import SpecError
from tlkit.features.extract import extract_features
from tlkit.models.blocks import tap_numbers
from tlkit.models.head import tapped_blocks
from tlkit.training.train import train


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype("float32")


def test_all_blocks_are_pooled_bottom_first() -> None:
    model = tiny(head=Head(taps="all"))
    prefix, suffix = cut(model, BACKBONE, 0)
    assert prefix is not None and [o.shape[1] for o in prefix.outputs] == [8, 16, 24, 32]
    assert tap_numbers(model) == [1, 2, 3, 4] and suffix.count_params() == (80 + 1) * 3
    x = pixels()
    inner = predicted(keras.Model(model.input, model.get_layer("relu_16").output), x)
    found = predicted(prefix, x)
    np.testing.assert_allclose(found[1], inner.mean((1, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("taps", ["all", (1, 3), pytest.param((2, 4), marks=pytest.mark.slow)])
@pytest.mark.parametrize("unfreeze", [0, 1, 2])
def test_prefix_and_suffix_of_a_tapping_model_are_the_model(taps: Any, unfreeze: int) -> None:
    model = tiny(head=Head(taps=taps))
    prefix, suffix = cut(model, BACKBONE, unfreeze)
    assert prefix is not None
    x = pixels()
    np.testing.assert_allclose(predicted(suffix, predicted(prefix, x)), predicted(model, x), rtol=1e-4, atol=1e-5)
    assert sum(len(o.shape) == 4 for o in prefix.outputs) == (unfreeze > 0), (
        "only the input of the upper blocks is a feature map"
    )


def test_blocks_above_the_highest_tap_are_left_out() -> None:
    whole, low = tiny(), tiny(head=Head(taps=(2,)))
    assert len(blocks(low, BACKBONE)) == 2 and len(blocks(whole, BACKBONE)) == 4
    assert low.count_params() < whole.count_params() / 2
    assert not [layer for layer in low.layers if layer.name.endswith("_24") or layer.name.endswith("_32")]
    assert set_trainable(low, BACKBONE, unfreeze=3) == set_trainable(low, BACKBONE, unfreeze="all")


def test_every_weight_of_a_tapping_model_is_in_a_block_or_the_head() -> None:
    model = tiny(head=Head(taps="all"))
    inside = {id(w) for block in blocks(model, BACKBONE) for layer in block.layers for w in layer.weights}
    outside = [w.path for w in model.weights if id(w) not in inside]
    assert all(path.startswith("predictions") for path in outside)


@pytest.mark.slow
def test_what_one_head_computed_another_finds() -> None:
    data = examples(9, 400)

    def computed(taps: Any) -> int:
        prefix, _ = cut(tiny(head=Head(taps=taps)), BACKBONE, 0)
        assert prefix is not None
        found = extract_features(prefix, data)
        assert found is not None
        return found.computed

    assert [computed(taps) for taps in ((1, 4), (), (1,), "all", (2, 3), (3,))] == [9, 0, 0, 9, 0, 0]


@pytest.mark.slow
def test_cached_outputs_are_those_of_the_prefix_whatever_was_there_before() -> None:
    data = examples(6, 401)
    for taps in ((2,), "all"):
        prefix, _ = cut(tiny(head=Head(taps=taps)), BACKBONE, 0)
        assert prefix is not None
        found = extract_features(prefix, data)
        assert found is not None
        expected = predicted(prefix, data.pixels.gather(slice(None)))
        expected = expected if isinstance(expected, list) else [expected]
        for source, values in zip(found.views[0], expected, strict=True):
            np.testing.assert_allclose(source.gather(slice(None)), values, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_tapping_head_is_solved_and_tuned() -> None:
    model = tiny(head=Head(taps="all"), seed=3)
    before = weights_by_path(model)
    stages = (Stage(1, 1e-3, solver="logistic"), Stage(2, 1e-3, unfreeze=1, batch_norm="frozen"))
    history = train(model, BACKBONE, recipe(*stages, monitor="last"), examples(24, 402), examples(12, 403))
    moved = {p.split("/")[0] for p, v in weights_by_path(model).items() if not np.array_equal(v, before[p])}
    assert moved == {"predictions", "conv_32"} and [row["stage"] for row in history.rows] == [1, 2, 2]
    assert history.rows[0]["val_accuracy"] > 0.9


@pytest.mark.slow
def test_the_last_epoch_is_kept_when_asked_whatever_validation_says() -> None:
    data, validation = examples(24, 404), examples(12, 405)
    wild = Stage(3, 3.0, optimizer="sgd")
    for monitor, kept in (("last", False), ("val_loss", True)):
        model = tiny(seed=3)
        stages = (Stage(1, 1e-3, solver="logistic"), wild)
        history = train(model, BACKBONE, recipe(*stages, monitor=monitor), data, validation)
        solved = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
        other = tiny(seed=3)
        train(other, BACKBONE, recipe(stages[0]), data, validation)
        same = np.array_equal(solved, keras.ops.convert_to_numpy(other.get_layer("predictions").kernel))
        assert same == (kept and not any(row["best"] for row in history.rows[1:]))


def test_taps_that_are_not_there_are_refused() -> None:
    with pytest.raises(SpecError, match=r"names block 9, but .* has 4 blocks"):
        tapped_blocks(Head(taps=(9,)), BACKBONE)
    with pytest.raises(SpecError, match="Expected 'all'"):
        Head(taps="some")
    with pytest.raises(SpecError, match=r"Head\.taps is 0"):
        Head(taps=(0,))
    with pytest.raises(SpecError, match="millions"):
        Head(taps="all", pooling="flatten")


@pytest.mark.parametrize("name", ["nano", "vgg16", "nasnetmobile", "convnexttiny"])
@pytest.mark.slow
def test_real_networks_are_tapped(name: str) -> None:
    backbone = find_backbone(name)
    size = max(backbone.smallest, 64)
    plain = build_classifier(backbone, 3, image_size=size, weights="none")
    model = build_classifier(backbone, 3, image_size=size, weights="none", head=Head(taps="all", pooling="avg+max"))
    assert len(blocks(model, backbone)) == len(blocks(plain, backbone)) == backbone.blocks
    assert sorted(set(tap_numbers(model))) == list(range(1, backbone.blocks + 1))
    x = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype("float32")
    prefix, suffix = cut(model, backbone, 1)
    assert prefix is not None
    np.testing.assert_allclose(predicted(suffix, predicted(prefix, x)), predicted(model, x), rtol=1e-3, atol=1e-4)
