"""Logs runs to TensorBoard or MLflow: callbacks that also take the plan, its decisions, the metrics and the report.

They declare that they remember nothing, so they can take part in a run that is resumed: events are numbered by epoch,
and the run of MLflow is found in the run's checkpoints.

The only file that imports MLflow (`pip install mlflow`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tlkit.checkpoints import Checkpoints
from tlkit.errors import ExportError, RunError, TlkitError
from tlkit.folders import CHECKPOINTS
from tlkit.plan.tracking import named_trackers
from tlkit.progress import log
from tlkit.runs.folder import Run

ARTEFACTS = ("plan.json", "metrics.json", "history.csv", "split.csv", "predictions.csv", "problems.csv", "report.html")
LONGEST = 500  # characters of an MLflow parameter


class _Stateless:
    """Declares the state of a tracker: nothing. See `tlkit.training.own_callbacks.check_resumable`."""

    def state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass


class TensorBoardTracker(_Stateless, keras.callbacks.TensorBoard):
    """Keras' TensorBoard callback, which also logs the plan, its decisions and the metrics, and copies the report.

    folder: of the event files; the report goes there too.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(str(folder), write_graph=False)
        self._folder = Path(folder)

    def on_run_begin(self, run: Run) -> None:
        """Log the plan, which is decided."""
        with self._writer():
            tf.summary.text("plan", f"```json\n{(run.folder / 'plan.json').read_text(encoding='utf-8')}\n```", step=0)
            tf.summary.text("decisions", "\n".join(f"- {one}" for one in decisions_of(run)), step=0)

    def on_run_end(self, run: Run) -> None:
        """Log the metrics of a finished run, and copy its report."""
        with self._writer():
            for name, value in numbers_of(run.metrics):
                tf.summary.scalar(f"run/{name}", value, step=0)
        if (run.folder / "report.html").is_file():
            shutil.copyfile(run.folder / "report.html", self._folder / "report.html")

    @contextlib.contextmanager
    def _writer(self) -> Iterator[None]:
        writer = tf.summary.create_file_writer(str(self._folder / "run"))
        with writer.as_default():
            yield
        writer.close()


class MlflowTracker(_Stateless, keras.callbacks.Callback):
    """Logs a run to MLflow: parameters, the scores of each epoch, the metrics, and the run's files as artefacts.

    A training goes on where MLflow cannot be reached; when the run is finished, this is an error.

    uri: of the tracking store: a folder, "sqlite:///FILE" or the address of a server. experiment: its name.

    Raises ExportError if MLflow is not installed, or cannot log there.
    """

    def __init__(self, uri: str, experiment: str = "tlkit") -> None:
        super().__init__()
        self._uri = uri
        self._id: str | None
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ExportError(f"MLflow is not installed ({error}). Install it with: pip install mlflow.") from None
        self._id, self._failed = None, ""
        try:
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            self._experiment = found.experiment_id if found else self._client.create_experiment(experiment)
        except Exception as error:  # of the network, of the store, of MLflow itself
            raise ExportError(f"MLflow cannot log to '{uri}': {error}") from error

    def on_run_begin(self, run: Run) -> None:
        """Begin a run of MLflow, with the job and the decisions as parameters; of a run that is resumed, go on with it.

        Its id is among the run's checkpoints, which a run that replaces this one does not have.
        """
        kept = Checkpoints(run.folder / CHECKPOINTS)
        kept.seconds = kept.spent
        where = hashlib.sha256(self._uri.encode()).hexdigest()[:8]
        self._id = kept.once(f"mlflow {where}", lambda: {"id": self._begun(run)})["id"]

    def _begun(self, run: Run) -> str:
        name: str = self._client.create_run(self._experiment, run_name=run.folder.name).info.run_id
        job = {f"job.{about}": value for about, value in run.plan.job.to_dict().items() if value not in (None, [], "")}
        job |= {f"decided.{one.about}": one.chosen for one in run.plan.decisions}
        for about, value in job.items():
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            self._client.log_param(name, about, text[:LONGEST])
        self._client.log_text(name, "\n".join(decisions_of(run)), "decisions.txt")
        return name

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._id is None or self._failed:
            return
        try:
            for name, value in (logs or {}).items():
                self._client.log_metric(self._id, name, float(value), step=epoch)
        except Exception as error:  # of the network, of the store, of MLflow itself
            self._failed = f"{type(error).__name__}: {error}"
            log.warning(f"MLflow does not log any more: {self._failed}")

    def on_run_end(self, run: Run) -> None:
        """Log the metrics and files of a finished run."""
        if self._failed:
            raise RunError(f"MLflow did not log every epoch: {self._failed}")
        assert self._id is not None
        for name, value in numbers_of(run.metrics):
            self._client.log_metric(self._id, name.replace("/", "."), value)
        for name in ARTEFACTS:
            if (run.folder / name).is_file():
                self._client.log_artifact(self._id, str(run.folder / name))
        self._client.set_terminated(self._id)


def make_trackers(values: Iterable[str]) -> list[keras.callbacks.Callback]:
    """Make the trackers of `log_to`: "tensorboard:DIR" or "mlflow:URI".

    Raises NameUnknown, SpecError, or ExportError if a package is not installed.
    """
    kinds = {"tensorboard": TensorBoardTracker, "mlflow": MlflowTracker}
    return [kinds[kind](where) for kind, where in named_trackers(values)]


def tell(callbacks: Sequence[keras.callbacks.Callback], hook: str, run: Run) -> None:
    """Call "on_run_begin" or "on_run_end" of each callback that has it.

    Raises RunError if one fails when the run is finished, after all were called.
    """
    failed = []
    for one in callbacks:
        if not hasattr(one, hook):
            continue
        try:
            getattr(one, hook)(run)
        except TlkitError as error:
            failed.append(str(error))
        except Exception as error:  # of a tracker's network or store
            failed.append(f"{type(one).__name__}: {type(error).__name__}: {error}")
    if failed:
        state = "is finished, but" if run.finished else "was not begun, because"
        raise RunError(f"The run '{run.folder}' {state} a callback failed in {hook}: {'; '.join(failed)}")


def decisions_of(run: Run) -> list[str]:
    """What was decided and why, a line each."""
    return [f"{one.about}: {one.chosen}: {one.why}" for one in run.plan.decisions]


def numbers_of(metrics: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of metrics.json by their path, such as "validation/accuracy"; those by class are left out."""
    for name, value in metrics.items():
        if isinstance(value, Mapping) and name not in ("per_class", "seconds"):
            yield from numbers_of(value, f"{before}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{before}{name}", float(value)
