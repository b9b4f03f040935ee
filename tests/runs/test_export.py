"""What `export` proves, on which images, and what it says of a threshold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tlkit import ParityError, RunError, export_run, open_run, predict
from tlkit.cli.main import main
from tlkit.deployment.formats import open_target
from tlkit.folders import removed_unless_proved
from tlkit.runs.export import exports_of, other_thresholds
from tlkit.runs.reading import _some_pixels, load_model
from tlkit.stats import wilson_interval


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the shared run, without the exports that other tests added."""
    copy = tmp_path / "run"
    added = shutil.ignore_patterns("litert*", "onnx", "keras", "exports.csv")
    return shutil.copytree(trained, copy, ignore=added)


def validation_images(run: Path) -> int:
    return int((open_run(run).read_table("split.csv")["split"] == "validation").sum())


def answers_rightly_except(run: Path, wrong: int) -> Callable[[Path], Any]:
    """An `open_target` whose export is wrong on some of the validation images and right on all others."""
    model = load_model(run)
    pixels, _ = _some_pixels(open_run(run), "validation", None)
    mistaken = {one.tobytes() for one in pixels[:wrong]}

    def answer(images: np.ndarray) -> np.ndarray:
        found = model.predict_on_batch(images)
        turned = np.array([one.tobytes() in mistaken for one in images])
        return np.where(turned[:, None], np.roll(found, 1, axis=1), found)

    return lambda folder: (open_target(folder)[0], answer)


