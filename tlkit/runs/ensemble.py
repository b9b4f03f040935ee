"""Combines several runs in one model that averages their probabilities, in a run folder like any other."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import pandas as pd

from tlkit.deployment.parity import FreshProcess, prove_parity
from tlkit.deployment.saved_model import export
from tlkit.errors import SpecError
from tlkit.evaluation.predict import own_probabilities, predict_probabilities
from tlkit.evaluation.scores import evaluate, prediction_table
from tlkit.folders import removed_unless_proved
from tlkit.models.files import save_model
from tlkit.progress import log
from tlkit.runs.folder import Run, check_members, check_out, finish_run, start_run
from tlkit.runs.reading import BATCH, decoded, load_judged, load_model, own_part, parity_sample

if TYPE_CHECKING:
    from tlkit.data.dataset import Dataset


def ensemble(runs: Sequence[Run | str | Path], out: str | Path, *, force: bool = False) -> Run:
    """Average the probabilities of several runs in one model, evaluate it, export it, and prove the export.

    An image is in the ensemble's validation or test split only if it is in that split of every run. All others are
    training images, because some run may have trained on them.

    Args:
        runs: Two or more finished runs with the same classes, image size, fit and data. Where the first one's data was
            moved, give it as `open_run(folder, moved_to)`.
        out: The new run's folder.
        force: Replace an earlier run in it when the new one is finished (see `tlkit.folders`).

    Returns:
        The run.

    Raises:
        SpecError: The runs do not go together.
    """
    started = time.monotonic()
    members, out = check_members(runs), Path(out)
    check_out(out, force, members[0].plan.job.data)
    if any(one.folder.resolve() == out.resolve() for one in members):
        raise SpecError(f"'{out}' is one of the runs to be averaged. Give another folder for the ensemble.")
    plan = members[0].plan
    model, *models = _averaged([load_model(one) for one in members])
    refitted = any(one.refitted for one in members)
    held_out = _averaged([load_judged(one) for one in members]) if refitted else [model, *models]
    run = start_run(out, force)
    if members[0].moved_to is not None:
        moved = members[0].moved_to
        data = moved.absolute() if isinstance(moved, Path) else moved
        plan = dataclasses.replace(plan, job=dataclasses.replace(plan.job, data=data))
    run.write_plan(dataclasses.replace(plan, ensemble_of=tuple(str(one.folder.absolute()) for one in members)))
    run.write_table("split.csv", _common_split(members))
    run.write_table("problems.csv", members[0].read_csv("problems.csv"))
    save_model(model, run.model_file)
    if refitted:
        save_model(held_out[0], run.judged_file)
    tested = any("test" in one.learned_from for one in members)
    judges = {"validation": held_out, "test": held_out if tested else [model, *models]}
    metrics: dict[str, Any] = {"members": [], "images_decoded": 0, "images_computed": 0}
    with FreshProcess() as fresh:
        judged = {split: one for split, by in judges.items() if (one := _judge(run, split, by))}
        if not judged:
            raise SpecError(
                "No image is in the validation split, or in the test split, of all runs, "
                "so the ensemble cannot be evaluated."
            )
        for split, one in judged.items():
            metrics[split] = one.scores[0]
            metrics["images_decoded"] += one.dataset.pixels.decoded
            metrics["images_computed"] += len(one.scores) * len(one.dataset)
        run.write_table("predictions.csv", pd.concat([one.table for one in judged.values()], ignore_index=True))
        export(model, plan.classes, run.saved_model, fit=plan.job.fit, depth=plan.depth)
        first = next(iter(judged.values()))
        chosen = parity_sample(len(first.dataset))
        dataset = first.dataset.take(chosen)
        probabilities = predict_probabilities(model, dataset.examples().pixels, batch_size=BATCH)
        own = functools.partial(own_probabilities, model, dataset.examples().pixels)
        files = dataset.images.files()
        with removed_unless_proved(run.saved_model):
            metrics["parity"] = prove_parity(run.saved_model, files, probabilities, plan.classes, fresh, own)
    if "validation" in judged:
        metrics["members"] = [
            {"run": str(one.folder), "accuracy": score["accuracy"], "log_loss": score["log_loss"]}
            for one, score in zip(members, judged["validation"].scores[1:], strict=True)
        ]
    metrics["seconds"] = {"total": round(time.monotonic() - started, 2)}
    run.write_metrics(metrics)
    run = finish_run(run, out)
    for one in metrics["members"]:
        log.info(f"member      accuracy {one['accuracy']:.1%}, log loss {one['log_loss']:.3f}  {one['run']}")
    return run


def _averaged(models: list[keras.Model]) -> list[keras.Model]:
    """The model that averages the probabilities of these, and then these, renamed."""
    image = keras.Input(models[0].input_shape[1:], name="image")
    for number, model in enumerate(models, start=1):
        model.name = f"member_{number}"
    average = keras.layers.Average(name="predictions")([one(image) for one in models])
    return [keras.Model(image, average, name="ensemble"), *models]


@dataclass(frozen=True)
class _Judged:
    """A split with the ensemble's predictions, and the scores of the ensemble and its members."""

    dataset: Dataset
    table: pd.DataFrame
    scores: list[dict[str, Any]]


def _judge(run: Run, split: str, models: Sequence[keras.Model]) -> _Judged | None:
    """Evaluate the ensemble and its members, in this order. None if the split has no image."""
    images = own_part(run, split)
    if not len(images):
        return None
    dataset = decoded(run, images)
    images, classes = dataset.images, dataset.class_names
    found = [predict_probabilities(one, dataset.examples().pixels, batch_size=BATCH) for one in models]
    table = prediction_table(list(images.table["path"]), found[0], classes)
    table.insert(1, "split", split)
    table.insert(2, "label", list(images.table["label"]))
    return _Judged(dataset, table, [evaluate(one, images.labels(), classes) for one in found])


def _common_split(members: Sequence[Run]) -> Any:
    """The first run's images, each with the split that it has in every run, else "train"."""
    tables = [one.read_table("split.csv") for one in members]
    first = tables[0].copy()
    for other in tables[1:]:
        split = first["path"].map(dict(zip(other["path"], other["split"], strict=True))).fillna("train")
        first["split"] = first["split"].where(first["split"] == split, "train")
    return first
