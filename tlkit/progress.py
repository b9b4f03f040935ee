"""Progress of a long job: the logger "tlkit", progress bars, deadlines, and the time of each step.

The library logs at INFO and prints nothing. A script shows the log with
`logging.basicConfig(level=logging.INFO, format="%(message)s")`; the command line prints them.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tlkit.notebook import in_notebook, notebook_bar

log = logging.getLogger("tlkit")
log.addHandler(logging.NullHandler())


def bars_shown() -> bool:
    """Whether loops draw progress bars: the log is at INFO, and standard output is a terminal or a notebook."""
    return log.isEnabledFor(logging.INFO) and (sys.stdout.isatty() or in_notebook())


@contextlib.contextmanager
def bar(total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar for a loop of `total` steps while the block runs.

    Yields a function to call with the number of steps that are done.
    """
    if not total or not bars_shown():
        yield lambda done: None
        return
    if in_notebook():
        update = notebook_bar(total, unit)
        try:
            yield update
        finally:
            update(total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(f"{unit}s"), TimeRemainingColumn())
    with Progress(*columns, transient=True) as shown:
        task = shown.add_task("", total=total)
        yield lambda done: shown.update(task, completed=done)


@dataclass(frozen=True)
class Deadline:
    """A moment at which work must end.

    at: seconds, as of `time.monotonic()`; infinity for no deadline.
    whole: whether a stage of a training that would not end before is given up in its first steps.

    >>> Deadline().over, Deadline.after(0).over
    (False, True)
    """

    at: float = math.inf
    whole: bool = False

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Return the deadline `seconds` from now; None for no deadline."""
        return cls() if seconds is None else cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative when it has passed."""
        return self.at - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left <= 0

    def within(self, seconds: float) -> Deadline:
        """Return the earlier of this deadline and `seconds` from now."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    def share(self, part: float) -> Deadline:
        """Return the deadline after a fraction (`part`, 0 to 1) of the time left."""
        return Deadline.after(part * max(self.left, 0)) if math.isfinite(self.at) else self

    def keeping(self, seconds: float) -> Deadline:
        """Return a deadline earlier by `seconds`, which stay reserved for what follows."""
        return Deadline(self.at - seconds)

    def or_not_at_all(self) -> Deadline:
        """Return the same deadline, with `whole`."""
        return Deadline(self.at, whole=True)


NO_DEADLINE = Deadline()


class Clock:
    """The deadline of a job, and how long each of its steps took.

    >>> clock = Clock()
    >>> with clock.timed("scan"):
    ...     pass
    >>> sorted(clock.seconds())
    ['scan', 'total']
    """

    def __init__(self, deadline: Deadline = NO_DEADLINE, spent: Mapping[str, float] | None = None) -> None:
        """spent: seconds of each step, and "total", of a job that is resumed."""
        self.deadline = deadline
        self._steps = dict(spent or {})
        self._started = time.monotonic() - self._steps.pop("total", 0.0)
        self._running: dict[str, float] = {}  # when the steps began that are under way

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the seconds that a block takes to those of a step."""
        self._running[step] = time.monotonic()
        try:
            yield
        finally:
            self._steps[step] = self._steps.get(step, 0.0) + time.monotonic() - self._running.pop(step)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each step so far, and "total", those since the job began."""
        now, steps = time.monotonic(), dict(self._steps)
        for step, started in self._running.items():
            steps[step] = steps.get(step, 0.0) + now - started
        steps["total"] = now - self._started
        return {name: round(value, 2) for name, value in steps.items()}
