"""Ensembles of runs, averages over views, the comparison of backbones, and the search for a learning rate."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.conftest import COLOURS, leave_out_export, write_folder
from tests.tiny import predicted
from tests.training.test_training import BACKBONE, examples
from tests.training.test_training import tiny as tiny_model
from tlkit import Recipe, Stage, ensemble, evaluate_run, finetune, load_model, open_run, predict, scan
from tlkit.backbones import named_backbones
from tlkit.cache import in_memory
from tlkit.cli.main import main
from tlkit.errors import NameUnknown, RunError, SpecError
from tlkit.evaluation.predict import predict_averaged, predict_probabilities
from tlkit.plan.job import Job
from tlkit.runs.folder import METRICS
from tlkit.strategy.axes import measure_axes
from tlkit.strategy.backbones import compare_backbones
from tlkit.training.learning_rate import Sweep, lr_find

QUICK = Recipe("quick", stages=(Stage(2, 1e-2),), batch_size=8)


@pytest.fixture(scope="module")
def two_runs(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on the same data, without export."""
    base, found = tmp_path_factory.mktemp("members"), []
    data = write_folder(base / "data")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_export(patch)
        for seed in (0, 1):
            recipe = replace(QUICK, stages=(Stage(2 + seed, 1e-2),))
            run = finetune(data, **tiny, recipe=recipe, out=base / f"run{seed}", report=False)
            found.append(run.folder)
    return found


