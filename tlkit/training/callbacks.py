"""Callbacks for `fit`, one class for one task, as in Keras."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tlkit.errors import TrainingError
from tlkit.progress import Deadline, log
from tlkit.training.history import History, Stopwatch, epoch_line
from tlkit.training.monitor import improves
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.training.batches import Batches

LOG_LOSS = "log_loss"  # the name of the metric
SECONDS_BETWEEN_LINES = 2.0  # from epoch to epoch
SECONDS_WITHIN_EPOCH = 10.0


class FollowEpochs(keras.callbacks.Callback):
    """Sets the epoch of `Batches` when an epoch begins."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._batches.set_epoch(epoch)


class ValidateByLogLoss(keras.callbacks.Callback):
    """Replaces `val_loss` in an epoch's scores by the log loss of the predictions, for the callbacks after this one.

    Keras' val_loss has label smoothing and the penalties of a backbone's regularizers in it. A solved head's has
    neither, and which layers' penalties are counted differs from stage to stage, so stages could not be compared by it.

    The model needs the metric LOG_LOSS. Put this callback first in the list.
    """

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs:
            logs.pop(LOG_LOSS, None)
            logs["val_loss"] = logs.pop(f"val_{LOG_LOSS}")


LEAST_SCALE = 2.0**-10  # of the loss, below which float16 is not why gradients are not finite


