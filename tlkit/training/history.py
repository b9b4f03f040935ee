"""The log of a training: a row per epoch, and notes for the person. It judges nothing and keeps no weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlkit.progress import log

SCORES = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass
class History:
    """What happened: a row per epoch, and a sentence for whatever was not as planned.

    rows: stage, epoch (counted through), loss, accuracy, val_loss, val_accuracy, learning_rate, strength (C of a solved
        head), seconds, at_seconds (since training began, the frozen layers' time included), best (of all so far).
    cut_short: whether a time limit left something out; a note says what.
    images_computed: single-image forward passes of frozen layers that were run; the others came from the cache.
    earlier: the rows of the stages before, in the log of one stage. They are counted, and belong to another log.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut_short: bool = False
    images_computed: int = 0
    earlier: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def epochs(self) -> int:
        """How many epochs have been trained, those of earlier stages included."""
        return len(self.earlier) + len(self.rows)

    @property
    def best(self) -> dict[str, Any] | None:
        """The best row so far, those of earlier stages included; None before the first."""
        return next((row for row in reversed((*self.earlier, *self.rows)) if row["best"]), None)

    def continued(self) -> History:
        """An empty log that counts on from here. `append` it once what it holds is to stay."""
        return History(earlier=(*self.earlier, *self.rows))

    def append(self, later: History) -> None:
        """Add all that a log made by `continued` holds."""
        self.rows += later.rows
        self.notes += later.notes
        self.cut_short |= later.cut_short
        self.images_computed += later.images_computed

    def note(self, sentence: str) -> None:
        """Keep a sentence for the person, and log it."""
        self.notes.append(sentence)
        log.info(sentence)

    def cut(self, sentence: str) -> None:
        """Note what a time limit left out."""
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
        """Append a row, and return it. seconds: that the epoch took. at_seconds: since training began."""
        row = {
            "stage": stage,
            "epoch": self.epochs + 1,
            **{name: float(scores[name]) for name in SCORES},
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
    """Tells how long ago training began. started: of `time.monotonic()`, in seconds."""

    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def epoch_line(row: Mapping[str, Any]) -> str:
    """One epoch of `History.rows` for a person to read."""
    return (
        f"epoch {row['epoch']}, loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
        f"val_loss {row['val_loss']:.4f}, val_accuracy {row['val_accuracy']:.4f}"
    )
