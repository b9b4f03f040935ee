"""Which of two epochs is better, by the monitored number of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def improves(scores: Mapping[str, Any], best: Mapping[str, Any] | None, monitor: str) -> bool:
    """Whether scores are better than the best so far.

    Args:
        scores: val_loss and val_accuracy of an epoch, as Keras' logs or a row of `History` hold them.
        best: the same of the best so far; None where there is none.
        monitor: "val_loss" or "val_accuracy", ties going to the other; or "last", by which every epoch is the best.

    >>> improves({"val_loss": 0.5, "val_accuracy": 0.9}, {"val_loss": 0.5, "val_accuracy": 0.8}, "val_loss")
    True
    """
    return best is None or monitor == "last" or _score(scores, monitor) > _score(best, monitor)


def _score(scores: Mapping[str, Any], monitor: str) -> tuple[float, float]:
    """Higher is better."""
    loss, accuracy = -float(scores["val_loss"]), float(scores["val_accuracy"])
    return (loss, accuracy) if monitor == "val_loss" else (accuracy, loss)
