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
from collections.abc import Callable, Iterator
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
    """A moment at which work must end. at: seconds, as of `time.monotonic()`; infinity for no deadline.

    >>> Deadline().over, Deadline.after(0).over
    (False, True)
    """

    at: float = math.inf

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


NO_DEADLINE = Deadline()


class Clock:
    """The deadline of a job, and how long each of its steps took.

    >>> clock = Clock()
    >>> with clock.timed("scan"):
    ...     pass
    >>> sorted(clock.seconds())
    ['scan', 'total']
    """

    def __init__(self, deadline: Deadline = NO_DEADLINE) -> None:
        self.deadline = deadline
        self._started = time.monotonic()
        self._steps: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the seconds that a block takes to those of a step."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._steps[step] = self._steps.get(step, 0.0) + time.monotonic() - started

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each step so far, and "total", those since the job began."""
        steps = {**self._steps, "total": time.monotonic() - self._started}
        return {name: round(value, 2) for name, value in steps.items()}
