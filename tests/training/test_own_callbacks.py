"""A user's callbacks see the whole classifier, can stop a stage, and are told of what has no epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest

import tlkit
from tests.conftest import write_folder
from tests.tiny import tiny_file
from tlkit import Recipe, Stage
from tlkit.data.dataset import decode_images
from tlkit.errors import SpecError
from tlkit.training.own_callbacks import check_resumable, report_rows

HEAD = Stage(epochs=3, learning_rate=1e-2)
TOP = Stage(epochs=2, learning_rate=1e-3, unfreeze=1)


class Told(keras.callbacks.Callback):
    """Writes down what it is told, and stops a training where it is asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.events: list[str] = []
        self.logs: list[dict[str, float]] = []
        self.inputs: list[Any] = []
        self.rates: list[float] = []
        self.stop_at = stop_at

    def on_train_begin(self, logs: Any = None) -> None:
        self.events.append("begin")
        self.inputs.append(self.model.input_shape)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.events.append(f"epoch {epoch}")
        self.logs.append(dict(logs))
        if self.model.optimizer is not None:
            self.rates.append(float(self.model.optimizer.learning_rate))
        if epoch == self.stop_at:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        self.events.append("end")

    def on_run_begin(self, run: Any) -> None:
        self.events.append("run begins")

    def on_run_end(self, run: Any) -> None:
        self.events.append("run is finished" if run.finished else "run is not finished")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_folder(tmp_path_factory.mktemp("callbacks") / "data", per_class=8)
    return decode_images(tlkit.scan(folder), 32).split()


def trained(dataset: Any, recipe: Recipe, *callbacks: keras.callbacks.Callback) -> tuple[keras.Model, Any]:
    model = tlkit.build_classifier(tiny_file(), 3, image_size=32, head=recipe.head)
    parts = dataset.part("train"), dataset.part("validation")
    return model, tlkit.train(model, tiny_file(), recipe, *parts, callbacks=list(callbacks))


