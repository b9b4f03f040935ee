"""The measured axes and the tournament: decided on held-out images, the cheaper on a tie, nothing trained twice."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.tiny import predicted
from tests.training.test_training import BACKBONE, examples
from tests.training.test_training import tiny as tiny_model
from tlkit import Examples, Head, finetune
from tlkit.cache import in_memory
from tlkit.checkpoints import Checkpoints
from tlkit.errors import TrainingError
from tlkit.features.linear import CrossValidation
from tlkit.features.table import Table, feature_table
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.job import Job
from tlkit.progress import Deadline
from tlkit.stats import paired_difference
from tlkit.strategy.axes import activation_distance, learning_curve, profile, sentences, still_climbing
from tlkit.strategy.recipes import decide_by_tournament, foresee_tournament, minutes_at_most
from tlkit.strategy.tournament import Contender, Outcome, Tournament
from tlkit.strategy.tuning import tuning_recipe
from tlkit.training.history import History


def build(head: Head) -> keras.Model:
    return tiny_model(head=head, seed=1)


def table_of(pool: Examples, training: int) -> Table:
    found = feature_table(build(Head(taps="all")), BACKBONE, pool, training)
    assert found is not None
    return found


def hold(pool: Examples, training: int, **settings: Any) -> Outcome:
    given = {name: settings.pop(name) for name in ("epochs", "effort", "learning_rate", "balance") if name in settings}
    return Tournament(build, BACKBONE, table_of(pool, training), pool, Job("data", **given), **settings).run()


@pytest.fixture
def blind_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear heads that always answer class 0, so that fine-tuning is ahead."""

    def choose(
        rows: np.ndarray, labels: np.ndarray, folds: np.ndarray, classes: int, **settings: Any
    ) -> CrossValidation:
        probabilities = np.eye(classes, dtype="float32")[np.zeros((folds >= 0).sum(), int)]
        return CrossValidation(0.1, probabilities, 9.0, {0.1: 9.0})

    monkeypatch.setattr("tlkit.features.table.choose_strength", choose)


# -- the axes ---------------------------------------------------------------------------------------------


def test_the_table_has_every_block_and_training_rows_first() -> None:
    pool = examples(20, 600)
    table = table_of(pool, 14)
    assert [rows.shape for rows in table.blocks] == [(20, 8), (20, 16), (20, 24), (20, 32)]
    assert table.training == 14 and set(table.folds) == {0, 1, 2, 3, 4} and table.images_computed == 20
    assert table_of(pool, 14).images_computed == 0


def test_a_profile_says_how_much_there_is_and_how_good_each_block_is() -> None:
    pool = examples(30, 601)
    axes = profile(build(Head(taps="all")), BACKBONE, table_of(pool, 24), pool)
    assert axes["images"] == axes["n"] == 30 and axes["effective_images_per_class"] == 10
    assert axes["chance"] == pytest.approx(1 / 3, abs=1e-3) and axes["above_chance"] > 0.8
    assert [one["features"] for one in axes["blocks"]] == [8, 16, 24, 32]
    low, high = axes["blocks"][-1]["accuracy_95"]
    assert low < axes["blocks"][-1]["accuracy"] <= high + 1e-9
    assert [point["training_images"] for point in axes["learning_curve"]] == [6, 12, 24]
    assert json.loads(json.dumps(axes)) == axes
    assert len(axes["sentences"]) == 5 and "30 images" in axes["sentences"][0]


@pytest.mark.slow
def test_a_cause_is_stated_only_where_the_interval_bears_it() -> None:
    pool = examples(30, 6601)
    axes = profile(build(Head(taps="all")), BACKBONE, table_of(pool, 24), pool)
    found = {**axes, "best_block": axes["blocks"][0]["block"], "best_ahead_of_last": 0.026}
    sure, unsure = (
        next(
            one for one in sentences({**found, "best_ahead_of_last_p": p}) if "earlier block" in one or "block 1" in one
        )
        for p in (0.01, 0.06)
    )
    assert sure.endswith("specific to the backbone's own classes")
    assert "specific" not in unsure and unsure.startswith("no earlier block")


