"""A head that is delivered has also learned from the validation images, and no number is measured by it on them.

The images are noise with labels at random: whoever has learned from one knows its label, and nobody else does.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import leave_out_export
from tests.noise import TRAINED, made, right, rows, write_noise
from tlkit import Recipe, Stage, ensemble, evaluate_run, load_model, predict
from tlkit.finetuning.build import Trained
from tlkit.finetuning.refit import refit
from tlkit.plan.job import Job
from tlkit.progress import Clock, Deadline
from tlkit.reporting.findings import Record
from tlkit.runs.export import _refusal
from tlkit.runs.folder import Run
from tlkit.runs.lineage import lineage
from tlkit.runs.reading import load_judged
from tlkit.training.history import History


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noise") / "data")


@pytest.fixture(scope="module")
def run(noise: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        leave_out_export(patch)
        return made(noise, noise.parent / "run", max_error=0.3)


@pytest.mark.slow
def test_what_is_delivered_knows_the_validation_images_and_what_is_reported_does_not(run: Run) -> None:
    validation = rows(run, "validation")
    assert right(validation, "final") > right(validation) + 0.2
    assert right(validation) < 0.7 and run.metrics["validation"]["accuracy"] == right(validation)
    assert run.metrics["refit"] == {"images": 80, "splits": ["train", "validation"]}


@pytest.mark.slow
def test_training_images_are_predicted_by_heads_that_did_not_learn_from_them(run: Run) -> None:
    training = rows(run, "train")
    assert 0.3 < right(training) < 0.7
    assert run.metrics["calibration"]["fitted_on"] == 80 == run.metrics["refusal"]["chosen_on"]
    assert run.metrics["calibration"]["temperature"] > 1.5  # heads that memorise are overconfident
    assert training["final"].eq("").all()  # nothing is said of what it predicts there


@pytest.mark.slow
def test_the_export_is_what_is_delivered(noise: Path, tmp_path: Path) -> None:
    run = made(noise, tmp_path / "run", max_error=0.3)
    validation = rows(run, "validation")
    found = predict(run.saved_model, [noise / path for path in validation["path"]])
    np.testing.assert_allclose(found["probability"], validation["final_probability"], atol=1e-5)
    assert run.metrics["parity"]["top1_agreement"] == 1.0


@pytest.mark.slow
def test_the_same_run_without_it_is_the_one_that_was_judged(
    run: Run, noise: Path, tmp_path: Path, unserved: None
) -> None:
    plain = made(noise, tmp_path / "plain", refit=False)
    assert not plain.refitted and plain.metrics["refit"] is None and "final" not in plain.read_table("predictions.csv")
    list(map(np.testing.assert_array_equal, *(_directions(one) for one in (load_judged(run), load_model(plain)))))
    assert right(rows(plain, "validation")) == run.metrics["validation"]["accuracy"]


def _directions(model: Any) -> list[np.ndarray]:
    """The weights, the last layer's without their temperature."""
    *others, kernel, bias = model.get_weights()
    return [*others, *((one / np.abs(kernel).max()).round(4) for one in (kernel, bias))]


@pytest.mark.slow
def test_evaluating_a_run_again_says_what_it_said(run: Run, noise: Path) -> None:
    own, everything = evaluate_run(run), evaluate_run(run, noise)
    assert own["accuracy"] == run.metrics["validation"]["accuracy"] and own["trained_on"] == 0
    assert own["log_loss"] == pytest.approx(run.metrics["validation"]["log_loss"], rel=1e-4)
    assert everything["trained_on"] == 80 and everything["judged_before"] == own["n"]  # the validation images
    assert everything["without_trained_on"]["accuracy"] == own["accuracy"] < everything["accuracy"]
    assert Record(run).score.accuracy == own["accuracy"]


@pytest.mark.slow
def test_a_later_limit_on_the_error_gives_the_same_threshold(run: Run) -> None:
    before, after = run.metrics["refusal"], _refusal(run, 0.3)
    assert after["threshold"] == pytest.approx(before["threshold"], abs=1e-4)
    assert after["chosen_on"] == before["chosen_on"]


@pytest.mark.slow
def test_another_run_starts_from_the_weights_that_were_judged(
    run: Run, noise: Path, tmp_path: Path, unserved: None
) -> None:
    still = Recipe("still", stages=(Stage(1, 1e-30),))
    second = made(noise, tmp_path / "second", still, from_run=run.folder, refit=False)
    assert right(rows(second, "validation")) == run.metrics["validation"]["accuracy"]
    assert lineage(second).trained_on == lineage(run).trained_on < lineage(run, served=True).trained_on
    assert lineage(second, served=True).trained_on == lineage(run).trained_on


@pytest.mark.slow
def test_an_ensemble_is_judged_by_members_that_did_not_learn_from_the_validation_images(
    run: Run, tmp_path: Path, unserved: None
) -> None:
    both = ensemble([run.folder, run.folder], tmp_path / "both")
    assert both.metrics["validation"]["accuracy"] == run.metrics["validation"]["accuracy"]
    assert evaluate_run(both)["accuracy"] == run.metrics["validation"]["accuracy"]
    assert evaluate_run(both, run.plan.job.data)["trained_on"] == 80


@pytest.mark.slow
def test_a_network_is_trained_again_only_if_asked(noise: Path, tmp_path: Path, unserved: None) -> None:
    asked = made(noise, tmp_path / "asked", TRAINED, refit=True)
    plain = made(noise, tmp_path / "plain", TRAINED)
    assert (
        asked.metrics["refit"] == {"images": 80, "splits": ["train", "validation"]} and plain.metrics["refit"] is None
    )
    judged, delivered, before = load_judged(asked), load_model(asked), load_model(plain)
    for one, other in zip(judged.get_weights(), before.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    trained = [weight for weight in delivered.trainable_weights if "predictions" not in weight.path]
    same = [weight for weight in judged.trainable_weights if "predictions" not in weight.path]
    assert all(np.abs(a.numpy() - b.numpy()).max() > 0 for a, b in zip(trained, same, strict=True))
    assert asked.metrics["validation"]["accuracy"] == plain.metrics["validation"]["accuracy"]


def test_training_a_network_again_ends_within_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Deadline] = []

    def train(*_: object, deadline: Deadline, **__: object) -> History:
        asked.append(deadline)
        return History(cut_short=True)

    monkeypatch.setattr("tlkit.finetuning.refit.train", train)
    monkeypatch.setattr("tlkit.finetuning.refit.build", lambda *a, **k: None)
    monkeypatch.setattr("tlkit.finetuning.refit.training_deadline", lambda deadline, *a: deadline)
    examples = SimpleNamespace(part=lambda *splits: range(8))
    prepared = SimpleNamespace(dataset=examples, backbone=None)
    plan = SimpleNamespace(job=Job("data", refit=True), recipe=TRAINED, precision="float32")
    trained, clock = Trained(None, History(), 0), Clock(Deadline.after(7))  # type: ignore[arg-type]
    assert refit(plan, trained, prepared, clock) is None  # type: ignore[arg-type]
    assert asked == [clock.deadline] and "was not trained on the validation images too" in trained.history.notes[0]
