"""Builds the classifier of a run, and holds what deciding and training hand on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras

from tlkit.backbones import Backbone
from tlkit.finetuning.prepare import Prepared
from tlkit.models.batch_norm import batch_norms
from tlkit.models.classifier import as_float32, build_classifier, copy_weights
from tlkit.plan.plan import Plan
from tlkit.plan.recipe import Head
from tlkit.runs.folder import open_run
from tlkit.runs.reading import load_judged

if TYPE_CHECKING:
    from tlkit.training.history import History


@dataclass(frozen=True)
class Trained:
    """A trained classifier.

    images_computed: how many images ran through frozen layers for it, including those of the tournament.
    """

    model: keras.Model
    history: History
    images_computed: int


@dataclass(frozen=True)
class Decided:
    """A plan that can be carried out.

    trained: the model, if a tournament has trained it already. images_computed: how many images ran through frozen
    layers for the decision. training: the name of the checkpoint of the training, which the tournament's has ended.
    """

    plan: Plan
    trained: Trained | None = None
    images_computed: int = 0
    training: str = "train"


def build(prepared: Prepared, head: Head, precision: str = "float32", *, restart: int = 0) -> keras.Model:
    """Build the classifier of a job, untrained: with ImageNet weights, the user's own, or those of an earlier run.

    restart: added to the job's seed, which random weights follow from.
    """
    job, dataset = prepared.job, prepared.dataset
    model = build_classifier(
        prepared.backbone,
        len(dataset.class_names),
        head=head,
        image_size=dataset.pixels.size,
        weights="none" if job.from_run else job.weights,
        seed=job.seed + restart,
        precision=precision,
        accept_licence=job.accept_licence,
    )
    if job.from_run:
        earlier = open_run(job.from_run)
        copy_weights(load_judged(earlier), model, with_head=earlier.plan.classes == tuple(dataset.class_names))
    return model


def as_saved(model: keras.Model, backbone: Backbone, plan: Plan) -> keras.Model:
    """Return the model as it is saved: in float32, and trainable except for its BatchNormalization layers.

    Those keep their statistics when the saved model is trained with plain Keras on small batches, unless the last stage
    trained them. `tlkit.set_trainable` decides anew. DropConnect drops nothing in inference, so dense layers take its
    place, and the file can be read without tlkit.
    """
    assert plan.recipe is not None
    head = plan.recipe.head
    if plan.precision != "float32" or head.drop_connect:
        model = as_float32(model, backbone, dataclasses.replace(head, drop_connect=0.0))
    for layer in model.layers:
        layer.trainable = True  # the saved model does not keep which layers a stage froze
    if plan.recipe.stages[-1].batch_norm != "moving":
        for layer in batch_norms(model, backbone, 0 if backbone.frozen_because else "all"):
            layer.trainable = False
    return keras.Model(model.input, model.output, name=model.name)  # without the optimizer and loss of the last stage
