"""Several runs as one: a model that averages their probabilities, in a run folder like any other."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import pandas as pd

from tlkit.deployment.parity import FreshProcess, prove_parity
from tlkit.deployment.saved_model import export
from tlkit.errors import SpecError
from tlkit.evaluation.predict import own_probabilities, predict_probabilities
from tlkit.evaluation.scores import evaluate, prediction_table
from tlkit.models.files import save_model
from tlkit.progress import log
from tlkit.runs.folder import Run, check_members, check_out, finish_run, start_run
from tlkit.runs.reading import BATCH, decoded, load_model, own_part, parity_sample


def ensemble(runs: Sequence[str | Path], out: str | Path, *, force: bool = False) -> Run:
    """Average the probabilities of several runs in one model, evaluate it, export it, and prove the export.

    runs: two or more finished runs of the same classes, image size, fit and data. out: the new run's folder.
    force: replace an earlier run in it when the new one is finished (see `tlkit.folders`).

    An image counts as validation or test here if it is that in every run; what one of them has trained on is training. Returns the
    run. Raises SpecError when the runs do not go together.
    """

    started = time.monotonic()
    members, out = check_members(runs), Path(out)
    check_out(out, force, members[0].plan.job.data)
    if any(one.folder.resolve() == out.resolve() for one in members):
        raise SpecError(f"'{out}' is one of the runs to be averaged. Expected another folder for the ensemble.")
    plan = members[0].plan
    models = [load_model(one) for one in members]
    image = keras.Input(models[0].input_shape[1:], name="image")
    for number, model in enumerate(models, start=1):
        model.name = f"member_{number}"
    model = keras.Model(
        image, keras.layers.Average(name="predictions")([one(image) for one in models]), name="ensemble"
    )

    run = start_run(out, force)
    run.write_plan(dataclasses.replace(plan, ensemble_of=tuple(str(one.folder.absolute()) for one in members)))
    run.write_table("split.csv", _common_split(members))
    run.write_table("problems.csv", pd.read_csv(members[0].folder / "problems.csv", keep_default_na=False))
    save_model(model, run.model_file)
    metrics: dict[str, Any] = {"validation": None, "test": None, "members": [], "notes": []}
    tables, proven = [], None
    with FreshProcess() as fresh:
        for part, name in (("val", "validation"), ("test", "test")):
            images = own_part(run, part)
            if not len(images):
                continue
            dataset = decoded(run, images)
            images, labels = dataset.images, dataset.images.labels()
            found = [
                predict_probabilities(one, dataset.examples().pixels, batch_size=BATCH) for one in (model, *models)
            ]
            scores = [evaluate(one, labels, plan.classes) for one in found]
            metrics[name] = scores[0]
            if part == "val":
                metrics["members"] = [
                    {"run": str(one.folder), "accuracy": score["accuracy"], "log_loss": score["log_loss"]}
                    for one, score in zip(members, scores[1:], strict=True)
                ]
            table = prediction_table(list(images.table["path"]), found[0], plan.classes)
            table.insert(1, "part", part)
            table.insert(2, "label", list(images.table["label"]))
            tables.append(table)
            proven = proven or (dataset, found[0])
        if proven is None:
            raise SpecError(
                "No image is validation or test in every one of the runs, so the ensemble cannot be judged."
            )
        run.write_table("predictions.csv", pd.concat(tables, ignore_index=True))
        export(model, plan.classes, run.saved_model, fit=plan.job.fit)
        chosen = parity_sample(len(proven[0]))
        dataset, probabilities = proven[0].take(chosen), proven[1][chosen]
        own = functools.partial(own_probabilities, model, dataset.examples().pixels)
        files = dataset.images.files()
        metrics["parity"] = prove_parity(run.saved_model, files, probabilities, plan.classes, fresh, own)
    metrics["seconds"] = {"total": round(time.monotonic() - started, 2)}
    run.write_json("metrics.json", metrics)
    run = finish_run(run, out)
    for one in metrics["members"]:
        log.info(f"member      accuracy {one['accuracy']:.1%}, log loss {one['log_loss']:.3f}  {one['run']}")
    return run


def _common_split(members: Sequence[Run]) -> Any:
    """The first run's images, each with the part that it has in every run, else train."""

    tables = [pd.read_csv(one.folder / "split.csv", dtype=str, keep_default_na=False) for one in members]
    first = tables[0].copy()
    for other in tables[1:]:
        part = first["path"].map(dict(zip(other["path"], other["part"], strict=True))).fillna("train")
        first["part"] = first["part"].where(first["part"] == part, "train")
    return first
