"""Where a run is logged: "tensorboard:DIR" or "mlflow:URI", as `tlkit finetune` takes it."""

from __future__ import annotations

from collections.abc import Iterable

from tlkit.errors import SpecError, unknown

TRACKERS = ("tensorboard", "mlflow")


def named_trackers(values: Iterable[str]) -> list[tuple[str, str]]:
    """Return the kind of each tracker and where it logs to.

    Raises NameUnknown for an unknown kind, SpecError where it does not say where to.

    >>> named_trackers(["tensorboard:logs", "mlflow:sqlite:///runs.db"])
    [('tensorboard', 'logs'), ('mlflow', 'sqlite:///runs.db')]
    """
    found = []
    for value in values:
        kind, _, where = value.partition(":")
        if kind not in TRACKERS:
            raise unknown("tracker", kind, TRACKERS, see="(`log_to`)")
        if not where:
            raise SpecError(f"`log_to` is '{value}'. Expected tensorboard:DIR or mlflow:URI.")
        found.append((kind, where))
    return found
