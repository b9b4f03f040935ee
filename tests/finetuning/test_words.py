"""What the lines of a result claim, and from how many images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tlkit import open_run
from tlkit.finetuning.finetune import _log_short_time
from tlkit.finetuning.words import late, result_lines
from tlkit.plan.job import Job
from tlkit.progress import Deadline


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    for name in ("plan.json", "metrics.json"):
        shutil.copy(trained / name, tmp_path / "run" / name)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("fitted_on", "before", "expected"),
    [
        (29, 0.5, "fitted on 29 held-out images: too few to tell"),
        (30, 0.5, "log loss 0.500 to 0.400"),
        (30, 0.3, "log loss 0.300 to 0.400: worse on these images"),
    ],
)
def test_a_temperature_is_praised_only_with_enough_images_and_an_effect(
    run: Path, fitted_on: int, before: float, expected: str
) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["validation"]["log_loss"] = 0.4
    metrics["calibration"] |= {"fitted_on": fitted_on}
    metrics["calibration"]["before"]["validation"]["log_loss"] = before
    (run / "metrics.json").write_text(json.dumps(metrics))
    line = next(one for one in result_lines(open_run(run)) if one.startswith("calibrated"))
    assert expected in line and ("calibration error" in line) == (fitted_on == 30)
    assert line.endswith("worse on these images") == (before == 0.3)


def test_a_passed_time_limit_is_said_with_how_much() -> None:
    (note,) = late(Deadline.after(-12.4), 0.5)
    assert note.startswith("the time limit of 0.5 minutes was passed by 12 s")
    assert late(Deadline.after(5), 0.5) == late(Deadline(), None) == []


def test_a_time_limit_shorter_than_the_delivery_is_said_before_training(said: list[str]) -> None:
    _log_short_time(Deadline.after(6), 100, Job("data", report=False))
    assert len(said) == 1 and "the export, its proof and the report take about 25 s" in said[0]
    _log_short_time(Deadline.after(40), 100, Job("data"))
    _log_short_time(Deadline(), 100, Job("data"))
    assert len(said) == 1
