"""Keeps the best weights of a stage, and stops it when it no longer improves or its time is over."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from tlkit.errors import TrainingError
from tlkit.plan.recipe import Stage
from tlkit.progress import Deadline, log
from tlkit.training.history import History, _score, epoch_line

SECONDS_BETWEEN_LINES = 2.0


class _KeepBest(keras.callbacks.Callback):
    """Records epochs, keeps the best weights over all stages, ends a stage that no longer improves or is out of time."""

    def __init__(
        self,
        monitor: str,
        stage: Stage,
        number: int,
        history: History,
        deadline: Deadline,
        *,
        lines: bool,
    ) -> None:
        super().__init__()
        self._lines = lines
        self._monitor, self._stage, self._number = monitor, stage, number
        self._history, self._deadline = history, deadline
        self._stage_best: tuple[float, float] | None = None
        self._without = 0
        self._cut_within = False
        self._said = time.monotonic()

    def on_train_begin(self, logs: Any = None) -> None:
        self._weights = self.model.get_weights()

    def on_train_end(self, logs: Any = None) -> None:
        mine = [row for row in self._history.rows if row["stage"] == self._number]
        best = [row for row in mine if row["best"]]
        log.info(
            f"  {len(mine)} epochs in {sum(row['seconds'] for row in mine):.1f} s; "
            + (f"best: {epoch_line(best[-1])}" if best else "none better than the stage before, whose weights are kept")
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if logs and not np.isfinite(logs.get("loss", 0.0)):
            self.restore()
            raise TrainingError(
                f"The loss became {logs['loss']} in stage {self._number}. Lower its learning_rate "
                f"({self._stage.learning_rate:g} now), or use precision 'float32'."
            )
        if self._history.rows and self._deadline.over:
            self._cut_within = self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        seconds = time.monotonic() - self._started
        rate = float(self.model.optimizer.learning_rate)
        if self._history.add(self._number, logs, self._monitor, seconds=seconds, learning_rate=rate):
            self._weights = self.model.get_weights()
        row, score = self._history.rows[-1], _score(logs, self._monitor)
        if self._stage_best is None or score > self._stage_best or self._monitor == "last":
            self._stage_best, self._without = score, 0
        else:
            self._without += 1
        if self._lines and time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            log.info("  " + epoch_line(row))
        if self._stage.patience is not None and self._without >= self._stage.patience:
            self.model.stop_training = True
        if self._deadline.over:
            if self._cut_within or not self.model.stop_training:
                self._history.cut(f"stage {self._number} ended after epoch {epoch + 1}: the time limit was reached")
            self.model.stop_training = True

    def restore(self) -> None:
        """Put the best weights back."""
        self.model.set_weights(self._weights)
