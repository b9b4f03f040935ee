"""Runs whose backbone learns its weights from the training images, or has none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from tlkit.recipes import RECIPES

from tests.conftest import draw
from tests.tiny import predicted
from tlkit import finetune, load_model, open_run
from tlkit.finetuning.prepare import Prepared, prepare
from tlkit.finetuning.resolve import resolve
from tlkit.plan.job import Job

ROW = "bag_of_words_flat"  # the smallest features


@pytest.fixture
def parted(folder: Path) -> Path:
    """Images in train/ and val/."""
    for name in ("train", "val"):
        (folder.parent / "parted" / name).mkdir(parents=True)
    for file in sorted(folder.rglob("*.png")):
        part = "val" if file.stem >= "006" else "train"
        target = folder.parent / "parted" / part / file.parent.name
        target.mkdir(exist_ok=True)
        shutil.copy(file, target / file.name)
    return folder.parent / "parted"


def prepared(data: Path, **settings: object) -> Prepared:
    return prepare(resolve(Job(data, backbone=ROW, image_size=32, recipe="small_similar", **settings)))


def words_of(data: Path) -> str:
    weights = prepared(data).backbone.weights
    assert weights is not None and weights.digest is not None
    return weights.digest


@pytest.mark.slow
def test_words_are_learned_from_training_images_alone(parted: Path) -> None:
    first = words_of(parted)
    draw((10, 200, 10), 99).save(next(parted.glob("val/*/007.png")))
    assert words_of(parted) == first
    draw((10, 200, 10), 98).save(next(parted.glob("train/*/000.png")))
    assert words_of(parted) != first


def test_the_plan_says_what_words_were_learned_from(parted: Path) -> None:
    found = prepared(parted)
    (decision,) = [one for one in found.decisions if one.about == "weights"]
    assert decision.evidence == {"images": 18, "seed": 0, "sha256": found.backbone.weights.digest}
    assert "no validation or test image" in decision.why and "folds" in decision.why
    assert found.backbone.weights_line("imagenet") == "learned from 18 training images"
    random = prepared(parted, weights="none")
    assert random.backbone.weights is None and not [one for one in random.decisions if one.about == "weights"]


def test_a_file_of_words_is_taken_and_nothing_is_learned(parted: Path) -> None:
    file = prepared(parted).backbone.weights.file
    given = prepared(parted, weights=file)
    assert given.backbone.weights is None and not [one for one in given.decisions if one.about == "weights"]


@pytest.mark.slow
def test_a_run_with_words_is_proven_and_loads_without_tlkit(parted: Path, tmp_path: Path) -> None:
    run = finetune(
        parted, backbone=ROW, image_size=32, recipe="small_similar", report=False, refit=False, out=tmp_path / "run"
    )
    parity = run.metrics["parity"]
    assert (parity["top1_agreement"], parity["within_limit"]) == (1.0, True) and parity["max_difference"] < 1e-5
    plain, image = keras.saving.load_model(run.model_file, compile=False), np.full((1, 32, 32, 3), 90.0, "float32")
    assert np.allclose(predicted(plain, image), predicted(load_model(run), image), atol=1e-6)


@pytest.mark.slow
def test_a_repeated_run_has_the_same_words_and_one_that_goes_on_keeps_them(
    parted: Path, tmp_path: Path, unserved: None
) -> None:
    settings = {"image_size": 32, "recipe": "small_similar"}
    run = finetune(parted, backbone=ROW, out=tmp_path / "run", **settings)
    again = finetune(tmp_path / "run" / "plan.json", out=tmp_path / "again")
    assert again.plan.backbone.sha256 == run.plan.backbone.sha256 is not None
    fewer = shutil.copytree(parted, parted.with_name("fewer"))
    next(fewer.glob("train/*/000.png")).unlink()  # other words would be learned from these
    further = finetune(fewer, from_run=tmp_path / "run", out=tmp_path / "further", **settings)
    first, *others = (load_model(one).get_layer("words").kernel for one in (run, again, further))
    assert all(np.array_equal(first, one) for one in others)


@pytest.mark.slow
def test_pixels_and_words_are_compared_and_a_perceptron_is_trained(
    parted: Path, tmp_path: Path, unserved: None
) -> None:
    recipe = RECIPES["small_similar"]
    run = finetune(parted, backbone=f"pixels,{ROW}", image_size=32, recipe=recipe, out=tmp_path / "run")
    (decision,) = [one for one in run.plan.decisions if one.about == "backbone"]
    assert {one["backbone"] for one in decision.evidence["compared"]} == {"pixels", ROW}
    stage = replace(recipe.stages[0], solver="gradient", epochs=3)
    perceptron = replace(recipe, stages=(stage,), head=replace(recipe.head, hidden=(8,)))
    run = finetune(parted, backbone="pixels", recipe=perceptron, weights="none", out=tmp_path / "perceptron")
    assert run.plan.backbone.sha256 is None and run.plan.image_size == 32
    assert open_run(run.folder).metrics["validation"]["n"] == len(pd.read_csv(run.folder / "split.csv")) - 18
