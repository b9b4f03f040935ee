"""How a job ends when its process is asked to end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import pytest

from tlkit.stopping import STOPPING, Stopped


@contextlib.contextmanager
def pythons_own_handler() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _pythons_own_handler() -> Iterator[None]:
    with pythons_own_handler():
        yield


@contextlib.contextmanager
def send_when(number: signal.Signals, *, epoch: int) -> Iterator[None]:
    """Send this process a signal within the first step of an epoch that Keras trains, counted from 0."""
    from tlkit.training.resume import Checkpointing

    began, sent = Checkpointing.on_train_batch_begin, []

    def beginning(self: keras.callbacks.Callback, batch: int, logs: object = None) -> None:
        began(self, batch, logs)
        if self._epoch >= epoch and not sent:
            sent.append(True)
            os.kill(os.getpid(), number)

    with pythons_own_handler(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointing, "on_train_batch_begin", beginning)
        yield
    assert sent, "no such epoch was trained"


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)])
def test_where_nothing_is_trained_a_signal_ends_the_job_at_once(
    number: signal.Signals, error: type[BaseException]
) -> None:
    with pytest.raises(error), STOPPING.on_signals():
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 1)  # the handler runs before the next step of Python
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def test_a_training_ends_itself_and_the_second_signal_ends_it_at_once() -> None:
    with STOPPING.on_signals():
        with STOPPING.between_steps():
            os.kill(os.getpid(), signal.SIGINT)
            assert STOPPING.asked is KeyboardInterrupt, "nothing is raised within a step"
            with pytest.raises(KeyboardInterrupt):
                STOPPING.end()
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
        assert stopped.value.code == 130


def test_a_trained_model_is_delivered_in_spite_of_one_ctrl_c() -> None:
    with STOPPING.on_signals():
        STOPPING.delivering = True
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
    assert not STOPPING.delivering


def test_a_handler_of_the_callers_own_stays() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with STOPPING.on_signals():
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the child notices the end of its standard input")
def test_the_process_of_the_proof_ends_with_the_one_that_started_it() -> None:
    script = (
        "from tlkit.deployment.parity import FreshProcess\n"
        "with FreshProcess() as fresh:\n"
        "    print(fresh._process.pid, flush=True)\n"
        "    input()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.5)  # until it has asked the kernel for it
        parent.kill()
    ended = time.monotonic() + 20
    while _lives(child):
        assert time.monotonic() < ended, "it outlived the process that started it"
        time.sleep(0.02)


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
