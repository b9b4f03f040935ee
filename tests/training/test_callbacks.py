"""Callbacks around each epoch: each one alone, called for epochs that were not trained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from tlkit.cache import in_memory
from tlkit.errors import TrainingError
from tlkit.progress import NO_DEADLINE, Deadline
from tlkit.stats import chance_log_loss
from tlkit.training import callbacks
from tlkit.training.batches import Batches, Targets
from tlkit.training.callbacks import (
    FollowEpochs,
    KeepBest,
    LogEpochs,
    RecordEpochs,
    StopAtDeadline,
    StopIfNothingLearned,
    StopIfTooLong,
    StopOnNaN,
    StopWithoutImprovement,
    TooLong,
    ValidateByLogLoss,
)
from tlkit.training.history import History, Stopwatch
from tlkit.training.monitor import improves


@pytest.fixture
def model() -> keras.Model:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(keras.optimizers.SGD(0.25), "mse")
    model.stop_training = False
    return model


def scores(accuracy: float = 0.5, loss: float = 1.0) -> dict[str, float]:
    return {"loss": 2.0, "accuracy": 0.25, "val_loss": loss, "val_accuracy": accuracy}


def ends_after(callback: keras.callbacks.Callback, model: Any, epochs: list[dict[str, float]]) -> int | None:
    """Return the number of the epoch after which the callback ends the stage, from 1; None if it does not."""
    callback.set_model(model)
    callback.on_train_begin()
    for number, logs in enumerate(epochs, start=1):
        callback.on_epoch_begin(number - 1)
        callback.on_epoch_end(number - 1, logs)
        if model.stop_training:
            return number
    return None


# -- which epoch is better ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("monitor", "now", "best", "better"),
    [
        ("val_loss", scores(0.5, 0.9), scores(0.5, 1.0), True),
        ("val_loss", scores(0.9, 1.1), scores(0.5, 1.0), False),
        ("val_loss", scores(0.6, 1.0), scores(0.5, 1.0), True),
        ("val_accuracy", scores(0.5, 0.9), scores(0.5, 1.0), True),
        ("val_accuracy", scores(0.5, 1.0), scores(0.5, 1.0), False),
        ("val_accuracy", scores(0.6, 9.0), scores(0.5, 1.0), True),
        ("last", scores(0.1, 9.0), scores(0.9, 0.1), True),
        ("val_loss", scores(0.9, np.nan), scores(0.5, 1.0), False),
        ("val_loss", scores(), None, True),
    ],
)
def test_ties_in_the_monitored_number_go_to_the_other(
    monitor: str, now: dict[str, float], best: dict[str, float] | None, better: bool
) -> None:
    assert improves(now, best, monitor) is better


# -- the log ------------------------------------------------------------------------------------------------


def add(history: History, best: bool, **more: Any) -> dict[str, Any]:
    return history.add(1, scores(), best=best, seconds=1.0, at_seconds=2.0, **more)


def test_a_stages_log_counts_on_and_adds_nothing_until_it_is_appended() -> None:
    history = History(images_computed=3)
    first = add(history, best=True)
    later = history.continued()
    assert later.epochs == 1 and later.best is first and later.rows == [] and later.images_computed == 0
    assert add(later, best=False)["epoch"] == 2
    later.cut("the time limit was reached")
    later.images_computed += 4
    assert history.epochs == 1 and not history.cut_short and history.notes == []
    history.append(later)
    assert [row["epoch"] for row in history.rows] == [1, 2] and history.best is first
    assert history.cut_short and history.notes == later.notes and history.images_computed == 7


# -- one class, one job -------------------------------------------------------------------------------------


def test_batches_are_told_which_epoch_begins() -> None:
    batches = Batches([[in_memory(np.zeros((4, 1)))]], Targets(np.zeros(4, int), 2), batch_size=2)
    FollowEpochs(batches).on_epoch_begin(7)
    assert batches.epoch == 7


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_training_with_advice(loss: float) -> None:
    stop = StopOnNaN(2, 0.5)
    stop.on_train_batch_end(0, {"loss": 3.0})
    with pytest.raises(TrainingError, match=r"in stage 2\. Lower its learning_rate \(0\.5 now\)"):
        stop.on_train_batch_end(1, {"loss": loss})


def test_the_best_weights_are_put_back_and_not_the_last(model: keras.Model) -> None:
    keeper = KeepBest("val_accuracy")
    keeper.set_model(model)
    keeper.on_train_begin()
    kept, improved = {}, []
    for epoch, accuracy in enumerate((0.5, 0.9, 0.7)):
        model.set_weights([weight + 1 for weight in model.get_weights()])
        keeper.on_epoch_end(epoch, scores(accuracy))
        kept[accuracy] = model.get_weights()
        improved.append(keeper.improved)
    assert improved == [True, True, False]
    keeper.restore()
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), kept[0.9], strict=True))


def test_a_stage_that_beats_no_earlier_one_ends_with_the_weights_it_began_with(model: keras.Model) -> None:
    keeper, before = KeepBest("val_loss", best=scores(loss=0.1)), model.get_weights()
    keeper.set_model(model)
    keeper.on_train_begin()
    model.set_weights([weight + 1 for weight in before])
    keeper.on_epoch_end(0, scores(loss=0.2))
    keeper.restore()
    assert not keeper.improved and np.array_equal(model.get_weights()[0], before[0])


def test_each_epoch_is_a_row_with_its_rate_and_whether_it_is_the_best(model: keras.Model) -> None:
    history, keeper = History(), KeepBest("val_loss")
    record = RecordEpochs(history, 3, keeper, Stopwatch())
    for epoch, loss in enumerate((0.5, 0.7, 0.3)):
        for callback in (keeper, record):
            callback.set_model(model)
            callback.on_epoch_begin(epoch)
        for callback in (keeper, record):
            callback.on_epoch_end(epoch, scores(loss=loss))
    assert [row["best"] for row in history.rows] == [True, False, True]
    assert [row["val_loss"] for row in history.rows] == [0.5, 0.7, 0.3]
    last = history.rows[-1]
    assert (last["stage"], last["epoch"], last["learning_rate"], last["strength"]) == (3, 3, 0.25, None)
    assert 0 <= last["seconds"] <= last["at_seconds"] + 1e-3


def test_epochs_are_logged_and_the_best_at_the_end(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "SECONDS_BETWEEN_LINES", -1.0)
    history = History()
    log = LogEpochs(history)
    log.on_train_begin()
    for epoch, best in enumerate((True, False)):
        add(history, best)
        log.on_epoch_end(epoch)
    log.on_train_end()
    assert len(said) == 3
    assert said[-1].startswith("  2 epochs in 2.0 s; best: epoch 1, loss 2.0000")


def test_a_bar_counts_the_steps_of_a_stage_from_its_first_epoch() -> None:
    told: list[int] = []
    steps = callbacks.CountSteps(told.append, earlier=3)
    steps.set_params({"steps": 4})
    for epoch in (3, 4):
        steps.on_epoch_begin(epoch)
        for batch in (1, 3):
            steps.on_train_batch_end(batch)
    assert told == [2, 4, 6, 8]


def test_between_the_lines_of_epochs_lie_seconds(said: list[str]) -> None:
    history = History()
    log = LogEpochs(history)
    log.on_train_begin()
    add(history, best=False)
    log.on_epoch_end(0)
    assert said == []
    log.on_train_end()
    assert said == ["  1 epoch in 1.0 s; no improvement, so the earlier weights are kept"]


def test_within_a_long_epoch_it_is_said_how_far_it_is(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = LogEpochs(History())
    log.set_params({"steps": 2000})
    log.on_train_begin()
    for batch in range(25):  # of a second each
        now[0] += 1.0
        log.on_train_batch_end(batch)
    assert said == ["  epoch 1, step 10 of 2,000", "  epoch 1, step 20 of 2,000"]


@pytest.mark.parametrize(
    ("monitor", "epochs", "expected"),
    [
        ("val_loss", [scores(loss=one) for one in (1.0, 0.9, 0.95, 0.9, 0.8)], 4),
        ("val_loss", [scores(loss=one) for one in (1.0, 1.1, 0.9, 1.0, 0.8)], None),
        (
            "val_accuracy",
            [scores(0.5, loss) for loss in (1.0, 0.9, 0.8, 0.7)],
            None,
        ),  # Keras' EarlyStopping would end it
        ("last", [scores(loss=one) for one in (1.0, 2.0, 3.0, 4.0)], None),
    ],
)
def test_patience_ends_a_stage_after_two_epochs_no_better_than_its_best(
    monitor: str, epochs: list[dict[str, float]], expected: int | None, model: keras.Model
) -> None:
    assert ends_after(StopWithoutImprovement(monitor, 2), model, epochs) == expected


def test_patience_counts_anew_in_each_stage(model: keras.Model) -> None:
    stop = StopWithoutImprovement("val_loss", 1)
    assert ends_after(stop, model, [scores(loss=0.1), scores(loss=0.2)]) == 2
    model.stop_training = False
    assert ends_after(stop, model, [scores(loss=0.9), scores(loss=0.8)]) is None


def test_a_passed_deadline_ends_the_stage_after_its_epoch_and_is_noted(model: keras.Model) -> None:
    history = History()
    assert ends_after(StopAtDeadline(Deadline.after(-1), history, 2), model, [scores()] * 3) == 1
    assert history.cut_short and history.notes == ["stage 2 ended after epoch 1: the time limit was reached"]
    model.stop_training = False
    history = History()
    assert ends_after(StopAtDeadline(NO_DEADLINE, history, 2), model, [scores()] * 3) is None
    assert not history.cut_short


@pytest.mark.parametrize("trained_before", [True, False])
def test_a_passed_deadline_ends_an_epoch_only_if_one_was_done_before(trained_before: bool, model: keras.Model) -> None:
    history = History()
    if trained_before:
        add(history, best=True)
        history = history.continued()
    stop = StopAtDeadline(Deadline.after(-1), history, 2)
    stop.set_model(model)
    stop.on_train_batch_end(0, {"loss": 1.0})
    assert model.stop_training is trained_before
    stop.on_epoch_end(1, scores())
    assert history.notes == ["stage 2 ended after epoch 2: the time limit was reached"]


@pytest.mark.parametrize("within_epoch", [True, False])
def test_a_stage_cut_by_its_deadline_says_so_though_its_last_epoch_was_not_its_best(
    within_epoch: bool, model: keras.Model
) -> None:
    history, deadline = History(), SimpleNamespace(over=False)
    patient, stop = StopWithoutImprovement("val_loss", 10), StopAtDeadline(deadline, history, 2)  # type: ignore[arg-type]
    for callback in (patient, stop):
        callback.set_model(model)
        callback.on_train_begin()
    for number, loss in enumerate([0.5, 0.9, 1.3]):
        deadline.over = number == 2
        if within_epoch:
            stop.on_train_batch_end(0, {"loss": 1.0})
        for callback in (patient, stop):
            callback.on_epoch_end(number, scores(loss=loss))
        add(history, best=number == 0)
    assert model.stop_training and history.cut_short
    assert history.notes == ["stage 2 ended after epoch 3: the time limit was reached"]


def test_an_epochs_validation_loss_is_its_log_loss() -> None:
    logs = {"loss": 1.5, "log_loss": 1.0, "val_loss": 1.6, "val_log_loss": 1.1, "val_accuracy": 0.5}
    ValidateByLogLoss().on_epoch_end(0, logs)
    assert logs == {"loss": 1.5, "val_loss": 1.1, "val_accuracy": 0.5}


def test_a_deadline_is_not_blamed_for_what_patience_ended(model: keras.Model) -> None:
    history = History()
    stop = StopAtDeadline(Deadline.after(-1), history, 1)
    stop.set_model(model)
    model.stop_training = True  # as `StopWithoutImprovement`, which comes before it, does
    stop.on_epoch_end(0, scores())
    assert not history.cut_short and history.notes == []


@pytest.mark.parametrize(
    ("losses", "given_up_after"),
    [
        ([1.2, 1.2], 2),
        ([1.2, 1.0, 1.2], 3),
        ([1.2, 1.0, 0.5], None),  # the first epoch warms up
    ],
)
def test_a_network_that_answers_by_chance_is_given_up(
    losses: list[float], given_up_after: int | None, model: keras.Model
) -> None:
    stop = StopIfNothingLearned(chance_log_loss(np.array([0, 1, 2])), 2, 7e-4)  # 1.0986
    raised = None
    for epoch, loss in enumerate(losses):
        try:
            stop.on_epoch_end(5 + epoch, {"loss": loss})
        except TrainingError as error:
            assert "learned nothing" in str(error) and "0.0007" in str(error) and "1.099" in str(error)
            raised = epoch + 1
            break
    assert raised == given_up_after


@pytest.mark.parametrize(
    ("steps", "given_up_after"),
    [
        (10_000, 2),  # more than twice the time left
        (2_500, 11),
        (1_500, None),
        (11, None),
    ],
)
def test_a_stage_that_would_take_too_long_is_given_up_in_its_first_steps(
    steps: int, given_up_after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand seconds are left. Each step takes half a second, but for the first, which is not counted."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stop = StopIfTooLong(Deadline(at=1000.0), steps)
    raised = None
    for step in range(min(steps, 20)):
        now[0] += 60.0 if step == 0 else 0.5
        try:
            stop.on_train_batch_end(step)
        except TooLong as error:
            raised = (step + 1, error.seconds)
            break
    expected = given_up_after and (given_up_after, pytest.approx(0.5 * (steps - given_up_after)))
    assert raised == expected
