"""Evaluates a trained model: its predictions, its temperature, its scores."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd

from tlkit.backbones import Backbone
from tlkit.checkpoints import Checkpoints
from tlkit.data.images import ImageSet
from tlkit.devices import while_memory_lasts
from tlkit.evaluation.calibration import bake, bake_without_prior, fit_temperature, temper, without_prior
from tlkit.evaluation.estimate import Estimate, estimate_from
from tlkit.evaluation.predict import predict_from_cache
from tlkit.evaluation.refusal import refusal_threshold
from tlkit.evaluation.scores import evaluate, prediction_table
from tlkit.files import temporary_beside
from tlkit.finetuning.build import Trained, as_saved
from tlkit.finetuning.fair import balance
from tlkit.finetuning.folds import cross_validate
from tlkit.finetuning.known import FoundKnown, find_known, find_sets
from tlkit.finetuning.prepare import Prepared
from tlkit.finetuning.refit import Refitted, refit
from tlkit.models.files import save_model
from tlkit.models.inference import inference_batch
from tlkit.plan.plan import BACKBONE, Plan
from tlkit.plan.recipe import Recipe
from tlkit.progress import Clock, log
from tlkit.runs.folder import Run
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.data.dataset import Dataset


@dataclass(frozen=True)
class Judged:
    """A classifier that is ready for deployment, and its scores.

    Attributes:
        model: As saved, with its temperature baked in.
        scores: "estimate", "folds", "validation", "test", "calibration", "refusal", "known", "prediction_sets" and
            "refit" of metrics.json.
        served: Its probabilities of the validation images, shape (n, classes), for the proof.
        p_values: `Known.p_values_nearby` of them, shape (n, 4); None if it gives none.
        reported: The classifier that the report is on. It was not trained on the images that the report measures it on.
        images_computed: How many images ran through frozen layers, including those of training.
        notes: What did not go as planned, in words.
        interrupted: Whether Ctrl-C ended the training before its end.
    """

    model: keras.Model
    scores: dict[str, Any]
    served: np.ndarray
    reported: keras.Model
    images_computed: int
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    p_values: np.ndarray | None = None


def judge(
    plan: Plan,
    trained: Trained,
    prepared: Prepared,
    run: Run,
    clock: Clock | None = None,
    checkpoints: Checkpoints | None = None,
) -> Judged:
    """Calibrate a trained model on the validation images, and score it on them and on the test images.

    If the model is then trained on the validation images too (see `tlkit.finetuning.refit`), they judge the one before,
    and the test images the one after, which is delivered, unless it learned from these as well. A head that is solved
    is calibrated on the training images too, each predicted by a head that was not trained on it, if the validation
    images are few. With folds, every model is (see `tlkit.finetuning.folds`).

    Writes history.csv, model.keras, predictions.csv and what `tlkit.runs.reading.load_judged` needs into the run's
    folder.
    """
    clock, dataset = clock or Clock(), prepared.dataset
    again = refit if plan.job.folds is None else cross_validate
    if plan.job.fair_to is None:
        refitted: Refitted | None = again(plan, trained, prepared, clock, checkpoints)
    else:
        refitted, balanced = balance(plan, trained, prepared, clock)
        run.write_table("fair.csv", balanced.table)
    run.write_table("history.csv", pd.DataFrame(trained.history.table()))
    judged = as_saved(trained.model, prepared.backbone, plan)
    delivered = judged if refitted is None else refitted.delivered(judged)
    save_model(delivered, run.model_file)
    count = sum(dataset.count(split) for split in ("validation", "test"))
    log.info(f"evaluating on {counted(count, 'image')}")
    with clock.timed("evaluate"):
        answers, computed = _answers(judged, delivered, refitted, prepared, plan)
        scores, temperature = _calibrate_and_score(run, dataset.images, answers, plan)
        for model in {id(one): one for one in (judged, delivered)}.values():
            bake(model, temperature)
        save_model(delivered, run.model_file)
        found = _beyond(plan, prepared, (judged, delivered), answers, temperature)
        scores |= {"known": found.metrics, "prediction_sets": _sets(plan, prepared, answers, temperature)}
        if found.known is not None:
            with temporary_beside(run.known_file) as temporary:
                temporary.write_bytes(found.known.to_bytes())
        computed += found.images_computed
        if refitted is not None:
            _keep_judged(run, judged, whole=refitted.model is not None)
            learned = refitted.splits
            scores["refit"] = {"images": sum(map(dataset.count, learned)), "splits": list(learned)}
            if refitted.folds:
                scores["refit"]["folds"] = refitted.folds
            computed += refitted.images_computed
    return Judged(
        delivered,
        scores,
        temper(answers.served["validation"], temperature),
        delivered if "test" in answers.reported and (refitted is None or "test" not in refitted.splits) else judged,
        trained.images_computed + computed,
        tuple(trained.history.notes),
        trained.history.interrupted,
        found.p_values,
    )


@dataclass(frozen=True)
class Answers:
    """Probabilities before calibration, each of shape (n, classes).

    Attributes:
        reported: By split, "validation" and "test", by a model that was not trained on these images: the one that is
            delivered, or else the one before it was trained on them.
        served: By split, by the model that is delivered.
        training: Of the training images, each by a head that was not trained on it; None if there are none.
    """

    reported: dict[str, np.ndarray]
    served: dict[str, np.ndarray]
    training: np.ndarray | None = None


def _answers(
    judged: keras.Model, delivered: keras.Model, refitted: Refitted | None, prepared: Prepared, plan: Plan
) -> tuple[Answers, int]:
    """Predict the validation and test images, after freeing both models from the classes' shares if the recipe says so.

    Returns the probabilities, and how many images ran through the frozen blocks.
    """
    assert plan.recipe is not None
    shares, prior = functools.partial(_class_shares, prepared.dataset), plan.recipe.prior_shift
    predict = functools.partial(
        _predict_splits, backbone=prepared.backbone, recipe=plan.recipe, dataset=prepared.dataset
    )
    if prior:
        bake_without_prior(judged, shares("train"))
    if refitted is None:
        reported, computed = predict(judged)
        return Answers(reported, reported), computed
    if prior:
        bake_without_prior(delivered, shares(*refitted.splits))
    reported, computed = predict(judged, splits=refitted.splits[1:])
    of_delivered, more = predict(delivered)
    training = refitted.out_of_fold
    if training is not None and prior:
        training = without_prior(training, shares("train"))
    return Answers({**of_delivered, **reported}, of_delivered, training), computed + more


def _held_out(answers: Answers, temperature: float) -> dict[str, np.ndarray]:
    """Calibrated probabilities by split, each of a model that was not trained on the images."""
    found = {**answers.reported, **({} if answers.training is None else {"train": answers.training})}
    return {split: temper(raw, temperature) for split, raw in found.items()}


def _beyond(
    plan: Plan, prepared: Prepared, models: tuple[keras.Model, keras.Model], answers: Answers, temperature: float
) -> FoundKnown:
    """Find what tells known images from others. models: the judged and the delivered one."""
    judged, delivered = models
    same = judged is delivered or judged.layers[-2] is delivered.layers[-2]
    served = temper(answers.served["validation"], temperature)
    return find_known(plan, prepared, models, _held_out(answers, temperature), served, same_features=same)


def _sets(plan: Plan, prepared: Prepared, answers: Answers, temperature: float) -> dict[str, Any] | None:
    """The prediction sets of the job's coverage; None if it asks for none."""
    if plan.job.coverage is None:
        return None
    return find_sets(plan.job.coverage, _held_out(answers, temperature), prepared)


