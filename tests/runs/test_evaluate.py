"""How `evaluate` looks at the images of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import write_folder
from tlkit import decode_images, scan
from tlkit.data.dataset import Dataset
from tlkit.runs.evaluate import _mirror_verdict


@pytest.mark.slow
def test_mirror_images_are_checked_on_images_made_square_as_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Dataset] = []

    def check(data: Dataset, *a: object, **k: object) -> SimpleNamespace:
        checked.append(data)
        return SimpleNamespace(verdicts=["safe"])

    monkeypatch.setattr("tlkit.runs.evaluate.check_safety", check)
    dataset = decode_images(scan(write_folder(tmp_path / "data", 2, start=26210)), 32, "crop")
    assert _mirror_verdict(dataset) == "safe"
    assert checked[0].pixels.fit == "crop" and len(checked[0]) == 6
