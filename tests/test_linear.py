"""Solved heads: they are the optimum, they are ordinary dense layers, and they stand in a recipe as any stage does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.test_training import BACKBONE, examples, recipe, tiny, weights_by_path
from tlkit import Head, Recipe, Stage, finetune
from tlkit.errors import NameUnknown, SpecError
from tlkit.evaluate import predict_probabilities
from tlkit.linear import LinearHead, solve
from tlkit.train import train


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    x, y = load_digits(return_X_y=True)
    x = (x * np.linspace(0.01, 100, 64)).astype("float32")  # features of very different sizes
    return {"features": x[:600], "labels": y[:600], "validation": (x[600:900], y[600:900])}


def best(heads: Iterator[LinearHead], validation: tuple[np.ndarray, np.ndarray]) -> LinearHead:
    return min(heads, key=lambda head: head.scores(*validation)[0])


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_a_solved_head_is_good_without_being_told_the_strength(digits: dict[str, Any], kind: str) -> None:
    heads = list(solve(**digits, classes=10, kind=kind))
    loss, accuracy = best(iter(heads), digits["validation"]).scores(*digits["validation"])
    x = StandardScaler().fit(digits["features"])
    usual = LogisticRegression(max_iter=1000).fit(x.transform(digits["features"]), digits["labels"])
    assert accuracy >= usual.score(x.transform(digits["validation"][0]), digits["validation"][1]) - 0.01
    assert loss < 0.5
    assert [head.strength for head in heads] == sorted(head.strength for head in heads)


def test_a_logistic_head_is_scikit_learns_own_on_standardised_features(digits: dict[str, Any]) -> None:
    head = next(one for one in solve(**digits, classes=10) if one.strength > 0.009)
    x, (val, labels) = digits["features"], digits["validation"]
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation < 1e-6] = 1
    own = LogisticRegression(C=head.strength, max_iter=3000, tol=1e-8).fit((x - mean) / deviation, digits["labels"])
    expected = own.predict_proba((val - mean) / deviation)
    assert head.scores(val, labels)[1] == pytest.approx(own.score((val - mean) / deviation, labels), abs=0.004)
    logits = val @ head.kernel + head.bias
    found = np.exp(logits - logits.max(1, keepdims=True))
    assert np.abs(found / found.sum(1, keepdims=True) - expected).max() < 0.02


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_two_classes_of_three_are_told_apart_and_the_absent_one_is_not_named(kind: str) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2 * 2  # classes 0 and 2; class 1 has no image
    features = (random.normal(size=(60, 5)) + labels[:, None]).astype("float32")
    head = best(solve(features, labels, (features, labels), 3, kind=kind), (features, labels))
    assert head.scores(features, labels)[1] > 0.95
    assert not ((features @ head.kernel + head.bias).argmax(1) == 1).any()


def test_balancing_raises_the_recall_of_the_rare_class() -> None:
    random = np.random.default_rng(1)
    labels = (np.arange(400) % 20 == 0).astype(int)
    features = (random.normal(size=(400, 3)) + 0.8 * labels[:, None]).astype("float32")

    def recall(balanced: bool) -> float:
        heads = list(solve(features, labels, (features, labels), 2, balanced=balanced))
        return float(((features @ heads[-1].kernel + heads[-1].bias).argmax(1) == 1)[labels == 1].mean())

    assert recall(True) > recall(False) + 0.2


@pytest.mark.parametrize("solver", ["logistic", "svm"])
def test_a_solving_stage_moves_the_head_alone_and_beats_what_it_began_with(solver: str) -> None:
    model, data, val = tiny(seed=6), examples(24, 130 + len(solver)), examples(12, 150 + len(solver))
    before = weights_by_path(model)
    history = train(model, BACKBONE, recipe(Stage(1, 1e-3, solver=solver)), data, val)
    moved = {path for path, value in weights_by_path(model).items() if not np.array_equal(value, before[path])}
    assert moved and all(path.startswith("predictions") for path in moved)
    top = [row for row in history.rows if row["best"]][-1]
    probabilities = predict_probabilities(model, val.pixels, batch_size=8)
    assert (probabilities.argmax(1) == val.labels).mean() == pytest.approx(top["val_accuracy"])
    assert len(history.rows) == 13 and history.images_computed == 24 + 12 and top["val_accuracy"] > 0.9


def test_without_room_for_features_a_solving_stage_trains_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.features.make_room", lambda *a: False)
    history = train(
        tiny(seed=6), BACKBONE, recipe(Stage(2, 1e-2, solver="logistic")), examples(24, 132), examples(12, 133)
    )
    assert len(history.rows) == 2 and any("limit" in note for note in history.notes)


def test_solving_what_is_no_linear_head_is_refused() -> None:
    with pytest.raises(SpecError, match="solves a head alone"):
        Stage(1, 1e-3, unfreeze=1, solver="svm")
    with pytest.raises(SpecError, match="one dense layer"):
        Recipe("r", stages=(Stage(1, 1e-3, solver="logistic"),), head=Head(hidden=(8,)))
    with pytest.raises(NameUnknown, match=r"Stage\.solver 'sgd'"):
        Stage(1, 1e-3, solver="sgd")


@pytest.mark.slow
def test_a_solved_head_is_exported_and_reloads(folder: Any, tmp_path: Any) -> None:
    plan = Recipe("solved", stages=(Stage(1, 1e-3, solver="logistic"),), batch_size=8)
    run = finetune(folder, backbone="nano", image_size=64, recipe=plan, out=tmp_path / "run")
    assert run.metrics["parity"]["top1_agreement"] == 1.0 and run.metrics["validation"]["accuracy"] == 1.0
    assert keras.saving.load_model(run.model_file).get_layer("predictions").count_params() == 641 * 3