def _keep_judged(run: Run, judged: keras.Model, *, whole: bool) -> None:
    """Keep the model that was not trained on the validation images: all of it, or its last layer."""
    if whole:
        save_model(judged, run.judged_file)
        return
    kernel, bias = judged.layers[-1].get_weights()
    with temporary_beside(run.judged_head) as temporary, temporary.open("wb") as file:
        np.savez(file, kernel=kernel, bias=bias)


def _class_shares(dataset: Dataset, *splits: str) -> np.ndarray:
    """The share of each class among the images of these splits: float, shape (classes,)."""
    labels = dataset.images.part(*splits).labels()
    return np.bincount(labels, minlength=len(dataset.class_names)) / len(labels)


def _predict_splits(
    model: keras.Model,
    backbone: Backbone,
    recipe: Recipe,
    dataset: Dataset,
    splits: Sequence[str] = ("validation", "test"),
) -> tuple[dict[str, np.ndarray], int]:
    """Probabilities by split, and how many images ran through the frozen blocks."""
    probabilities, computed = {}, 0
    for split in splits:
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


def _calibrate_and_score(run: Run, images: ImageSet, answers: Answers, plan: Plan) -> tuple[dict[str, Any], float]:
    """Fit a temperature, and write the calibrated predictions. Returns the scores, and the temperature."""
    assert plan.recipe is not None
    raw, balanced = answers.reported, plan.recipe.prior_shift
    labels = {split: images.part(split).labels() for split in raw}
    pooled, pooled_labels = raw["validation"], labels["validation"]
    if answers.training is not None:
        pooled = np.concatenate([answers.training, pooled])
        pooled_labels = np.concatenate([images.part("train").labels(), pooled_labels])
    temperature = fit_temperature(pooled, pooled_labels, balanced=balanced)
    probabilities = {split: temper(found, temperature) for split, found in raw.items()}
    before, scores = {}, {}
    for split, found in probabilities.items():
        uncalibrated = evaluate(raw[split], labels[split], images.class_names)
        before[split] = {name: uncalibrated[name] for name in ("log_loss", "ece")}
        scores[split] = evaluate(found, labels[split], images.class_names, images.part(split).groups())
    run.write_table("predictions.csv", _predictions(images, answers, temperature))
    refusal = None
    max_error = plan.job.max_error
    if max_error is not None:
        groups = images.part(*(("validation",) if answers.training is None else ("train", "validation"))).groups()
        about: dict[str, Any] = {"class_names": images.class_names, "groups": groups}
        chosen = refusal_threshold(temper(pooled, temperature), pooled_labels, max_error, **about)
        measured = {split: chosen.measured(probabilities[split], labels[split]) for split in raw}
        refusal = {
            **dataclasses.asdict(chosen),
            "chosen_on": len(pooled_labels),
            "validation": measured["validation"],
            "test": measured.get("test"),
        }
    folds = _folds(plan, images, answers)
    numbers = {
        "estimate": folds if folds and "test" not in probabilities else _estimate(plan, images, probabilities),
        "folds": folds,
        "validation": scores["validation"],
        "test": scores.get("test"),
        "calibration": {
            "temperature": temperature,
            "fitted_on": len(pooled_labels),
            "before": {"validation": before["validation"], "test": before.get("test")},
        },
        "refusal": refusal,
    }
    return numbers, temperature


