"""Solved heads: they are optimal, they are ordinary dense layers, and a recipe uses them like any other stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.training.test_training import BACKBONE, examples, recipe, tiny, weights_by_path
from tlkit import Augmentation, Head, Recipe, Stage, finetune
from tlkit.errors import NameUnknown, SpecError
from tlkit.evaluation.predict import predict_probabilities
from tlkit.features.folds import ALWAYS_TRAINING, solving_folds
from tlkit.features.linear import STRENGTHS, LinearHead, Solver, choose_strength, solve, tolerance_for
from tlkit.stats import log_loss
from tlkit.training.train import train


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    x, y = load_digits(return_X_y=True)
    x = (x * np.linspace(0.01, 100, 64)).astype("float32")  # features of very different scales
    return {"features": x[:600], "labels": y[:600], "validation": (x[600:900], y[600:900])}


def held_out(training: int, validation: int) -> np.ndarray:
    return np.array([ALWAYS_TRAINING] * training + [0] * validation)


def accuracy(head: LinearHead, features: np.ndarray, labels: np.ndarray) -> float:
    return float((head.probabilities(features).argmax(1) == labels).mean())


@pytest.mark.parametrize("kind", ["logistic", "svm", "ridge"])
def test_a_solved_head_is_good_without_being_told_the_strength(digits: dict[str, Any], kind: str) -> None:
    (validation, validation_labels), x, y = digits["validation"], digits["features"], digits["labels"]
    rows, labels = np.concatenate([x, validation]), np.concatenate([y, validation_labels])
    found = choose_strength(rows, labels, held_out(600, 300), 10, solver=Solver(kind))
    head = solve(x, y, 10, strength=found.strength, solver=Solver(kind), validation=(validation, validation_labels))
    scaler = StandardScaler().fit(x)
    usual = LogisticRegression(max_iter=1000).fit(scaler.transform(x), y)
    least = usual.score(scaler.transform(validation), validation_labels) - (0.06 if kind == "ridge" else 0.02)
    assert accuracy(head, validation, validation_labels) >= least
    assert found.loss < (0.9 if kind == "ridge" else 0.5) and found.loss == min(found.losses.values())
    assert list(found.losses) == sorted(found.losses) and set(found.losses) <= set(STRENGTHS)


def test_a_logistic_head_is_scikit_learns_own_on_standardised_features(digits: dict[str, Any]) -> None:
    x, (validation, _) = digits["features"], digits["validation"]
    head = solve(x, digits["labels"], 10, strength=0.01)
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation < 1e-6] = 1
    own = LogisticRegression(C=0.01, max_iter=3000, tol=1e-8).fit((x - mean) / deviation, digits["labels"])
    assert np.abs(head.probabilities(validation) - own.predict_proba((validation - mean) / deviation)).max() < 0.02


@pytest.mark.parametrize("kind", ["logistic", "svm", "ridge"])
def test_fewer_rows_than_features_give_the_same_head_by_less_work(kind: str) -> None:
    random = np.random.default_rng(2)
    labels = np.arange(30) % 3
    features = (random.normal(size=(30, 200)) + labels[:, None]).astype("float32")
    head = solve(features, labels, 3, strength=0.1, solver=Solver(kind))
    x = (features - features.mean(0)) / features.std(0)
    if kind == "logistic":
        own = LogisticRegression(C=0.1, max_iter=3000, tol=1e-8).fit(x, labels)
        assert np.abs(head.probabilities(features) - own.predict_proba(x)).max() < 0.01
    again = solve(np.concatenate([features] * 8), np.tile(labels, 8), 3, strength=0.1 / 8, solver=Solver(kind))
    new = random.normal(size=(50, 200)).astype("float32")
    assert (head.probabilities(new).argmax(1) == again.probabilities(new).argmax(1)).mean() > 0.95


@pytest.mark.parametrize("kind", ["logistic", "svm", "ridge"])
def test_two_classes_of_three_are_told_apart_and_the_absent_one_is_not_named(kind: str) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2 * 2  # classes 0 and 2; class 1 has no image
    features = (random.normal(size=(60, 5)) + labels[:, None]).astype("float32")
    head = solve(features, labels, 3, strength=1.0, solver=Solver(kind))
    assert accuracy(head, features, labels) > 0.95
    assert not (head.probabilities(features).argmax(1) == 1).any()


def test_a_fold_with_one_class_answers_that_class() -> None:
    features, labels = np.eye(4, dtype="float32"), np.array([1, 1, 1, 0])
    found = choose_strength(features, labels, np.array([ALWAYS_TRAINING] * 3 + [0]), 3)
    assert found.probabilities.shape == (1, 3) and found.probabilities.argmax() == 1


def test_balancing_raises_the_recall_of_the_rare_class() -> None:
    random = np.random.default_rng(1)
    labels = (np.arange(400) % 20 == 0).astype(int)
    features = (random.normal(size=(400, 3)) + 0.8 * labels[:, None]).astype("float32")

    def recall(balanced: bool) -> float:
        head = solve(features, labels, 2, strength=1.0, solver=Solver(balanced=balanced))
        return float((head.probabilities(features).argmax(1) == 1)[labels == 1].mean())

    assert recall(True) > recall(False) + 0.2


def test_cross_validated_answers_come_from_heads_that_did_not_see_the_row() -> None:
    """The labels are random: with as many features as rows, a head that had been trained on them would fit them all."""
    random = np.random.default_rng(3)
    features, labels = random.normal(size=(120, 200)).astype("float32"), random.integers(0, 2, 120)
    folds, how = solving_folds((labels[:90], None), (labels[90:], None))
    found = choose_strength(features, labels, folds, 2, strengths=(10.0,))
    assert "5 folds over 120 images" in how
    assert 0.3 < (found.probabilities.argmax(1) == labels).mean() < 0.7
    assert accuracy(solve(features, labels, 2, strength=10.0), features, labels) == 1.0
    assert found.loss == pytest.approx(log_loss(found.probabilities, labels))


def test_folds_keep_groups_together_and_classes_spread() -> None:
    labels, groups = np.arange(60) % 3, np.arange(60) // 6
    folds, _ = solving_folds((labels[:48], groups[:48]), (labels[48:], groups[48:] - groups[48]))
    assert all(len(set(folds[groups == one])) == 1 for one in set(groups))
    assert len(set(folds)) == 5 and all(set(labels[folds == one]) == {0, 1, 2} for one in set(folds))


def test_a_large_validation_part_is_held_out_once_and_training_rows_never() -> None:
    folds, how = solving_folds((np.zeros(50, int), None), (np.arange(300) % 2, None))
    assert (folds[:50] == ALWAYS_TRAINING).all() and (folds[50:] == 0).all() and "300 validation images" in how


@pytest.mark.parametrize("solver", ["logistic", "svm"])
@pytest.mark.slow
def test_a_solving_stage_moves_the_head_alone_and_beats_what_it_began_with(solver: str) -> None:
    model, data, validation = tiny(seed=6), examples(24, 130 + len(solver)), examples(12, 150 + len(solver))
    before = weights_by_path(model)
    history = train(model, BACKBONE, recipe(Stage(1, 1e-3, solver=solver)), data, validation)
    moved = {path for path, value in weights_by_path(model).items() if not np.array_equal(value, before[path])}
    assert moved and all(path.startswith("predictions") for path in moved)
    top = [row for row in history.rows if row["best"]][-1]
    probabilities = predict_probabilities(model, validation.pixels, batch_size=8)
    assert (probabilities.argmax(1) == validation.labels).mean() == pytest.approx(top["val_accuracy"])
    assert len(history.rows) == 1 and history.images_computed == 24 + 12 and top["val_accuracy"] > 0.9
    assert top["strength"] in STRENGTHS and top["learning_rate"] is None


def test_a_given_strength_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.training.solve.choose_strength", lambda *a, **k: pytest.fail("the strength was given"))
    stage = Stage(1, 1e-3, solver="logistic", strength=0.003)
    history = train(tiny(seed=6), BACKBONE, recipe(stage), examples(24, 134), examples(12, 135))
    assert history.rows[0]["strength"] == 0.003


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """300 classes of 8 rows, and another 4 of each: features and labels."""
    random, labels = np.random.default_rng(6345), np.repeat(np.arange(300), 12)
    rows = (0.35 * random.normal(size=(300, 96))[labels] + random.normal(size=(3600, 96)) / 2).astype("float32")
    first = np.tile(np.arange(12) < 8, 300)
    return rows[first], labels[first], rows[~first], labels[~first]


def test_the_tolerance_falls_with_the_classes_beyond_tens_of_them() -> None:
    assert [tolerance_for(classes) for classes in (2, 10, 30)] == [1e-4] * 3  # scikit-learn's
    assert tolerance_for(1000) == pytest.approx(3e-6)


@pytest.mark.slow
def test_hundreds_of_classes_are_solved_as_far_as_tens_are(many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact solution is compared with; with one tolerance for any number of classes, the head is far from it."""
    rows, labels, others, _ = many
    found = {}
    for name, tolerance in (("exact", 1e-8), ("scaled", tolerance_for(300)), ("fixed", 1e-4)):
        monkeypatch.setattr("tlkit.features.linear.tolerance_for", lambda classes, one=tolerance: one)
        found[name] = solve(rows, labels, 300, strength=1.0).probabilities(others)
    distance = {name: np.abs(found[name] - found["exact"]).sum(1).mean() for name in ("scaled", "fixed")}
    assert distance["scaled"] < 0.02 < distance["fixed"]


