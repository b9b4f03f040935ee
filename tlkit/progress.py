"""Progress of a long job: the logger "tlkit", progress bars, deadlines, and the time of each step.

The library logs at INFO and prints nothing. A script shows the log with
`logging.basicConfig(level=logging.INFO, format="%(message)s")`; the command line prints them.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tlkit.notebook import in_notebook, notebook_bar

Item = TypeVar("Item")
log = logging.getLogger("tlkit")
log.addHandler(logging.NullHandler())


def bars_shown() -> bool:
    """Whether loops draw progress bars: the log is at INFO, and standard output is a terminal or a notebook."""
    return log.isEnabledFor(logging.INFO) and not _WITHOUT_BARS.get() and (sys.stdout.isatty() or in_notebook())


_WITHOUT_BARS = contextvars.ContextVar("without bars", default=False)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Draw no progress bars while the block runs, on a terminal either."""
    token = _WITHOUT_BARS.set(True)
    try:
        yield
    finally:
        _WITHOUT_BARS.reset(token)


_SHOWN: list[Any] = []  # the display that is on the terminal now; only one can be
_ONE_DISPLAY = threading.Lock()


@contextlib.contextmanager
def bar(total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar for a loop of `total` steps while the block runs, with the time that remains.

    total: None if it is not known: the bar then only shows that something is done, and how much.

    Yields a function to call with the number of steps that are done.
    """
    if total == 0 or not bars_shown() or (total is None and in_notebook()):
        yield lambda done: None
        return
    if in_notebook() and total is not None:
        update = notebook_bar(total, unit)
        try:
            yield update
        finally:
            update(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with contextlib.ExitStack() as stack:
        with _ONE_DISPLAY:
            inside = bool(_SHOWN)
            if not inside:  # a loop inside another one, or beside it, adds a bar to its display
                columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
                _SHOWN.append(stack.enter_context(Progress(*columns, console=Console(), transient=True)))
                stack.callback(_SHOWN.clear)
            (display,) = _SHOWN
        task = display.add_task(_how_far(0, total, unit), total=total)
        if inside:
            stack.callback(display.remove_task, task)
        yield lambda done: display.update(task, completed=done, description=_how_far(done, total, unit))


def _how_far(done: int, total: int | None, unit: str) -> str:
    """How far a loop is, in words; of work of which nothing is counted, what it is.

    >>> _how_far(3, 4, "image"), _how_far(3, None, "file"), _how_far(0, None, "proving the export")
    ('3/4 images', '3 files', 'proving the export')
    """
    if total is not None:
        return f"{done:,}/{total:,} {unit}s"
    return f"{done:,} {unit}s" if done else unit


def counted_off(items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
    """Yield the items of a loop, and show a progress bar of how many are done.

    >>> list(counted_off("abc", 3, "letter"))
    ['a', 'b', 'c']
    """
    with bar(total, unit) as update:
        for done, item in enumerate(items):
            update(done)
            yield item
        update(total)


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
