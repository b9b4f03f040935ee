"""Evaluates a trained model: its predictions, its temperature, its scores."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd

from tlkit.backbones import Backbone
from tlkit.data.images import ImageSet
from tlkit.devices import while_memory_lasts
from tlkit.evaluation.calibration import bake, bake_without_prior, fit_temperature, temper
from tlkit.evaluation.estimate import Estimate, estimate_from
from tlkit.evaluation.predict import predict_from_cache
from tlkit.evaluation.refusal import refusal_threshold
from tlkit.evaluation.scores import evaluate, prediction_table
from tlkit.finetuning.build import Trained
from tlkit.finetuning.prepare import Prepared
from tlkit.models.batch_norm import batch_norms
from tlkit.models.classifier import as_float32
from tlkit.models.files import save_model
from tlkit.models.inference import inference_batch
from tlkit.plan.plan import Plan
from tlkit.plan.recipe import Recipe
from tlkit.progress import Clock, log
from tlkit.runs.folder import Run
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.data.dataset import Dataset


BACKBONE = "the backbone"  # of what was chosen


@dataclass(frozen=True)
class Judged:
    """A classifier that is ready for deployment, and its scores.

    Attributes:
        model: As saved, with its temperature baked in.
        scores: "validation", "test", "calibration" and "refusal" of metrics.json.
        probabilities: By split, "validation" and "test", each of shape (n, classes).
        images_computed: How many images ran through frozen layers, including those of training.
        notes: What did not go as planned, in words.
    """

    model: keras.Model
    scores: dict[str, Any]
    probabilities: dict[str, np.ndarray]
    images_computed: int
    notes: tuple[str, ...] = ()


def judge(plan: Plan, trained: Trained, prepared: Prepared, run: Run, clock: Clock | None = None) -> Judged:
    """Calibrate a trained model on the validation images, and score it on them and on the test images.

    Writes history.csv, model.keras and predictions.csv into the run's folder.
    """
    assert plan.recipe is not None
    clock = clock or Clock()
    run.write_table("history.csv", pd.DataFrame(trained.history.rows))
    model = _as_saved(trained.model, prepared.backbone, plan)
    save_model(model, run.model_file)
    count = sum(prepared.dataset.count(split) for split in ("validation", "test"))
    log.info(f"evaluating on {counted(count, 'image')}")
    with clock.timed("evaluate"):
        if plan.recipe.prior_shift:
            bake_without_prior(model, _class_shares(prepared.dataset))
        raw, computed = _predict_splits(model, prepared.backbone, plan.recipe, prepared.dataset)
        scores, probabilities = _calibrate_and_score(run, model, prepared.dataset.images, raw, plan)
        save_model(model, run.model_file)
    notes = tuple(trained.history.notes)
    return Judged(model, scores, probabilities, trained.images_computed + computed, notes)


def _class_shares(dataset: Dataset) -> np.ndarray:
    """The share of each class among the training images: float, shape (classes,)."""
    labels = dataset.images.part("train").labels()
    return np.bincount(labels, minlength=len(dataset.class_names)) / len(labels)


def _as_saved(model: keras.Model, backbone: Backbone, plan: Plan) -> keras.Model:
    """Return the model as it is saved: in float32, and trainable except for its BatchNormalization layers.

    Those keep their statistics when the saved model is trained with plain Keras on small batches, unless the last stage
    trained them. `tlkit.set_trainable` decides anew.
    """
    assert plan.recipe is not None
    if plan.precision != "float32":
        model = as_float32(model, backbone, plan.recipe.head)
    for layer in model.layers:
        layer.trainable = True  # the saved model does not keep which layers a stage froze
    if plan.recipe.stages[-1].batch_norm != "moving":
        for layer in batch_norms(model, backbone, 0 if backbone.frozen_because else "all"):
            layer.trainable = False
    return keras.Model(model.input, model.output, name=model.name)  # without the optimizer and loss of the last stage


def _predict_splits(
    model: keras.Model, backbone: Backbone, recipe: Recipe, dataset: Dataset
) -> tuple[dict[str, np.ndarray], int]:
    """Probabilities by split, and how many images ran through the frozen blocks."""
    probabilities, computed = {}, 0
    for split in ("validation", "test"):
        examples = dataset.part(split)
        if not len(examples):
            continue
        found, ran = while_memory_lasts(
            functools.partial(predict_from_cache, model, backbone, recipe.stages[-1].unfreeze, examples),
            inference_batch(recipe.batch_size),
        )
        computed += ran
        probabilities[split] = found
    return probabilities, computed


def _calibrate_and_score(
    run: Run, model: keras.Model, images: ImageSet, raw: dict[str, np.ndarray], plan: Plan
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Bake a temperature into the model, and write the predictions.

    raw: probabilities by split, before calibration. Returns the scores for metrics.json, and the calibrated
    probabilities by split.
    """
    assert plan.recipe is not None
    labels = {split: images.part(split).labels() for split in raw}
    balanced = plan.recipe.prior_shift
    temperature = fit_temperature(raw["validation"], labels["validation"], balanced=balanced)
    bake(model, temperature)
    probabilities = {split: temper(found, temperature) for split, found in raw.items()}
    before, scores, tables = {}, {}, []
    for split, found in probabilities.items():
        groups = images.part(split).groups()
        uncalibrated = evaluate(raw[split], labels[split], images.class_names)
        before[split] = {name: uncalibrated[name] for name in ("log_loss", "ece")}
        scores[split] = evaluate(found, labels[split], images.class_names, groups)
        listed = images.part(split).table
        table = prediction_table(list(listed["path"]), found, images.class_names)
        table.insert(1, "split", split)
        table.insert(2, "label", list(listed["label"]))
        tables.append(table)
    run.write_table("predictions.csv", pd.concat(tables, ignore_index=True))
    refusal = None
    max_error = plan.job.max_error
    if max_error is not None:
        about: dict[str, Any] = {"class_names": images.class_names, "groups": images.part("validation").groups()}
        chosen = refusal_threshold(probabilities["validation"], labels["validation"], max_error, **about)
        measured = {split: chosen.measured(probabilities[split], labels[split]) for split in raw}
        refusal = {
            **dataclasses.asdict(chosen),
            "validation": measured["validation"],
            "test": measured.get("test"),
        }
    numbers = {
        "estimate": _estimate(plan, images, probabilities),
        "validation": scores["validation"],
        "test": scores.get("test"),
        "calibration": {
            "temperature": temperature,
            "fitted_on": len(labels["validation"]),
            "before": {"validation": before["validation"], "test": before.get("test")},
        },
        "refusal": refusal,
    }
    return numbers, probabilities


