"""What a run's model answers beyond a class: whether an image shows none of the classes, and sets of classes.

Both are found on held-out images, with the features and probabilities that the run has computed already.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.data.examples import Examples
from tlkit.devices import while_memory_lasts
from tlkit.evaluation.known import (
    FEWEST_HELD_OUT,
    FEWEST_IMAGES,
    Known,
    features_model,
    fit_known,
    pooled_classes,
    refused,
    room_beside,
    with_prototypes_of,
)
from tlkit.evaluation.predict import predict_from_cache
from tlkit.evaluation.prediction_sets import covered, fit_prediction_sets
from tlkit.features.folds import ALWAYS_TRAINING, stratified_folds
from tlkit.finetuning.prepare import Prepared
from tlkit.models.inference import inference_batch
from tlkit.plan.plan import Plan

KEPT = 0.95  # of known images, if `known` does not say otherwise
MOST_TRAINING = 2000  # training images that describe the classes, as many of each class as there are
FOLDS = 10

Probabilities = Mapping[str, np.ndarray]  # by split, calibrated, shape (n, classes)


@dataclass(frozen=True)
class FoundKnown:
    """What tells known images from others.

    known: None if there are too few images. metrics: for metrics.json. p_values: of the validation images by the model
    that is delivered, shape (n,), for the proof. images_computed: how many ran through frozen layers for it.
    """

    known: Known | None
    metrics: dict[str, Any]
    p_values: np.ndarray | None = None
    images_computed: int = 0


def find_known(
    plan: Plan,
    prepared: Prepared,
    models: tuple[keras.Model, keras.Model],
    held_out: Probabilities,
    served: np.ndarray,
    *,
    same_features: bool,
) -> FoundKnown:
    """Fit what tells known images from others, and measure it on the test images.

    Where features do not depend on the labels, and the training images were predicted out of fold, all training and
    validation images are held out in turn. Otherwise the training images describe the classes, and the validation
    images alone are held out.

    Args:
        models: The one that the validation images judge, and the one that is delivered.
        held_out: Probabilities by a model that was not trained on these images: validation, and maybe train and test.
        served: The delivered model's probabilities of the validation images.
        same_features: Whether the two models differ in the last layer alone.
    """
    (reader, reader_delivered), dataset = (features_model(one) for one in models), prepared.dataset
    below = round(1 - (plan.job.known or KEPT), 9)
    about = {"none_below": below if plan.job.known else 0.0, "measured_below": below, "held_out": 0, "pooled": []}
    if reader is None or reader_delivered is None:
        return FoundKnown(None, {**about, "why_not": "the model has no pooled features before its head"})
    assert plan.recipe is not None
    read = functools.partial(_features, plan=plan, prepared=prepared)
    training, validation = dataset.part("train"), dataset.part("validation")
    chosen = evenly(training.labels, MOST_TRAINING)
    training = training.take(chosen)
    of_training, computed = read(reader, training, fast=True)
    of_validation, more = read(reader, validation)
    folds = np.r_[np.full(len(training), ALWAYS_TRAINING), np.zeros(len(validation), "int64")]
    probabilities = np.zeros((len(training), len(dataset.class_names)), "float32")
    if "train" in held_out and same_features:
        folds, probabilities = _folds(training, validation, plan.job.seed), held_out["train"][chosen]
    room, labels = room_beside(models[1]), np.r_[training.labels, validation.labels]
    features, probabilities = np.r_[of_training, of_validation], np.r_[probabilities, held_out["validation"]]
    settings = {"room": room, "seed": plan.job.seed}
    known = fit_known(features, labels, probabilities, folds, **settings)
    if known is None:
        why = (
            f"it takes {FEWEST_IMAGES} training images of each class and {FEWEST_HELD_OUT} held-out images, and "
            "features that fit a tenth of the model's size"
        )
        return FoundKnown(None, {**about, "why_not": why}, images_computed=computed + more)
    of_judged = known
    if not same_features:
        of_training, again = read(reader_delivered, training, fast=True)
        of_validation, others = read(reader_delivered, validation)
        computed += again + others
        known = with_prototypes_of(known, of_training, training.labels, **settings)
    p_values = known.p_values_nearby(of_validation, served)
    about["held_out"] = int((folds != ALWAYS_TRAINING).sum())
    about["pooled"] = pooled_classes(known, dataset.class_names)
    about["test"] = None
    if "test" in held_out:
        of_test, ran = read(reader, dataset.part("test"))
        of_test_images = keras.ops.convert_to_numpy(of_judged.p_values(of_test, held_out["test"]))
        about["test"], computed = refused(of_test_images, below), computed + ran
    return FoundKnown(known, about, p_values, computed + more)


def evenly(labels: np.ndarray, most: int) -> np.ndarray:
    """The indices of at most so many images, the same number of each class as far as there are: int, ascending."""
    turn = np.zeros(len(labels), int)  # an image's place among those of its class
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    return np.sort(np.argsort(turn, kind="stable")[:most])


def _folds(training: Examples, validation: Examples, seed: int) -> np.ndarray:
    groups = None
    if training.groups is not None and validation.groups is not None:  # each split numbers its own; none is in both
        groups = np.r_[training.groups, validation.groups + training.groups.max(initial=0) + 1]
    return stratified_folds(np.r_[training.labels, validation.labels], groups, FOLDS, seed=seed)


def _features(
    reader: keras.Model, examples: Examples, *, plan: Plan, prepared: Prepared, fast: bool = False
) -> tuple[np.ndarray, int]:
    """The pooled features of images, and how many ran through frozen layers for them."""
    assert plan.recipe is not None
    work = functools.partial(
        predict_from_cache, reader, prepared.backbone, plan.recipe.stages[-1].unfreeze, examples, fast=fast
    )
    return while_memory_lasts(work, inference_batch(plan.recipe.batch_size))


def find_sets(coverage: float, held_out: Probabilities, prepared: Prepared) -> dict[str, Any]:
    """Fit prediction sets on held-out images, and measure them on the test images: JSON values, for metrics.json."""
    dataset, classes = prepared.dataset, prepared.dataset.class_names
    splits = [split for split in ("train", "validation") if split in held_out]
    labels = {split: dataset.part(split).labels for split in held_out}
    fitted = fit_prediction_sets(
        np.concatenate([held_out[one] for one in splits]), np.concatenate([labels[one] for one in splits]), coverage
    )
    test = covered(fitted.sets(held_out["test"]), labels["test"], classes) if "test" in held_out else None
    return {**fitted.to_dict(classes), "test": test}