@pytest.mark.slow
def test_with_hundreds_of_classes_the_outputs_are_scaled_to_probabilities(many: Any) -> None:
    rows, labels, others, true = many
    raw, scaled = (solve(rows, labels, 300, strength=0.1, validation=held) for held in (None, (others, true)))
    losses = [log_loss(one.probabilities(others), true) for one in (raw, scaled)]
    assert losses[1] < losses[0] - 0.1
    assert (raw.probabilities(others).argmax(1) == scaled.probabilities(others).argmax(1)).all()
    assert not Solver().scales(99) and Solver().scales(100) and Solver("svm").scales(2)


def test_an_edge_of_the_values_of_c_is_named(said: list[str]) -> None:
    random, labels = np.random.default_rng(6346), np.arange(60) % 3
    rows, folds = random.normal(size=(60, 4)).astype("float32"), np.arange(60) // 3 % 5
    assert choose_strength(rows, labels, folds, 3).edge == "smallest"  # noise: the strongest penalty is best
    clear = rows + 9 * np.eye(3, 4, dtype="float32")[labels]
    assert choose_strength(clear, labels, folds, 3).edge == "largest"
    assert choose_strength(clear, labels, folds, 3, strengths=(0.1,)).edge == ""
    train(tiny(seed=6), BACKBONE, recipe(Stage(1, 1e-3, solver="logistic")), examples(24, 6347), examples(12, 6348))
    assert any("the largest that was tried" in line for line in said)