def points(n: int, spread: float, features: int, seed: int) -> Table:
    """Two classes in noise; the last 400 rows are held out."""
    random = np.random.default_rng(seed)
    labels = np.arange(n + 400) % 2
    rows = random.normal(size=(n + 400, features)).astype("float32")
    rows[:, 0] += spread * (2 * labels - 1)
    folds = np.where(np.arange(n + 400) < n, -1, 0)
    return Table([rows], labels, folds, "chosen on 400 validation images", n, 2)


def test_the_learning_curve_reaches_all_training_images_or_says_that_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = points(6000, 1.0, 6, 6460)
    curve = learning_curve(table, 1.0)
    assert [(one["training_images"], one["of"]) for one in curve] == [(1500, 6000), (3000, 6000), (6000, 6000)]
    monkeypatch.setattr("tlkit.strategy.axes.CURVE_IMAGES", 400)
    short = learning_curve(points(6000, 1.0, 300, 6461), 0.01)
    assert short[-1]["training_images"] == 400 and short[-1]["of"] == 6000
    assert short[-1]["gain"] > 1.96 * short[-1]["gain_error"]
    assert not still_climbing({"learning_curve": short})
    assert still_climbing({"learning_curve": [{**short[-1], "of": 400}]})


def test_a_curve_of_an_earlier_version_that_stopped_at_4000_claims_nothing() -> None:
    last = {"training_images": 4000, "gain": 0.1, "gain_error": 0.01}
    assert not still_climbing({"learning_curve": [last]})
    assert still_climbing({"learning_curve": [{**last, "training_images": 3000}]})


def test_each_size_of_the_learning_curve_has_a_penalty_of_its_own() -> None:
    """With that of all images, few images in many dimensions would look worse than they are."""
    curve = learning_curve(points(800, 0.3, 500, 6462), 1.0)
    assert min(one["strength"] for one in curve) < 1.0


@pytest.mark.slow
def test_doubled_files_and_rare_classes_lower_the_effective_number() -> None:
    pool = examples(30, 602)
    doubled = replace(pool, keys=[*pool.keys[:15]] * 2)
    rare = replace(pool, labels=np.array([0] * 26 + [1, 1, 2, 2]))
    model = build(Head(taps="all"))
    sizes = [
        profile(model, BACKBONE, table_of(one, 24), one)["effective_images_per_class"] for one in (pool, doubled, rare)
    ]
    assert sizes[0] == 10 and sizes[1] == 5 and sizes[2] < 4


