"""The accuracy that a run is known by: its interval, what it is corrected for, and what it says."""

from __future__ import annotations

import numpy as np
import pytest

from tlkit.evaluation.criterion import Criterion, is_imbalanced
from tlkit.evaluation.estimate import estimate_from, selection_optimism
from tlkit.stats import (
    AT_CHANCE,
    balancing_weights,
    effective_images,
    holm,
    log_loss,
    paired_difference,
    paired_p_value,
    proportion_interval,
    wilson_interval,
)


def test_the_best_of_many_equal_models_is_corrected_to_what_each_of_them_is() -> None:
    """20 models, each right on 70 % of 60 images: the best looks better on the images that chose it."""
    random, best, corrected = np.random.default_rng(0), [], []
    for _ in range(30):
        correct = random.random((20, 60)) < 0.7
        losses = np.where(correct, 0.2, 1.6)
        chosen = losses.mean(1).argmin()
        best.append(correct[chosen].mean())
        corrected.append(best[-1] - selection_optimism(losses, correct))
    assert np.mean(best) > 0.79
    assert np.mean(corrected) == pytest.approx(0.7, abs=0.03)


def test_nothing_is_corrected_where_nothing_was_chosen_or_one_model_is_far_ahead() -> None:
    correct = np.arange(60) < np.array([[54], [20]])
    assert selection_optimism(np.where(correct, 0.1, 2.0)[:1], correct[:1]) == 0
    assert selection_optimism(np.where(correct, 0.1, 2.0), correct) == 0


def test_images_of_one_group_count_as_one_if_they_are_alike_and_as_many_if_they_are_not() -> None:
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 5)
    alike = np.repeat(random.random(40) < 0.7, 5)
    assert effective_images(alike, groups) == pytest.approx(40, rel=0.05)
    apart = random.random(200) < 0.7
    assert effective_images(apart, groups) > 120 and effective_images(apart, np.arange(200)) == pytest.approx(
        199, abs=1
    )
    assert effective_images(np.ones(200, bool), groups) == 40, "all correct: as if a group were one image"
    low, high = proportion_interval(alike, groups)
    narrow, wide = wilson_interval(int(alike.sum()), 200)
    assert low < narrow and wide < high


def test_the_cluster_interval_is_that_of_a_bootstrap_of_groups() -> None:
    random = np.random.default_rng(2)
    groups = np.repeat(np.arange(60), random.integers(1, 12, 60))
    skill = random.beta(4, 2, 60)[groups]
    correct = random.random(len(groups)) < skill
    sums, sizes = np.bincount(groups, weights=correct), np.bincount(groups)
    drawn = random.integers(0, 60, (4000, 60))
    shares = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = proportion_interval(correct, groups)
    assert high - low == pytest.approx(np.quantile(shares, 0.975) - np.quantile(shares, 0.025), rel=0.1)


@pytest.mark.parametrize("cats", [297, 990])
def test_always_answering_the_commonest_class_is_said_to_be_no_better(cats: int) -> None:
    labels = np.array([0] * cats + [1] * 3)
    found = estimate_from(labels == 0, labels, "the test images").to_dict(["cat", "dog"])
    assert found["no_better_than"] == "cat" and found["accuracy"] > 0.98
    assert found["sentence"].endswith("This is no better than always answering 'cat'")
    assert "no better" not in estimate_from(labels < 2, np.arange(len(labels)) % 2, "").sentence(["cat", "dog"])


def test_what_else_the_images_chose_is_said() -> None:
    labels = np.arange(100) % 2
    found = estimate_from(np.arange(100) < 90, labels, "the validation images", also_chose=["the recipe", "the epoch"])
    assert "These images also chose the recipe and the epoch, so it may be too high" in found.sentence(["a", "b"])
    corrected = estimate_from(np.arange(100) < 90, labels, "", optimism=0.05)
    assert corrected.accuracy == pytest.approx(0.85) and corrected.high < found.high
    wider = estimate_from(np.arange(100) < 90, labels, "", spread=1.25)
    assert wider.high - wider.low == pytest.approx(1.25 * (found.high - found.low), rel=0.05)


