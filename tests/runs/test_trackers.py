"""TensorBoard and MLflow: the scores of each epoch, the plan, the metrics and the report are logged and read back."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

import tlkit
from tests.conftest import write_folder
from tests.tiny import tiny_file
from tlkit import Recipe, Stage
from tlkit.checkpoints import Checkpoints
from tlkit.cli.main import main
from tlkit.errors import ExportError, NameUnknown, RunError, SpecError
from tlkit.plan.tracking import named_trackers
from tlkit.runs.trackers import TensorBoardTracker, make_trackers, tell
from tlkit.training.own_callbacks import check_resumable

RECIPE = Recipe("one", stages=(Stage(epochs=2, learning_rate=1e-2),))


def logged(tmp_path: Path, *trackers: Any) -> tuple[Any, pd.DataFrame]:
    data = write_folder(tmp_path / "data")
    settings: dict[str, Any] = {"backbone": tiny_file(), "image_size": 32, "out": tmp_path / "run", "recipe": RECIPE}
    run = tlkit.finetune(data, callbacks=trackers, **settings)
    (run.folder / "report.html").write_text("<p>the report</p>")
    return run, run.history


def test_trackers_are_named_by_kind_and_place() -> None:
    with pytest.raises(NameUnknown, match="Did you mean 'tensorboard'"):
        named_trackers(["tensorbord:logs"])
    with pytest.raises(SpecError, match="tensorboard:DIR"):
        named_trackers(["tensorboard"])


def test_the_command_makes_trackers(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    given: list[Any] = []
    monkeypatch.setattr("tlkit.finetuning.finetune.carry_out", lambda job, *a, **k: given.extend(k["callbacks"]))
    monkeypatch.setattr("tlkit.cli.finetune._show_run", lambda run: None)
    places = [f"tensorboard:{tmp_path / name}" for name in ("a", "b")]
    command = ["finetune", str(folder), "--log-to", places[0], "--log-to", places[1]]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert [type(one) for one in given] == [TensorBoardTracker] * 2
    done = CliRunner().invoke(main, ["finetune", str(folder), "--log-to", "tensorbord:logs"])
    assert done.exit_code == 1 and "Did you mean 'tensorboard'? (--log-to)" in done.output


def test_a_tracker_that_fails_names_the_run_that_is_finished(trained: Path) -> None:
    class Broken:
        def on_run_end(self, run: Any) -> None:
            raise ConnectionError("the server is down")

    told: list[Any] = []

    class Other:
        def on_run_end(self, run: Any) -> None:
            told.append(run)

    with pytest.raises(RunError, match="is finished, but a callback failed in on_run_end: Broken: ConnectionError"):
        tell([Broken(), Other()], "on_run_end", tlkit.open_run(trained))  # type: ignore[list-item]
    assert len(told) == 1


@pytest.mark.slow
def test_tensorboard_reads_back_the_scores_of_each_epoch(tmp_path: Path, unserved: None) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    import keras

    (tracker,) = make_trackers([f"tensorboard:{tmp_path / 'logs'}"])
    run, history = logged(tmp_path, tracker, keras.callbacks.TensorBoard(tmp_path / "plain"))
    for folder in ("logs", "plain"):
        for part, prefix in (("train", ""), ("validation", "val_")):
            read = events.EventAccumulator(str(tmp_path / folder / part))
            read.Reload()
            for name in ("loss", "accuracy"):
                values = [tensor_value(one.tensor_proto) for one in read.Tensors(f"epoch_{name}")]
                assert values == pytest.approx(list(history[f"{prefix}{name}"]), rel=1e-5)
    read = events.EventAccumulator(str(tmp_path / "logs" / "run"))
    read.Reload()
    assert {"plan/text_summary", "decisions/text_summary"} <= set(read.summary_metadata) | {
        f"{one}/text_summary" for one in read.summary_metadata
    }
    (accuracy,) = read.Tensors("run/validation/accuracy")
    assert tensor_value(accuracy.tensor_proto) == pytest.approx(run.metrics["validation"]["accuracy"])
    tracker.on_run_end(run)
    assert (tmp_path / "logs" / "report.html").read_text() == "<p>the report</p>"


def tensor_value(proto: Any) -> float:
    import tensorflow as tf

    return float(tf.make_ndarray(proto))


@pytest.mark.slow
def test_mlflow_reads_back_metrics_parameters_and_artefacts(tmp_path: Path, unserved: None, monkeypatch: Any) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    (tracker,) = make_trackers([f"mlflow:{uri}"])
    run, history = logged(tmp_path, tracker)
    client = tracking.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("tlkit").experiment_id])
    assert found.info.status == "FINISHED" and found.data.params["decided.recipe"] == "one"
    assert found.data.params["job.image_size"] == "32"
    assert found.data.metrics["validation.accuracy"] == pytest.approx(run.metrics["validation"]["accuracy"])
    rows = client.get_metric_history(found.info.run_id, "val_loss")
    assert [one.value for one in rows] == pytest.approx(list(history["val_loss"]), rel=1e-5)
    assert [one.step for one in rows] == [0, 1]
    names = {one.path for one in client.list_artifacts(found.info.run_id)}
    assert {"plan.json", "metrics.json", "history.csv", "decisions.txt"} <= names


def test_trackers_take_part_in_a_run_that_is_resumed_and_mlflow_goes_on_with_its_run(
    tmp_path: Path, trained: Path, monkeypatch: Any
) -> None:
    class Client:
        begun = 0

        def __init__(self, tracking_uri: str) -> None:
            pass

        def get_experiment_by_name(self, name: str) -> Any:
            return SimpleNamespace(experiment_id="1")

        def create_run(self, experiment: str, run_name: str) -> Any:
            Client.begun += 1
            return SimpleNamespace(info=SimpleNamespace(run_id=f"number {Client.begun}"))

        def log_param(self, *given: Any) -> None:
            pass

        log_text = log_param

    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=Client))
    run = tlkit.open_run(shutil.copytree(trained, tmp_path / "run"))
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "progress.json").write_text('{"seconds": {"total": 9.0}}\n')
    for uri in ("one", "one", "two"):
        trackers = make_trackers([f"mlflow:{uri}", f"tensorboard:{tmp_path / 'logs'}"])
        check_resumable(trackers)
        tell(trackers, "on_run_begin", run)
    assert Client.begun == 2
    assert Checkpoints(run.folder / "checkpoints").spent() == {"total": 9.0}, "what the run took is not forgotten"


def test_mlflow_that_is_not_there_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(ExportError, match="pip install mlflow"):
        make_trackers(["mlflow:runs"])
