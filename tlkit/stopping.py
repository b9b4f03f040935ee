"""Ends a job well when its process is asked to end: by Ctrl-C (SIGINT), or by a cluster or `kill` (SIGTERM).

While a model is trained, nothing ends within a step: the training ends itself before the next one. Ctrl-C then keeps
the best model so far, which is delivered; SIGTERM writes a checkpoint and ends the process. Otherwise both end it at
once. So does Ctrl-C the second time. What was finished is found again when the job is resumed.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tlkit.progress import log

INTERRUPTED, TERMINATED = 130, 143  # exit codes: 128 and the signal's number, as shells have it


class Stopped(SystemExit):
    """The process was asked to end at once. code: its exit code."""


@dataclass
class Stopping:
    """What the process was asked, and what it does.

    Attributes:
        asked: KeyboardInterrupt after one Ctrl-C, `Stopped` after SIGTERM, None before and when it was done.
        signals: how many there were.
        training: whether steps of a training are made, which looks at `asked` by itself.
        delivering: whether there is a trained model, which one Ctrl-C does not give up.
    """

    asked: type[BaseException] | None = None
    signals: int = 0
    training: bool = False
    delivering: bool = False

    def end(self) -> None:
        """Raise what was asked: KeyboardInterrupt or Stopped. Nothing if nothing was."""
        asked, self.asked = self.asked, None
        if asked is Stopped:
            raise Stopped(TERMINATED)
        if asked is KeyboardInterrupt:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def between_steps(self) -> Iterator[None]:
        """The block is a training, which calls `end` between two of its steps."""
        self.training = True
        try:
            yield
        finally:
            self.training = False

    def _on_signal(self, number: int, frame: Any) -> None:
        again, interrupt = self.signals > 0, number == signal.SIGINT
        self.signals += 1
        self.asked = KeyboardInterrupt if interrupt else Stopped
        if again:
            raise Stopped(INTERRUPTED if interrupt else TERMINATED)
        if self.training:
            log.info("stopping after the step in hand" + ("; interrupt again to stop at once" if interrupt else ""))
        elif self.delivering and interrupt:
            log.info("the trained model is being delivered; interrupt again to stop at once")
        else:
            self.end()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Handle both signals while the block runs, where nobody else does: in the main thread, by Python's default."""
        self.asked, self.signals, self.training, self.delivering = None, 0, False, False
        defaults: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        mine = threading.current_thread() is threading.main_thread()
        taken = [one for one, default in defaults.items() if mine and signal.getsignal(one) is default]
        for one in taken:
            signal.signal(one, self._on_signal)
        try:
            yield
        finally:
            self.asked, self.signals, self.training, self.delivering = None, 0, False, False
            for one in taken:
                signal.signal(one, defaults[one])


STOPPING = Stopping()  # signals are the process's, so this is too