def _predictions(images: ImageSet, answers: Answers, temperature: float) -> pd.DataFrame:
    """The table of predictions.csv: each image predicted by a model that was not trained on it.

    If the model that is delivered was trained on some of these images, `final` and `final_probability` are what it
    predicts.
    """
    found = {**({} if answers.training is None else {"train": answers.training}), **answers.reported}
    tables = []
    for split, raw in found.items():
        listed = images.part(split).table
        table = prediction_table(list(listed["path"]), temper(raw, temperature), images.class_names)
        table.insert(1, "split", split)
        table.insert(2, "label", list(listed["label"]))
        tables.append(table)
    whole = pd.concat(tables, ignore_index=True)
    if answers.served is answers.reported:
        return whole
    finals = [
        prediction_table(list(images.part(split).table["path"]), temper(raw, temperature), images.class_names, top=1)
        for split, raw in answers.served.items()
    ]
    final = pd.concat(finals, ignore_index=True)
    final = final.rename(columns={"prediction": "final", "probability": "final_probability"})
    return whole.merge(final, on="path", how="left")


def _folds(plan: Plan, images: ImageSet, answers: Answers) -> dict[str, Any] | None:
    """The accuracy over all training and validation images, each predicted out of fold.

    None without folds, unless the head was balanced.
    """
    if (plan.job.folds is None and plan.job.fair_to is None) or answers.training is None:
        return None
    part = images.part("train", "validation")
    labels = part.labels()
    found = np.concatenate([answers.training, answers.reported["validation"]]).argmax(1)
    how = f"each predicted by one of {plan.job.folds} models, which had not learned from it"
    if plan.job.folds is None:
        how = "each predicted by a balanced head that had not learned from it"
    return estimate_from(found == labels, labels, how, groups=part.groups(), also_chose=plan.also_chose).to_dict(
        images.class_names
    )


def _estimate(plan: Plan, images: ImageSet, probabilities: dict[str, np.ndarray]) -> dict[str, Any]:
    """The accuracy on new images: of test images, else cross-fitted by the tournament, else of validation images."""
    decision = plan.decision("recipe")
    cross_fitted = decision.evidence.get("cross_fitted") if decision and plan.job.fair_to is None else None
    if cross_fitted and "test" not in probabilities:
        compared = [name for name in plan.also_chose if name == BACKBONE]
        return Estimate(**{**cross_fitted, "also_chose": compared}).to_dict(images.class_names)
    split = "test" if "test" in probabilities else "validation"
    part = images.part(split)
    labels = part.labels()
    return estimate_from(
        probabilities[split].argmax(1) == labels,
        labels,
        _how(plan) if split == "test" else "the validation images",
        groups=part.groups(),
        also_chose=() if split == "test" else plan.also_chose,
    ).to_dict(images.class_names)


def _how(plan: Plan) -> str:
    """On which test images the estimate was made, in words."""
    if plan.drew_test:
        return "test images that the run set aside before it learned anything, and looked at once"
    return "the test images, which nothing was chosen on"