def test_pictures_like_those_the_statistics_are_of_are_near_and_others_far() -> None:
    pool = examples(64, 603)
    model = build(Head())
    inputs = predicted(keras.Model(model.input, model.get_layer("conv_32").output), pool.pixels.gather(slice(None)))
    layer = model.get_layer("bn_32")
    layer.moving_mean.assign(inputs.mean((0, 1, 2)))
    layer.moving_variance.assign(inputs.var((0, 1, 2)))
    near = activation_distance(model, pool)
    dark = replace(pool, pixels=in_memory((pool.pixels.gather(slice(None)) // 8).astype("uint8")))
    far = activation_distance(model, dark)
    assert near is not None and far is not None and near < 0.01 < 0.1 < far


def test_a_difference_comes_with_the_error_of_pairs() -> None:
    first, second = np.array([1, 1, 1, 0, 1, 1, 1, 1], bool), np.array([1, 1, 0, 0, 1, 1, 1, 1], bool)
    ahead, error = paired_difference(first, second)
    assert ahead == 0.125 and error == pytest.approx(0.125)


# -- the decision -----------------------------------------------------------------------------------------


def predicted_labels(n: int, **job: Any) -> Tournament:
    """A tournament of n images of two classes, of which the first three quarters are of class 0."""
    labels, folds = (np.arange(n) >= 3 * n // 4).astype("int64"), np.arange(n) % 5
    table = Table([np.zeros((n, 1), "float32")], labels, folds, "by 5 folds", n // 2, 2)
    pool = examples(2, 620).take(np.zeros(n, int))
    return Tournament(build, BACKBONE, table, pool, Job("data", **job))


def contenders(tournament: Tournament, *shares: float, sureness: float = 0.8) -> list[Contender]:
    """Each right on the first share of the images, so that the better is right wherever the worse is."""
    labels, found = tournament.table.labels, []
    for place, share in enumerate(shares):
        right = np.arange(len(labels)) < share * len(labels)
        probabilities = np.eye(2)[np.where(right, labels, 1 - labels)] * (2 * sureness - 1) + 1 - sureness
        one = Contender(f"c{place}", tuning_recipe("r", 1, 100, Job("data")), tournament._no_answers())
        tournament._judged(one, probabilities, np.ones(len(labels), bool))
        found.append(one)
    return found


@pytest.mark.parametrize("n", [40, 90, 200])
@pytest.mark.parametrize(("more", "leader"), [(0, "c0"), (1, "c0"), (8, "c1")])
def test_another_head_leads_only_if_it_is_ahead_by_more_than_chance_whatever_the_number_of_images(
    n: int, more: int, leader: str
) -> None:
    tournament = predicted_labels(n)
    assert tournament._leader(contenders(tournament, 0.8, 0.8 + more / n)).name == leader


def test_what_is_said_of_a_difference_follows_from_an_exact_test() -> None:
    tournament = predicted_labels(200)
    tournament.contenders = contenders(tournament, 0.80, 0.805)
    assert "c1 is 0.5 points more accurate" in tournament._why(tournament.contenders[0])
    assert "p = 1, which these images cannot tell from chance" in tournament._why(tournament.contenders[0])
    tournament.contenders = contenders(tournament, 0.70, 0.90)
    why = tournament._why(tournament.contenders[1])
    assert "next is c0, 20.0 points behind" in why and "more than chance" in why


# -- classes of different sizes ---------------------------------------------------------------------------


def imbalanced(separation: float, **job: Any) -> tuple[Tournament, Contender]:
    """594 images of class 0 and 6 of class 1, with probabilities that are calibrated for these shares."""
    random, labels = np.random.default_rng(0), (np.arange(600) >= 594).astype("int64")
    table = Table([np.zeros((600, 1), "float32")], labels, np.arange(600) % 5, "by 5 folds", 480, 2)
    pool = examples(2, 621).take(np.zeros(600, int))
    tournament = Tournament(build, BACKBONE, table, pool, Job("data", **job))
    table.labels[:] = random.permutation(labels)
    signal = table.labels + random.normal(0, 1 / separation, 600)
    logit = separation**2 * (signal - 0.5) + np.log(6 / 594)
    one = Contender("c", tuning_recipe("r", 1, 100, Job("data")), tournament._no_answers())
    probabilities = 1 / (1 + np.exp(-np.stack([-logit, logit], axis=1)))
    tournament._judged(one, probabilities, np.ones(600, bool))
    return tournament, one


def recall_of_the_rare(tournament: Tournament, one: Contender) -> float:
    return float((one.correct[tournament.table.labels == 1] > 0).mean())


def test_a_model_that_never_answers_the_rare_class_is_freed_from_the_classes_shares() -> None:
    tournament, one = imbalanced(2.0)
    assert str(tournament.criterion) == "balanced log loss" and one.recipe.prior_shift
    _, kept = imbalanced(2.0, balance="none")
    assert not kept.recipe.prior_shift and str(_.criterion) == "log loss"
    assert recall_of_the_rare(tournament, kept) == 0 and recall_of_the_rare(tournament, one) > 0.6


def test_where_nothing_can_be_told_apart_the_rare_class_is_not_answered_instead() -> None:
    tournament, one = imbalanced(0.01)
    assert not one.recipe.prior_shift and (one.correct[tournament.table.labels == 0] > 0).all()


def test_equal_classes_and_a_metric_that_was_asked_for_are_left_alone() -> None:
    tournament = predicted_labels(40)  # 30 and 10 images: not more than three to one
    assert tournament._ways == [None] and str(tournament.criterion) == "log loss"
    assert str(imbalanced(2.0, metric="auc")[0].criterion) == "ROC AUC"
    assert str(imbalanced(2.0, metric="accuracy")[0].criterion) == "accuracy"


@pytest.mark.slow
def test_asked_for_weights_are_in_every_recipe() -> None:
    found = hold(examples(30, 622), 24, balance="weights")
    assert found.recipe.class_weights and not found.recipe.prior_shift


def test_of_trained_models_the_lower_log_loss_serves_better_unless_it_is_clearly_less_accurate() -> None:
    pool = examples(160, 612)
    tournament = Tournament(build, BACKBONE, table_of(pool, 80), pool, Job("data"))
    labels, random = pool.labels[80:], np.random.default_rng(0)

    def tuned(noise: float, wrong: int = 0) -> Contender:
        """A model that is surer the less noise there is, and that does not know the first `wrong` images."""
        logits = 4 * np.eye(3)[labels] + random.normal(0, noise, (80, 3))
        logits[:wrong] = np.eye(3)[(labels[:wrong] + 1) % 3] / 4
        one = Contender(
            "c", tuning_recipe("r", 1, 100, Job("data")), np.full(len(tournament.table.held_out), -1, "int8")
        )
        tournament._judged(one, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), tournament._validation_rows)
        return one

    assert tournament._validation_rows.sum() == 80
    head = tuned(1.2)
    assert tournament._serves_better(tuned(0.1), head) and not tournament._serves_better(head, tuned(0.1))
    right, of_head = (one.correct[tournament._validation_rows] for one in (tuned(0.1, 16), head))
    assert right.sum() == 64 and of_head.sum() > 70
    assert not tournament._serves_better(tuned(0.1, 16), head)


# -- the tournament ---------------------------------------------------------------------------------------


def test_few_validation_images_judge_no_fine_tuning() -> None:
    found = hold(examples(30, 605), 24)
    assert found.recipe.stages[0].solver == "logistic" and len(found.recipe.stages) == 1 and found.model is None
    tuned = [row for row in found.contenders if row["strategy"].startswith("fine-tune")]
    assert len(tuned) == 2 and all(
        "it needs 40 or more validation images, and has 6" in row["outcome"] for row in tuned
    )
    assert [row["outcome"] for row in found.contenders].count("taken") == 1
    linear = [row for row in found.contenders if row["strategy"].startswith("linear")]
    assert len(linear) == 3 and all(row["n"] == 30 for row in linear)


def test_a_head_with_next_to_no_errors_left_is_not_fine_tuned_and_nothing_is_checked() -> None:
    found = hold(examples(90, 611), 48, augmentation=lambda: pytest.fail("no augmentation is needed"))
    tuned = [row for row in found.contenders if row["strategy"].startswith("fine-tune")]
    assert len(tuned) == 2 and all("too few to show that another is better" in row["outcome"] for row in tuned)
    assert found.model is None


@pytest.mark.usefixtures("blind_heads")
def test_quick_effort_solves_heads_only() -> None:
    found = hold(examples(90, 613), 48, effort="quick", augmentation=lambda: pytest.fail("no augmentation is needed"))
    outcomes = {row["outcome"] for row in found.contenders if row["strategy"].startswith("fine-tune")}
    assert outcomes == {"not tried: the effort asked for is quick"} and found.model is None


@pytest.mark.usefixtures("blind_heads")
@pytest.mark.slow
def test_fine_tuning_that_is_ahead_wins_and_is_trained_already() -> None:
    pool, augmentation = examples(90, 606), Augmentation(brightness=(-0.05, 0.05))
    found = hold(pool, 48, epochs=4, augmentation=lambda: augmentation)
    assert found.model is not None and found.history is not None
    assert found.recipe.stages[-1].unfreeze == 3 and found.recipe.monitor == "last"
    assert found.recipe.augmentation == augmentation
    row = next(row for row in found.contenders if row["outcome"] == "taken")
    val = pool.take(np.arange(48, 90))
    right = predicted(found.model, val.pixels.gather(slice(None))).argmax(1) == val.labels
    assert row["n"] == 42 and row["accuracy"] == pytest.approx(right.mean())
    assert found.history.rows[-1]["val_accuracy"] == pytest.approx(right.mean())
    top = next(row for row in found.contenders if row["strategy"] == "fine-tune top blocks")
    assert "fits into the time limit" in top["outcome"] and top["accuracy"] is None


@pytest.mark.usefixtures("blind_heads")
@pytest.mark.slow
@pytest.mark.parametrize("known_before", [True, False])
def test_what_would_take_too_long_is_given_up_before_or_in_its_first_steps(
    known_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forward pass is timed before anything is traced; where that shows nothing, the pace of the first steps does."""
    monkeypatch.setattr("tlkit.strategy.tournament.seconds_per_image", lambda model: 1e4 if known_before else 0.0)
    checked: list[int] = []

    def augmentation() -> Augmentation:
        checked.append(1)
        return Augmentation()

    settings = {"epochs": 100_000, "deadline": Deadline.after(60), "augmentation": augmentation}
    found = hold(examples(90, 607), 48, **settings)
    tuned = [row for row in found.contenders if row["strategy"].startswith("fine-tune")]
    assert all("past the time limit" in row["outcome"] and row["accuracy"] is None for row in tuned)
    assert all(("or more" in row["outcome"]) == known_before for row in tuned)
    assert found.model is None and bool(checked) != known_before, "nothing is checked for what does not begin"


@pytest.mark.usefixtures("blind_heads")
@pytest.mark.slow
def test_what_would_take_too_long_trains_for_as_many_epochs_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 epochs would take 1,000 seconds: in 0.7 of 500 there is room for 8. That too is measured, and then the top."""
    tried: list[tuple[str, int, float]] = []

    def train(model: keras.Model, backbone: Any, recipe: Any, *a: Any, **settings: Any) -> History:
        stage = recipe.stages[-1]
        tried.append((recipe.name, stage.epochs, stage.warmup))
        return History(expected_seconds=1000.0 * stage.epochs / 24)

    monkeypatch.setattr("tlkit.strategy.tournament.train", train)
    monkeypatch.setattr("tlkit.strategy.tournament.Deadline.left", 500.0)
    found = hold(examples(90, 618), 48, deadline=Deadline.after(500))
    upper = "fine-tune upper blocks"
    assert tried[:2] == [(upper, 24, 1.0), (f"{upper}, 8 epochs", 8, 0.8)]
    assert found.model is None and all("top" in name for name, *_ in tried[2:])
    tried.clear()
    hold(examples(90, 618), 48, deadline=Deadline.after(500), epochs=24)
    assert [epochs for _, epochs, _ in tried] == [24] * len(tried), "what was asked for is not shortened"


def limited(left: float, folder: Path) -> tuple[Tournament, Contender]:
    """A tournament with so many seconds left, and fine-tuning of the top blocks that may take part in it."""
    pool, augmentation = examples(20, 604), Augmentation(brightness=(-0.1, 0.1))
    given: dict[str, Any] = {"deadline": Deadline.after(left), "checkpoints": Checkpoints(folder)}
    tournament = Tournament(build, BACKBONE, table_of(pool, 14), pool, Job("data"), lambda: augmentation, **given)
    return tournament, Contender("top", tuning_recipe("r", 2, 14, Job("data")), np.zeros(20, np.int8))


@pytest.mark.parametrize(("left", "views"), [(1e6, 8), (600.0, 2), (100.0, None)])
def test_the_top_blocks_get_as_many_views_as_a_third_of_the_time_allows(
    left: float, views: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tlkit.strategy.tournament.seconds_per_image", lambda model: 99 / 14)
    tournament, one = limited(left, tmp_path)
    assert tournament._ready(one) is not None
    assert (one.recipe.augmentation.is_identity(), one.recipe.views) == (views is None, views or 8)


@pytest.mark.parametrize("left", [600.0, 50.0])
@pytest.mark.slow
def test_what_a_measured_time_decided_is_not_decided_otherwise_after_a_resume(
    left: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """2 of 8 views, or none of the contender, at the first process' pace; another is faster, or has no time left."""
    ready: list[tuple[bool, str, int]] = []
    for pace, seconds in ((99 / 14, left), (1e-6, 1e6), (1e3, 0.0)):
        monkeypatch.setattr("tlkit.strategy.tournament.seconds_per_image", lambda model, pace=pace: pace)
        tournament, one = limited(seconds, tmp_path)
        built = tournament._ready(one) is not None
        ready.append((built, one.outcome, one.recipe.views))
    assert ready == [ready[0]] * 3 and ready[0][0] == (left == 600.0)
    assert ready[0][2] == (2 if left == 600.0 else 8) and ("past the time limit" in ready[0][1]) == (left == 50.0)


@pytest.mark.slow
def test_where_the_rate_is_too_high_a_quarter_of_it_is_tried(
    blind_heads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def train(model: keras.Model, backbone: Any, recipe: Any, *a: Any, **settings: Any) -> Any:
        rates.append(recipe.stages[-1].learning_rate)
        if len(rates) == 1:
            raise TrainingError("The loss became nan.")
        return really(model, backbone, recipe, *a, **settings)

    really = importlib.import_module("tlkit.strategy.tournament").train
    monkeypatch.setattr("tlkit.strategy.tournament.train", train)
    found = hold(examples(90, 614), 48, epochs=8)
    assert rates == [rates[0], rates[0] / 4] and found.model is not None
    assert found.recipe.name == "fine-tune upper blocks, lower rate"
    outcomes = {row["strategy"]: row["outcome"] for row in found.contenders}
    assert outcomes["fine-tune upper blocks"] == "dropped: The loss became nan."


@pytest.mark.slow
def test_a_rate_at_which_nothing_is_learned_is_lowered_until_something_is(
    blind_heads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.strategy.tuning.RATE", 30.0)
    found = hold(examples(90, 616), 48, epochs=4)
    tuned = [row for row in found.contenders if row["strategy"].startswith("fine-tune upper")]
    assert len(tuned) >= 2 and "learning_rate (30 now)" in tuned[0]["outcome"]
    assert any("learned nothing" in row["outcome"] for row in tuned) and len(tuned) <= 4


@pytest.mark.slow
def test_the_best_effort_trains_variations_and_takes_the_best_of_them(blind_heads: None) -> None:
    pool = examples(90, 617)
    found = hold(pool, 48, epochs=2, effort="best")
    tuned = [row for row in found.contenders if row["strategy"].startswith("fine-tune upper")]
    assert len(tuned) == 4 and all(row["n"] == 42 for row in tuned)
    assert found.model is not None and found.history is not None
    taken = next(row for row in tuned if row["outcome"] == "taken")
    validation = pool.take(np.arange(48, 90))
    right = predicted(found.model, validation.pixels.gather(slice(None))).argmax(1) == validation.labels
    assert taken["accuracy"] == pytest.approx(right.mean()) and taken["strategy"] == found.recipe.name


@pytest.mark.parametrize(
    ("job", "validation", "expected"),
    [
        (Job("data"), 78, "24 epochs of 312 images: about 44 minutes; left out if"),  # (8 + 2 x 24) x 312 x 0.15 s
        (Job("data", epochs=2), 78, "2 epochs of 312 images: about 9 minutes"),
        (Job("data", effort="best", epochs=2), 78, "three variations of it: about 1.6 hours more"),
        (Job("data", effort="quick"), 78, "no fine-tuning: the effort asked for is quick"),
        (Job("data"), 39, "no fine-tuning: it needs 40 or more validation images, and has 39"),
    ],
)
def test_what_each_strategy_would_cost_is_said_before(
    job: Job, validation: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.strategy.recipes.seconds_per_image", lambda model: 0.15)
    said = foresee_tournament(build, BACKBONE, 312, validation, job).evidence["sentences"]
    assert any(expected in sentence for sentence in said)
    assert validation == 39 or "about 60 seconds" in said[1]


@pytest.mark.parametrize(
    ("seconds", "report", "left"), [(300, True, 150), (50, True, 17), (50, False, 25), (20, True, 0)]
)
def test_a_tournament_leaves_the_time_of_the_export_its_proof_and_the_report(
    seconds: float, report: bool, left: float
) -> None:
    minutes = minutes_at_most(600, Job("data", report=report), Deadline.after(seconds))
    assert 60 * minutes == pytest.approx(left, abs=0.5)


@pytest.mark.usefixtures("blind_heads")
@pytest.mark.parametrize("moment", ["train", pytest.param("seconds_per_image", marks=pytest.mark.slow)])
def test_an_interrupted_tournament_is_decided_with_what_there_is(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*a: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"tlkit.strategy.tournament.{moment}", stop)
    found = hold(examples(90, 615), 48)
    assert found.model is None and len(found.recipe.stages) == 1
    tuned = [row["outcome"] for row in found.contenders if row["strategy"].startswith("fine-tune")]
    assert tuned == [
        "dropped: it was interrupted before its first epoch",
        "not tried: the tournament was interrupted",
    ]


@pytest.mark.usefixtures("blind_heads")
def test_when_time_is_up_fine_tuning_is_dropped_and_a_linear_head_taken() -> None:
    found = hold(examples(90, 608), 48, deadline=Deadline.after(-1))
    tuned = [row for row in found.contenders if row["strategy"].startswith("fine-tune")]
    assert all("time limit" in row["outcome"] and row["accuracy"] is None for row in tuned)
    assert len(found.recipe.stages) == 1


def test_no_room_for_features_means_a_recipe_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.cache.Cache.has_room_for", lambda *a: False)
    monkeypatch.setattr("tlkit.cache.available_memory", lambda: 0)
    found, decisions = decide_by_tournament(build, BACKBONE, examples(12, 609), 9, Job("data"))
    assert found.recipe.name == "small_similar" and "no room for features" in decisions[0].why


# -- in a run ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("unserved")
def test_a_run_without_a_recipe_decides_by_tournament_and_a_repeat_does_not(
    folder: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    run = finetune(folder, **tiny, out=tmp_path / "run")
    data, recipe = run.plan.decisions[:2]
    assert data.about == "measured" and data.evidence["images"] == 24 and "per class" in data.why
    assert recipe.about == "recipe" and {row["strategy"] for row in recipe.evidence["contenders"]} >= {
        "linear, last block",
        "linear, all blocks",
        "fine-tune upper blocks",
    }
    assert any("tournament" in line for line in said) and 3 <= run.metrics["validation"]["n"] <= 6
    monkeypatch.setattr(
        "tlkit.finetuning.decide.decide_by_tournament", lambda *a, **k: pytest.fail("it was decided before")
    )
    again = finetune(run.folder / "plan.json", out=tmp_path / "again")
    assert again.plan.recipe == run.plan.recipe
    assert again.metrics["images_computed"] == 0, "the tournament's features serve the run that repeats it"


@pytest.mark.usefixtures("unserved", "blind_heads")
@pytest.mark.slow
def test_a_run_takes_over_what_the_tournament_trained(
    tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.conftest import write_folder

    monkeypatch.setattr("tlkit.strategy.tuning.FEWEST_TO_JUDGE", 5)
    monkeypatch.setattr(
        "tlkit.finetuning.fit.train_best", lambda *a, **k: pytest.fail("it was trained in the tournament")
    )
    run = finetune(write_folder(tmp_path / "data", per_class=32), **tiny, out=tmp_path / "run", epochs=2)
    assert run.plan.recipe.name.startswith("fine-tune") and run.metrics["validation"]["accuracy"] > 0.5
    history = (run.folder / "history.csv").read_text().splitlines()
    assert len(history) == 1 + 3 + 2 + 1, "three epochs of the head, two of all blocks, the position chosen"