@pytest.mark.slow
def test_each_stage_is_a_fit_of_the_whole_classifier(dataset: Any, tmp_path: Path) -> None:
    told, saved = Told(), keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    model, history = trained(dataset, Recipe("two", stages=(HEAD, TOP)), told, saved)
    assert told.events == ["begin", "epoch 0", "epoch 1", "epoch 2", "end", "begin", "epoch 3", "epoch 4", "end"]
    assert told.inputs == [(None, 32, 32, 3)] * 2 and told.rates == pytest.approx([1e-2] * 3 + [1e-3] * 2)
    for row, logs in zip(history.rows, told.logs, strict=True):
        assert {name: row[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")} == pytest.approx(logs)
    last = keras.models.load_model(tmp_path / "5.keras")
    assert last.input_shape == (None, 32, 32, 3) and not hasattr(model, "optimizer")
    if history.rows[-1]["best"]:
        assert all((a == b).all() for a, b in zip(last.get_weights(), model.get_weights(), strict=True))


@pytest.mark.slow
def test_a_callback_stops_its_stage_and_the_history_says_so(dataset: Any) -> None:
    told = Told(stop_at=0)
    _, history = trained(dataset, Recipe("two", stages=(HEAD, TOP)), told)
    assert told.events == ["begin", "epoch 0", "end", "begin", "epoch 1", "epoch 2", "end"]
    assert history.notes == ["stage 1 ended after epoch 1: a callback stopped it"] and not history.cut_short


@pytest.mark.slow
def test_keras_own_callbacks_work_as_they_stand(dataset: Any, tmp_path: Path) -> None:
    told = Told()
    own = (
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.EarlyStopping("val_loss", patience=10, restore_best_weights=True),
        told,
    )
    _, history = trained(dataset, Recipe("one", stages=(HEAD,)), *own)
    assert told.rates == pytest.approx([5e-3, 2.5e-3, 1.25e-3])
    assert [row["learning_rate"] for row in history.rows] == pytest.approx([5e-3, 2.5e-3, 1.25e-3])
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4


def test_a_solved_head_is_a_training_of_one_epoch(dataset: Any) -> None:
    told = Told()
    model, history = trained(dataset, Recipe("solved", stages=(Stage(1, 1e-3, solver="logistic", strength=1.0),)), told)
    assert told.events == ["begin", "epoch 0", "end"] and told.inputs == [(None, 32, 32, 3)]
    assert told.logs[0]["val_accuracy"] == history.rows[0]["val_accuracy"] and not hasattr(model, "optimizer")


def test_the_epochs_of_a_tournaments_winner_are_told_afterwards() -> None:
    told = Told()
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    rows = [{"epoch": n, "loss": 1 / n, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5} for n in (1, 2)]
    report_rows((told,), model, rows)
    assert told.events == ["begin", "epoch 0", "epoch 1", "end"] and [one["loss"] for one in told.logs] == [1.0, 0.5]
    assert not hasattr(model, "optimizer")


@pytest.mark.slow
def test_each_fold_reports_one_row_and_the_run_its_begin_and_end(tmp_path: Path, unserved: None) -> None:
    told, data = Told(), write_folder(tmp_path / "data", per_class=9)
    recipe = Recipe("one", stages=(HEAD,))
    tlkit.finetune(
        data, backbone=tiny_file(), image_size=32, recipe=recipe, folds=3, out=tmp_path / "run", callbacks=[told]
    )
    own, folds = (
        ["begin", "epoch 0", "epoch 1", "epoch 2", "end"],
        ["begin", "epoch 3", "end", "begin", "epoch 4", "end"],
    )
    assert told.events == ["run begins", *own, *folds, "run is finished"]


def test_what_is_no_callback_is_refused(dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="callbacks"):
        trained(dataset, Recipe("one", stages=(HEAD,)), "tensorboard")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="callbacks"):
        tlkit.finetune(tmp_path, callbacks=[Told])  # type: ignore[list-item]


def test_a_resumed_run_takes_only_callbacks_that_declare_their_state() -> None:
    class Kept(Told):
        def state(self) -> dict[str, Any]:
            return {"events": self.events}

        def set_state(self, state: dict[str, Any]) -> None:
            self.events = state["events"]

    check_resumable([Kept()])
    check_resumable([])
    with pytest.raises(SpecError, match=r"2 callbacks.*Told, EarlyStopping"):
        check_resumable([Told(), Kept(), keras.callbacks.EarlyStopping()])


# -- own loss, metrics and optimizer -------------------------------------------------------------------------


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.losses.Loss):
    """Twice the cross-entropy."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return 2 * keras.losses.categorical_crossentropy(y_true, y_pred)


class Unregistered(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.sum(y_pred)


@pytest.mark.slow
def test_an_own_loss_is_the_one_that_is_minimised(dataset: Any) -> None:
    stage = Stage(epochs=1, learning_rate=1e-9)
    plain, doubled = (
        trained(dataset, Recipe("one", stages=(stage,), loss=loss))[1].rows[0] for loss in (None, Doubled())
    )
    assert doubled["loss"] == pytest.approx(2 * plain["loss"], rel=1e-4)
    assert doubled["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-4)  # the log loss, for comparison


@pytest.mark.slow
def test_an_own_optimizer_takes_the_rate_of_its_stage_and_own_metrics_are_recorded(dataset: Any) -> None:
    told = Told()
    optimizer = keras.optimizers.Lion(learning_rate=7.0, beta_1=0.5)
    metrics = (keras.metrics.TopKCategoricalAccuracy(k=2, name="top2"),)
    stages = (Stage(epochs=2, learning_rate=1e-3, optimizer=optimizer),)
    _, history = trained(dataset, Recipe("one", stages=stages, metrics=metrics), told)
    assert told.rates == pytest.approx([1e-3] * 2) and told.model is not None
    assert all(0 <= row["val_top2"] <= 1 and row["val_top2"] >= row["val_accuracy"] for row in history.rows)


def test_keras_objects_are_kept_as_json_and_made_again() -> None:
    import json

    from tlkit.plan.recipe import recipe_from_dict, to_dict

    stages = (Stage(2, 1e-3, optimizer=keras.optimizers.Lion(beta_1=0.5)),)
    recipe = Recipe("one", stages=stages, loss=Doubled(), metrics=(keras.metrics.AUC(name="auc"),))
    assert recipe_from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe
    assert recipe.loss["registered_name"] == "tests>Doubled"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Recipe("one", stages=(HEAD,), loss=Unregistered()), "register_keras_serializable"),
        (lambda: Recipe("one", stages=(HEAD,), loss="mse"), "Expected a Keras object"),
        (lambda: Recipe("one", stages=(HEAD,), loss=lambda y, p: 0), "Expected a Keras object"),
        (lambda: Stage(1, 1e-3, optimizer=keras.optimizers.Lion(), weight_decay=0.1), "weight_decay"),
        (lambda: Recipe("one", stages=(Stage(1, 1e-3, solver="svm"),), loss=Doubled()), "A solver has its own"),
    ],
)
def test_what_the_plan_cannot_keep_is_refused_at_once(make: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make()


@pytest.mark.slow
def test_a_loss_that_does_not_fit_is_named_before_the_first_step(dataset: Any) -> None:
    sparse = keras.losses.SparseCategoricalCrossentropy()
    with pytest.raises(SpecError, match="Sparse"):
        trained(dataset, Recipe("one", stages=(HEAD,), loss=sparse))
    gone = {"class_name": "Mine", "registered_name": "gone>Mine", "module": None, "config": {}}
    with pytest.raises(SpecError, match=r"Recipe\.loss 'Mine' cannot be made"):
        trained(dataset, Recipe("one", stages=(HEAD,), loss=gone))
    with pytest.raises(SpecError, match="Expected a keras Loss"):
        trained(dataset, Recipe("one", stages=(HEAD,), loss=keras.metrics.AUC()))


def test_no_code_is_run_by_what_a_plan_says_of_a_loss(dataset: Any) -> None:
    evil = {"class_name": "system", "module": "os", "registered_name": "system", "config": {"command": "false"}}
    with pytest.raises(SpecError, match="cannot be made"):
        trained(dataset, Recipe("one", stages=(HEAD,), loss=evil))
