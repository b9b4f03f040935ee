"""Training in several processes of a Ray cluster, which JAX connects."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.test_training import BACKBONE, examples, recipe, tiny
from tlkit import RunError, SpecError, Stage, train_on_machines


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    """The last batch of an epoch has 3 of 8 images, so it does not divide by the processes."""
    if importlib.util.find_spec("jax") is None or importlib.util.find_spec("ray") is None:
        pytest.skip("jax or ray is not installed")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TLKIT_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "tests.on_machines"]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))  # Ray prints too
    assert found["epochs"] == 3
    assert max(found["held"]) < 1e-5


def test_what_several_machines_need_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, model, data = recipe(Stage(1, 1e-3)), tiny(seed=1), (examples(8), examples(4, seed=1))
    with pytest.raises(SpecError, match=r"`processes` is 0. Expected 1 or more"):
        train_on_machines(model, BACKBONE, plan, *data, processes=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpecError, match=r"need Ray Train, which is not installed .*: pip install 'tlkit\[ray\]'"):
        train_on_machines(model, BACKBONE, plan, *data, processes=2)


@pytest.mark.slow
def test_a_cluster_must_be_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.train.v2.api.data_parallel_trainer")
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # another test of this process may have begun one
    plan, model, data = recipe(Stage(1, 1e-3)), tiny(seed=1), (examples(8), examples(4, seed=1))
    with pytest.raises(RunError, match=r"No Ray cluster is in use. Call ray.init\(\) first"):
        train_on_machines(model, BACKBONE, plan, *data, processes=2)
