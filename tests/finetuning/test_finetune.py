"""The main job end to end, on drawn images; and what is done with a run afterwards."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from tlkit.recipes import RECIPES

from tests.broken import write_broken
from tests.conftest import COLOURS, draw, write_folder
from tests.tiny import tiny_file
from tlkit import (
    Augmentation,
    Head,
    Recipe,
    Stage,
    build_classifier,
    evaluate_run,
    export_run,
    finetune,
    inspect,
    load_model,
    open_run,
    predict,
    scan,
)
from tlkit.backbones import BACKBONES
from tlkit.cli.main import main
from tlkit.errors import DataError, NameUnknown, ParityError, RunError, SpecError, WeightsError
from tlkit.finetuning.demo import demo
from tlkit.folders import FILES, OPTIONAL_FILES, REPORT_FILES
from tlkit.plan.decision import Decision
from tlkit.plan.job import Job
from tlkit.runs.folder import METRICS
from tlkit.runs.reading import own_part, parity_sample

QUICK = Recipe("quick", stages=(Stage(2, 1e-3),), batch_size=8)
SOLVED = Recipe("solved", stages=(Stage(1, 1e-3, solver="logistic"),))  # traces no training


def held_out(run: Path) -> int:
    """The number of validation images of a run."""
    return int((pd.read_csv(run / "split.csv")["split"] == "validation").sum())


def test_a_run_leaves_every_file_and_learns(trained: Path) -> None:
    run = open_run(trained)
    there = {p.name for p in trained.iterdir()} - set(OPTIONAL_FILES)  # tests share it, and some export it
    assert there == set(FILES) - set(REPORT_FILES)  # made without
    metrics = run.metrics
    assert metrics["validation"]["accuracy"] == 1.0 and metrics["test"] is None
    assert metrics["validation"]["n"] == held_out(trained) and len(metrics["validation"]["accuracy_95"]) == 2
    assert metrics["parity"]["top1_agreement"] == 1.0 and metrics["parity"]["max_difference"] < 1e-5
    assert metrics["seconds"]["total"] > 0
    history = pd.read_csv(trained / "history.csv")
    assert {"stage", "epoch", "loss", "val_accuracy", "best"} <= set(history) and set(history["stage"]) == {1}
    predictions = pd.read_csv(trained / "predictions.csv")
    assert set(json.loads((trained / "metrics.json").read_text())) == set(METRICS)
    assert list(predictions.columns[:5]) == ["path", "split", "label", "prediction", "probability"]
    assert set(pd.read_csv(trained / "split.csv")["split"]) == {"train", "validation"}


def test_a_runs_split_can_be_given_back_as_data(trained: Path) -> None:
    again, first = scan(trained / "split.csv"), pd.read_csv(trained / "split.csv")
    columns = ["path", "label", "split", "sha256"]
    pd.testing.assert_frame_equal(
        again.table[columns].sort_values("path", ignore_index=True),
        first[columns].sort_values("path", ignore_index=True),
        check_dtype=False,
    )
    assert again.root == open_run(trained).plan.job.data and all(file.is_file() for file in again.files())


def test_a_run_of_an_earlier_version_is_read_in_todays_words(trained: Path, tmp_path: Path) -> None:
    old = tmp_path / "run"
    shutil.copytree(trained, old)
    (old / "manifest.json").unlink()
    plan = json.loads((old / "plan.json").read_text())
    job = plan.pop("job")
    kept = (
        "data",
        "backbone",
        "seed",
        "image_size",
        "weights",
        "validation",
        "group_by",
        "fit",
        "similar",
        "max_error",
    )
    plan |= {"settings": {name: job[name] for name in kept} | {"from_run": None}, "max_minutes": None}
    plan["settings"]["backbone"] = plan["backbone"]["name"]
    plan["images"]["val"] = plan["images"].pop("validation")
    (old / "plan.json").write_text(json.dumps(plan))
    for name in ("split.csv", "predictions.csv"):
        table = pd.read_csv(old / name, dtype=str).rename(columns={"split": "part"})
        table.assign(part=table["part"].replace({"validation": "val"})).to_csv(old / name, index=False)
    assert open_run(old).plan.images == open_run(trained).plan.images
    assert evaluate_run(old) == evaluate_run(trained)
    assert scan(old / "split.csv").table["split"].equals(scan(trained / "split.csv").table["split"])


def test_the_plan_says_what_and_why(trained: Path) -> None:
    plan = open_run(trained).plan
    assert plan.classes == tuple(sorted(COLOURS)) and plan.image_size == 32
    assert plan.decisions[0] == Decision("recipe", "test", "it was asked for", {})
    assert plan.precision == "float32" and plan.device.startswith("CPU")
    assert {"tensorflow", "keras", "python"} <= set(plan.versions)


def test_without_a_recipe_a_tournament_will_decide_unless_similarity_was_said(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None, said: list[str]
) -> None:
    finetune(folder, **tiny, out=tmp_path / "run", dry_run=True)
    assert any("a tournament decides when the run begins" in line for line in said)
    assert any("no fine-tuning: it needs 40 or more validation images, and has 3" in line for line in said)
    assert not (tmp_path / "run").exists()
    finetune(folder, **tiny, out=tmp_path / "run", dry_run=True, similar=False)
    assert "small_different" in said[-2]


@pytest.mark.slow
def test_a_plan_repeats_its_run(folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None) -> None:
    first = finetune(folder, **tiny, recipe=QUICK, seed=3, out=tmp_path / "one")
    again = finetune(first.folder / "plan.json", out=tmp_path / "two")
    one, two = (
        pd.read_csv(run.folder / "history.csv").drop(columns=["seconds", "at_seconds"]) for run in (first, again)
    )
    pd.testing.assert_frame_equal(one, two)
    assert again.plan.recipe == first.plan.recipe and again.plan.job.seed == first.plan.job.seed == 3
    other = finetune(first.folder / "plan.json", seed=4, out=tmp_path / "three")
    assert other.plan.job.seed == 4


@pytest.mark.slow
def test_a_second_run_decodes_nothing_and_computes_nothing_frozen(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None
) -> None:
    write_folder(folder, start=7000)  # pictures that no other test has cached
    first = finetune(folder, **tiny, recipe=SOLVED, out=tmp_path / "one")
    assert (first.metrics["images_decoded"], first.metrics["images_computed"]) == (24, 24)
    other = Recipe("other", head=Head(hidden=(8,)), stages=(Stage(3, 1e-3),), batch_size=5)
    again = finetune(folder, **tiny, recipe=other, out=tmp_path / "two")
    assert (again.metrics["images_decoded"], again.metrics["images_computed"]) == (0, 0)


def test_only_training_images_are_trained_on(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("tlkit.finetuning.fit")
    seen: list[tuple[list[str], list[str]]] = []
    original = module.train_best

    def train(build: Any, backbone: Any, recipe: Any, training: Any, validation: Any, **settings: Any) -> Any:
        seen.append((list(training.keys), list(validation.keys)))
        return original(build, backbone, recipe, training, validation, **settings)

    monkeypatch.setattr(module, "train_best", train)
    run = finetune(folder, **tiny, recipe=QUICK, out=tmp_path / "run")
    split = pd.read_csv(run.folder / "split.csv")
    parts = {part: set(split["sha256"][split["split"] == part]) for part in ("train", "validation")}
    assert len(parts["train"]) + len(parts["validation"]) == 24 and len(parts["validation"]) >= 3
    assert [(set(one), set(other)) for one, other in seen] == [(parts["train"], parts["validation"])]


@pytest.mark.slow
@pytest.mark.long
def test_a_spoiled_cache_of_features_changes_no_number(folder: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    write_folder(folder, start=8000)  # pictures that no other test has cached
    recipe = Recipe("test", stages=(Stage(epochs=20, learning_rate=1e-2),), batch_size=8)
    before = cached_features()
    first = finetune(folder, **tiny, recipe=recipe, out=tmp_path / "one", report=False)
    spoiled = cached_features() - before
    assert spoiled
    for file in spoiled:
        rows = np.load(file, mmap_mode="r+")
        rows[...] = np.roll(rows, 5, axis=-1)
        rows.flush()
    second = finetune(folder, **tiny, recipe=recipe, out=tmp_path / "two", report=False)
    assert first.read_table("predictions.csv").equals(second.read_table("predictions.csv"))


def cached_features() -> set[Path]:
    return set((Path(os.environ["TLKIT_CACHE"]) / "features").rglob("*.npy"))


@pytest.mark.slow
def test_200_broken_files_among_200_good_ones_are_all_named(
    tmp_path: Path, tiny: dict[str, Any], unserved: None
) -> None:
    data = write_folder(tmp_path / "data", per_class=100, classes=("red", "blue"))
    expected = {}
    for name, start in (("red", 0), ("blue", 1000)):
        found = write_broken(data / name, 100, start)
        expected |= {f"{name}/{file}": problem for file, problem in found.items()}
    run = finetune(data, **tiny, recipe=QUICK, out=tmp_path / "run")
    problems = pd.read_csv(run.folder / "problems.csv", keep_default_na=False)
    named = dict(zip(problems["path"], problems["problem"], strict=True))
    assert {named.pop(name) for name in ("red", "blue")} == {"class-nearly-lost"}
    assert len(expected) == 200 and named == expected
    assert set(problems.loc[problems["path"].isin(expected), "action"]) == {"left out"}
    assert len(pd.read_csv(run.folder / "split.csv")) == 200
    with pytest.raises(DataError, match="`strict` was asked for"):
        finetune(data, **tiny, recipe=QUICK, out=tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"backbone": "mobilenet_0.52"}, NameUnknown),
        ({"recipe": "small_simlar"}, NameUnknown),
        ({"recipe": "mine.py"}, NameUnknown),
        ({"fit": "sqash"}, NameUnknown),
        ({"image_size": 8}, SpecError),
        ({"backbone": "vgg16", "weights": "nothere.h5"}, WeightsError),
        ({"validation": 2.0}, SpecError),
        ({"max_minutes": -1.0}, SpecError),
        ({"from_run": "nothere"}, RunError),
        ({"recipe": Recipe("deep", stages=(Stage(1, 1e-3, unfreeze=9),))}, SpecError),
    ],
)
def test_wrong_names_and_numbers_fail_before_any_image_is_read(
    folder: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    tiny: dict[str, Any],
) -> None:
    module = importlib.import_module("tlkit.finetuning.prepare")
    monkeypatch.setattr(module, "scan", lambda *a, **k: pytest.fail("images were read"))
    with pytest.raises(error):
        finetune(folder, **{**tiny, **settings}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_earlier_run_is_kept_unless_forced_and_even_then_until_names_are_checked(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None
) -> None:
    out = tmp_path / "run"
    finetune(folder, **tiny, recipe=QUICK, out=out)
    with pytest.raises(RunError, match="Use `force`"):
        finetune(folder, **tiny, recipe=QUICK, out=out)
    with pytest.raises(DataError):
        finetune(tmp_path / "dta", **tiny, recipe=QUICK, out=out, force=True)
    assert open_run(out).finished
    with pytest.raises(RunError, match="is a run, not data"):
        finetune(out, out=tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "what"),
    [
        pytest.param("fit.train_best", KeyboardInterrupt(), marks=pytest.mark.slow),
        ("judge.save_model", OSError(28, "No space left on device")),
        pytest.param("deliver.prove_parity", ParityError("it differs"), marks=pytest.mark.slow),
    ],
)
def test_a_forced_run_that_stops_loses_nothing_of_the_earlier_one(
    folder: Path,
    tmp_path: Path,
    tiny: dict[str, Any],
    unserved: None,
    moment: str,
    what: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> None:
    out = tmp_path / "run"
    finetune(folder, **tiny, recipe=SOLVED, out=out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def stop(*a: object, **k: object) -> None:
        raise what

    with monkeypatch.context() as patch:
        patch.setattr(f"tlkit.finetuning.{moment}", stop)
        with pytest.raises(type(what)):
            finetune(folder, **tiny, recipe=SOLVED, seed=1, out=out, force=True)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert evaluate_run(out)["n"] == held_out(out) and open_run(out).plan.job.seed == 0
    (left,) = set(tmp_path.iterdir()) - {out, folder}
    assert left.name.startswith(".unfinished-") and left.name.endswith("-run")
    assert not (left / "saved_model").exists(), "an export that is not proved does not answer"
    said.clear()
    run = finetune(left / "plan.json", out=out, force=True)  # it can be repeated from there
    assert run.folder == out and open_run(out).plan.job.seed == 1 and evaluate_run(out)["n"] == held_out(out)
    assert set(tmp_path.iterdir()) == {out, folder} and said[0].startswith(f"replaces  {out}, which is kept")


def test_a_run_stopped_in_its_tournament_has_a_plan_to_repeat(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("tlkit.finetuning.decide")
    calls: list[tuple[int, int | None]] = []

    def stop(build: Any, backbone: Any, pool: Any, training: int, job: Job, *a: object) -> None:
        calls.append((job.seed, job.epochs))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "decide_by_tournament", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(folder, **tiny, seed=5, epochs=7, out=tmp_path / "run")
    with pytest.raises(RunError, match="did not finish"):
        open_run(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):  # in the tournament again
        finetune(tmp_path / "run" / "plan.json", out=tmp_path / "run", force=True)
    assert calls == [(5, 7), (5, 7)]


def test_what_a_stopped_run_had_not_checked_is_checked_when_it_is_repeated(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("tlkit.finetuning.decide")
    checked: list[Augmentation] = []

    def stop(augmentation: Augmentation, *a: object) -> None:
        checked.append(augmentation)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_narrow", stop)
    asked = Augmentation(flip_horizontal=0.5)
    with pytest.raises(KeyboardInterrupt):
        finetune(folder, **tiny, recipe=QUICK, augment=asked, out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / "run" / "plan.json", out=tmp_path / "other")
    assert checked == [asked, asked]


def test_force_does_not_touch_a_data_set_whose_classes_are_called_like_a_runs_files(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    data = write_folder(tmp_path / "data", per_class=2, classes=("red", "blue"))
    (data / "red").rename(data / "keras")
    (data / "blue").rename(data / "onnx")
    other = write_folder(tmp_path / "other", per_class=2)
    for source, message in ((data, "would count as a class"), (other, "not a run's")):
        words = ["finetune", str(source), "--backbone", tiny["backbone"], "--out", str(data), "--force"]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 1 and message in done.stderr
    assert len(list(data.rglob("*.png"))) == 4


@pytest.mark.slow
def test_the_demo_replaces_no_run_on_other_data(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None
) -> None:
    mine = finetune(folder, **tiny, recipe=QUICK, out=tmp_path / "run")
    with pytest.raises(RunError, match=rf"run on other data, '{folder}'"):
        demo(tmp_path)
    assert open_run(mine.folder).finished and not (tmp_path / "digits").exists()


@pytest.mark.slow
def test_starting_from_an_earlier_run_takes_its_backbone(folder: Path, tmp_path: Path, unserved: None) -> None:
    tuned = Recipe("tuned", stages=(Stage(2, 1e-2, unfreeze=1),), batch_size=8)
    trained = finetune(folder, backbone="nano", image_size=64, recipe=tuned, out=tmp_path / "first").folder
    data = write_folder(tmp_path / "two", per_class=4, classes=("red", "blue"), start=500)
    frozen = Recipe("frozen", stages=(Stage(1, 1e-9),), batch_size=4)
    run = finetune(data, from_run=trained, recipe=frozen, out=tmp_path / "run")
    mine, theirs, shipped = load_model(run), load_model(trained), build_classifier("nano", 2, image_size=64)
    kernels = [one.get_layer("top").kernel for one in (mine, theirs, shipped)]
    assert np.array_equal(kernels[0], kernels[1]) and not np.array_equal(kernels[0], kernels[2])
    assert mine.output_shape[-1] == 2 and run.plan.backbone.name == "nano"
    with pytest.raises(SpecError, match="Leave `backbone` out"):
        finetune(data, from_run=trained, backbone="vgg16", out=tmp_path / "other")


@pytest.mark.slow
def test_a_recipe_with_augmentation_and_stages_ends_in_a_proven_export(
    folder: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    recipe = Recipe(
        "full",
        stages=(
            Stage(1, 1e-3),
            Stage(1, 1e-3, unfreeze=1, layer_decay=0.5),
            Stage(1, 1e-3, unfreeze="all", batch_norm="moving"),
        ),
        augmentation=Augmentation(rotate=(-10, 10), flip_horizontal=0.5),
        views=2,
        batch_size=8,
        class_weights=True,
    )
    run = finetune(folder, **tiny, recipe=recipe, fit="pad", out=tmp_path / "run")
    assert run.metrics["parity"]["top1_agreement"] == 1.0
    assert pd.read_csv(run.folder / "history.csv")["stage"].tolist() == [1, 2, 3]


def test_the_proof_is_spread_over_all_images() -> None:
    """Tables are in the order of classes: the first 256 would be of the first classes alone."""
    assert parity_sample(0) == [] and parity_sample(3) == [0, 1, 2]
    sample = parity_sample(1000)
    assert len(set(sample)) == 256 and sample[0] == 0 and sample[-1] > 990


def test_a_chosen_recipe_unfreezes_no_more_than_there_is() -> None:
    module = importlib.import_module("tlkit.finetuning.decide")
    one_block = replace(BACKBONES["vgg16"], boundaries=())
    assert [s.unfreeze for s in module._limited_to(RECIPES["large_similar"], one_block).stages] == [0, 1]
    assert module._limited_to(RECIPES["large_different"], BACKBONES["vgg16"]) == RECIPES["large_different"]


@pytest.mark.slow
def test_a_run_in_mixed_precision_ends_in_a_float32_export(folder: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    stages = (Stage(2, 1e-2), Stage(2, 1e-3, unfreeze=1))
    recipe = Recipe("mixed", stages=stages, batch_size=8, precision="mixed_bfloat16")
    run = finetune(folder, **tiny, recipe=recipe, out=tmp_path / "run")
    assert run.plan.precision == "mixed_bfloat16" and run.metrics["parity"]["max_difference"] < 1e-5
    assert {layer.compute_dtype for layer in load_model(run).layers} == {"float32"}


@pytest.mark.slow
def test_the_time_limit_ends_training_early_and_says_so(folder: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    recipe = Recipe("long", stages=(Stage(1_000_000, 1e-6, unfreeze="all"),), batch_size=8)
    started = time.monotonic()
    run = finetune(folder, **tiny, recipe=recipe, max_minutes=0.75, out=tmp_path / "run")
    assert time.monotonic() - started < 0.75 * 60 * 1.1
    assert any("time limit" in note for note in run.metrics["notes"])
    assert run.metrics["parity"]["top1_agreement"] == 1.0


# -- killed -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "plan.json",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("history.csv", "model.keras", "predictions.csv", "saved_model")
        ),
    ],
)
def test_a_killed_run_is_reported_as_unfinished_and_can_be_replaced(
    folder: Path, tmp_path: Path, moment: str, tiny: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    code = f"from tlkit import *; finetune({str(folder)!r}, backbone={tiny['backbone']!r}, epochs=2, out={str(out)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    try:
        while not (out / moment).exists():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for name in ("plan.json",):
        json.loads((out / name).read_text())
    if (out / "model.keras").exists():
        keras.saving.load_model(out / "model.keras", compile=False)
    with pytest.raises(RunError, match="did not finish"):
        open_run(out)
    with pytest.raises(RunError, match="unfinished run"):
        finetune(folder, **tiny, recipe=QUICK, out=out)
    assert finetune(folder, **tiny, recipe=QUICK, out=out, force=True).finished
    assert {p.name for p in out.iterdir()} == set(FILES) - set(REPORT_FILES)


# -- afterwards -------------------------------------------------------------------------------------------


def test_evaluating_a_run_on_its_own_validation_part_gives_its_own_numbers(trained: Path) -> None:
    mine, theirs = evaluate_run(trained), open_run(trained).metrics["validation"]
    assert mine["accuracy"] == theirs["accuracy"] and mine["log_loss"] == pytest.approx(theirs["log_loss"], abs=1e-6)


@pytest.mark.slow
def test_evaluating_on_other_data(trained: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", per_class=3, classes=("red", "blue"), start=900)
    (other / "red" / "bad.png").write_bytes(b"")
    found = evaluate_run(trained, other)
    assert found["n"] == 6 and found["accuracy"] == 1.0 and found["left_out"] == 1
    shutil.move(other / "red", other / "rde")
    with pytest.raises(DataError, match=r"'rde' \(nearest: 'red'\)"):
        evaluate_run(trained, other)


def test_changed_or_missing_images_are_not_evaluated_as_if_they_were_the_same(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    plan = open_run(copy).plan
    data = tmp_path / "data"
    shutil.copytree(plan.job.data, data)
    open_run(copy).write_plan(replace(plan, job=replace(plan.job, data=data)))
    table = pd.read_csv(copy / "split.csv")
    victim = data / table[table["split"] == "validation"]["path"].iloc[0]
    draw((5, 5, 5), 123456).save(victim)
    with pytest.raises(DataError, match="has changed since"):
        evaluate_run(copy)
    victim.unlink()
    with pytest.raises(DataError, match="is gone"):
        evaluate_run(copy)


def copied(trained: Path, folder: Path, **job: object) -> Path:
    """A copy of a run, whose plan has another job."""
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("saved_model"))
    plan = open_run(folder).plan
    open_run(folder).write_plan(replace(plan, job=replace(plan.job, **job)))
    return folder


def test_images_that_were_moved_are_named_by_their_true_place_and_found_at_the_new_one(
    trained: Path, tmp_path: Path
) -> None:
    data = open_run(trained).plan.job.data
    old = tmp_path / "old" / "data"
    run = copied(trained, tmp_path / "run", data=old)
    first = open_run(run).read_table("split.csv")["path"].iloc[0]
    with pytest.raises(DataError, match="give `moved_to`") as error:
        own_part(open_run(run), None)
    assert f"such as '{tmp_path / 'old' / 'data' / first}'. The folder '{tmp_path / 'old' / 'data'}'" in str(
        error.value
    )
    assert own_part(open_run(run, data), "validation").root == data
    with pytest.raises(DataError, match=r"of the run .* gone, such as .*Expected the folder or CSV"):
        own_part(open_run(run, data.parent), None)
    of_split = copied(
        trained, tmp_path / "other", data=trained / "split.csv"
    )  # its images are where those of that run are
    assert own_part(open_run(of_split), None).root == data


def test_the_split_of_a_run_whose_images_were_moved_says_where_they_belong(trained: Path, tmp_path: Path) -> None:
    run = copied(trained, tmp_path / "run", data=tmp_path / "gone")
    with pytest.raises(DataError, match=rf"belong in '{tmp_path / 'gone'}', which does not exist.*copy the table"):
        scan(run / "split.csv")


@pytest.mark.parametrize("table", [False, True])
def test_a_run_that_was_made_on_windows_finds_its_images_here(table: bool, trained: Path, tmp_path: Path) -> None:
    data = open_run(trained).plan.job.data
    run = copied(trained, tmp_path / "run", data=Path("C:\\Users\\me\\data" + "\\labels.csv" * table))
    (run / "manifest.json").unlink()
    for name in ("split.csv", "predictions.csv"):
        (run / name).write_text((run / name).read_text().replace("/", "\\").replace("\n", "\r\n"))
    with pytest.raises(DataError, match=r"such as 'C:\\Users\\me\\data/(blue|green|red)/"):
        own_part(open_run(run), None)
    images = own_part(open_run(run, data), None)
    assert len(images) == 48 and all(file.is_file() for file in images.files())
    assert set(open_run(run).read_table("predictions.csv")["path"]) <= set(images.table["path"])


def test_commands_that_need_the_data_take_the_place_where_it_is_now(trained: Path, tmp_path: Path) -> None:
    data = open_run(trained).plan.job.data
    run = copied(trained, tmp_path / "run", data=tmp_path / "gone")
    done = CliRunner().invoke(main, ["evaluate", str(run)])
    assert done.exit_code == 1 and "give --data" in done.stderr
    done = CliRunner().invoke(main, ["evaluate", str(run), "--data", str(data)])
    assert done.exit_code == 0 and done.output.startswith("accuracy")
    done = CliRunner().invoke(main, ["finetune", str(run / "plan.json"), "--dry-run"])
    assert done.exit_code == 1 and f"is not at '{tmp_path / 'gone'}' any more. Give --data" in done.stderr
    for command in ("evaluate", "export", "report", "ensemble", "finetune"):
        assert "--data" in [name for one in main.commands[command].params for name in one.opts]


def test_a_run_copied_without_the_run_that_it_started_from_says_what_is_not_known(
    trained: Path, tmp_path: Path
) -> None:
    run = copied(trained, tmp_path / "run", from_run=tmp_path / "earlier")
    data = str(open_run(trained).plan.job.data)
    done = CliRunner().invoke(main, ["evaluate", str(run), data])
    assert done.exit_code == 0 and f"the earlier run {tmp_path / 'earlier'} is gone" in done.output


@pytest.mark.slow
def test_exporting_a_run_again_proves_it_again_and_predicts_the_same(trained: Path, tmp_path: Path) -> None:
    folder, proof = export_run(trained, tmp_path / "served")
    assert proof is not None and proof["top1_agreement"] == 1.0
    draw(COLOURS["blue"], 4322).save(tmp_path / "b.jpg")
    again, first = (predict(model, [tmp_path / "b.jpg"])["probability"][0] for model in (folder, trained))
    assert again == pytest.approx(first, abs=1e-6)


def test_predicting_files_and_folders(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    draw(COLOURS["red"], 4321).save(tmp_path / "deep" / "r.png")
    draw(COLOURS["blue"], 4322).save(tmp_path / "b.jpg")
    (tmp_path / "deep" / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "deep" / ".DS_Store").write_bytes(b"x")
    table = predict(trained, [tmp_path / "deep", tmp_path / "b.jpg"], top=2)
    assert list(table.columns) == ["path", "prediction", "probability", "top2", "top2_probability", "sure", "problem"]
    assert [Path(p).name for p in table["path"]] == ["page.jpg", "r.png", "b.jpg"]
    assert table["prediction"].tolist()[1:] == ["red", "blue"] and pd.isna(table["prediction"][0])
    assert table["problem"].tolist() == ["not-an-image: an HTML or XML page: fetch the image itself", "", ""]


def test_predicting_says_what_is_missing(trained: Path, tmp_path: Path) -> None:
    draw(COLOURS["red"], 1).save(tmp_path / "photo.png")
    with pytest.raises(DataError, match=r"Did you mean '.*photo.png'"):
        predict(trained, [tmp_path / "foto.png"])
    with pytest.raises(RunError, match="not a run"):
        predict(tmp_path, [tmp_path / "photo.png"])


def test_inspecting_finds_what_does_not_decode(folder: Path) -> None:
    (folder / "red" / "half.png").write_bytes((folder / "red" / "000.png").read_bytes()[:300])
    images = inspect(folder, size=32)
    assert len(images) == 24 and images.problems["problem"].tolist() == ["truncated"]
    with pytest.raises(DataError, match="1 truncated"):
        inspect(folder, size=32, strict=True)


@pytest.mark.long
@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe", "floor"),
    [
        ("cats_dogs", "auto", 0.958),
        ("blood_cells", "small_different", 0.983),
        ("latin_letters", "small_different", 0.80),
    ],
)
def test_the_main_job_on_real_data(
    name: str, recipe: str, floor: float, shared: Path, imagenet: Path, tmp_path: Path
) -> None:
    data = shared / "data" / name / "splits.csv"
    run = finetune(data, backbone="mobilenetv2", recipe=recipe, out=tmp_path / "run")
    assert run.metrics["test"]["accuracy"] >= floor
    assert run.metrics["parity"]["max_difference"] < 1e-5 and run.metrics["parity"]["top1_agreement"] == 1.0


@pytest.mark.slow
def test_the_plan_says_which_weights_and_plain_keras_training_leaves_batch_norm_alone(
    folder: Path, tmp_path: Path, unserved: None
) -> None:
    own = shutil.copyfile(tiny_file(), tmp_path / "own.keras")
    recipe = Recipe("one", stages=(Stage(1, 1e-3, unfreeze="all"),), batch_size=12)
    first = finetune(folder, backbone=str(own), recipe=recipe, seed=6203, out=tmp_path / "first", report=False)
    assert first.plan.backbone.sha256 == hashlib.sha256(own.read_bytes()).hexdigest()

    model = keras.saving.load_model(first.model_file)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [weight.numpy().copy() for layer in norms for weight in layer.weights]
    kernel = model.get_layer("conv_8").kernel.numpy().copy()
    model.compile("sgd", "sparse_categorical_crossentropy")
    pixels = np.random.default_rng(6204).integers(0, 256, (8, 32, 32, 3)).astype("float32")
    model.fit(pixels, np.arange(8) % model.output_shape[-1], verbose=0)
    after = [weight.numpy() for layer in norms for weight in layer.weights]
    assert before and all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not np.array_equal(model.get_layer("conv_8").kernel, kernel), "the other layers do train"

    second = finetune(folder, from_run=first.folder, recipe=recipe, seed=6203, out=tmp_path / "second", report=False)
    assert second.plan.backbone.sha256 == hashlib.sha256(first.model_file.read_bytes()).hexdigest()