def _estimate(plan: Plan, images: ImageSet, probabilities: dict[str, np.ndarray]) -> dict[str, Any]:
    """The accuracy on new images: of test images, else cross-fitted by the tournament, else of validation images."""
    decision = plan.decision("recipe")
    cross_fitted = decision.evidence.get("cross_fitted") if decision else None
    if cross_fitted and "test" not in probabilities:
        compared = [name for name in _also_chose(plan) if name == BACKBONE]
        return Estimate(**{**cross_fitted, "also_chose": compared}).to_dict(images.class_names)
    split = "test" if "test" in probabilities else "validation"
    part = images.part(split)
    labels = part.labels()
    return estimate_from(
        probabilities[split].argmax(1) == labels,
        labels,
        "the test images, which nothing was chosen on" if split == "test" else "the validation images",
        groups=part.groups(),
        also_chose=() if split == "test" else _also_chose(plan),
    ).to_dict(images.class_names)


def _also_chose(plan: Plan) -> list[str]:
    """What the validation images were used to choose, in words."""
    assert plan.recipe is not None
    decisions = {decision.about: decision.evidence for decision in plan.decisions}
    stages = plan.recipe.stages
    chose = []
    if "compared" in decisions.get("backbone", {}):
        chose.append(BACKBONE)
    if decisions.get("recipe", {}).get("contenders"):
        chose.append("the recipe")
    if any(stage.solver != "gradient" and stage.strength is None for stage in stages):
        chose.append("the head's penalty")
    if plan.recipe.monitor != "last" and any(stage.solver == "gradient" for stage in stages):
        chose.append("the epoch that was kept")
    if any(stage.interpolate == "chosen" for stage in stages):
        chose.append("the weights between the first and the last epoch")
    return chose