class StopOnNaN(keras.callbacks.Callback):
    """Raises TrainingError if the loss is not finite, or if every step was left out because its gradients were not.

    Keras' TerminateOnNaN ends `fit` without an error. Under mixed_float16 a step whose gradients are not finite is left
    out, and the loss scale is halved: with a finite loss, nothing else would show that a model does not train.

    Args:
        stage: the stage's number, for the message.
        learning_rate: the stage's learning rate, for the message.
    """

    def __init__(self, stage: int, learning_rate: float) -> None:
        super().__init__()
        self._stage, self._learning_rate = stage, learning_rate

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if logs and not np.isfinite(logs.get("loss", 0.0)):
            raise TrainingError(
                f"The loss became {logs['loss']} in stage {self._stage}. Lower its learning_rate "
                f"({self._learning_rate:g} now), or use precision 'float32'."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        found = getattr(self.model.optimizer, "dynamic_scale", None)
        scale = math.inf if found is None else float(keras.ops.convert_to_numpy(found))
        if scale < LEAST_SCALE:
            raise TrainingError(
                f"The gradients are NaN or infinite in stage {self._stage}, even at a loss scale of {scale:g}: "
                "the weights no longer change. Use precision 'float32'."
            )


class KeepBest(keras.callbacks.Callback):
    """Keeps a copy of the best epoch's weights, which `restore` puts back.

    Keras' ModelCheckpoint writes a file each time, and monitors one metric: among epochs of equal accuracy it would
    keep the first, not the one with the lowest loss.

    Args:
        monitor: see `tlkit.training.monitor.improves`.
        best: the scores to beat, such as those of earlier stages; None if there are none. Until an epoch beats them,
            the initial weights are kept.
    """

    def __init__(self, monitor: str, best: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._monitor, self._best = monitor, best
        self.improved = False  # by the last epoch

    def on_train_begin(self, logs: Any = None) -> None:
        self._weights = self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.improved = self.consider(logs or {})

    def consider(self, scores: Mapping[str, Any]) -> bool:
        """Keep the current weights if their scores are the best so far. Returns whether they are."""
        if not improves(scores, self._best, self._monitor):
            return False
        self._best, self._weights = dict(scores), self.model.get_weights()
        return True

    def restore(self) -> None:
        """Put the best weights back."""
        self.model.set_weights(self._weights)

    def state(self) -> dict[str, Any]:
        """See `tlkit.training.resume.Stateful`."""
        return {"best": _compared(self._best), "weights": self._weights}

    def set_state(self, state: dict[str, Any]) -> None:
        """See `tlkit.training.resume.Stateful`."""
        self._best, self._weights = state["best"], state["weights"]


class RecordEpochs(keras.callbacks.Callback):
    """Adds a row to the history for each epoch.

    Args:
        history: the history of this stage.
        stage: the stage's number.
        keeper: knows whether the epoch is the best so far. It must come before this callback in the list.
        clock: the stopwatch of the whole training.
    """

    def __init__(self, history: History, stage: int, keeper: KeepBest, clock: Stopwatch) -> None:
        super().__init__()
        self._history, self._stage, self._keeper, self._clock = history, stage, keeper, clock

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._history.add(
            self._stage,
            logs or {},
            best=self._keeper.improved,
            seconds=time.monotonic() - self._started,
            at_seconds=self._clock.seconds,
            learning_rate=float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
        )


class LogEpochs(keras.callbacks.Callback):
    """Logs the latest epoch every two seconds, how far a long one is every ten, and a summary when the stage ends.

    Args:
        history: the history of this stage. `RecordEpochs` must come before this callback in the list.
    """

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def on_train_begin(self, logs: Any = None) -> None:
        self._logged = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if time.monotonic() - self._logged >= SECONDS_WITHIN_EPOCH:
            self._logged = time.monotonic()
            log.info(f"  epoch {self._history.epochs + 1}, step {batch + 1:,} of {self.params['steps']:,}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if time.monotonic() - self._logged >= SECONDS_BETWEEN_LINES:
            self._logged = time.monotonic()
            log.info("  " + epoch_line(self._history.rows[-1]))

    def on_train_end(self, logs: Any = None) -> None:
        rows = self._history.rows
        best = [row for row in rows if row["best"]]
        log.info(
            f"  {counted(len(rows), 'epoch')} in {sum(row['seconds'] for row in rows):.1f} s; "
            + (f"best: {epoch_line(best[-1])}" if best else "no improvement, so the earlier weights are kept")
        )


class CountSteps(keras.callbacks.Callback):
    """Tells a progress bar how many steps of a stage are done. earlier: how many epochs were before the stage."""

    def __init__(self, update: Callable[[int], None], earlier: int) -> None:
        super().__init__()
        self._update, self._earlier, self._epoch = update, earlier, earlier

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._update((self._epoch - self._earlier) * self.params["steps"] + batch + 1)


class StopWithoutImprovement(keras.callbacks.Callback):
    """Ends the stage after some epochs without improvement over the best epoch of this stage.

    Keras' EarlyStopping monitors one metric. Here the other metric breaks ties, which are common in accuracy if there
    are few validation images.

    Args:
        monitor: see `tlkit.training.monitor.improves`; with "last" the stage does not end early.
        patience: epochs without improvement, 1 or more.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        super().__init__()
        self._monitor, self._patience = monitor, patience

    def on_train_begin(self, logs: Any = None) -> None:
        self._best: dict[str, Any] | None = None
        self._without = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        if improves(logs, self._best, self._monitor):
            self._best, self._without = dict(logs), 0
        else:
            self._without += 1
        if self._without >= self._patience:
            self.model.stop_training = True

    def state(self) -> dict[str, Any]:
        """See `tlkit.training.resume.Stateful`."""
        return {"best": _compared(self._best), "without": self._without}

    def set_state(self, state: dict[str, Any]) -> None:
        """See `tlkit.training.resume.Stateful`."""
        self._best, self._without = state["best"], state["without"]


class StopIfNothingLearned(keras.callbacks.Callback):
    """Raises TrainingError if an epoch's training loss is no better than chance, from the second epoch of a stage on.

    At too high a learning rate a network can collapse to one answer for every image, with a finite loss.

    Args:
        chance: the log loss of always predicting the classes' shares.
        stage: the stage's number, for the message.
        learning_rate: the stage's learning rate, for the message.
    """

    def __init__(self, chance: float, stage: int, learning_rate: float) -> None:
        super().__init__()
        self._chance, self._stage, self._learning_rate = chance, stage, learning_rate
        self._epochs = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epochs += 1
        loss = (logs or {}).get("loss", 0.0)
        if self._epochs >= 2 and loss >= self._chance:
            raise TrainingError(
                f"Stage {self._stage} has learned nothing: after {self._epochs} epochs the training loss is "
                f"{loss:.3f}, and always predicting the classes' shares gives {self._chance:.3f}. Lower its "
                f"learning_rate ({self._learning_rate:g} now)."
            )

    def state(self) -> dict[str, Any]:
        """See `tlkit.training.resume.Stateful`."""
        return {"epochs": self._epochs}

    def set_state(self, state: dict[str, Any]) -> None:
        """See `tlkit.training.resume.Stateful`."""
        self._epochs = state["epochs"]


class StopAtDeadline(keras.callbacks.Callback):
    """Ends the stage at the deadline, even within an epoch, but not within the first epoch of the whole training.

    Args:
        deadline: when the stage ends.
        history: the history of this stage, which gets a note. Callbacks that end the stage for another reason must come
            before this one in the list; then there is no note.
        stage: the stage's number, for the note.
    """

    def __init__(self, deadline: Deadline, history: History, stage: int) -> None:
        super().__init__()
        self._deadline, self._history, self._stage = deadline, history, stage
        self._within_epoch = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._history.epochs and self._deadline.over:
            self._within_epoch = self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self._deadline.over:
            return
        if self._within_epoch or not self.model.stop_training:
            self._history.cut(f"stage {self._stage} ended after epoch {epoch + 1}: the time limit was reached")
        self.model.stop_training = True


class TooLong(Exception):
    """A stage would not end before its deadline. seconds: what it would still take."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:.1f} seconds")
        self.seconds = seconds


class StopIfTooLong(keras.callbacks.Callback):
    """Raises TooLong in the first steps of a stage, if at their pace it would not end before the deadline.

    The first step is not counted, as Keras traces its function in it. Until enough are counted, only a stage that would
    take twice the time left is given up.

    Args:
        deadline: when the stage must end.
        steps: gradient steps of the whole stage.
    """

    COUNTED = 10  # steps

    def __init__(self, deadline: Deadline, steps: int) -> None:
        super().__init__()
        self._deadline, self._steps = deadline, steps
        self._done, self._started = 0, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done += 1
        counted = self._done - 1
        if not counted:
            self._started = time.monotonic()
        if not 0 < counted <= self.COUNTED:
            return
        seconds = (time.monotonic() - self._started) / counted * (self._steps - self._done)
        if seconds > self._deadline.left * (1 if counted == self.COUNTED else 2):
            raise TooLong(seconds)

    def state(self) -> dict[str, Any]:
        """See `tlkit.training.resume.Stateful`."""
        return {"done": self._done}

    def set_state(self, state: dict[str, Any]) -> None:
        """See `tlkit.training.resume.Stateful`. A stage whose first steps were measured is not measured again."""
        self._done = state["done"] + self.COUNTED + 1


def _compared(scores: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Those of the scores that epochs are compared by, as JSON values."""
    return None if scores is None else {name: float(scores[name]) for name in ("val_loss", "val_accuracy")}
