"""The log, progress bars and deadlines of a long job."""

from __future__ import annotations

import logging
import sys
import time

import pytest

from tlkit.progress import Clock, Deadline, bar, log


def test_nothing_is_printed_unless_a_script_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("a line")
    with bar(3, "image") as update:
        update(3)
    assert capsys.readouterr() == ("", "")


def test_a_script_that_asks_for_the_log_gets_each_line(said: list[str]) -> None:
    log.info("a line")
    assert said == ["a line"]


def test_a_bar_is_drawn_only_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "level", logging.INFO)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda answer=terminal: answer, raising=False)
        with bar(4, "image") as update:
            update(4)
        assert ("4/4" in capsys.readouterr().out) == terminal


def test_a_deadline_can_be_shared_and_kept_from() -> None:
    assert not Deadline().over and Deadline().share(0.1) == Deadline() and Deadline.after(None) == Deadline()
    deadline = Deadline.after(100)
    assert 99 < deadline.left <= 100
    assert 29 < deadline.share(0.3).left <= 30 and deadline.keeping(60).left == pytest.approx(40, abs=1)
    assert deadline.keeping(200).over and deadline.keeping(200).share(0.5).left <= 0


def test_the_seconds_of_a_block_are_kept_even_if_it_fails() -> None:
    clock = Clock()
    with pytest.raises(ValueError, match="x"), clock.timed("step"):
        time.sleep(0.02)
        raise ValueError("x")
    assert clock.seconds()["total"] >= clock.seconds()["step"] >= 0.02
