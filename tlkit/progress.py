"""What a long job tells a person: lines by the logger "tlkit", bars for loops; how long its steps took, and how long it may take.

The library logs at INFO and prints nothing. A script shows the lines with
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

log = logging.getLogger("tlkit")
log.addHandler(logging.NullHandler())


def bars_shown() -> bool:
    """Whether loops draw a bar: the log is at INFO, and standard output is a terminal."""
    return log.isEnabledFor(logging.INFO) and sys.stdout.isatty()


@contextlib.contextmanager
def bar(total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar for a loop of `total` steps, gone when the block ends. Yields a function to tell how many are done."""
    if not total or not bars_shown():
        yield lambda done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(f"{unit}s"), TimeRemainingColumn())
    with Progress(*columns, transient=True) as shown:
        task = shown.add_task("", total=total)
        yield lambda done: shown.update(task, completed=done)


@dataclass(frozen=True)
class Deadline:
    """A moment at which work ends. at: of `time.monotonic()`, in seconds; infinity for none.

    >>> Deadline().over, Deadline.after(0).over
    (False, True)
    """

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """So many seconds from now; None for no deadline."""
        return cls() if seconds is None else cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds until then; below 0 when it is over."""
        return self.at - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left <= 0

    def within(self, seconds: float) -> Deadline:
        """So many seconds from now, or this moment if it comes earlier."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    def share(self, part: float) -> Deadline:
        """When that part of the time left from now will have passed."""
        return Deadline.after(part * max(self.left, 0)) if math.isfinite(self.at) else self

    def keeping(self, seconds: float) -> Deadline:
        """So many seconds earlier, to keep them for what follows."""
        return Deadline(self.at - seconds)


NO_DEADLINE = Deadline()


class Clock:
    """The time of one job: when it must end, and how long each of its steps took.

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
        """Keeps the seconds that a block takes as those of a step."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._steps[step] = time.monotonic() - started

    def seconds(self) -> dict[str, float]:
        """The seconds of each step so far, and those since the job began as "total"."""
        steps = {**self._steps, "total": time.monotonic() - self._started}
        return {name: round(value, 2) for name, value in steps.items()}
