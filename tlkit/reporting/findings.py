"""What takes long in a report: the data doctor's checkup, what answers rest on, and robustness."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd

from tlkit.backbones import named_backbones
from tlkit.doctor.checkup import JUDGE, check_data
from tlkit.errors import SpecError
from tlkit.evaluation.reliance import reliance
from tlkit.evaluation.robustness import robustness
from tlkit.evaluation.saliency import GradCam
from tlkit.models.blocks import cut
from tlkit.plan.plan import Plan
from tlkit.runs.folder import Run

if TYPE_CHECKING:
    from tlkit.data.dataset import Dataset
    from tlkit.doctor.checkup import Checkup
    from tlkit.evaluation.reliance import Reliance


EXPLAINED = 200  # pictures at most for the test of what answers rest on ...
SECONDS = 1.0  # ... and about how long that may take in `finetune`
CHECKED = 10_000  # pictures at most for the data doctor; `tlkit inspect` looks at all
ROBUST = 500  # pictures at most for robustness


@dataclass(frozen=True)
class Material:
    """What a report is made of. dataset: of all parts, None if the images are not where they were."""

    run: Run
    model: keras.Model
    dataset: Dataset | None


@dataclass(frozen=True)
class Looked:
    """What takes long in a report. checkup: of the data. cam: Grad-CAM of the model. reliance: what answers rest on. Each None where it cannot be."""

    checkup: Checkup | None
    cam: GradCam | None
    reliance: Reliance | None


def look_at(material: Material, *, seconds: float = SECONDS) -> Looked:
    """The data doctor's checkup, and what the model's answers rest on. Needs the run's plan and predictions.

    seconds: about how long the latter may take.
    """

    checkup, cam, found = None, None, None
    if material.dataset is not None:
        checkup = _checkup(material, material.run.plan)
    with contextlib.suppress(SpecError):  # an ensemble has no feature maps to weigh
        cam = GradCam(material.model)
    if cam is not None and material.dataset is not None:
        found = _reliance(material, _answers(material.run), cam, seconds)
    return Looked(checkup, cam, found)


def _answers(run: Run, part: str | None = None) -> pd.DataFrame:
    """The predictions of a part, "test" or "validation"; default test, where there is one."""

    table = run.read_table("predictions.csv")
    if part is None:
        part = "test" if (table["split"] == "test").any() else "validation"
    return table[table["split"] == part].reset_index(drop=True)


def _checkup(material: Material, plan: Plan) -> Checkup:
    """Labels judged by the run's own backbone, as pretrained, where its features are there; else by `nano`."""

    assert material.dataset is not None
    job = plan.job
    own = plan.backbone.name if job.weights == "imagenet" and not job.from_run else JUDGE
    (network,) = named_backbones(own)
    untouched = own != JUDGE and plan.recipe and all(stage.unfreeze == 0 for stage in plan.recipe.stages)
    prefix = cut(material.model, network, 0)[0] if untouched and not plan.ensemble_of else None
    if prefix is not None and len(prefix.outputs) > 1:
        prefix = keras.Model(prefix.input, prefix.outputs[-1])  # of a head on several blocks, the last
    dataset = material.dataset
    if len(dataset) > CHECKED:
        order = np.random.default_rng(job.seed).permutation(len(dataset))[:CHECKED]
        dataset = dataset.take(np.sort(order).tolist())
    return check_data(
        dataset,
        backbone=network,
        prefix=prefix,
        compute=False,
        seed=job.seed,
    )


def _reliance(material: Material, answers: pd.DataFrame, cam: GradCam, seconds: float) -> Reliance:
    """What painting evidence over does to as many of the judged pictures as the time allows, 16 at least."""

    count = int(np.clip(seconds * 1000 / (3 * cam.milliseconds()), 16, EXPLAINED))
    order = np.random.default_rng(0).permutation(len(answers))[:count]
    chosen = answers.iloc[np.sort(order)]
    classes = material.run.plan.classes
    labels = np.array([classes.index(one) for one in chosen["label"]])
    return reliance(material.model, _pictures(material, list(chosen["path"])), labels, cam=cam)


def _pictures(material: Material, paths: Sequence[str]) -> np.ndarray:
    assert material.dataset is not None
    place = {path: i for i, path in enumerate(material.dataset.images.table["path"])}
    return material.dataset.examples().pixels.gather(np.array([place[path] for path in paths]))


def _robustness(material: Material, answers: pd.DataFrame) -> list[dict[str, Any]]:

    order = np.sort(np.random.default_rng(0).permutation(len(answers))[:ROBUST])
    chosen, classes = answers.iloc[order], material.run.plan.classes
    return robustness(
        material.model,
        _pictures(material, list(chosen["path"])),
        np.array([classes.index(one) for one in chosen["label"]]),
    )
