"""Several devices: what is asked for is checked, and what they compute is what one computes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tlkit import Job, Recipe, SpecError, Stage
from tlkit.devices import parse_devices, several_devices, use_devices
from tlkit.finetuning import decide
from tlkit.models import parallel
from tlkit.models.inference import frozen_calls
from tlkit.models.parallel import several_for
from tlkit.plan.recipe import Head
from tlkit.plan.scaling import scaled


@pytest.mark.parametrize("asked", ["0", 0, -1, True, "tpu", "gpu:", "gpu:0,0", "gpu:a", "2.5", "", "cpu:1"])
def test_what_is_no_device_is_named(asked: Any) -> None:
    with pytest.raises(SpecError, match=r"`devices` is .* Expected a number, 'cpu', 'gpu' for all GPUs, or 'gpu:0,1'"):
        Job("data", devices=asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (3, "`devices` is 3, but TensorFlow sees 1 device \\(cpu:0\\)"),
        ("gpu:0,1", "`devices` is gpu:0,1, but TensorFlow sees 0 GPUs\\."),
    ],
)
def test_fewer_devices_than_asked_for_are_named(asked: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.devices._listed", lambda kind: ("cpu:0",) if kind == "cpu" else ())
    with pytest.raises(SpecError, match=message), use_devices(asked):
        pass
    assert several_devices() == ()


@pytest.mark.parametrize("asked", [None, 1, "1", "cpu"])
def test_one_device_is_split_over_nothing(asked: Any) -> None:
    with use_devices(asked) as used:
        assert used == several_devices() == ()


def test_the_devices_are_those_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(f"gpu:{number}" for number in range(4))
    monkeypatch.setattr("tlkit.devices._listed", lambda kind: gpus if kind == "gpu" else ("cpu:0",))
    for asked, expected in ((2, gpus[:2]), ("gpu", gpus), ("gpu:3,1", ("gpu:3", "gpu:1")), ("gpu:2", ()), ("cpu", ())):
        with use_devices(asked):
            assert several_devices() == expected
        assert several_devices() == ()
    monkeypatch.setattr("keras.backend.backend", lambda: "numpy")
    with pytest.raises(SpecError, match="needs Keras on TensorFlow or JAX, but it runs on numpy"), use_devices(2):
        pass


def test_why_a_stage_is_trained_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="of_a_module")])
    monkeypatch.setattr(parallel, "several_devices", lambda: ("cpu:0", "cpu:1"))
    assert several_for(model, 8) == (("cpu:0", "cpu:1"), "")
    assert several_for(model, 9) == ((), "batches of 9 cannot be split evenly over 2 devices")
    model.layers[0].inference_mode = True
    assert several_for(model, 8)[1] == "the variables of the SavedModel 'of_a_module' cannot be copied"
    assert len(frozen_calls(model, 8)) == 1  # here no devices are in use


def test_batch_and_rate_are_scaled_when_asked_for() -> None:
    stages = (Stage(1, 1e-3, solver="logistic"), Stage(9, 0.01, optimizer="sgd"), Stage(9, 0.01, warmup=2.0))
    plan = Recipe("mine", head=Head(), stages=stages, batch_size=16)
    found = scaled(plan, 4)
    assert found.batch_size == 64
    assert [(one.learning_rate, one.warmup) for one in found.stages] == [(1e-3, 0.0), (0.04, 1.0), (0.02, 2.0)]
    assert scaled(plan, 1) == plan
    with pytest.raises(SpecError, match="a tournament compares recipes as they are"):
        Job("data", scale_batch=True)
    assert Job("data", scale_batch=True, similar=True).scale_batch


def test_the_plan_says_what_is_computed_on_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Recipe("mine", head=Head(), stages=(Stage(1, 1e-3),), batch_size=64)
    assert decide._devices(Job("data", devices="cpu"), plan).chosen == "cpu"
    monkeypatch.setattr(decide, "several_devices", lambda: ("gpu:0", "gpu:1"))
    kept = decide._devices(Job("data"), plan)
    assert kept.chosen == "2 (gpu:0, gpu:1)"
    assert kept.why.endswith("batch size, learning rate and losses stay those of one device")
    changed = decide._devices(Job("data", devices=2, scale_batch=True, recipe=plan), plan)
    assert "the batch is 2 times as large" in changed.why and "arXiv:1706.02677" in changed.why
    assert changed.evidence == {"devices": ["gpu:0", "gpu:1"], "batch_size": 64, "scaled": True}


def test_what_is_asked_for_is_parsed() -> None:
    assert [parse_devices(one) for one in (None, 2, " 2 ", "CPU", "gpu", "gpu:1")] == [
        (None, None),
        (None, 2),
        (None, 2),
        ("cpu", 1),
        ("gpu", None),
        ("gpu", (1,)),
    ]


def differences(folder: Path, *parts: str, **variables: str) -> Any:
    """What tests/several_devices.py prints: how much two devices differ from one."""
    environment = {**os.environ, "TLKIT_CACHE": str(folder / "cache"), **variables}
    command = [sys.executable, "-m", "tests.several_devices", str(folder), *parts]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(found: Any) -> None:
    assert found.pop("features", 0.0) == 0.0
    assert found.pop("streamed", 0.0) < 1e-5
    for name, largest in found.items():
        assert max(largest) < 1e-5, (name, largest)


@pytest.mark.slow
@pytest.mark.long
def test_two_devices_of_tensorflow_give_the_losses_of_one(tmp_path: Path) -> None:
    """The last batch of an epoch has 3 of 8 images. BatchNormalization is held, and EMA and mixup are on."""
    check(differences(tmp_path, "features", "held"))


@pytest.mark.slow
@pytest.mark.long
def test_a_training_on_two_devices_is_resumed_and_batch_normalization_moves(tmp_path: Path) -> None:
    check(differences(tmp_path, "moving", "resumed"))


@pytest.mark.slow
@pytest.mark.long
def test_two_devices_of_jax_give_the_losses_of_one(tmp_path: Path) -> None:
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    flags = "--xla_force_host_platform_device_count=2"
    check(differences(tmp_path, "features", "held", "moving", "resumed", KERAS_BACKEND="jax", XLA_FLAGS=flags))
