"""What happened in training: a row per epoch, the best of them, and notes for the person."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tlkit.progress import log


@dataclass
class History:
    """What happened: a row per epoch, and a sentence for whatever was not as planned.

    rows: stage, epoch (counted through), loss, accuracy, val_loss, val_accuracy, learning_rate, strength (C of a solved
        head), seconds, at_seconds (since training began, the frozen layers' time included), best.
    cut_short: whether a time limit left something out; a note says what.
    images_computed: single-image forward passes of frozen layers that were run; the others came from the cache.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut_short: bool = False
    images_computed: int = 0
    best: tuple[float, float] | None = None
    started: float = field(default_factory=time.monotonic)

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
        scores: dict[str, float],
        monitor: str,
        *,
        seconds: float,
        learning_rate: float | None = None,
        strength: float | None = None,
    ) -> bool:
        """Append a row. Returns whether it is the best so far by the monitored number, ties going to the other."""
        score = _score(scores, monitor)
        best = self.best is None or score > self.best or monitor == "last"
        if best:
            self.best = score
        row = {
            "stage": stage,
            "epoch": len(self.rows) + 1,
            **{name: float(scores[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")},
            "learning_rate": learning_rate,
            "strength": strength,
            "seconds": round(seconds, 3),
            "at_seconds": round(time.monotonic() - self.started, 3),
            "best": best,
        }
        self.rows.append(row)
        return best


def _score(scores: dict[str, float], monitor: str) -> tuple[float, float]:
    """Higher is better; all are alike where the last epoch is kept."""
    if monitor == "last":
        return 0.0, 0.0
    loss, accuracy = -float(scores["val_loss"]), float(scores["val_accuracy"])
    return (loss, accuracy) if monitor == "val_loss" else (accuracy, loss)


def epoch_line(row: dict[str, Any]) -> str:
    """One epoch of `History.rows` for a person to read."""
    return (
        f"epoch {row['epoch']}, loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
        f"val_loss {row['val_loss']:.4f}, val_accuracy {row['val_accuracy']:.4f}"
    )
