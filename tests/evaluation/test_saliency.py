"""Class activation maps, occlusion, masking, and robustness: on networks whose evidence is known, and on real ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.tiny import predicted, tiny_file
from tlkit import (
    ClassActivationMaps,
    Head,
    Recipe,
    SpecError,
    Stage,
    build_classifier,
    find_backbone,
    finetune,
    occlusion_maps,
    robustness,
)
from tlkit.data.corruptions import CORRUPTIONS
from tlkit.drawing import draw_rows
from tlkit.errors import NameUnknown
from tlkit.evaluation.feature_visualization import first_filters, most_typical
from tlkit.evaluation.reliance import Reliance, mean_interval, reliance, without
from tlkit.evaluation.robustness import MEASURED, STEPS, gradient_signs
from tlkit.evaluation.saliency import enlarged, overlay
from tlkit.models.blocks import feature_maps
from tlkit.reporting.thumbnails import Thumbnails
from tlkit.runs import explain
from tlkit.runs.explain import explain_files
from tlkit.runs.reading import load_model


def looks_for_red(side: int = 32) -> keras.Model:
    """A classifier whose evidence is known: the redder, the more it is class 1."""
    image = keras.Input((side, side, 3), name="image")
    red = keras.layers.Conv2D(2, 4, strides=4, activation="relu", name="maps")(image)
    pooled = keras.layers.GlobalAveragePooling2D(name="head_features")(red)
    model = keras.Model(image, keras.layers.Dense(2, activation="softmax", name="predictions")(pooled))
    kernel = np.zeros((4, 4, 3, 2), "float32")
    kernel[:, :, 0, 0], kernel[:, :, 1:, 0] = 1 / 16, -1 / 32
    kernel[:, :, 2, 1], kernel[:, :, :2, 1] = 1 / 16, -1 / 32
    model.get_layer("maps").set_weights([kernel, np.zeros(2, "float32")])
    model.get_layer("predictions").set_weights(
        [np.array([[-0.1, 0.1], [0.1, -0.1]], "float32"), np.zeros(2, "float32")]
    )
    return model


def red_corner(side: int = 32) -> np.ndarray:
    picture = np.full((side, side, 3), 90, "uint8")
    picture[: side // 4, : side // 4] = (250, 20, 20)
    return picture


def test_a_map_points_at_what_the_class_rests_on() -> None:
    maps, probabilities = ClassActivationMaps(looks_for_red())(red_corner()[None])
    assert maps.shape == (1, 8, 8) and probabilities.argmax() == 1
    assert maps[0, :2, :2].min() == pytest.approx(1.0)
    assert maps[0, 3:, 3:].max() < 0.05


def test_a_map_of_another_class_points_elsewhere() -> None:
    picture = red_corner()
    picture[24:, 24:] = (20, 20, 250)
    cam = ClassActivationMaps(looks_for_red())
    (red,), _ = cam(picture[None], [1])
    (blue,), _ = cam(picture[None], [0])
    assert red[0, 0] == pytest.approx(1.0) and red[7, 7] < 0.05
    assert blue[7, 7] == pytest.approx(1.0) and blue[0, 0] < 0.05


def test_maps_in_batches_are_maps_at_once() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype("uint8")
    model = build_classifier(find_backbone(tiny_file()), 3, image_size=32)
    at_once, in_batches = ClassActivationMaps(model, 16)(pictures), ClassActivationMaps(model, 3)(pictures)
    assert np.allclose(at_once[0], in_batches[0], atol=1e-4)
    assert np.allclose(at_once[1], in_batches[1], atol=1e-5)


def test_occlusion_points_at_it_too() -> None:
    found = occlusion_maps(looks_for_red(), red_corner()[None], [1], patches=8)[0]
    assert found.shape == (8, 8)
    assert np.unravel_index(found.argmax(), (8, 8))[0] <= 2
    assert found[5:, 5:].max() < 0.1 * found.max()


def test_a_model_without_feature_maps_is_refused_with_a_remedy() -> None:
    image = keras.Input((8,), name="image")
    with pytest.raises(SpecError, match="Use occlusion"):
        ClassActivationMaps(keras.Model(image, keras.layers.Dense(2, activation="softmax")(image)))


def test_painting_over_takes_the_highest_evidence_and_no_more() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3)).astype("uint8")
    map_ = np.zeros((1, 4, 4), "float32")
    map_[0, 0, 0] = 1
    after = without(picture, map_, share=0.05)
    changed = (after != picture).any(-1)[0]
    assert changed.sum() == pytest.approx(0.05 * 1600, abs=3)
    assert changed[10:, :].sum() == 0 and changed[:, 10:].sum() == 0
    assert enlarged(map_, 40).shape == (1, 40, 40)


def test_reliance_knows_evidence_from_chance() -> None:
    pictures = np.stack([np.roll(red_corner(), shift, (0, 1)) for shift in range(0, 24, 2)])
    found = reliance(looks_for_red(), pictures, np.ones(12, int))
    assert found.accuracy == 1.0 and found.n == 12
    assert found.fall_evidence > 2 * found.fall_random
    assert set(found.maps) == {1}
    assert 0 <= found.at_edge <= 1
    assert any("most salient pixels masked" in line for line in found.sentences())


def test_the_overlay_is_a_picture_that_is_brightest_where_the_map_is() -> None:
    map_ = np.zeros((4, 4), "float32")
    map_[1, 2] = 3.0
    drawn = overlay(np.full((32, 32, 3), 80, "uint8"), map_)
    assert drawn.dtype == np.uint8 and drawn.shape == (32, 32, 3)
    assert np.unravel_index(drawn.sum(-1).argmax(), (32, 32))[0] in range(8, 17)
    assert (drawn[28:, :4] == 80).all() or drawn[28:, :4].max() <= 80


def behind(change: Callable[[Any], Any]) -> keras.Model:
    """A network whose first convolution, of weights -0.5, 0 and 1, reads changed pixels."""
    image = keras.Input((8, 8, 3))
    changed = change(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    layer = keras.layers.Conv2D(1, 2, activation="relu")
    model = keras.Model(image, layer(changed))
    kernel = np.ones((2, 2, changed.shape[-1], 1), "float32")
    kernel[..., :, 0] = [-0.5, 0, 1] if changed.shape[-1] == 3 else 1
    layer.set_weights([kernel, np.full(1, -9, "float32")])
    return model


def test_first_filters_are_pictures_and_a_model_without_them_says_so() -> None:
    assert first_filters(looks_for_red()).shape == (2, 4, 4, 3)
    assert (first_filters(behind(lambda x: x[..., ::-1]))[0, 0, 0] == (255, 128, 64)).all(), "as RGB, not BGR"
    assert (first_filters(behind(lambda x: keras.ops.mean(x, -1, keepdims=True)))[0] == 255).all(), "grey"
    image = keras.Input((8,), name="image")
    with pytest.raises(SpecError, match="no convolution"):
        first_filters(keras.Model(image, keras.layers.Dense(2)(image)))


def test_the_most_typical_picture_of_a_class_is_called_that_class() -> None:
    model = looks_for_red()
    drawn = most_typical(model, 1, steps=24)
    assert drawn.shape == (32, 32, 3) and drawn.dtype == np.uint8
    assert drawn[..., 0].mean() > drawn[..., 2].mean() + 20  # red
    assert np.asarray(model(drawn[None].astype("float32")))[0, 1] > 0.9


def test_the_attacker_goes_against_the_true_class() -> None:
    model, picture = looks_for_red(), red_corner()[None]
    slopes = gradient_signs(model, picture, np.array([1]))
    assert slopes.dtype == np.int8 and slopes[0, 2, 2].tolist() == [-1, 1, 1]  # less red there, more of the others


def test_robustness_is_paired_with_the_clean_images() -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(60, 120, (24, 32, 32, 3)).astype("uint8")
    labels = np.arange(24) % 2
    pictures[labels == 1, :8, :8, 0] = 180
    pictures[labels == 0, :8, :8, 2] = 180
    rows = robustness(looks_for_red(), pictures, labels)
    assert rows[0]["what"] == "untouched" and rows[0]["accuracy"] == 1.0 and rows[0]["lost"] == 0.0
    assert len(rows) == 1 + len(CORRUPTIONS) * len(MEASURED) + len(STEPS)
    assert {(row["what"], row["severity"]) for row in rows} >= {("gaussian_noise", 1), ("jpeg_compression", 3)}
    fgsm = [row["accuracy"] for row in rows if row["what"] == "fgsm"]
    assert fgsm == sorted(fgsm, reverse=True)
    assert all(row["lost"] == pytest.approx(1 - row["accuracy"]) for row in rows)


@pytest.mark.slow
def test_explaining_files_of_a_run_draws_a_sheet(trained: Path, tmp_path: Path) -> None:
    from PIL import Image

    files = sorted((trained.parent / "data").rglob("*.png"))[:3]
    for settings in ({}, {"method": "occlusion", "of_class": "red"}):
        said = explain_files(trained, files, tmp_path / "sheet.png", **settings)
        assert len(said) == 4 and "sheet.png" in said[-1]
        assert said[-1].startswith(settings.get("method", "class activation map"))
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert sheet.width > 3 * 224
    with pytest.raises(NameUnknown, match="Did you mean 'cam'"):
        explain_files(trained, files, method="grad-cam")
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"no\.png"):
        explain_files(trained, [tmp_path / "no.png"])


def test_a_row_of_pictures_of_any_size_is_drawn(tmp_path: Path) -> None:
    rows = [[(np.zeros((size, size, 3), "uint8"), f"{size}") for size in (3, 64)]]
    assert draw_rows(rows, tmp_path / "new" / "rows.jpg").is_file()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.real
def test_masking_evidence_on_cats_and_dogs_costs_more_than_masking_at_random(
    shared: Path, imagenet: Path, tmp_path: Path
) -> None:
    recipe = Recipe("head", stages=(Stage(1, 1e-3, solver="logistic"),))
    data = shared / "data" / "cats_dogs" / "splits.csv"
    run = finetune(data, backbone="mobilenetv2", recipe=recipe, out=tmp_path / "run")
    from tlkit.runs.reading import decoded, own_part

    chosen = (
        decoded(run, own_part(run, None))
        .part("test", "validation")
        .take(np.random.default_rng(0).permutation(210)[:100])
    )
    found = reliance(load_model(run), chosen.pixels.gather(slice(None)), chosen.labels)
    difference = found.falls[:, 0] - found.falls[:, 1]
    assert found.n == 100
    assert difference.mean() > 1.96 * difference.std(ddof=1) / 10


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("pooling", ["avg", pytest.param("max", marks=pytest.mark.slow), "avg+max", "flatten"])
@pytest.mark.parametrize("taps", [(), pytest.param((1, 3), marks=pytest.mark.slow), "all"])
def test_the_mean_of_the_contributions_is_the_logit_less_its_bias(
    taps: tuple[int, ...] | str, pooling: str, batch_norm: bool
) -> None:
    if taps and pooling == "flatten":
        pytest.skip("refused for several blocks")
    head = Head(taps=taps, pooling=pooling, batch_norm=batch_norm)
    model = build_classifier(find_backbone(tiny_file()), 3, head=head, image_size=32)
    generator = np.random.default_rng(6100)
    for layer in model.layers:
        if layer.name.startswith(("head_bn", "predictions")):
            layer.set_weights([generator.uniform(0.5, 1.5, w.shape) for w in layer.weights])
    pictures = generator.integers(0, 256, (3, 32, 32, 3)).astype("uint8")
    cam = ClassActivationMaps(model, 2)
    maps, _ = cam(pictures)
    signed, _ = cam.contributions(pictures, [0, 1, 2])
    last = model.get_layer("predictions")
    features = predicted(keras.Model(model.input, model.get_layer("head_features").output), pictures)
    scaled, at_zero = (model.get_layer("head_bn")(x) if batch_norm else x for x in (features, 0 * features))
    logits = np.asarray(scaled) @ np.asarray(last.kernel)
    bias = np.asarray(at_zero) @ np.asarray(last.kernel)
    assert np.allclose(signed.mean(axis=(1, 2)), np.diag(logits - bias), rtol=1e-4, atol=1e-4)
    side = 4 if taps == (1, 3) else 2
    assert maps.shape == signed.shape == (3, side, side)


def test_feature_maps_are_in_the_order_of_the_blocks() -> None:
    for pooling in ("avg", "avg+max"):
        head = Head(taps="all", pooling=pooling)
        ends = feature_maps(build_classifier(find_backbone(tiny_file()), 3, head=head, image_size=32))
        assert [end.shape[1] for end in ends] == [16, 8, 4, 2]


def found(n: int = 200, *, ahead: float = 0.5, spread: float = 0.1, **values: Any) -> Reliance:
    """A measurement in which salient pixels cost more of the probability than random ones: by `ahead`, on average."""
    falls = np.random.default_rng(26101).normal(0, spread, (n, 2)) + np.array([ahead, 0])
    defaults = {
        "accuracy": 0.9,
        "without_evidence": 0.4,
        "without_random": 0.8,
        "fall_evidence": 0.5,
        "fall_random": 0.1,
    }
    edges = {"at_edge": 0.5, "at_edge_95": (0.48, 0.52), "lost": n // 2}
    return Reliance(**{"n": n, "falls": falls, "maps": {}, **defaults, **edges, **values})


@pytest.mark.parametrize(
    "unsure",
    [
        found(ahead=0.0),
        found(16),  # too few, however clear they are
        found(40, ahead=0.1, spread=1.0),  # the interval reaches 0
        found(without_evidence=0.85),  # accuracy falls less than with random pixels masked
    ],
)
def test_maps_that_do_not_explain_support_no_sentence(unsure: Reliance) -> None:
    unsure = dataclasses.replace(unsure, at_edge=0.9, at_edge_95=(0.88, 0.92), lost=0)
    assert not unsure.explains and not unsure.to_dict()["explains"]
    assert not any("background" in one or "border" in one for one in unsure.sentences())
    assert "not shown to explain" in unsure.sentences()[-1] or "too few" in unsure.sentences()[-1]


def test_a_cause_is_named_only_where_its_interval_bears_it() -> None:
    assert found().explains and not any("give the class away" in one for one in found().sentences())
    assert "more than chance" in found(at_edge=0.65, at_edge_95=(0.6, 0.7)).sentences()[2]
    assert not any("more than chance" in one for one in found(at_edge=0.65, at_edge_95=(0.4, 0.9)).sentences())
    assert "background" in found(lost=2).sentences()[-1]
    assert not any("background" in one for one in found(50, lost=0).sentences()), "up to 7 % may be lost"


def test_the_interval_of_a_mean_is_students() -> None:
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(26102).normal(0.1, 1, 12)
    expected = ttest_1samp(values, 0).confidence_interval()
    assert mean_interval(values)[1:] == pytest.approx((expected.low, expected.high))
    assert mean_interval(values[:1])[1:] == (-np.inf, np.inf)


def test_images_without_a_map_are_counted_and_left_out() -> None:
    grey = np.full((3, 32, 32, 3), 90, "uint8")
    seen = reliance(looks_for_red(), np.concatenate([red_corner()[None], grey]), np.ones(4, int))
    assert (seen.n, seen.empty) == (1, 3) and "3 images left out: no saliency map" in seen.sentences()[0]
    nothing = reliance(looks_for_red(), grey, np.ones(3, int))
    assert (nothing.n, nothing.empty, nothing.maps) == (0, 3, {})
    assert nothing.sentences() == ["No saliency map: no position supports the prediction of any image."]
    json.dumps(nothing.to_dict(), allow_nan=False)


def one_of_two_empty(*_: object) -> tuple[np.ndarray, str]:
    return np.stack([np.ones((4, 4), "float32"), np.zeros((4, 4), "float32")]), "class activation map"


def test_the_report_shows_words_in_the_place_of_an_empty_map(monkeypatch: pytest.MonkeyPatch) -> None:
    thumbnails = Thumbnails(None)
    monkeypatch.setattr(thumbnails, "pixels", lambda path: red_corner())
    (drawn,), (empty,) = thumbnails.saliency(["a.png", "b.png"], one_of_two_empty)  # type: ignore[arg-type]
    assert drawn["data"].startswith("data:image/jpeg")
    assert not empty["data"] and "no saliency map" in empty["alt"]


@pytest.mark.slow
def test_explaining_a_file_without_a_map_says_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr(explain, "_maps", one_of_two_empty)
    files = sorted((trained.parent / "data").rglob("*.png"))[:2]
    first, second, _ = explain_files(trained, files, tmp_path / "sheet.png")
    assert "no saliency map" not in first and second.endswith(", no saliency map")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (np.asarray(sheet)[8:232, -232:-8] == 255).all(), "nothing is drawn in its place"
