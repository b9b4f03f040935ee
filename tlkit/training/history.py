"""The history of a training: a row per epoch, and notes for the user."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlkit.progress import log

SCORES = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass
class History:
    """A row per epoch, and a note for each departure from the plan.

    rows: stage, epoch (counted across stages), loss, accuracy, val_loss, val_accuracy, the recipe's own metrics,
        learning_rate, strength (C of a solved head), seconds, at_seconds (since training began, including the time of
        the frozen layers), best (whether it is the best so far).
    notes: one sentence each.
    cut_short: whether a time limit, or Ctrl-C, cut anything short; a note says what.
    interrupted: whether that was Ctrl-C.
    expected_seconds: how long a stage would have taken that was given up after its first steps, see `train`.
    position: where between its first and last weights the last stage ended, see `Stage.interpolate`; None if it was
        not interpolated.
    images_computed: number of images that ran through frozen layers; the others came from the cache.
    restart: the number of the training that this is the history of, 0 = the first (see `tlkit.training.restarts`).
    others: the rows of the trainings that were not kept, each with its number as `restart`.
    earlier: the rows of earlier stages, in the history of one stage. They are counted, but stored in another history.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut_short: bool = False
    interrupted: bool = False
    expected_seconds: float | None = None
    position: float | None = None
    images_computed: int = 0
    restart: int = 0
    others: list[dict[str, Any]] = field(default_factory=list)
    earlier: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def epochs(self) -> int:
        """The number of epochs trained so far, including earlier stages."""
        return len(self.earlier) + len(self.rows)

    @property
    def best(self) -> dict[str, Any] | None:
        """The best row so far, including earlier stages; None before the first epoch."""
        return next((row for row in reversed((*self.earlier, *self.rows)) if row["best"]), None)

    def table(self) -> list[dict[str, Any]]:
        """The rows for history.csv; after restarts those of all trainings, in order, with `restart` and `kept`."""
        if not self.others:
            return self.rows
        kept = [{**row, "restart": self.restart, "kept": True} for row in self.rows]
        return sorted([*kept, *({**row, "kept": False} for row in self.others)], key=lambda row: row["restart"])

    def continued(self) -> History:
        """Return an empty history that continues this one. `append` it when its stage has succeeded."""
        return History(earlier=(*self.earlier, *self.rows))

    def append(self, later: History) -> None:
        """Add the content of a history made by `continued`."""
        self.rows += later.rows
        self.notes += later.notes
        self.cut_short |= later.cut_short
        self.interrupted |= later.interrupted
        self.expected_seconds = self.expected_seconds or later.expected_seconds
        self.position = later.position
        self.images_computed += later.images_computed

    def note(self, sentence: str) -> None:
        """Add a note for the user, and log it. Not twice the same, which a resumed training would add."""
        if sentence not in self.notes:
            self.notes.append(sentence)
            log.info(sentence)

    def cut(self, sentence: str) -> None:
        """Add a note on what was cut short."""
        self.cut_short = True
        self.note(sentence)

    def add(
        self,
        stage: int,
        scores: Mapping[str, float],
        *,
        best: bool,
        seconds: float,
        at_seconds: float,
        learning_rate: float | None = None,
        strength: float | None = None,
    ) -> dict[str, Any]:
        """Append a row, and return it.

        scores: SCORES, and the recipe's own metrics. seconds: the epoch's duration. at_seconds: time since training
        began.
        """
        row = {
            "stage": stage,
            "epoch": self.epochs + 1,
            **{name: float(scores[name]) for name in SCORES},
            **{name: float(value) for name, value in scores.items() if name not in (*SCORES, "learning_rate")},
            "learning_rate": learning_rate,
            "strength": strength,
            "seconds": round(seconds, 3),
            "at_seconds": round(at_seconds, 3),
            "best": best,
        }
        self.rows.append(row)
        return row


@dataclass(frozen=True)
class Stopwatch:
    """Measures the time since training began. started: a value of `time.monotonic()`, in seconds."""

    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since training began."""
        return time.monotonic() - self.started


def epoch_line(row: Mapping[str, Any]) -> str:
    """Format one row of `History.rows` for the log."""
    return (
        f"epoch {row['epoch']}, loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
        f"val_loss {row['val_loss']:.4f}, val_accuracy {row['val_accuracy']:.4f}"
    )
