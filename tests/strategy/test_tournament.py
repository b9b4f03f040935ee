"""The measured axes and the tournament: held-out evidence, the cheaper of equals, and nothing trained twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.training.test_training import BACKBONE, examples
from tests.training.test_training import tiny as tiny_model
from tlkit import Examples, Head, finetune
from tlkit.cache import in_memory
from tlkit.features.linear import Validated
from tlkit.features.table import Table, feature_table
from tlkit.plan.job import Job
from tlkit.progress import Deadline
from tlkit.stats import paired_difference
from tlkit.strategy.axes import activation_distance, profile
from tlkit.strategy.recipes import decide_by_tournament
from tlkit.strategy.tournament import Contender, Outcome, Tournament, tuning_recipe


def build(head: Head) -> keras.Model:
    return tiny_model(head=head, seed=1)


def table_of(pool: Examples, training: int) -> Table:
    found = feature_table(build(Head(taps="all")), BACKBONE, pool, training)
    assert found is not None
    return found


def hold(pool: Examples, training: int, **settings: Any) -> Outcome:
    return Tournament(build, BACKBONE, table_of(pool, training), pool, **settings).run()


@pytest.fixture
def blind_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear heads that always answer class 0, so that fine-tuning is ahead."""

    def choose(rows: np.ndarray, labels: np.ndarray, folds: np.ndarray, classes: int, **settings: Any) -> Validated:
        probabilities = np.eye(classes, dtype="float32")[np.zeros((folds >= 0).sum(), int)]
        return Validated(0.1, probabilities, 9.0, {0.1: 9.0})

    monkeypatch.setattr("tlkit.strategy.tournament.choose_strength", choose)


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
    inputs = keras.Model(model.input, model.get_layer("conv_32").output).predict(
        pool.pixels.gather(slice(None)), verbose=0
    )
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


def contenders(*shares: float, n: int = 200) -> list[Contender]:
    """Each right on the first share of the images, so that the better is right wherever the worse is."""
    found = []
    for place, share in enumerate(shares):
        right = (np.arange(n) < share * n).astype("int8")
        found.append(Contender(f"c{place}", tuning_recipe("r", _start(), 1, 100), right))
    return found


def _start() -> Any:
    from tlkit import Recipe, Stage

    return Recipe("start", stages=(Stage(1, 1e-3, solver="logistic"),))


@pytest.mark.parametrize(
    ("shares", "leader"),
    [
        ((0.80, 0.805), "c0"),  # one image of 200: not more than its standard error
        ((0.80, 0.84), "c1"),
        ((0.80, 0.84, 0.845), "c1"),
        ((0.80, 0.70, 0.90), "c2"),
    ],
)
def test_the_dearer_leads_only_by_more_than_the_standard_error(shares: tuple[float, ...], leader: str) -> None:
    tournament = Tournament(build, BACKBONE, table_of(examples(20, 604), 14), examples(20, 604))
    assert tournament._lead(contenders(*shares)).name == leader


def test_where_it_cannot_tell_it_says_so() -> None:
    tournament = Tournament(build, BACKBONE, table_of(examples(20, 604), 14), examples(20, 604))
    tournament.contenders = contenders(0.80, 0.805)
    assert "cannot tell from chance, so the cheaper is taken" in tournament._why(tournament.contenders[0])
    tournament.contenders = contenders(0.70, 0.90)
    assert "next is c0, 20.0 points behind" in tournament._why(tournament.contenders[1])


# -- the tournament ---------------------------------------------------------------------------------------


def test_an_easy_set_takes_a_linear_head_and_few_validation_images_judge_no_fine_tuning() -> None:
    found = hold(examples(30, 605), 24)
    assert found.recipe.stages[0].solver == "logistic" and len(found.recipe.stages) == 1 and found.model is None
    tuned = [row for row in found.contenders if row["strategy"].startswith("fine-tune")]
    assert len(tuned) == 2 and all("6 validation images are too few" in row["outcome"] for row in tuned)
    assert [row["outcome"] for row in found.contenders].count("taken") == 1
    linear = [row for row in found.contenders if row["strategy"].startswith("linear")]
    assert len(linear) == 3 and all(row["n"] == 30 for row in linear)


@pytest.mark.usefixtures("blind_heads")
@pytest.mark.slow
def test_fine_tuning_that_is_ahead_wins_and_is_trained_already() -> None:
    pool = examples(90, 606)
    found = hold(pool, 48, epochs=4)
    assert found.model is not None and found.history is not None
    assert found.recipe.stages[-1].unfreeze in (2, "all") and found.recipe.monitor == "last"
    row = next(row for row in found.contenders if row["outcome"] == "taken")
    val = pool.take(np.arange(48, 90))
    right = found.model.predict(val.pixels.gather(slice(None)), verbose=0).argmax(1) == val.labels
    assert row["n"] == 42 and row["accuracy"] == pytest.approx(right.mean())
    assert found.history.rows[-1]["val_accuracy"] == pytest.approx(right.mean())


@pytest.mark.usefixtures("blind_heads")
@pytest.mark.slow
def test_of_a_large_set_a_part_comes_first_and_half_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.strategy.tournament.MOST_AT_FIRST", 24)
    found = hold(examples(90, 607), 48, epochs=2)
    outcomes = [row["outcome"] for row in found.contenders if row["strategy"].startswith("fine-tune")]
    assert sorted(bool(one) for one in outcomes) == [True, True]
    assert sum("dropped after 24 training images" in one for one in outcomes) == 1 and "taken" in outcomes


@pytest.mark.usefixtures("blind_heads")
def test_when_time_is_up_fine_tuning_is_dropped_and_a_linear_head_taken() -> None:
    found = hold(examples(90, 608), 48, deadline=Deadline.after(-1))
    tuned = [row for row in found.contenders if row["strategy"].startswith("fine-tune")]
    assert all("time limit" in row["outcome"] and row["accuracy"] is None for row in tuned)
    assert len(found.recipe.stages) == 1


def test_no_room_for_features_means_a_recipe_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.cache.Cache.has_room_for", lambda *a: False)
    found, decisions = decide_by_tournament(build, BACKBONE, examples(12, 609), 9, Job("data"))
    assert found.recipe.name == "small_similar" and "no room for features" in decisions[0].why


# -- in a run ---------------------------------------------------------------------------------------------


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
        "fine-tune all blocks",
    }
    assert any("tournament" in line for line in said) and run.metrics["validation"]["n"] == 6
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

    monkeypatch.setattr("tlkit.strategy.tournament.FEWEST_TO_JUDGE", 5)
    monkeypatch.setattr("tlkit.finetuning.fit.train", lambda *a, **k: pytest.fail("it was trained in the tournament"))
    run = finetune(write_folder(tmp_path / "data", per_class=16), **tiny, out=tmp_path / "run", epochs=2)
    assert run.plan.recipe.name.startswith("fine-tune") and run.metrics["validation"]["accuracy"] > 0.5
    history = (run.folder / "history.csv").read_text().splitlines()
    assert len(history) == 1 + 1 + 2
