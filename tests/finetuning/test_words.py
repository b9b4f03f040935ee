"""What the lines of a result claim, and from how many images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tlkit import open_run
from tlkit.finetuning.words import result_lines


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
