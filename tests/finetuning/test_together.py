"""Runs that share a cache at the same time, while it is cleared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tlkit.cache import Cache

RUN = """
import sys
from pathlib import Path
from tests.conftest import leave_out_export
import hashlib, json, pytest
from tlkit import Augmentation, Recipe, Stage, finetune, load_model
patch = pytest.MonkeyPatch()
leave_out_export(patch)
recipe = Recipe("test", stages=(Stage(epochs=2, learning_rate=1e-2),), batch_size=8, views=2,
    augmentation=Augmentation(rotate=(-10, 10)))
run = finetune(sys.argv[1], backbone=sys.argv[3], recipe=recipe, allow=["rotate"], out=sys.argv[2], report=False)
weights = hashlib.sha256(b"".join(one.tobytes() for one in load_model(run).get_weights())).hexdigest()
print(json.dumps([weights, (run.folder / "predictions.csv").read_text()]))
"""


def started(data: Path, out: Path, cache: Path, backbone: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", RUN, str(data), str(out), backbone]
    here = Path(__file__).parent.parent.parent
    settings = os.environ | {"TLKIT_CACHE": str(cache), "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    return subprocess.Popen(words, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(run: subprocess.Popen[str]) -> Any:
    output, errors = run.communicate()
    assert run.returncode == 0, errors[-2000:]
    return json.loads(output.splitlines()[-1])


@pytest.mark.slow
def test_runs_at_once_on_a_cache_that_is_cleared_end_as_a_lone_run(
    folder: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    given = folder, tiny["backbone"]
    runs = [started(given[0], tmp_path / f"run{i}", tmp_path / "cache", given[1]) for i in range(2)]
    caches, cleared = Cache(root=tmp_path / "cache"), 0
    while any(run.poll() is None for run in runs):
        cleared += len(caches.clear("all"))
        time.sleep(0.05)
    lone = ended(started(given[0], tmp_path / "lone", tmp_path / "own", given[1]))
    assert [ended(run) for run in runs] == [lone, lone] and cleared > 0
    assert not list((tmp_path / "cache").rglob("*.partial"))