@pytest.mark.slow
def test_integers_are_judged_on_images_that_the_converter_did_not_see(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 wrong of 48 validation and training images is 97.9 % agreement, and 80 % on 5 validation images."""
    n = validation_images(run)
    right = (n - 1) / n
    assert right < 0.95 < 47 / 48
    monkeypatch.setattr("tlkit.deployment.parity.open_target", answers_rightly_except(run, 1))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ParityError, match=rf"on {right:.1%} of {n} images .*accuracy goes from 100\.0% to {right:.1%}"):
        export_run(run, target="litert-int8")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "it leaves nothing"
    _, proof = export_run(run, target="litert-int8", force=True)
    assert proof is not None and (proof["n"], proof["accuracy_before"]) == (n, 1.0)
    assert proof["accuracy"] == proof["top1_agreement"] == pytest.approx(right)
    assert proof["agreement_95"] == pytest.approx(wilson_interval(n - 1, n), abs=1e-3)
    row = exports_of(run).set_index("format").loc["litert-int8"]
    assert (row["split"], row["n"], row["accuracy_before"]) == ("validation", n, 1.0)
    assert row["accuracy"] == pytest.approx(right)


@pytest.mark.slow
def test_an_export_that_is_refused_leaves_nothing_that_answers(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name for path in run.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("tlkit.deployment.parity.open_target", answers_rightly_except(run, 1))
        with pytest.raises(ParityError):
            export_run(run, target="keras")
    assert {path.name for path in run.iterdir()} == before
    with pytest.raises(RunError):
        open_target(run / "keras")
    assert "keras" not in set(exports_of(run)["format"])


@pytest.mark.slow
def test_an_earlier_export_survives_one_that_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = export_run(run, target="keras")
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("tlkit.deployment.parity.open_target", answers_rightly_except(run, 1))
        with pytest.raises(ParityError):
            export_run(run, target="keras", max_error=0.05)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
    images, _ = _some_pixels(open_run(run), "validation", None)
    assert np.allclose(open_target(folder)[1](images), load_model(run).predict_on_batch(images), atol=1e-5)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_saved_model_that_is_refused_is_removed_and_the_earlier_one_kept(
    run: Path, elsewhere: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*a: object) -> None:
        raise ParityError("it differs")

    monkeypatch.setattr("tlkit.runs.export.export_served", lambda model, folder, serving: folder.mkdir())
    monkeypatch.setattr("tlkit.runs.export._prove_served", refuse)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ParityError):
        export_run(run, tmp_path / "new" if elsewhere else None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists() and not any(path.name.startswith(".tmp") for path in run.iterdir())


def test_an_export_in_its_place_is_removed_if_its_proof_fails(tmp_path: Path) -> None:
    (tmp_path / "saved_model" / "variables").mkdir(parents=True)
    with removed_unless_proved(tmp_path / "saved_model"):
        pass
    assert (tmp_path / "saved_model").is_dir()
    with pytest.raises(KeyboardInterrupt), removed_unless_proved(tmp_path / "saved_model"):
        raise KeyboardInterrupt
    assert not (tmp_path / "saved_model").exists()


def test_a_row_of_an_earlier_version_says_on_what_it_was_proved(run: Path) -> None:
    columns = ["n", "top1_agreement", "max_difference", "accuracy", "bytes", "milliseconds_an_image", "folder"]
    rows = {name: [9, 1.0, 0.0, 1.0, 1, 1.0, "x"] for name in ("litert", "litert-int8")}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("format").reset_index()
    table.to_csv(run / "exports.csv", index=False)
    assert list(exports_of(run)["split"]) == ["validation", "validation and train"]


@pytest.mark.slow
def test_a_limit_on_the_error_is_told_and_kept(run: Path) -> None:
    export_run(run, target="litert")
    arguments = ["export", str(run), "--format", "keras", "--max-error", "0.05"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    refusal = open_run(run).metrics["refusal"]
    assert (refusal["max_error"], refusal["assured"]) == (0.05, False) and refusal["threshold"] > 0
    assert refusal["validation"]["coverage"] == 1.0 and refusal["validation"]["error"] == 0.0
    line = next(one for one in done.output.splitlines() if one.startswith("unsure"))
    assert "too few for 95 % confidence" in line and "100.0% of " in line
    assert f"{validation_images(run)} images answered, 0.0% of these wrong" in line
    for earlier in ("savedmodel", "litert"):
        assert f'the earlier export {earlier} still answers "unsure" to nothing: write it again' in done.output
    description = json.loads((run / "keras" / "tlkit.json").read_text())
    assert description["refusal"] == refusal and description["unsure_below"] == refusal["threshold"]
    assert other_thresholds(run) == {"savedmodel": 0.0, "litert": 0.0}
    export_run(run, target="litert")
    assert other_thresholds(run) == {"savedmodel": 0.0}, "the run's own threshold is the default of later exports"


@pytest.mark.slow
def test_without_a_threshold_nothing_is_called_sure(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tlkit.runs.export._prove_served", lambda *a: None)  # it takes seconds
    files = [*_files(run)[:1], tmp_path / "junk.png"]
    files[1].write_bytes(b"junk")
    assert predict(run, files)["sure"].tolist() == [None, None]
    done = CliRunner().invoke(main, ["predict", str(run), str(files[0])], catch_exceptions=False)
    assert "unsure" not in done.output
    export_run(run, max_error=0.05)
    assert predict(run, files)["sure"].tolist() == [True, None] and other_thresholds(run) == {}


def _files(run: Path) -> list[Path]:
    found = open_run(run)
    return [found.plan.job.data / name for name in found.read_table("split.csv")["path"]]


@pytest.mark.parametrize("grouped", [False, True])
def test_the_threshold_of_export_is_that_of_finetune(run: Path, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.runs.export._prove_pixels", lambda *a: None)  # the images are not there
    monkeypatch.setattr("tlkit.runs.export.write_target", lambda model, names, folder, *a, **settings: folder.mkdir())
    monkeypatch.setattr("tlkit.runs.export.add_to_description", lambda *a: None)
    (run / "manifest.json").unlink()
    table = pd.read_csv(run / "predictions.csv")
    rng = np.random.default_rng(6680)
    many = pd.concat([table] * 80, ignore_index=True)
    many["path"] = [f"{number}.png" for number in range(len(many))]
    patients = [f"patient {number % 4}" if grouped else "" for number in range(len(many))]
    split = many[["path", "label", "split"]].assign(group=patients, sha256=many["path"])
    split.to_csv(run / "split.csv", index=False)
    many["probability"] = rng.uniform(0.4, 1, len(many)).round(6)
    wrong = rng.random(len(many)) > many["probability"] ** 0.3
    many.loc[wrong, "prediction"] = many.loc[wrong, "label"].map({"red": "blue", "blue": "green", "green": "red"})
    many.to_csv(run / "predictions.csv", index=False)
    export_run(run, target="keras", max_error=0.1)
    refusal = open_run(run).metrics["refusal"]
    answered = many["probability"] >= refusal["threshold"]
    assert set(refusal["classes"]) == {"blue", "green", "red"}
    if grouped:
        assert not refusal["assured"], "four patients are too few"
        return
    assert refusal["assured"] and 0 < answered.mean() < 1 and answered.sum() == refusal["validation"]["answered"]
    assert refusal["validation"]["error"] == pytest.approx(float(wrong[answered].mean())) and refusal["test"] is None
