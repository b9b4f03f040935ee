"""Builds the classifier of a run, and says when its training must end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.backbones import Backbone
from tlkit.data.images import ImageSet
from tlkit.models.classifier import build_classifier, copy_weights
from tlkit.models.inference import frozen_call
from tlkit.plan.recipe import Head
from tlkit.progress import NO_DEADLINE, Deadline
from tlkit.runs.folder import open_run
from tlkit.runs.reading import load_model, parity_sample

if TYPE_CHECKING:
    import keras

    from tlkit.data.dataset import Dataset


def _build(
    network: Backbone, images: ImageSet, head: Head, settings: dict[str, Any], size: int, precision: str
) -> keras.Model:

    start = settings["from_run"]
    model = build_classifier(
        network,
        len(images.class_names),
        head=head,
        image_size=size,
        weights="none" if start else settings["weights"],
        seed=settings["seed"],
        precision=precision,
    )
    if start:
        copy_weights(
            load_model(open_run(start)),
            model,
            with_head=list(open_run(start).plan["classes"]) == list(images.class_names),
        )
    return model


def training_deadline(deadline: Deadline, model: keras.Model, dataset: Dataset, report: bool) -> Deadline:
    """When training must end, so that evaluation, export, the parity proof and the report still fit into the limit."""
    if deadline == NO_DEADLINE:
        return deadline

    call, batch = frozen_call(model, 16), np.zeros((16, *model.input_shape[1:]), "uint8")
    call(batch)  # the first call traces
    before = time.monotonic()
    call(batch)
    per_image = (time.monotonic() - before) / 16
    val, test = dataset.count("val"), dataset.count("test")
    # the last epoch's validation, the evaluation of both parts, and the proof
    reserve = 25 + 1.3 * per_image * (val + val + test + len(parity_sample(val)))
    if report:  # measured: 5 s with 600 pictures, 22 s with 3,781
        reserve += 5 + 0.005 * len(dataset)
    return deadline.keeping(reserve)
