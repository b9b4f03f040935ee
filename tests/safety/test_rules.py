"""The rules of the safety check on hand-made predictions, without a model or an image."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlkit.safety.details import auc_interval, why
from tlkit.safety.hints import exchanged
from tlkit.safety.measure import evenly, in_frame
from tlkit.safety.rules import (
    Predictions,
    careful_size,
    changes_class,
    hurt,
    kept_skill,
    loses_meaning,
    moved,
    resampled_skill,
    rule,
    skill,
    survives,
    trusted,
    verdict_at,
)

TRUTH = np.repeat([0, 1], 20)


@dataclass(frozen=True)
class Told:
    """A probe with its predictions for untouched images."""

    truth: np.ndarray
    untouched: Predictions
    classes: int = 2


def predictions(predicted: np.ndarray, *, near: float = 0.5, classes: int = 2) -> Predictions:
    """Predictions within the usual distance of the predicted class, and far from every other."""
    distance = np.full((len(predicted), classes), 2.0)
    distance[np.arange(len(predicted)), predicted] = near
    return Predictions(np.asarray(predicted), distance)


KNOWN = Told(TRUTH, predictions(TRUTH))


def first_of_each(count: int) -> np.ndarray:
    """The true classes, but the first `count` images of each class are predicted as the other."""
    predicted = TRUTH.copy()
    predicted[:count], predicted[20 : 20 + count] = 1, 0
    return predicted


def matrix(value: float) -> np.ndarray:
    return np.array([[-1.0, value], [-1.0, -1.0]])


# -- a version as a whole ---------------------------------------------------------------------------------


def test_a_version_that_turns_each_class_into_the_other_is_not_fine_and_names_both_pairs() -> None:
    found = rule({"layout": predictions(1 - TRUTH)}, {"layout": KNOWN})
    assert found.pairs == ((0, 1, 1.0), (1, 0, 1.0)) and not found.fine
    assert found.far == 0


def test_a_version_that_ruins_the_images_loses_the_meaning_and_changes_no_class() -> None:
    """They are predicted as the other class, but are near to neither."""
    found = rule({"layout": predictions(first_of_each(10), near=2.0)}, {"layout": KNOWN})
    assert found.pairs == () and found.lost and not found.fine
    assert found.kept[0] == 0 and found.far == 1


def test_a_version_that_probes_answer_as_before_is_fine() -> None:
    found = rule({"layout": predictions(TRUTH), "content": predictions(TRUTH)}, {"layout": KNOWN, "content": KNOWN})
    assert found.fine and found.kept == (1.0, 1.0, 1.0) and found.far == 0


def test_the_better_of_two_probes_says_whether_the_meaning_is_left() -> None:
    worse, better = predictions(first_of_each(10), near=2.0), predictions(TRUTH, near=2.0)
    found = rule({"layout": worse, "content": better}, {"layout": KNOWN, "content": KNOWN})
    assert found.kind == "content" and found.kept[0] == 1 and found.fine


def test_the_pair_of_which_most_images_move_comes_first() -> None:
    predicted = TRUTH.copy()
    predicted[:16], predicted[20:] = 1, 0
    assert rule({"layout": predictions(predicted)}, {"layout": KNOWN}).pairs == ((1, 0, 1.0), (0, 1, 0.8))


def test_what_names_suggest_is_believed_of_fewer_images_once_something_is_wrong() -> None:
    predicted = TRUTH.copy()
    predicted[:20], predicted[20:26] = 1, 0  # all of class 0, and surely 13 % of class 1
    plain = rule({"layout": predictions(predicted)}, {"layout": KNOWN})
    hinted = rule({"layout": predictions(predicted)}, {"layout": KNOWN}, expected=[(0, 1), (1, 0)])
    assert [pair[:2] for pair in plain.pairs] == [(0, 1)]
    assert [pair[:2] for pair in hinted.pairs] == [(0, 1), (1, 0)]


# -- meaning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "expected"), [(0, 1.0), (10, 0.0), (20, -1.0), (5, 0.5)])
def test_skill_is_1_where_all_is_right_and_0_at_chance(wrong: int, expected: float) -> None:
    assert skill(first_of_each(wrong), TRUTH, 2) == pytest.approx(expected)


def test_each_class_has_the_same_say_in_skill_however_many_images_it_has() -> None:
    truth = np.repeat([0, 1], [90, 10])
    assert skill(np.zeros(100, int), truth, 2) == 0


def test_resampling_repeats_with_its_seed_and_draws_the_same_images_for_every_call() -> None:
    first, second = resampled_skill(KNOWN, first_of_each(5), first_of_each(5), seed=3)
    assert (first == second).all() and first.std() > 0
    assert (resampled_skill(KNOWN, first_of_each(5), seed=3)[0] == first).all()
    assert (resampled_skill(KNOWN, first_of_each(5), seed=4)[0] != first).any()


def test_the_share_of_skill_that_is_kept_lies_within_its_interval() -> None:
    middle, low, high = kept_skill(KNOWN, first_of_each(5))
    assert middle == 0.5 and 0.2 < low < middle < high < 0.8
    before, after = resampled_skill(KNOWN, KNOWN.untouched.predicted, first_of_each(5))
    kept = after / before
    assert abs((kept < low).mean() - 0.05) < 0.03 and abs((kept > high).mean() - 0.05) < 0.03, "a 90 % interval"


@pytest.mark.parametrize(
    ("kept", "lost"),
    [
        ((0.7499, 0.5, 0.8999), True),
        ((0.75, 0.5, 0.8999), False),
        ((0.7499, 0.5, 0.9), False),
        ((0.0, -0.1, 0.1), True),
    ],
)
def test_meaning_is_lost_below_three_quarters_if_surely_below_nine_tenths(
    kept: tuple[float, float, float], lost: bool
) -> None:
    assert loses_meaning(kept) == lost


@pytest.mark.parametrize(("low", "asked"), [(0.2, True), (0.1999, False)])
def test_a_probe_is_asked_only_if_it_is_surely_better_than_chance(low: float, asked: bool) -> None:
    assert ("layout" in trusted({"layout": (0.5, low, 0.8)})) == asked


@pytest.mark.parametrize(("middle", "asked"), [(0.45, True), (0.4499, False)])
def test_a_probe_with_less_than_half_of_the_best_ones_skill_is_not_asked(middle: float, asked: bool) -> None:
    found = trusted({"layout": (0.9, 0.8, 1.0), "content": (middle, 0.3, 0.6)})
    assert found == (("layout", "content") if asked else ("layout",))


@pytest.mark.parametrize(("learned", "alive"), [(0.75, True), (0.7499, False)])
def test_classes_survive_where_a_probe_that_learns_from_versions_has_three_quarters_of_the_skill(
    learned: float, alive: bool
) -> None:
    assert survives(learned, 1.0) == alive


# -- classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("near", "counted"), [(1.0, True), (1.001, False)])
def test_an_image_has_moved_only_if_it_lies_as_near_as_is_usual(near: float, counted: bool) -> None:
    share, _ = moved(KNOWN, predictions(first_of_each(8), near=near))
    assert (share[0, 1] == 0.4) == counted and share[0, 1] in (0.4, 0.0)


@pytest.mark.parametrize(("count", "sure"), [(2, False), (3, True)])
def test_fewer_than_three_images_are_no_move(count: int, sure: bool) -> None:
    _, lower = moved(KNOWN, predictions(first_of_each(count)))
    assert (lower[0, 1] > -1) == sure


def test_what_was_called_so_before_does_not_count_as_moved() -> None:
    """Six are predicted as the other class now, but three of them were untouched; those that return are subtracted."""
    known = Told(TRUTH, predictions(first_of_each(3)))
    assert moved(known, predictions(first_of_each(6)))[0][0, 1] == 3 / 20
    assert moved(known, predictions(TRUTH))[0][0, 1] == -3 / 20


def test_the_sure_share_is_the_share_less_1_645_standard_errors() -> None:
    _, lower = moved(KNOWN, predictions(first_of_each(10)))
    assert lower[0, 1] == pytest.approx(0.5 - 1.645 * (10 - 100 / 20) ** 0.5 / 20)
    _, lower = moved(KNOWN, predictions(first_of_each(20)))
    assert lower[0, 1] == pytest.approx(1 - 1.645 * 0.5**0.5 / 20), "the error is never nothing"
    assert (np.diag(lower) == -1).all(), "no class becomes itself"


@pytest.mark.parametrize(
    ("lower", "changed"),
    [
        ((0.5001,), True),
        ((0.5,), False),
        ((0.5001, -1.0), True),
        ((0.5, -1.0), False),
        ((0.2501, 0.2501), True),
        ((0.25, 0.4), False),
        ((0.4,), False),
    ],
)
def test_a_class_changes_by_most_of_it_to_one_kind_of_features_or_by_some_of_it_to_both(
    lower: tuple[float, ...], changed: bool
) -> None:
    found = changes_class([matrix(one) for one in lower])
    assert found[0, 1] == changed and found.sum() == changed


@pytest.mark.parametrize(("lower", "changed"), [(0.1001, True), (0.1, False)])
def test_an_expected_pair_needs_a_tenth_where_the_meaning_is_lost(lower: float, changed: bool) -> None:
    assert changes_class([matrix(lower)], [(0, 1)], lost=True)[0, 1] == changed
    assert not changes_class([matrix(lower)], [(0, 1)], lost=False).any(), "names alone prove nothing"


def test_names_say_which_classes_a_field_exchanges_and_no_other_field_does() -> None:
    assert exchanged(["B", "o", "d"], ["flip_horizontal"]) == [(0, 2), (2, 0)]
    assert exchanged(["B", "o", "d"], ["flip_vertical", "crop"]) == []
    assert exchanged(["b", "o"], ["flip_horizontal"]) == []


# -- verdicts and sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "said"), [(1.0, "safe"), (0.9999, "limited"), (0.0625, "limited"), (None, "unsafe")])
def test_a_field_is_safe_only_over_its_whole_range(limit: float | None, said: str) -> None:
    assert verdict_at(limit) == said


@pytest.mark.parametrize(
    ("name", "asked", "size"),
    [
        ("rotate", 9.9, 9.9),
        ("rotate", 10.1, 10.0),
        ("crop", 0.81, 0.81),
        ("crop", 0.79, 0.8),
        ("flip_horizontal", 1.0, None),
    ],
)
def test_what_cannot_be_measured_is_held_to_a_careful_size(name: str, asked: float, size: float | None) -> None:
    assert careful_size(name, asked, hinted=False) == size
    assert careful_size(name, asked, hinted=True) is None, "names speak against it, and nothing for it"


@pytest.mark.parametrize(
    ("gain", "error", "said"), [(-0.0201, 0.0, True), (-0.02, 0.0, False), (-0.121, 0.05, True), (-0.119, 0.05, False)]
)
def test_a_class_is_hurt_if_it_loses_more_than_two_standard_errors_and_two_points(
    gain: float, error: float, said: bool
) -> None:
    assert hurt({"left": (gain, error), "right": (0.3, 0.0)}) == ({"left": gain} if said else {})


def test_the_interval_of_an_auc_is_hanley_and_mcneils() -> None:
    assert auc_interval(0.5, 100) == (0.5, 0.4198, 0.5802)
    assert auc_interval(0.99, 4)[2] == 1.0, "no more than 1"


# -- what is measured -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("shift_x", 0.25, 0.0),
        ("shift_x", -0.25, 1.0),
        ("shift_x", 0.125, 0.5),
        ("shift_y", 0.25, 0.75),
        ("shift_x", 1.0, 0.0),
        ("zoom", 2.0, 0.0),
        ("zoom", 0.5, 1.0),
        ("crop", 1.0, 1.0),
    ],
)
def test_saliency_on_the_right_edge_leaves_the_image_to_the_right(name: str, value: float, left: float) -> None:
    saliency_map = np.zeros((4, 4))
    saliency_map[:, 3] = 0.25
    assert in_frame(saliency_map, name, (value, value)) == pytest.approx(left)


def test_a_sample_takes_everything_if_it_may_and_else_classes_as_even_as_they_are() -> None:
    labels, random = np.repeat([0, 1, 2], [90, 30, 5]), np.random.default_rng(0)
    assert evenly(labels, 125, random).tolist() == list(range(125))
    chosen = evenly(labels, 45, random)
    assert np.bincount(labels[chosen]).tolist() == [20, 20, 5] and (np.diff(chosen) > 0).all()


def test_a_reason_names_the_level_of_its_interval() -> None:
    ruling = SimpleNamespace(pairs=(), kept=(0.5, 0.4, 0.6), kind="layout", far=0.0)
    sample: Any = SimpleNamespace(judged=range(40))
    finding: Any = SimpleNamespace(ruling=ruling, in_frame=None)
    assert "keeps 50% of its accuracy above chance (90 % interval 40% to 60%, n = 40)" in why(sample, finding)
