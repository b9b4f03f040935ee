"""Prediction sets: their coverage, their thresholds by hand, and by other libraries."""

from __future__ import annotations

import numpy as np
import pytest

from tlkit.evaluation.prediction_sets import SERVED_DIFFERENCE, covered, fit_prediction_sets, threshold, thresholds_of


def drawn(count: int, seed: int, shares: tuple[float, ...] = (0.6, 0.25, 0.15)) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of a classifier that is worse on the later classes."""
    random = np.random.default_rng(seed)
    labels = random.choice(len(shares), count, p=shares)
    logits = np.eye(len(shares))[labels] * (3 - labels[:, None]) + random.normal(0, 1, (count, len(shares)))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, labels


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_each_class_is_covered_as_stated(coverage: float) -> None:
    fitted = fit_prediction_sets(*drawn(3000, 0), coverage)
    probabilities, labels = drawn(20_000, 1)
    measured = covered(fitted.sets(probabilities), labels, ["a", "b", "c"])
    assert measured["coverage"] == pytest.approx(coverage, abs=0.015)
    for one in measured["classes"].values():
        assert one["coverage"] == pytest.approx(coverage, abs=0.04)


def test_thresholds_by_hand() -> None:
    own = np.linspace(0.1, 0.9, 9)
    assert threshold(own, 0.9) == pytest.approx(0.1 - SERVED_DIFFERENCE), "of 9 the ceil(10 * 0.9) = 9th"
    assert threshold(own, 0.5) == pytest.approx(0.5 - SERVED_DIFFERENCE), "the 5th"
    assert threshold(own[1:], 0.9) == 0, "8 images cannot tell, so every class is in"
    assert threshold(own[:0], 0.9) == 0


def test_a_threshold_lies_between_that_of_the_class_and_that_of_all() -> None:
    probabilities, labels = drawn(400, 0)
    own = probabilities[np.arange(400), labels]
    everything, found = threshold(own, 0.9), fit_prediction_sets(probabilities, labels, 0.9).thresholds
    for number in range(3):
        alone, n = threshold(own[labels == number], 0.9), (labels == number).sum().astype(float)
        assert np.log(found[number]) == pytest.approx(
            (n**2 * np.log(alone) + 75**2 * np.log(everything)) / (n**2 + 75**2)
        )


def test_classes_with_few_images_share_a_threshold_and_are_named() -> None:
    probabilities, labels = drawn(100, 0, (0.8, 0.1, 0.1))
    fitted = fit_prediction_sets(probabilities, labels, 0.9)
    told = fitted.to_dict(["a", "b", "c"])
    assert told["pooled"] == ["b", "c"] and fitted.thresholds[1] == fitted.thresholds[2] != fitted.thresholds[0]
    assert told["held_out"]["b"] == int((labels > 0).sum())
    read = thresholds_of(told, ["a", "b", "c"])
    assert read is not None
    np.testing.assert_allclose(read, fitted.thresholds, rtol=1e-6)


def test_what_is_measured_of_sets() -> None:
    sets = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
    found = covered(sets, np.array([0, 1, 0, 0]), ["a", "b"])
    assert (found["n"], found["covered"], found["empty"], found["several"], found["mean_size"]) == (4, 2, 1, 1, 1.0)
    assert found["classes"]["b"]["coverage"] == 1 and found["classes"]["a"]["covered"] == 1


@pytest.mark.slow
def test_crepes_and_mapie_give_the_same_sets() -> None:
    crepes = pytest.importorskip("crepes")
    mapie = pytest.importorskip("mapie.classification")
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):
        """A classifier whose input is its probabilities."""

        def fit(self, x: np.ndarray, y: np.ndarray) -> Given:
            self.classes_, self.n_features_in_ = np.arange(3), 3
            return self

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return np.asarray(x)

        def predict(self, x: np.ndarray) -> np.ndarray:
            return np.asarray(x).argmax(1)

    held, labels = drawn(700, 0)
    new, _ = drawn(2000, 1)
    own = held[np.arange(700), labels]
    ours = new >= [threshold(own[labels == one], 0.9) for one in range(3)]
    given = Given().fit(held, labels)
    wrapped = crepes.WrapClassifier(given)
    wrapped.calibrate(held, labels, class_cond=True)
    found = wrapped.predict_set(new, confidence=0.9, smoothing=False)  # the classes in each set
    theirs = np.array([np.isin(np.arange(3), one) for one in found])
    assert (ours != theirs).mean() < 0.001, "but for those within the difference of rounding"
    split = mapie.SplitConformalClassifier(given, confidence_level=0.9, conformity_score="lac", prefit=True)
    _, sets = split.conformalize(held, labels).predict_set(new)
    one = new >= threshold(own, 0.9)
    assert (one != sets[:, :, 0]).mean() < 0.001