@pytest.fixture
def runs(two_runs: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of the two runs, which a test may change."""
    return [shutil.copytree(one, tmp_path / one.name) for one in two_runs]


def held_out(run: Path) -> int:
    """The number of validation images of a run."""
    return int((pd.read_csv(run / "split.csv")["split"] == "validation").sum())


@pytest.mark.usefixtures("unserved")
@pytest.mark.slow
def test_an_ensemble_is_the_mean_of_its_members_and_a_run_like_any_other(runs: list[Path], tmp_path: Path) -> None:
    run = ensemble(runs, tmp_path / "both")
    model, members = load_model(run), [load_model(one) for one in runs]
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    mean = np.mean([predicted(one, x) for one in members], axis=0)
    np.testing.assert_allclose(predicted(model, x), mean, atol=1e-6)
    assert set(json.loads((run.folder / "metrics.json").read_text())) == set(METRICS)
    count = held_out(runs[0])
    assert run.finished and run.metrics["validation"]["n"] == count and len(run.metrics["members"]) == 2
    assert evaluate_run(run)["n"] == count and len(run.plan.ensemble_of) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("unserved")
def test_an_ensemble_replaces_a_run_when_it_is_finished_and_never_a_member(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(runs[0], tmp_path / "both")
    before = (out / "plan.json").read_bytes()
    with pytest.raises(RunError, match="a finished run"):
        ensemble(runs, out)
    with pytest.raises(SpecError, match="one of the runs to be averaged"):
        ensemble(runs, runs[1], force=True)
    with pytest.raises(RunError, match="would count as a class"):
        ensemble(runs, open_run(runs[0]).plan.job.data / "both")
    (out / "thesis.docx").write_text("years of work")
    with pytest.raises(RunError, match=r"thesis\.docx"):
        ensemble(runs, out, force=True)
    (out / "thesis.docx").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("tlkit.runs.ensemble.prove_parity", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ensemble(runs, out, force=True)
    assert (out / "plan.json").read_bytes() == before and evaluate_run(out)["n"] == held_out(out)
    assert ensemble(runs, out, force=True).folder == out and len(open_run(out).plan.ensemble_of) == 2
    assert {p.name for p in tmp_path.iterdir()} == {"run0", "run1", "both"}


@pytest.mark.slow
@pytest.mark.usefixtures("unserved")
def test_what_one_member_trained_on_is_no_validation_image(runs: list[Path], tmp_path: Path) -> None:
    (runs[1] / "manifest.json").unlink()
    split = pd.read_csv(runs[1] / "split.csv")
    first = split.index[split["split"] == "validation"][0]
    split.loc[first, "split"] = "train"
    split.to_csv(runs[1] / "split.csv", index=False)
    run = ensemble(runs, tmp_path / "both")
    assert run.metrics["validation"]["n"] == held_out(runs[0]) - 1
    split["split"] = "train"
    split.to_csv(runs[1] / "split.csv", index=False)
    with pytest.raises(SpecError, match="cannot be evaluated"):
        ensemble(runs, tmp_path / "none")


@pytest.mark.usefixtures("unserved")
@pytest.mark.slow
def test_runs_that_do_not_go_together_are_refused(runs: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    (other / "manifest.json").unlink()
    (other / "plan.json").write_text((other / "plan.json").read_text().replace('"image_size": 32', '"image_size": 48'))
    done = CliRunner().invoke(main, ["ensemble", str(runs[0]), str(other), "--out", str(tmp_path / "new")])
    assert done.exit_code == 1 and "differ in image size: 48 and 32" in done.stderr
    done = CliRunner().invoke(main, ["ensemble", str(runs[0]), "--out", str(tmp_path / "new")])
    assert done.exit_code == 1 and "was given 1 run. Expected two or more" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_an_ensemble_is_exported_and_proven(runs: list[Path], tmp_path: Path) -> None:
    run = ensemble(runs, tmp_path / "both")
    assert run.metrics["parity"]["top1_agreement"] == 1.0 and run.metrics["parity"]["within_limit"]
    assert (predict(run.folder, [run.plan.job.data])["problem"] == "").all()


# -- views ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_flip_average_does_not_know_left_from_right() -> None:
    model, data = tiny_model(seed=4), examples(6, 700)
    mirrored = in_memory(data.pixels.gather(slice(None))[:, :, ::-1].copy())
    for views in ("flip", "ten-crop"):
        found = predict_averaged(model, data.pixels, views, batch_size=4)
        np.testing.assert_allclose(found, predict_averaged(model, mirrored, views, batch_size=4), atol=1e-5)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    plain = predict_probabilities(model, data.pixels)
    mean = (plain + predict_probabilities(model, mirrored)) / 2
    np.testing.assert_allclose(predict_averaged(model, data.pixels, "flip"), mean, atol=1e-5)


@pytest.mark.slow
def test_evaluation_says_what_views_gain_and_cost(trained: Path) -> None:
    done = CliRunner().invoke(main, ["evaluate", str(trained), "--views", "flip"])
    assert done.exit_code == 0 and "averaged over flip: accuracy" in done.output and "times as long" in done.output
    with pytest.raises(NameUnknown, match="Did you mean 'flip'"):
        evaluate_run(trained, views="flips")


@pytest.mark.slow
def test_whether_a_mirror_image_keeps_its_class_is_asked_of_all_images_given(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The safety check leaves test images out, but here they are what is evaluated."""
    asked: list[int] = []

    def check(images: Any, *a: object, **k: object) -> Any:
        asked.append(int((images.images.table["split"] != "test").sum()))
        return SimpleNamespace(verdicts=[SimpleNamespace(verdict="safe", hinted=False)])

    monkeypatch.setattr("tlkit.runs.evaluate.check_safety", check)
    write_folder(tmp_path / "data", per_class=2, start=700)
    rows = [f"{name}/{i:03d}.png,{name},test" for name in COLOURS for i in range(2)]
    (tmp_path / "data" / "test.csv").write_text("\n".join(["path,label,split", *rows]))
    evaluate_run(trained, tmp_path / "data" / "test.csv", views="flip")
    assert asked == [6]


def test_views_leave_mirror_images_out_where_these_are_another_class(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tlkit.safety.verdict import Verdict

    unsafe = Verdict("flip_horizontal", "unsafe", 1.0, None, 90, "92% of d become b")
    monkeypatch.setattr("tlkit.runs.evaluate._mirror_verdict", lambda images: unsafe)
    with pytest.raises(SpecError, match=r"92% of d become b.*mix classes"):
        evaluate_run(trained, views="flip")
    assert evaluate_run(trained, views="ten-crop")["views"]["views"] == "five-crop"


# -- which backbone ---------------------------------------------------------------------------------------


def test_backbones_are_named_with_commas_or_by_what_is_here() -> None:
    assert [one.name for one in named_backbones("vgg16, nano,vgg16")] == ["vgg16", "nano"]
    assert "nano" in [one.name for one in named_backbones("auto")]
    with pytest.raises(NameUnknown, match="Did you mean 'vgg16'"):
        named_backbones("nano,vgg61")


@pytest.mark.slow
def test_the_better_backbone_is_taken_and_the_evidence_kept(folder: Path, tmp_path: Path) -> None:
    """Colour tells the classes apart; a network of which one input channel is left cannot see it."""
    from tests.tiny import tiny_file

    blind = keras.saving.load_model(tiny_file())
    kernel, bias = blind.get_layer("conv_8").get_weights()
    blind.get_layer("conv_8").set_weights([kernel * 0, bias])
    blind.save(tmp_path / "blind.keras")
    networks = named_backbones(f"{tmp_path / 'blind.keras'},{tiny_file()}")
    chosen, decision = compare_backbones(networks, scan(folder), Job(folder))
    assert chosen.name == tiny_file() == decision.chosen
    rows = {row["backbone"]: row for row in decision.evidence["compared"]}
    assert rows[tiny_file()]["accuracy"] > 0.9 > 0.6 > rows[str(tmp_path / "blind.keras")]["accuracy"]
    assert all(row["n"] == 24 and row["milliseconds_per_image"] > 0 for row in rows.values())


@pytest.mark.slow
@pytest.mark.usefixtures("unserved")
def test_a_run_compares_what_it_was_given(folder: Path, tmp_path: Path) -> None:
    from tests.tiny import tiny_file

    other = tmp_path / "again.keras"
    shutil.copy(tiny_file(), other)
    run = finetune(folder, backbone=f"{tiny_file()},{other}", image_size=32, recipe=QUICK, out=tmp_path / "run")
    assert run.plan.decisions[0].about == "backbone" and run.plan.backbone.name in (
        tiny_file(),
        str(other),
    )


# -- the axes on the command line, and the learning rate --------------------------------------------------


@pytest.mark.slow
def test_inspect_with_a_backbone_measures_the_axes(folder: Path) -> None:
    done = CliRunner().invoke(main, ["inspect", str(folder), "--backbone", "nano", "--image-size", "64"])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.output.splitlines()]
    assert ["block", "features", "ridge", "probe", "95", "%", "interval", "n"] in rows
    assert "640" in {row[1] for row in rows if row[:1] == ["5"]} and "nats per channel" in done.output
    axes = measure_axes(scan(folder), "nano", image_size=64)
    assert axes["images"] == 24 and len(axes["blocks"]) == 5


@pytest.mark.slow
def test_the_rate_rises_and_the_weights_are_as_before() -> None:
    model, data = tiny_model(seed=4), examples(24, 701)
    before = model.get_weights()
    for unfreeze in (0, 2):
        found = lr_find(model, BACKBONE, data, unfreeze=unfreeze, batch_size=8, sweep=Sweep(steps=40))
        assert (np.diff(found.rates) > 0).all() and len(found.rates) == len(found.losses) <= 40
        assert found.rates[0] == pytest.approx(1e-6) and 1e-6 < found.suggestion <= 1
        assert found.losses.min() < found.losses[0]
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.slow
def test_the_suggested_rate_trains_better_than_a_hundredth_of_it() -> None:
    from tests.training.test_training import recipe
    from tlkit.training.train import train

    data, val = examples(24, 702), examples(12, 703)
    rate = lr_find(tiny_model(seed=4), BACKBONE, data, batch_size=8).suggestion
    losses = []
    for factor in (1.0, 0.01):
        history = train(tiny_model(seed=4), BACKBONE, recipe(Stage(5, rate * factor)), data, val)
        losses.append(history.rows[-1]["val_loss"])
    assert losses[0] < losses[1]


@pytest.mark.slow
def test_lr_find_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    words = ["lr-find", str(folder), "--backbone", "nano", "--image-size", "64", "--csv", str(tmp_path / "rates.csv")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "suggestion: " in done.output and "#" in done.output
    table = pd.read_csv(tmp_path / "rates.csv")
    assert list(table) == ["learning_rate", "loss"] and len(table) > 10
    assert CliRunner().invoke(main, ["lr-find", str(folder), "--unfreeze", "some"]).exit_code == 1
