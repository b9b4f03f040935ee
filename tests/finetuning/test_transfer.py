"""What a run from scratch says transfer would have gained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tlkit.recipes import RECIPES

from tests.tiny import tiny_file
from tlkit import Recipe, Stage, finetune
from tlkit.backbones import BACKBONES
from tlkit.finetuning import transfer
from tlkit.finetuning.transfer import transfer_gain
from tlkit.plan.job import Job
from tlkit.progress import Clock, Deadline

SCRATCH = RECIPES["scratch"]


class Measured:
    """A run whose network is right on 4 of 10 validation images, and a head that is right on 9, among them these 4."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pixels: int = 64, **job: Any) -> None:
        paths, labels = [f"{n}.png" for n in range(10)], np.array([0, 1] * 5)
        names = np.array(["a", "b"])
        images = SimpleNamespace(table=pd.DataFrame({"path": paths, "label": names[labels]}), groups=lambda: None)
        dataset = SimpleNamespace(
            images=SimpleNamespace(part=lambda split: images),
            class_names=["a", "b"],
            pixels=SimpleNamespace(size=pixels, fit="squash"),
            count=lambda split: 10 if split == "validation" else 0,
        )
        self.prepared: Any = SimpleNamespace(
            job=Job(Path("data"), **{"weights": "none", **job}),
            dataset=type("Sized", (SimpleNamespace,), {"__len__": lambda one: 10})(**vars(dataset)),
            backbone=BACKBONES["nano"],
        )
        own = np.where(np.arange(10) < 4, labels, 1 - labels)
        table = pd.DataFrame({"path": paths, "split": "validation", "label": names[labels], "prediction": names[own]})
        self.run: Any = SimpleNamespace(read_table=lambda name: table.iloc[::-1])  # in another order
        head = np.where(np.arange(10) < 9, labels, 1 - labels)
        self.asked: list[Any] = []

        def probed(dataset: Any, backbone: Any, split: str, seed: int) -> np.ndarray:
            self.asked.append((backbone.name, dataset.pixels.size, split))
            return np.eye(2)[head]

        monkeypatch.setattr(transfer, "_probed", probed)


def test_the_gain_is_that_on_the_same_images_with_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(monkeypatch)
    found = transfer_gain(measured.prepared, measured.run)
    assert found is not None and measured.asked == [("nano", 64, "validation")]
    assert (found["scratch"], found["accuracy"], found["n"]) == (0.4, 0.9, 10) and found["gain"] == pytest.approx(0.5)
    assert 0 < found["gain_95"][0] < 0.5 < found["gain_95"][1] < 1
    assert "would have gained 50.0 points" in found["sentence"] and "same 10 validation images" in found["sentence"]


def test_it_is_measured_for_random_weights_alone_and_while_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(monkeypatch, weights="imagenet")
    assert transfer_gain(measured.prepared, measured.run) is None
    measured = Measured(monkeypatch)
    assert transfer_gain(measured.prepared, measured.run, Clock(Deadline.after(1))) is None and not measured.asked


def test_a_backbone_without_weights_here_is_replaced_by_nano_at_a_size_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = Measured(monkeypatch, pixels=32)
    measured.prepared.backbone = BACKBONES["vgg16"]
    monkeypatch.setattr(transfer, "cached_file", lambda backbone: None)
    larger = SimpleNamespace(**{**vars(measured.prepared.dataset), "pixels": SimpleNamespace(size=96, fit="squash")})
    monkeypatch.setattr(transfer, "_at_size", lambda dataset, backbone: larger if backbone.smallest > 32 else dataset)
    found = transfer_gain(measured.prepared, measured.run)
    assert found is not None and measured.asked == [("nano", 96, "validation")]


def test_the_recipe_trains_everything_from_the_first_step_to_the_last() -> None:
    (stage,) = SCRATCH.stages
    assert (stage.unfreeze, stage.batch_norm, stage.schedule, SCRATCH.monitor) == ("all", "moving", "cosine", "last")
    assert stage.warmup and not SCRATCH.augmentation.is_identity()


@pytest.mark.slow
def test_a_run_from_scratch_says_what_transfer_would_have_gained(
    folder: Path, unserved: None, tmp_path: Path, said: list[str]
) -> None:
    one = Recipe("scratch", stages=(Stage(1, 1e-6, unfreeze="all"),), batch_size=8)
    run = finetune(folder, backbone="nano", image_size=64, weights="none", recipe=one, out=tmp_path / "a", report=False)
    found = run.metrics["transfer"]
    assert found["accuracy"] > found["scratch"] + 0.3 and found["n"] == run.metrics["validation"]["n"]
    assert any("transfer would have gained" in line for line in said)
    kept = finetune(folder, backbone=tiny_file(), image_size=32, recipe=one, out=tmp_path / "b", report=False)
    assert kept.metrics["transfer"] is None
