"""Drift tests, accuracy without labels, and shares of classes, on drawn numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tlkit.evaluation.drift import Sample, any_found, drift_tests
from tlkit.evaluation.priors import estimate_priors, with_priors
from tlkit.evaluation.unlabelled import AccuracyModel, Committee, Seen, Statistician, Taught


def sample(n: int, seed: int, *, features: float = 0.0, classes: float = 0.5, measures: float = 0.0) -> Sample:
    """Images of 20 features and 3 measures. features, measures: their means. classes: the share of class 1."""
    random = np.random.default_rng(seed)
    drawn = (random.random(n) < classes).astype(int)
    return Sample(random.normal(features, 1, (n, 20)), drawn, random.normal(measures, 1, (n, 3)))


@pytest.mark.parametrize(
    ("what", "shift"), [("features", {"features": 0.4}), ("classes", {"classes": 0.8}), ("appearance", {"measures": 1})]
)
def test_a_planted_shift_is_found_by_the_test_of_its_kind_alone(what: str, shift: dict[str, float]) -> None:
    tests = drift_tests(sample(120, 0), sample(120, 1, **shift), permutations=199)
    assert [one.what for one in tests if one.found] == [what]


def test_equal_sets_are_called_different_in_at_most_a_twentieth() -> None:
    """With more features than images, too, which a standardisation by one of the sets would tell apart."""
    found = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        pool = Sample(random.normal(0, 1, (60, 200)), random.integers(0, 3, 60), random.normal(0, 1, (60, 2)))
        halves = pool.take(np.arange(30)), pool.take(np.arange(30, 60))
        found.append(any_found(drift_tests(*halves, permutations=99)))
    assert sum(found) <= 7  # of 60 at 5 %: more than 7 has a probability below 1 %


def test_the_tests_depend_on_the_seed_alone_and_not_on_the_order_of_features() -> None:
    one, other = sample(50, 0), sample(60, 1, features=0.2)
    again = drift_tests(one, other, seed=3, permutations=99)
    assert drift_tests(one, other, seed=3, permutations=99) == again
    turned = [Sample(x.features[:, ::-1], x.predicted, x.measures[:, ::-1]) for x in (one, other)]
    assert [x.p_value for x in drift_tests(*turned, seed=3, permutations=99)] == [x.p_value for x in again]


def blobs(n: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes around fixed centres, and their classes."""
    random, centres = np.random.default_rng(seed), np.random.default_rng(0).normal(0, 1, (3, 40))
    labels = random.integers(0, 3, n)
    return (centres[labels] + random.normal(0, noise, (n, 40))).astype("float32"), labels


def head(features: np.ndarray) -> np.ndarray:
    """Probabilities by the distance to the centres, far too sure."""
    centres = np.random.default_rng(0).normal(0, 1, (3, 40))
    logits = -3 * np.square(features[:, None] - centres).sum(2)
    scaled = np.exp(logits - logits.max(1, keepdims=True))
    return (scaled / scaled.sum(1, keepdims=True)).astype("float32")


def test_the_estimate_is_near_where_average_confidence_is_not() -> None:
    committee = Committee(*blobs(300, 1.5, 1), 3)
    held_out, labels = blobs(200, 1.5, 2)
    statistician = Statistician(Seen(held_out, head(held_out)), labels, committee)
    rows, accuracy, kinds = [], [], []
    for i, noise in enumerate((1.5, 2, 3, 4, 6, 8, 12)):
        features, truth = blobs(200, noise, 10 + i)
        rows.append(statistician.statistics(Seen(features, head(features))))
        accuracy.append((head(features).argmax(1) == truth).mean())
        kinds.append(frozenset({f"noise {noise % 3}"}))
    model = AccuracyModel(Taught(np.array(rows), np.array(accuracy), kinds, 200), 3).calibrated()
    features, truth = blobs(400, 5, 30)
    statistics = statistician.statistics(Seen(features, head(features)))
    value, low, high = model.interval(statistics, 400)
    right = (head(features).argmax(1) == truth).mean()
    assert abs(value - right) < 0.06 and low <= right <= high
    assert statistician.simple_estimates(statistics)["average confidence"] > right + 0.15
    assert 0 <= model.mean_error < 0.2 and model.quantile >= 1.96


def test_on_the_reference_itself_the_simple_estimates_are_its_accuracy() -> None:
    features, labels = blobs(200, 2, 2)
    seen = Seen(features, head(features))
    statistician = Statistician(seen, labels, Committee(*blobs(300, 3, 1), 3))
    simple = statistician.simple_estimates(statistician.statistics(seen))
    for name in ("difference of confidences", "agreement of heads"):
        assert simple[name] == pytest.approx(statistician.accuracy)
    assert simple["average thresholded confidence"] == pytest.approx(statistician.accuracy, abs=0.08)


def test_shares_of_classes_are_found_and_only_where_they_changed() -> None:
    random, source = np.random.default_rng(0), np.array([0.5, 0.5])
    labels = (random.random(400) < 0.8).astype(int)
    logits = random.normal(np.where(labels, 1.0, -1.0), 1)  # two Gaussians: the exact posterior is known
    one = 1 / (1 + np.exp(-2 * logits))
    found = estimate_priors(np.stack([1 - one, one], 1), source)
    assert found.changed and found.shares[1] == pytest.approx(0.8, abs=0.06)
    even = random.integers(0, 2, 400)
    same = 1 / (1 + np.exp(-2 * random.normal(np.where(even, 1.0, -1.0), 1)))
    assert not estimate_priors(np.stack([1 - same, same], 1), source).changed
    better = with_priors(np.stack([1 - one, one], 1), source, found.shares)
    assert (better.argmax(1) == labels).mean() > ((one > 0.5) == labels).mean()
