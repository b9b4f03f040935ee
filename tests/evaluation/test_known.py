"""Images of none of the classes: how many known ones are refused, what is told from them, and what is stored."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from tlkit.errors import RunError, SpecError
from tlkit.evaluation.known import (
    LEAST_SCALE,
    QUANTILES,
    SCORE_ROUNDING,
    Known,
    check_no_class_is_none,
    class_prototypes,
    fit_known,
    pooled_classes,
    refused,
    unit,
)
from tlkit.features.folds import stratified_folds

CLASSES, SIZE, ROOM = 3, 40, 10_000
CENTRES = np.random.default_rng(0).random((CLASSES, SIZE)) + 0.2


def drawn(count: int, seed: int, shares: tuple[float, ...] = (0.5, 0.3, 0.2)) -> tuple[np.ndarray, ...]:
    """Features around the classes' centres, labels, and probabilities that are right most of the time."""
    random = np.random.default_rng(seed)
    labels = random.choice(CLASSES, count, p=shares)
    features = CENTRES[labels] + random.normal(0, 0.15, (count, SIZE))
    logits = 4 * np.eye(CLASSES)[labels] + random.normal(0, 1.5, (count, CLASSES))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return features.astype("float32"), labels, probabilities.astype("float32")


def fitted(count: int = 600, *, room: int = ROOM, shares: tuple[float, ...] = (0.5, 0.3, 0.2)) -> Known:
    features, labels, probabilities = drawn(count, 1, shares)
    known = fit_known(features, labels, probabilities, stratified_folds(labels, None, 10), room=room)
    assert known is not None
    return known


def p_values(known: Known, features: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(known.p_values(features, probabilities))


def test_of_known_images_the_stated_share_is_refused_in_each_class() -> None:
    known = fitted(2000)
    features, _, probabilities = drawn(8000, 2)
    found = p_values(known, features, probabilities)
    for level in (0.02, 0.05, 0.1, 0.3):
        assert refused(found, level)["share"] == pytest.approx(level, abs=0.015 + 0.1 * level)  # of 2,000
    for number in range(CLASSES):
        mine = probabilities.argmax(1) == number
        assert (found[mine] < 0.05).mean() == pytest.approx(0.05, abs=0.035)


def test_a_class_that_strange_images_are_taken_for_does_not_hide_them() -> None:
    """Known images of class 2 are unsure, too: ranked among these alone, unsure strangers would look usual."""
    features, labels, probabilities = drawn(240, 5)
    unsure = np.float32([[0.3, 0.2, 0.5]])
    probabilities[probabilities.argmax(1) == 2] = unsure
    known = fit_known(features, labels, probabilities, stratified_folds(labels, None, 10), room=ROOM)
    assert known is not None and not pooled_classes(known, ["a", "b", "c"])
    new, _, sure = drawn(3000, 2)
    sure[sure.argmax(1) == 2] = unsure
    found, taken = p_values(known, new, sure), sure.argmax(1) == 2
    assert (found < 0.05).mean() == pytest.approx(0.05, abs=0.035)
    assert np.median(found[taken]) < np.median(found[~taken]) - 0.05


def test_held_out_images_that_are_never_learned_from_are_refused_as_often() -> None:
    features, labels, probabilities = drawn(1500, 1)
    folds = np.where(np.arange(1500) < 700, -1, 0)
    known = fit_known(features, labels, probabilities, folds, room=ROOM)
    assert known is not None
    new, _, of_new = drawn(6000, 3)
    assert (p_values(known, new, of_new) < 0.05).mean() == pytest.approx(0.05, abs=0.03)


def test_other_images_are_refused_however_sure_the_head_is() -> None:
    known = fitted()
    random = np.random.default_rng(5)
    other = (random.random((500, SIZE)) * np.r_[np.ones(20), -np.ones(20)]).astype("float32")
    sure = np.eye(CLASSES, dtype="float32")[random.integers(0, CLASSES, 500)]
    assert (p_values(known, other, sure) < 0.05).mean() > 0.99


def test_p_values_fall_with_the_distance_also_beyond_the_last_held_out_image() -> None:
    known = fitted()
    away = np.linspace(0, 30, 200)[:, None] * np.r_[np.ones(20), -np.ones(20)] + CENTRES[0]
    found = p_values(known, away.astype("float32"), np.tile(np.float32([0.8, 0.1, 0.1]), (200, 1)))
    assert (np.diff(found) < 1e-6).all() and found[0] > 0.1
    assert 0 < found[-1] < 1 / (known.held_out.max() + 1)


def test_classes_with_few_held_out_images_are_pooled_and_named() -> None:
    known = fitted(60, shares=(0.8, 0.1, 0.1))
    assert pooled_classes(known, ["a", "b", "c"]) == ["b", "c"]
    assert known.held_out[0] == 60, "fewer than 20 in both together, so all are taken"
    assert not pooled_classes(fitted(600), ["a", "b", "c"])


def test_no_image_can_be_told_from_what_is_stored() -> None:
    features, labels, _ = drawn(200, 1)
    features[0] += 5  # k-means would give it a group of its own
    found = class_prototypes(features, labels, CLASSES)
    assert (unit(features) @ found.vectors.T).max() < 0.9999
    assert len(found.vectors) > CLASSES
    known = fitted(3000)
    assert known.scores.size == known.levels.size == (CLASSES + 1) * QUANTILES


def test_prototypes_fit_the_room_that_they_are_given() -> None:
    small = fitted(room=500)
    assert small.basis is not None and small.basis.size + small.prototypes.size <= 500
    features, _, probabilities = drawn(500, 2)
    assert (p_values(small, features, probabilities) < 0.05).mean() < 0.15
    features, labels, probabilities = drawn(100, 1)
    assert fit_known(features, labels, probabilities, np.zeros(100, int), room=20) is None


@pytest.mark.parametrize(("counts", "held"), [((50, 50, 3), 103), ((30, 30, 30), 19), ((50, 50, 0), 100)])
def test_too_few_images_give_none(counts: tuple[int, ...], held: int) -> None:
    labels = np.repeat(np.arange(CLASSES), counts)
    features = np.random.default_rng(0).random((len(labels), SIZE)).astype("float32")
    folds = np.where(np.random.default_rng(1).permutation(len(labels)) < held, np.arange(len(labels)) % 5, -1)
    assert fit_known(features, labels, np.full((len(labels), CLASSES), 1 / 3), folds, room=ROOM) is None


def test_it_is_read_as_it_was_written_and_damage_is_told() -> None:
    known = fitted(room=500)
    again = Known.from_bytes(known.to_bytes())
    features, _, probabilities = drawn(50, 2)
    np.testing.assert_array_equal(p_values(again, features, probabilities), p_values(known, features, probabilities))
    assert Known.from_bytes(replace(known, basis=None).to_bytes()).basis is None
    with pytest.raises(RunError, match=r"known\.npz is damaged"):
        Known.from_bytes(known.to_bytes()[:-200])


def test_the_reserved_answer_is_no_class() -> None:
    with pytest.raises(SpecError, match="'none of these', which is reserved"):
        check_no_class_is_none(["a", "none of these"])


def test_rounding_moves_no_score_where_features_are_nearly_equal() -> None:
    rng = np.random.default_rng(0)
    rows = (1 + 1e-5 * rng.normal(size=(40, 64))).astype("float32")
    found = class_prototypes(rows, np.arange(40) % 2, 2)
    assert found.scale == LEAST_SCALE
    rounded = rows * np.float32(1 + 3e-7)
    np.testing.assert_allclose(found.distances(rounded), found.distances(rows), atol=SCORE_ROUNDING)
