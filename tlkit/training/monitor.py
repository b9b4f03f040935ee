"""Compares epochs by the metric that a recipe monitors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def improves(scores: Mapping[str, Any], best: Mapping[str, Any] | None, monitor: str) -> bool:
    """Return whether scores are better than the best so far.

    Args:
        scores: val_loss and val_accuracy of an epoch, as in Keras' logs or a row of `History`.
        best: the best scores so far; None if there are none.
        monitor: "val_loss" or "val_accuracy", where the other breaks ties; or "last": every epoch counts as the best.

    >>> improves({"val_loss": 0.5, "val_accuracy": 0.9}, {"val_loss": 0.5, "val_accuracy": 0.8}, "val_loss")
    True
    """
    return best is None or monitor == "last" or _score(scores, monitor) > _score(best, monitor)


def _score(scores: Mapping[str, Any], monitor: str) -> tuple[float, float]:
    """Return the scores as a tuple to compare; higher is better."""
    loss, accuracy = -float(scores["val_loss"]), float(scores["val_accuracy"])
    return (loss, accuracy) if monitor == "val_loss" else (accuracy, loss)