@pytest.mark.slow
def test_a_given_strength_counts_an_image_once_however_many_views_it_has() -> None:
    """Views that are all the same image must not change the head."""
    kernels = []
    for views in (1, 4):
        model, again = tiny(seed=6), Augmentation(brightness=(0.0, 1e-9))
        stage = Stage(1, 1e-3, solver="logistic", strength=0.003)
        plan = recipe(stage, monitor="last", augmentation=again, views=views)
        history = train(model, BACKBONE, plan, examples(24, 6340), examples(12, 6341))
        assert history.rows[0]["strength"] == pytest.approx(0.003)
        kernels.append(model.get_layer("predictions").kernel.numpy())
    np.testing.assert_allclose(*kernels, rtol=0.02, atol=1e-4 * np.abs(kernels[0]).max())


def test_without_room_for_augmented_views_a_head_is_solved_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.cache.Cache.has_room_for", lambda cache, needed: needed <= 24 * 4 * 32)
    monkeypatch.setattr("tlkit.cache.available_memory", lambda: 0)
    stage = Stage(1, 1e-3, solver="logistic", strength=0.1)
    plan = recipe(stage, augmentation=Augmentation(brightness=(-0.1, 0.1)), views=4)
    model, plain = tiny(seed=6), tiny(seed=6)
    history = train(model, BACKBONE, plan, examples(24, 6342), examples(12, 6343))
    train(plain, BACKBONE, recipe(stage), examples(24, 6342), examples(12, 6343))
    (note,) = history.notes
    assert "without augmentation" in note and "4 augmented views" in note
    assert history.rows[0]["strength"] == 0.1
    np.testing.assert_allclose(*(one.get_layer("predictions").kernel.numpy() for one in (model, plain)), rtol=1e-5)


@pytest.mark.slow
def test_without_room_for_features_a_solving_stage_trains_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.cache.Cache.has_room_for", lambda *a: False)
    monkeypatch.setattr("tlkit.cache.available_memory", lambda: 0)
    monkeypatch.setattr("tlkit.training.solve.FEWEST_STEPS", 6)
    history = train(
        tiny(seed=6), BACKBONE, recipe(Stage(1, 1e-2, solver="logistic")), examples(24, 132), examples(12, 133)
    )
    assert len(history.rows) == 2 and any("limit" in note for note in history.notes)
    assert any("by gradient descent, not solved" in note for note in history.notes)


def test_solving_what_is_no_linear_head_is_refused() -> None:
    with pytest.raises(SpecError, match="solves a head alone"):
        Stage(1, 1e-3, unfreeze=1, solver="svm")
    with pytest.raises(SpecError, match="one dense layer"):
        Recipe("r", stages=(Stage(1, 1e-3, solver="logistic"),), head=Head(hidden=(8,)))
    with pytest.raises(NameUnknown, match=r"Stage\.solver 'sgd'"):
        Stage(1, 1e-3, solver="sgd")
    with pytest.raises(SpecError, match=r"Stage\.strength is the C of a solver"):
        Stage(1, 1e-3, strength=1.0)


@pytest.mark.slow
def test_a_solved_head_is_exported_and_reloads(folder: Any, tmp_path: Any) -> None:
    plan = Recipe("solved", stages=(Stage(1, 1e-3, solver="logistic"),), batch_size=8)
    run = finetune(folder, backbone="nano", image_size=64, recipe=plan, out=tmp_path / "run")
    assert run.metrics["parity"]["top1_agreement"] == 1.0 and run.metrics["validation"]["accuracy"] == 1.0
    assert keras.saving.load_model(run.model_file).get_layer("predictions").count_params() == 641 * 3


@pytest.mark.slow
def test_without_room_in_the_caches_a_head_is_solved_as_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = []
    for room in (True, False):
        monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / str(room)))
        if not room:
            monkeypatch.setattr("tlkit.cache.Cache.has_room_for", lambda *a: False)
        model = tiny(seed=6)
        plan = recipe(Stage(1, 1e-3, solver="logistic"))
        history = train(model, BACKBONE, plan, examples(24, 6344), examples(12, 6345))
        assert not history.notes and history.images_computed == 36
        heads.append(model.get_layer("predictions").kernel.numpy())
    assert (heads[0] == heads[1]).all()
