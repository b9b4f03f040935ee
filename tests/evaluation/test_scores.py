from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from tlkit.evaluation.scores import evaluate, prediction_table
from tlkit.stats import expected_calibration_error, log_loss, wilson_interval

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
LABELS = np.array([0, 1, 1, 2])


def test_numbers_worked_by_hand() -> None:
    found = evaluate(PROBABILITIES, LABELS, ["a", "b", "c"])
    assert found["n"] == 4 and found["accuracy"] == 0.75
    assert found["confusion_matrix"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert found["per_class"]["b"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2}
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["top_k"] == {"2": 1.0}
    assert found["log_loss"] == pytest.approx(-np.mean(np.log([0.7, 0.8, 0.3, 0.5])))
    assert found["ece"] == pytest.approx((0.3 + 0.2 + abs(0.5 - 0.5) * 2) / 4)


def test_log_loss_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    probabilities, labels = random.dirichlet(np.ones(5), 200), random.integers(0, 5, 200)
    expected = metrics.log_loss(labels, probabilities, labels=range(5))
    assert evaluate(probabilities, labels, list("abcde"))["log_loss"] == pytest.approx(expected, rel=1e-6)
    assert log_loss(probabilities, labels) == pytest.approx(expected, rel=1e-6)


def test_balanced_accuracy_and_the_area_under_the_curve_are_scikit_learns() -> None:
    random = np.random.default_rng(1)
    probabilities, labels = random.dirichlet(np.ones(4), 300), random.integers(0, 4, 300)
    found = evaluate(probabilities, labels, list("abcd"))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, probabilities.argmax(1)))
    expected = metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert found["roc_auc"] == pytest.approx(expected)
    assert evaluate(probabilities, np.zeros(300, int), list("abcd"))["roc_auc"] is None


def test_a_class_without_images_does_not_lower_macro_f1() -> None:
    found = evaluate(PROBABILITIES[:2], LABELS[:2], ["a", "b", "c"])
    assert found["macro_f1"] == 1.0
    assert found["per_class"]["c"] == {"precision": None, "recall": None, "f1": None, "support": 0}


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(93, 100, 0.8625, 0.9657), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilsons_interval_as_published_tables_give_it(right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=1e-4)


def test_perfect_calibration_has_no_error() -> None:
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1])) == pytest.approx(0)
    assert expected_calibration_error(np.tile([1.0, 0.0], (4, 1)), np.array([1, 1, 1, 1])) == pytest.approx(1)


def test_the_prediction_table_ranks_classes() -> None:
    table = prediction_table(["x"], np.array([[0.2, 0.5, 0.3]]), ["a", "b", "c"], top=5)
    assert list(table.columns) == [
        "path",
        "prediction",
        "probability",
        "top2",
        "top2_probability",
        "top3",
        "top3_probability",
    ]
    assert table.iloc[0][["prediction", "top2", "top3"]].tolist() == ["b", "c", "a"]
