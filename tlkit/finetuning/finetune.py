"""The main job as one sentence: a folder of images in, a run folder with a deployable classifier out."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from tlkit.backbones import find_weights
from tlkit.cache import Cache
from tlkit.data.dataset import decode_images
from tlkit.data.scan import scan
from tlkit.deployment.parity import FreshProcess, prove_parity
from tlkit.deployment.saved_model import check_no_class_is_unsure, export
from tlkit.devices import _precision, _use_devices
from tlkit.errors import SpecError
from tlkit.evaluation.predict import own_probabilities
from tlkit.finetuning.decide import _decide, _narrow, _plan, _within
from tlkit.finetuning.fit import _build, training_deadline
from tlkit.finetuning.judge import _as_saved, _calibrate_and_score, _predict_parts
from tlkit.finetuning.prepare import _check_numbers, _data_name, _networks_of, _settings, default_backbone
from tlkit.finetuning.words import plan_lines, result_lines
from tlkit.models.files import save_model
from tlkit.plan.augmentation import Augmentation, check_fields, find_augmentation
from tlkit.plan.decision import Decision
from tlkit.plan.job import AUTO, check_max_error
from tlkit.plan.recipe import Recipe
from tlkit.progress import Deadline, log, timed
from tlkit.recipes import find_recipe
from tlkit.reporting.findings import ReportInputs, analyse
from tlkit.reporting.report import write_report
from tlkit.runs.folder import Run, check_out, finish_run, next_free, start_run
from tlkit.runs.reading import parity_sample
from tlkit.strategy.backbones import compare_backbones
from tlkit.strategy.recipes import decide_by_tournament
from tlkit.training.train import train


def finetune(
    data: str | Path,
    *,
    backbone: str | None = None,
    recipe: str | Recipe | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    weights: str | None = None,
    validation: float | None = None,
    group_by: str | None = None,
    similar: bool | None = None,
    fit: str | None = None,
    from_run: str | Path | None = None,
    augment: str | Augmentation | None = None,
    allow: Sequence[str] = (),
    max_error: float | None = None,
    max_minutes: float | None = None,
    cache_gb: float | None = None,
    strict: bool = False,
    report: bool = True,
    dry_run: bool = False,
    force: bool = False,
) -> Run:
    """Fine-tune a pretrained backbone on a folder of images, evaluate it, export it, and prove the export.

    data: a folder of class folders, a folder of train/ val/ test/ folders, a CSV (see `tlkit.scan`), or the plan.json of an
        earlier run, which is then repeated; what is given here beside it takes precedence.
    backbone: a name of `tlkit backbones` or one's own `.keras` file; default mobilenetv2 if its ImageNet weights are on this
        machine, else nano, whose weights come with tlkit. Several with commas between, or "auto" for all whose weights are here, are
        compared by linear probes first.
    recipe: a Recipe, a name of `tlkit recipes`, or a file; default "auto", a tournament of strategies on held-out images (see
        `tlkit.strategy.tournament`), or by size and what was said of similarity, if it was.
    out: the run folder; default the first free runs/DATA-BACKBONE-N.
    seed: default 0. epochs: replaces the epochs of every stage. image_size: pixels, default the backbone's native size.
    batch_size: default the recipe's. weights: "imagenet" (default), "none" or a file.
    validation: share of the training images, default 0.2; unused when the data brings its own validation part.
    group_by: CSV column whose equal values stay in one part. similar: whether the pictures are like ImageNet's.
    fit: "squash" (default), "crop" or "pad": how a picture becomes a square.
    from_run: start from an earlier run's backbone weights.
    augment: an Augmentation, a preset ("none", "light", "standard", "strong", "trivial") or a JSON file of fields, in the place of the
        recipe's. Whatever augmentation a recipe has is checked on these pictures and narrowed to what keeps their classes (see
        `tlkit.safety`). allow: fields that stay as asked all the same.
    max_error: the share of errors at which answers are to be kept: what is not sure enough is served as "unsure" (see
        `tlkit.evaluation.refusal.refusal_threshold`).
    max_minutes: for the whole call.
    cache_gb: gigabytes that decoded images and outputs of frozen layers may take on disk, all runs together; default a fifth of
        what is free or taken by them.
    strict: any problem in the data is an error. report: also write `report.html` (see `tlkit.report`). dry_run: stop after the plan, write nothing, and return a Run whose folder
        was not made. force: replace an earlier run in `out` when the new one is finished; what else is there is never removed (see `tlkit.folders`).
    What is done is logged, as lines for a person to read: see `tlkit.progress`.

    Returns the Run. Raises the errors of `tlkit.errors`; names are checked before any image is read.
    """
    started = time.monotonic()
    deadline = Deadline.after(None if max_minutes is None else 60 * max_minutes)
    given = {
        "backbone": backbone,
        "seed": seed,
        "image_size": image_size,
        "weights": weights,
        "validation": validation,
        "group_by": group_by,
        "fit": fit,
        "from_run": str(from_run) if from_run is not None else None,
        "similar": similar,
        "max_error": max_error,
    }
    settings, planned_recipe, decided = _settings(data, given)
    source = Path(settings["data"])
    named = settings["backbone"] is not None
    if not named:
        settings["backbone"], why = default_backbone()
    networks = _networks_of(settings)
    network = networks[0]
    own = find_recipe(recipe) if isinstance(recipe, str) and recipe != AUTO else recipe or planned_recipe
    auto = own == AUTO or (own is None and settings["similar"] is None)
    own = None if isinstance(own, str) else own
    asked = None if augment is None else find_augmentation(augment)
    repeated = (
        decided and planned_recipe is not None and own is planned_recipe and asked is None
    )  # its augmentation was checked then
    check_fields(allow)
    check_max_error(settings["max_error"])
    for one in networks:
        for stage in own.stages if own else ():
            one.block_count(stage.unfreeze)
        _check_numbers(settings, one, settings["image_size"] or one.size, max_minutes, cache_gb)
        if not settings["from_run"]:
            find_weights(one, settings["weights"])
            if one.file and settings["weights"] == "none":
                raise SpecError(
                    f"`weights=none` asks for random weights, and '{one.name}' brings its own. Leave `weights` out."
                )
    name = network.short_name if len(networks) == 1 else "compared"
    folder = Path(out) if out is not None else next_free(Path("runs"), f"{_data_name(source)}-{name}")
    check_out(folder, force, source)

    seconds: dict[str, float] = {}
    with timed(seconds, "scan"):
        images = scan(source, group_by=settings["group_by"], strict=strict)
    if settings["max_error"] is not None:  # now, not when everything is trained
        check_no_class_is_unsure(images.class_names)
    _use_devices()
    cache = Cache(cache_gb)
    compared: list[Decision] = []
    if len(networks) > 1:
        with timed(seconds, "compare"):
            network, decision = compare_backbones(networks, images, settings, cache)
            settings["backbone"], compared = network.name, [decision]
    size = settings["image_size"] or network.size
    with timed(seconds, "decode"):
        dataset = decode_images(images, size, settings["fit"], cache)
    dataset = dataset.split(validation=settings["validation"], seed=settings["seed"], strict=strict)
    images = dataset.images
    plan_recipe, decisions = _decide(dataset, own, network, settings, epochs, batch_size)
    run = Run(folder)
    if not dry_run:
        run = start_run(folder, force)
        if run.folder != folder:
            log.info(f"replaces  {folder}, which stays as it is until the new run, in {run.folder}, is finished\n")
        asked_for = plan_recipe if asked is None else dataclasses.replace(plan_recipe, augmentation=asked)
        plan = _plan(settings, asked_for, decisions, dataset, network, max_minutes)
        run.write_json("plan.json", {**plan, "recipe": None if auto else plan["recipe"], "decided": False})
        run.write_table("split.csv", images.table[["path", "label", "part", "group", "sha256"]])
        run.write_table("problems.csv", images.problems)
    model = history = None
    computed_before = 0  # images that the tournament ran through frozen layers
    if auto and dry_run:
        decisions = [Decision("recipe", AUTO, "a tournament decides when the run begins")]
    elif auto:
        with timed(seconds, "decide"):
            outcome, decisions = decide_by_tournament(
                functools.partial(_build, network, images, settings=settings, size=size, precision=_precision("auto")),
                network,
                dataset.part("train", "val"),
                dataset.count("train"),
                seed=settings["seed"],
                deadline=deadline,
                epochs=epochs,
                batch_size=batch_size,
                similar=settings["similar"],
            )
            plan_recipe, model, history = _within(outcome.recipe, network), outcome.model, outcome.history
            computed_before = outcome.images_computed
    if asked is not None:
        plan_recipe, model, history = dataclasses.replace(plan_recipe, augmentation=asked), None, None
    if not plan_recipe.augmentation.is_identity() and not repeated and not dry_run:
        with timed(seconds, "check"):
            plan_recipe, decision = _narrow(plan_recipe, dataset, allow, settings, max_minutes)
            decisions.append(decision)
    if not named:
        decisions.insert(0, Decision("backbone", network.name, why))
    decisions = compared + decisions
    plan = _plan(settings, plan_recipe, decisions, dataset, network, max_minutes)
    for line in plan_lines(plan):
        log.info(line)
    if dry_run:
        return run

    run.write_json("plan.json", plan)
    if model is None or history is None:  # else the tournament has carried out the plan already
        with timed(seconds, "build"):
            model = _build(network, images, plan_recipe.head, settings, size, plan["precision"])
        with timed(seconds, "train"):
            history = train(
                model,
                network,
                plan_recipe,
                dataset.part("train"),
                dataset.part("val"),
                seed=settings["seed"],
                deadline=training_deadline(deadline, model, dataset, report),
            )

    with FreshProcess() as fresh, ThreadPoolExecutor(1) as beside:
        run.write_table("history.csv", _history_table(history))
        model = _as_saved(model, network, plan_recipe, plan["precision"])
        save_model(model, run.model_file)
        with timed(seconds, "evaluate"):
            probabilities, computed = _predict_parts(model, network, plan_recipe, dataset)
            scores, probabilities = _calibrate_and_score(run, model, images, probabilities, settings["max_error"])
            save_model(model, run.model_file)
        refusal = scores["refusal"]
        with timed(seconds, "export"):
            unsure_below = refusal["threshold"] if refusal else 0.0
            export(model, images.class_names, run.saved_model, fit=settings["fit"], unsure_below=unsure_below)
        material = looking = None
        if report:  # what takes long in it is done beside the proof, which another process works on
            material = ReportInputs(run, model, dataset)
            looking = beside.submit(analyse, material)
        with timed(seconds, "prove"):
            chosen = parity_sample(len(probabilities["val"]))
            part = images.part("val").take(chosen)
            ask_again = functools.partial(own_probabilities, model, dataset.pixels.of(part))
            parity = prove_parity(
                run.saved_model, part.files(), probabilities["val"][chosen], images.class_names, fresh, ask_again
            )
    seconds["total"] = time.monotonic() - started
    metrics = {
        **scores,
        "parity": parity,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "images_decoded": dataset.pixels.decoded,
        "images_computed": computed_before + history.images_computed + computed,
        "notes": history.notes,
    }
    run.write_json("metrics.json", metrics)  # from here on the run counts as finished
    run = finish_run(run, folder)
    for line in result_lines(run):
        log.info(line)
    if material is not None and looking is not None:
        material = dataclasses.replace(material, run=run)
        log.info(f"{'report':<11} {write_report(material, looking.result())}")
    return run


def _history_table(history: Any) -> pd.DataFrame:

    return pd.DataFrame(history.rows)
