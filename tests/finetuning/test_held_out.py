"""Test images that a run draws from data without any: when, how many, and who has learned from them.

The images are noise with labels at random: whoever has learned from an image knows its label, and nobody else does.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.data.test_split import image_set
from tests.noise import SOLVED, TRAINED, made, right, rows, write_noise
from tests.tiny import tiny_file
from tlkit import Recipe, Stage, evaluate_run, load_model, predict
from tlkit.cli.main import main
from tlkit.data.dataset import Dataset
from tlkit.errors import SpecError
from tlkit.finetuning import refit
from tlkit.finetuning.held_out import FEWEST, HeldOut, hold_out
from tlkit.finetuning.resolve import Resolved
from tlkit.plan.job import Job
from tlkit.runs.ensemble import ensemble
from tlkit.runs.folder import Run
from tlkit.runs.lineage import Lineage, lineage
from tlkit.runs.reading import load_judged

NOTHING = Lineage(frozenset())


def held(labels: int = FEWEST, seen: Lineage = NOTHING, part: str = "", blocks: int = 3, **settings: Any) -> HeldOut:
    """What is drawn from images of two classes in equal numbers that exist only in a table."""
    job = Job("data", **settings)
    recipe = job.recipe if isinstance(job.recipe, Recipe) else None
    network = SimpleNamespace(blocks_to_unfreeze=blocks)
    images = image_set(["a", "b"] * (labels // 2) + ["a"] * (labels % 2), part="train" if part else "")
    images.table.loc[:49, "split"] = part
    pixels = SimpleNamespace(streamed=True, of=lambda images: range(0))
    return hold_out(Dataset(images, pixels), Resolved(job, (network,), None, recipe, None), seen)  # type: ignore[arg-type]


def test_from_500_images_on_a_part_of_15_percent_is_drawn_and_below_nothing_changes() -> None:
    found, few = held(), held(FEWEST - 1)
    assert 55 <= found.dataset.count("test") <= 95 and found.evidence() == {"test_share": 0.15}
    assert f"{found.dataset.count('test')} test images are drawn (15%, by content and seed)" in found.sentences[0]
    assert few == HeldOut(few.dataset) and set(few.dataset.images.table["split"]) == {""}
    assert held(10_000).share == 0.05 and 430 <= held(10_000).dataset.count("test") <= 570


@pytest.mark.parametrize(
    "settings",
    [
        {"effort": "quick"},
        {"recipe": SOLVED},
        {"similar": True},
        {"validation": 0.05},
        {"blocks": 0},
        {"part": "test"},
    ],
    ids=str,
)
def test_nothing_is_drawn_where_no_network_can_be_taken_or_a_part_is_given(settings: dict[str, Any]) -> None:
    found = held(**settings)
    assert found.share == 0 and found.sentences == () and found.evidence() == {}


@pytest.mark.parametrize(
    "settings", [{"recipe": TRAINED}, {"effort": "best"}, {"similar": True, "labels": 1600}, {"part": "validation"}]
)
def test_a_part_is_drawn_where_a_network_may_be_taken(settings: dict[str, Any]) -> None:
    assert held(**settings).share == 0.15


def test_small_classes_without_test_images_are_said_and_are_no_problem_of_the_data() -> None:
    images = image_set([f"class {i % 120}" for i in range(600)])
    pixels = SimpleNamespace(streamed=True, of=lambda images: range(0))
    network = SimpleNamespace(blocks_to_unfreeze=3)
    resolved = Resolved(Job("data"), (network,), None, None, None)  # type: ignore[arg-type]
    found = hold_out(Dataset(images, pixels), resolved, NOTHING)  # type: ignore[arg-type]
    without = 120 - len(set(found.dataset.images.part("test").table["label"]))
    assert without > 20 and f"; {without} small classes have none" in found.sentences[0]
    assert 60 <= found.dataset.count("test") <= 120, "the share of all images is held"
    split = found.dataset.split(strict=True, pairs=np.zeros((0, 2), int), test_drawn=True)
    assert "class-not-measured" not in set(split.images.problems["problem"])


def test_no_is_said_to_let_the_validation_images_also_choose() -> None:
    found = held(test=0)
    assert found.share == 0 and "because `test` is 0: the validation images also choose" in found.sentences[0]
    assert held(FEWEST - 1, test=0).sentences == ()
    assert held(100, test=0.2, recipe=SOLVED).dataset.count("test") > 10, "what is asked for is done at any size"
    with pytest.raises(SpecError, match="`test` is 1"):
        Job("data", test=1)


def test_what_earlier_runs_used_is_not_drawn_and_too_little_else_is_said() -> None:
    keys = image_set(["a"] * 1000).keys()
    used = Lineage(frozenset(keys[:400]), frozenset(keys[400:500]))
    found = held(1000, used, from_run="earlier")
    test = found.dataset.images.part("test")
    assert len(test) > 50 and not set(test.table["sha256"]) & (used.trained_on | used.chosen_by)
    little = held(600, used, from_run="earlier")
    assert little.share == 0 and "since earlier runs were trained on or chosen by the others" in little.sentences[0]


# -- who has learned from them ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noise") / "data")


@pytest.fixture(scope="module")
def run(noise: Path) -> Run:
    return made(noise, noise.parent / "held-out", test=0.3, max_error=0.3)


@pytest.mark.slow
def test_the_number_is_of_a_head_that_never_saw_the_test_images_and_the_delivered_one_did(run: Run) -> None:
    test = rows(run, "test")
    assert 12 <= len(test) <= 36
    assert right(test) < 0.75 < right(test, "final") and right(test, "final") > right(test) + 0.2
    assert run.metrics["refit"] == {"images": 80, "splits": ["train", "validation", "test"]}
    estimate = run.metrics["estimate"]
    assert estimate["accuracy"] == run.metrics["test"]["accuracy"] == right(test) and estimate["n"] == len(test)
    assert "set aside before it learned anything, and looked at once" in estimate["sentence"]
    assert estimate["also_chose"] == []


@pytest.mark.slow
def test_nothing_before_the_number_depends_on_what_the_test_images_show(run: Run) -> None:
    assert run.metrics["calibration"]["fitted_on"] == 80 - len(rows(run, "test"))
    assert run.metrics["refusal"]["chosen_on"] == 80 - len(rows(run, "test"))


@pytest.mark.slow
def test_what_is_served_is_the_head_that_learned_from_all(run: Run, noise: Path) -> None:
    test = rows(run, "test")
    found = predict(run.saved_model, [noise / path for path in test["path"]])
    np.testing.assert_allclose(found["probability"], test["final_probability"], atol=1e-5)
    table = run.read_table("split.csv")
    assert lineage(run, served=True).trained_on == set(table["sha256"])
    assert lineage(run).trained_on == set(table.loc[table["split"] == "train", "sha256"])
    everything = evaluate_run(run, noise)
    assert everything["trained_on"] == 80
    assert everything["without_trained_on"]["n"] == int((table["split"] != "train").sum())
    assert everything["without_trained_on"]["accuracy"] < everything["accuracy"] - 0.1


@pytest.mark.slow
def test_an_ensemble_is_judged_on_test_images_by_members_that_did_not_see_them(run: Run, tmp_path: Path) -> None:
    both = ensemble([run.folder, run.folder], tmp_path / "both")
    assert both.metrics["test"]["accuracy"] == run.metrics["test"]["accuracy"]


@pytest.mark.slow
def test_a_run_is_repeated_with_the_same_test_images(run: Run) -> None:
    job = Job.read(run.folder / "plan.json")
    assert job.test == 0.3
    decisions = [dataclasses.replace(one, evidence={}) for one in run.plan.decisions]
    run_without = dataclasses.replace(run.plan, decisions=tuple(decisions))
    assert run.plan.drew_test and not run_without.drew_test


@pytest.mark.slow
def test_a_network_never_learns_from_test_images(
    noise: Path, tmp_path: Path, unserved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[set[str]] = []
    train = refit.train

    def spied(model: Any, backbone: Any, recipe: Any, training: Any, *others: Any, **settings: Any) -> Any:
        learned.append(set(training.keys))
        return train(model, backbone, recipe, training, *others, **settings)

    monkeypatch.setattr("tlkit.finetuning.refit.train", spied)
    stage = Stage(60, 1e-2, unfreeze="all")
    memorises = Recipe("memorises", stages=(stage,), batch_size=16, monitor="last")
    again = made(noise, tmp_path / "run", memorises, test=0.3, refit=True)
    test = set(again.read_table("split.csv").query("split == 'test'")["sha256"])
    assert len(learned) == 1 and len(learned[0]) == 80 - len(test) and not learned[0] & test
    assert right(rows(again, "validation"), "final") > 0.85, "whoever has learned from an image knows its label"
    assert (
        right(rows(again, "test")) < 0.75 and (rows(again, "test")["final"] == rows(again, "test")["prediction"]).all()
    )
    assert again.metrics["refit"]["splits"] == ["train", "validation"]
    assert lineage(again, served=True).trained_on.isdisjoint(test)


@pytest.mark.slow
def test_without_a_refit_the_judged_head_is_delivered(noise: Path, tmp_path: Path, unserved: None) -> None:
    plain = made(noise, tmp_path / "plain", test=0.3, refit=False)
    assert plain.metrics["refit"] is None and plain.metrics["estimate"]["n"] == len(rows(plain, "test"))
    for one, other in zip(load_judged(plain).get_weights(), load_model(plain).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_option_and_the_plan_say_it(noise: Path, tmp_path: Path) -> None:
    command = ["finetune", str(noise), "--backbone", tiny_file(), "--image-size", "32", "--out", str(tmp_path / "r")]
    done = CliRunner().invoke(main, [*command, "--test", "0.3", "--dry-run"])
    assert "by content and seed) and looked at once, at the end" in done.output and " test" in done.output
