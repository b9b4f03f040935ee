"""What happens around each epoch of `fit`, one class for one job, as Keras keeps its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tlkit.errors import TrainingError
from tlkit.progress import Deadline, log
from tlkit.training.history import History, Stopwatch, epoch_line
from tlkit.training.monitor import improves

if TYPE_CHECKING:
    from tlkit.training.batches import Batches

SECONDS_BETWEEN_LINES = 2.0


class FollowEpochs(keras.callbacks.Callback):
    """Tells `Batches` which epoch begins."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._batches.set_epoch(epoch)


class StopOnNaN(keras.callbacks.Callback):
    """Raises TrainingError when the loss is not a finite number.

    Keras' TerminateOnNaN ends `fit` without an error.

    Args:
        stage: its number, for the message.
        learning_rate: the stage's, for the message.
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


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the best epoch, which `restore` puts back.

    Keras' ModelCheckpoint writes a file each time, and watches one number: of epochs of equal accuracy it would keep
    the first, not the one of lowest loss.

    Args:
        monitor: see `tlkit.training.monitor.improves`.
        best: the scores to beat, such as those of the stages before; None for none. While nothing beats them, the
            weights kept are those at the beginning.
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
        """Keep the weights of now if they score best so far. Returns whether they do."""
        if not improves(scores, self._best, self._monitor):
            return False
        self._best, self._weights = dict(scores), self.model.get_weights()
        return True

    def restore(self) -> None:
        """Put the best weights back."""
        self.model.set_weights(self._weights)


class RecordEpochs(keras.callbacks.Callback):
    """Adds a row to the history for each epoch.

    Args:
        history: the log of this stage.
        stage: its number.
        keeper: says which epoch is the best so far. It stands before this one in the list of callbacks.
        clock: of the whole training.
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
            learning_rate=float(self.model.optimizer.learning_rate),
        )


class LogEpochs(keras.callbacks.Callback):
    """Logs the latest epoch every two seconds, and how the stage went when it ends.

    Args:
        history: the log of this stage. `RecordEpochs` stands before this one in the list of callbacks.
        lines: False leaves the epochs out, where a bar shows them.
    """

    def __init__(self, history: History, *, lines: bool = True) -> None:
        super().__init__()
        self._history, self._lines = history, lines

    def on_train_begin(self, logs: Any = None) -> None:
        self._logged = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._lines and time.monotonic() - self._logged >= SECONDS_BETWEEN_LINES:
            self._logged = time.monotonic()
            log.info("  " + epoch_line(self._history.rows[-1]))

    def on_train_end(self, logs: Any = None) -> None:
        rows = self._history.rows
        best = [row for row in rows if row["best"]]
        log.info(
            f"  {len(rows)} epochs in {sum(row['seconds'] for row in rows):.1f} s; "
            + (f"best: {epoch_line(best[-1])}" if best else "none better than the stage before, whose weights are kept")
        )


class StopWithoutImprovement(keras.callbacks.Callback):
    """Ends the stage after some epochs without improvement over the best of this stage.

    Not Keras' EarlyStopping, which watches one number: here a tie in the monitored one goes to the other, and of few
    validation images ties in accuracy are common.

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


class StopAtDeadline(keras.callbacks.Callback):
    """Ends the stage when its time is over, also within an epoch, but not within the first of the whole training.

    Args:
        deadline: when that is.
        history: the log of this stage, in which it is noted. What ends a stage for another reason stands before this
            one in the list of callbacks; it is then not noted.
        stage: its number, for the note.
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
