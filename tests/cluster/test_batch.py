"""Batch prediction on a cluster, which tests/runs/test_batch.py tests in one process."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import write_folder
from tlkit.runs import answering, batch
from tlkit.runs.batch import predict_to
from tlkit.runs.items import Item
from tlkit.runs.predict import opened

pytest.importorskip("pyarrow")


@dataclass(frozen=True)
class Dying(batch.Predicting):
    """Predictions whose worker is killed in the middle, once. marker: a file that remembers it."""

    marker: str = ""

    def engine(self) -> answering.ServedModel:
        return DyingOnce(Path(self.marker), opened(self.model))


class DyingOnce(answering.ServedModel):
    def __init__(self, marker: Path, served: Any) -> None:
        super().__init__(served)
        self.marker = marker

    def prepare(self, item: Item) -> bytes | str:
        if item.name.endswith("green/004.png") and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(item)


@pytest.mark.slow
@pytest.mark.long
def test_a_cluster_whose_worker_is_killed_answers_what_this_process_answers(
    ray_cluster: None, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, marker = write_folder(tmp_path / "photos", per_class=10, start=300), tmp_path / "died"
    (photos / "junk.jpg").write_bytes(b"junk")
    monkeypatch.setattr(batch, "SENT", 5)
    task = Dying(str(trained), False, str(marker))
    done = batch.write_answers(task, photos, tmp_path / "a.parquet", on="ray", force=False, rows=12)
    assert marker.exists() and done.rows == done.computed == 31 and done.problems == 1
    predict_to(trained, photos, tmp_path / "b.parquet", rows=12)
    one, other = (pd.read_parquet(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert list(one["path"]) == list(other["path"]) and list(one["problem"]) == list(other["problem"])
    probabilities = [np.stack(table["probabilities"][table["ok"]]) for table in (one, other)]
    np.testing.assert_allclose(*probabilities, atol=1e-5)
