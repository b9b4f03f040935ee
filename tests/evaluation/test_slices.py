"""Slices by columns and hidden ones: planted ones come first, and noise is told from them."""

from __future__ import annotations

import numpy as np
import pytest

from tlkit.evaluation.slices import FEWEST, OVERLAP, hidden_slices, slice_rows


def people(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Features and labels of two classes, and random numbers."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, 20)).astype("float32"), np.arange(n) % 2, random


def test_a_bad_site_is_the_first_row_and_the_others_are_not_worse() -> None:
    _, labels, random = people()
    site = random.choice(["A", "B", "C", "D"], 400)
    correct = random.random(400) < np.where(site == "B", 0.6, 0.95)
    rows, comparisons = slice_rows({"year": random.choice(["1", "2"], 400), "site": site}, correct, labels.astype(str))
    assert (rows[0].column, rows[0].value, rows[0].worse) == ("site", "B", True)
    assert {one.value for one in rows if one.worse} == {"B"}
    assert comparisons == len(rows) == 6 + 2 * 6  # each value, and each in two classes
    whole = next(one for one in rows if one.value == "B" and not one.label)
    assert whole.low < whole.accuracy == correct[site == "B"].mean() < whole.high
    assert whole.others == pytest.approx(correct[site != "B"].mean())


def test_a_shortcut_shows_in_one_class_only() -> None:
    _, _, random = people()
    label = np.repeat(["cat", "dog"], 200)
    mark = np.where(label == "cat", np.arange(400) % 10 > 0, np.arange(400) % 10 == 0)
    correct = np.where(mark == (label == "cat"), random.random(400) < 0.98, random.random(400) < 0.5)
    rows, _ = slice_rows({"mark": np.where(mark, "yes", "no")}, correct, label)
    assert {(one.value, one.label) for one in rows[:2]} == {("no", "cat"), ("yes", "dog")}
    assert all(one.worse for one in rows[:2])


def test_values_with_few_images_are_pooled_and_a_single_one_is_named() -> None:
    _, labels, _ = people(100)
    camera = ["a"] * 80 + ["b"] * 12 + ["c"] * 4 + ["d"] * 4
    rows, _ = slice_rows({"camera": camera}, np.ones(100, bool), labels.astype(str))
    pooled = [one for one in rows if one.pooled]
    assert [(one.pooled, one.n) for one in pooled] == [(2, 8)] and str(FEWEST) in pooled[0].value
    rows, _ = slice_rows({"camera": ["a"] * 96 + ["d"] * 4}, np.ones(100, bool), labels.astype(str))
    assert {one.value for one in rows} == {"a", "d"} and not any(one.pooled for one in rows)


def test_images_of_one_group_count_for_less() -> None:
    _, labels, _ = people(200)
    site = ["A"] * 100 + ["B"] * 100
    correct = np.r_[np.ones(100, bool), np.arange(100) >= 20]
    groups = np.arange(200) // 20  # the twenty mistakes are of one patient
    alone, _ = slice_rows({"site": site}, correct, labels.astype(str))
    together, _ = slice_rows({"site": site}, correct, labels.astype(str), groups)
    assert alone[0].worse and not together[0].worse
    assert together[0].high - together[0].low > alone[0].high - alone[0].low


def test_a_planted_hidden_slice_comes_first() -> None:
    features, labels, random = people()
    inside = (labels == 1) & (np.arange(400) % 5 == 0)
    features[inside, :3] += 4
    correct = random.random(400) < np.where(inside, 0.3, 0.95)
    (first, *others) = hidden_slices(features, correct, labels)
    assert first.p < 0.05 and inside[first.rows].mean() > 0.8 and inside[first.rows].sum() > 0.5 * inside.sum()
    assert first.errors == (~correct[first.rows]).sum() > 3 * first.expected
    for one in others:
        shared = len(np.intersect1d(first.rows, one.rows))
        assert shared <= OVERLAP * min(len(first.rows), len(one.rows))


def test_images_that_are_dark_are_found_by_the_measure() -> None:
    features, labels, random = people()
    brightness = random.random(400)
    correct = random.random(400) < np.where(brightness < 0.1, 0.3, 0.97)
    first = hidden_slices(features, correct, labels, measures={"brightness": brightness})[0]
    assert first.tail == ("brightness", "low") and first.p < 0.05


def test_noise_is_rarely_taken_for_a_slice() -> None:
    """With p < 0.05 in 5 % of data sets, 4 or more of 15 have a chance of 0.5 %."""
    alarms = 0
    for seed in range(15):
        features, labels, random = people(120, seed)
        found = hidden_slices(features, random.random(120) < np.where(labels, 0.95, 0.7), labels, seed=seed)
        alarms += bool(found) and found[0].p < 0.05
    assert alarms <= 3


def test_the_mistakes_of_one_patient_are_not_a_slice_of_many() -> None:
    """All errors are of two patients of twenty, each alike: a chance pattern of patients, and not of images."""
    features, labels, random = people(200)
    patient = np.arange(200) // 10
    features += 5 * random.normal(size=(20, 20))[patient].astype("float32")
    correct = ~np.isin(patient, (3, 4))
    alone = hidden_slices(features, correct, labels)[0]
    together = hidden_slices(features, correct, labels, groups=patient)[0]
    assert alone.p < 0.05 < together.p


def test_without_mistakes_there_is_no_slice() -> None:
    features, labels, _ = people(60)
    assert hidden_slices(features, np.ones(60, bool), labels) == []