# -- exact tests ------------------------------------------------------------------------------------------


def test_one_image_more_is_never_ahead_whatever_the_number_of_images() -> None:
    for n in range(20, 1001):
        second = np.arange(n) < n // 2
        assert paired_p_value(np.arange(n) < n // 2 + 1, second) == 1.0


@pytest.mark.parametrize(
    ("gained", "lost", "expected"), [(5, 0, 0.0625), (6, 0, 0.03125), (3, 1, 0.625), (0, 0, 1.0), (10, 2, 0.0386)]
)
def test_mcnemars_exact_test_by_hand(gained: int, lost: int, expected: float) -> None:
    first = np.array([1] * gained + [0] * lost + [1] * 50, bool)
    second = np.array([0] * gained + [1] * lost + [1] * 50, bool)
    assert paired_p_value(first, second) == pytest.approx(expected, abs=1e-4)
    assert paired_p_value(second, first) == pytest.approx(expected, abs=1e-4)


def test_groups_widen_a_paired_difference_and_count_once_in_the_test() -> None:
    """Ten patients with ten images each: all that one gains are of three patients."""
    patients = np.arange(100) // 10
    first, second = np.ones(100, bool), patients >= 3
    difference, error = paired_difference(first, second)
    assert paired_difference(first, second, patients)[0] == difference == pytest.approx(0.3)
    assert paired_difference(first, second, patients)[1] == pytest.approx((10 / 9 * 10 * 0.21 * 100) ** 0.5 / 100)
    assert paired_difference(first, second, np.arange(100)) == (difference, error)
    assert paired_p_value(first, second) < 1e-6 and paired_p_value(first, second, patients) == 0.25
    assert paired_p_value(first, second, np.arange(100)) == paired_p_value(first, second)
    assert paired_difference(first, second, np.zeros(100))[1] == 1.0, "one patient tells nothing"


def test_of_many_equal_rivals_hardly_any_is_called_behind() -> None:
    """Twelve runs of equal accuracy: without correction, one is called behind in every second comparison."""
    random, plain, corrected = np.random.default_rng(3), 0, 0
    for _ in range(60):
        runs = sorted(random.random((12, 200)) < 0.8, key=lambda one: -one.mean())
        found = [paired_p_value(one, runs[0]) for one in runs[1:]]
        plain, corrected = plain + (min(found) < AT_CHANCE), corrected + (min(holm(found)) < AT_CHANCE)
    assert plain > 20 > 12 > corrected


# -- criteria ---------------------------------------------------------------------------------------------


def test_every_class_counts_equally_in_the_balanced_log_loss() -> None:
    labels = np.array([0] * 9 + [1])
    sure, unsure = np.tile([0.99, 0.01], (10, 1)), np.tile([0.5, 0.5], (10, 1))
    assert is_imbalanced(labels) and not is_imbalanced(np.array([0, 0, 0, 1]))
    assert log_loss(sure, labels) < log_loss(unsure, labels)
    assert log_loss(sure, labels, balancing_weights(labels)) > log_loss(unsure, labels, balancing_weights(labels))
    assert Criterion(balanced=True).loss(unsure, labels) < Criterion(balanced=True).loss(sure, labels)


@pytest.mark.parametrize(
    ("metric", "loss"), [("accuracy", 0.25), ("balanced_accuracy", 1 / 3), ("macro_f1", 0.3), ("auc", 0.0)]
)
def test_another_metric_is_one_minus_its_score(metric: str, loss: float) -> None:
    labels, probabilities = np.array([0, 1, 1, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]])
    if metric == "balanced_accuracy":
        loss = 1 - (1 + 2 / 3) / 2
    if metric == "macro_f1":
        loss = 1 - (2 / 3 + 0.8) / 2
    assert Criterion(metric).loss(probabilities, labels)[0] == pytest.approx(loss)
