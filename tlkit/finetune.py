"""The main job as one sentence: a folder of images in, a run folder with a deployable classifier out."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.backbones import BACKBONES, Backbone, cached_file, find_weights
from tlkit.errors import RunError, SpecError, unknown
from tlkit.images import ImageSet, scan, split, summary
from tlkit.inference import examples_of, parity_sample
from tlkit.runs import Run, check_out, finish_run, next_free, open_run, start_run
from tlkit.spec import (
    FITS,
    Augmentation,
    Head,
    Recipe,
    Unfreeze,
    check_fields,
    check_max_error,
    recipe_from_dict,
    to_dict,
    with_epochs,
)
from tlkit.strategy import (
    AUTO,
    choose_recipe,
    compare_backbones,
    decide_by_tournament,
    find_augmentation,
    find_recipe,
    named_backbones,
)

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd

    from tlkit.pixels import Pixels

CHECK_SECONDS = 15  # at most for the class-safety check of a run without a limit of its own
Say = Callable[[str], None]


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
    verbose: bool = False,
    say: Say = lambda line: None,
) -> Run:
    """Fine-tune a pretrained backbone on a folder of images, evaluate it, export it, and prove the export.

    data: a folder of class folders, a folder of train/ val/ test/ folders, a CSV (see `tlkit.scan`), or the plan.json of an
        earlier run, which is then repeated; what is given here beside it takes precedence.
    backbone: a name of `tlkit backbones` or one's own `.keras` file; default mobilenetv2 if its ImageNet weights are on this
        machine, else nano, whose weights come with tlkit. Several with commas between, or "auto" for all whose weights are here, are
        compared by linear probes first.
    recipe: a Recipe, a name of `tlkit recipes`, or a file; default "auto", a tournament of strategies on held-out images (see
        `tlkit.tournament`), or by size and what was said of similarity, if it was.
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
        `tlkit.calibrate.refusal_threshold`).
    max_minutes: for the whole call.
    cache_gb: gigabytes that decoded images and outputs of frozen layers may take on disk, all runs together; default a fifth of
        what is free or taken by them.
    strict: any problem in the data is an error. report: also write `report.html` (see `tlkit.report`). dry_run: stop after the plan, write nothing, and return a Run whose folder
        was not made. force: replace an earlier run in `out` when the new one is finished; what else is there is never removed (see `tlkit.runs`).
    verbose: progress bars. say: called with each line for a person to read.

    Returns the Run. Raises the errors of `tlkit.errors`; names are checked before any image is read.
    """
    started = time.monotonic()
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
                    f"--weights none asks for random weights, and '{one.name}' brings its own. Leave --weights out."
                )
    name = network.short_name if len(networks) == 1 else "compared"
    folder = Path(out) if out is not None else next_free(Path("runs"), f"{_data_name(source)}-{name}")
    check_out(folder, force, source)

    seconds: dict[str, float] = {}
    with _timed(seconds, "scan"):
        images = scan(source, group_by=settings["group_by"], strict=strict)
    if settings["max_error"] is not None:  # now, not when everything is trained
        from tlkit.export import check_no_class_is_unsure

        check_no_class_is_unsure(images.class_names)
    _use_devices()
    compared: list[dict[str, Any]] = []
    if len(networks) > 1:
        with _timed(seconds, "compare"):
            network, decision = compare_backbones(networks, images, settings, cache_gb, say)
            settings["backbone"], compared = network.name, [decision]
    size = settings["image_size"] or network.size
    with _timed(seconds, "decode"):
        from tlkit.pixels import decode_images

        pixels, images = decode_images(images, size, settings["fit"], cache_gb)
    images = split(images, validation=settings["validation"], seed=settings["seed"], strict=strict)
    plan_recipe, decisions = _decide(images, own, network, settings, epochs, batch_size)
    run = Run(folder)
    if not dry_run:
        run = start_run(folder, force)
        if run.folder != folder:
            say(f"replaces  {folder}, which stays as it is until the new run, in {run.folder}, is finished\n")
        asked_for = plan_recipe if asked is None else dataclasses.replace(plan_recipe, augmentation=asked)
        plan = _plan(settings, asked_for, decisions, images, network, size, pixels, max_minutes)
        run.write_json("plan.json", {**plan, "recipe": None if auto else plan["recipe"], "decided": False})
        run.write_table("split.csv", images.table[["path", "label", "part", "group", "sha256"]])
        run.write_table("problems.csv", images.problems)
    model = history = None
    computed_before = 0  # images that the tournament ran through frozen layers
    if auto and dry_run:
        decisions = [
            {"what": "recipe", "chosen": AUTO, "why": "a tournament decides when the run begins", "evidence": {}}
        ]
    elif auto:
        with _timed(seconds, "decide"):
            outcome, decisions = decide_by_tournament(
                functools.partial(_build, network, images, settings=settings, size=size, precision=_precision("auto")),
                network,
                examples_of(images, pixels, "train", "val"),
                int((images.table["part"] == "train").sum()),
                pixels_key=pixels.key,
                seed=settings["seed"],
                minutes=None if max_minutes is None else (max_minutes - (time.monotonic() - started) / 60) / 2,
                cache_gb=cache_gb,
                epochs=epochs,
                batch_size=batch_size,
                similar=settings["similar"],
                verbose=verbose,
                say=say,
            )
            plan_recipe, model, history = _within(outcome.recipe, network), outcome.model, outcome.history
            computed_before = outcome.images_computed
    if asked is not None:
        plan_recipe, model, history = dataclasses.replace(plan_recipe, augmentation=asked), None, None
    if not plan_recipe.augmentation.is_identity() and not repeated and not dry_run:
        with _timed(seconds, "check"):
            plan_recipe, decision = _narrow(plan_recipe, images, allow, settings, max_minutes, cache_gb, say)
            decisions.append(decision)
    if not named:
        decisions.insert(0, {"what": "backbone", "chosen": network.name, "why": why, "evidence": {}})
    decisions = compared + decisions
    plan = _plan(settings, plan_recipe, decisions, images, network, size, pixels, max_minutes)
    for line in plan_lines(plan):
        say(line)
    if dry_run:
        return run

    run.write_json("plan.json", plan)
    if model is None or history is None:  # else the tournament has carried out the plan already
        with _timed(seconds, "build"):
            model = _build(network, images, plan_recipe.head, settings, size, plan["precision"])
        with _timed(seconds, "train"):
            from tlkit.train import train

            history = train(
                model,
                network,
                plan_recipe,
                examples_of(images, pixels, "train"),
                examples_of(images, pixels, "val"),
                seed=settings["seed"],
                pixels_key=pixels.key,
                deadline=_deadline(started, max_minutes, model, images, report),
                cache_gb=cache_gb,
                verbose=verbose,
                say=say,
            )
    from tlkit.evaluate import own_probabilities
    from tlkit.export import FreshProcess, export, prove_parity
    from tlkit.keras_files import save_model

    with FreshProcess() as fresh, ThreadPoolExecutor(1) as beside:
        run.write_table("history.csv", _history_table(history))
        model = _as_saved(model, network, plan_recipe, plan["precision"])
        save_model(model, run.model_file)
        with _timed(seconds, "evaluate"):
            probabilities, computed = _predict_parts(
                model, network, plan_recipe, images, pixels, cache_gb, verbose, say
            )
            scores, probabilities = _calibrate_and_score(run, model, images, probabilities, settings["max_error"])
            save_model(model, run.model_file)
        refusal = scores["refusal"]
        with _timed(seconds, "export"):
            unsure_below = refusal["threshold"] if refusal else 0.0
            export(model, images.class_names, run.saved_model, fit=settings["fit"], unsure_below=unsure_below)
        material = looking = None
        if report:  # what takes long in it is done beside the proof, which another process works on
            from tlkit.report import Material, look_at

            material = Material(run, model, images, pixels)
            looking = beside.submit(look_at, material, cache_gb=cache_gb)
        with _timed(seconds, "prove"):
            chosen = parity_sample(len(probabilities["val"]))
            part = images.part("val").take(chosen)
            ask_again = functools.partial(own_probabilities, model, pixels.of(part))
            parity = prove_parity(
                run.saved_model, part.files(), probabilities["val"][chosen], images.class_names, fresh, ask_again
            )
    seconds["total"] = time.monotonic() - started
    metrics = {
        **scores,
        "parity": parity,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "images_decoded": pixels.decoded,
        "images_computed": computed_before + history.images_computed + computed,
        "notes": history.notes,
    }
    run.write_json("metrics.json", metrics)  # from here on the run counts as finished
    run = finish_run(run, folder)
    for line in result_lines(run):
        say(line)
    if material is not None and looking is not None:
        from tlkit.report import write_report

        material = dataclasses.replace(material, run=run)
        say(f"{'report':<11} {write_report(material, looking.result(), verbose=verbose)}")
    return run


def _narrow(
    recipe: Recipe,
    images: ImageSet,
    allow: Sequence[str],
    settings: dict[str, Any],
    max_minutes: float | None,
    cache_gb: float | None,
    say: Say,
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with its augmentation narrowed to what is safe for these pictures, and the decision for the plan."""
    from tlkit.safety import check_safety, sentence

    seconds = CHECK_SECONDS if max_minutes is None else 6 * max_minutes  # a tenth of the run
    say("checking  what the augmentation does to the classes of these pictures")
    safety = check_safety(
        images,
        recipe.augmentation,
        allow=allow,
        seed=settings["seed"],
        deadline=time.monotonic() + seconds,
        thorough=False,
        cache_gb=cache_gb,
        say=say,
    )
    on = safety.augmentation.fields()
    decision = {
        "what": "augmentation",
        "chosen": ", ".join(on) or "none",
        "why": sentence(safety),
        "evidence": safety.to_dict(),
    }
    return dataclasses.replace(recipe, augmentation=safety.augmentation), decision


# -- before anything is read ------------------------------------------------------------------------------

_DEFAULTS: dict[str, Any] = {
    "backbone": None,
    "seed": 0,
    "image_size": None,
    "weights": "imagenet",
    "validation": 0.2,
    "group_by": None,
    "fit": "squash",
    "from_run": None,
    "similar": None,
    "max_error": None,
}


def _settings(data: str | Path, given: dict[str, Any]) -> tuple[dict[str, Any], Recipe | None, bool]:
    """What was given, over what an earlier plan says, over the defaults; that plan's recipe, None if it was to be found by a tournament; and
    whether the plan was decided when its run ended, its augmentation checked.
    """
    path, earlier, recipe, decided = Path(data), {}, None, True
    if path.is_dir() and (path / "plan.json").is_file():
        raise RunError(f"'{path}' is a run, not data. To repeat it, give '{path / 'plan.json'}'.")
    if path.suffix == ".json":
        if not path.is_file():
            raise RunError(f"No such plan: '{path}'. Expected the plan.json of an earlier run.")
        plan = Run(path.parent).plan if path.name == "plan.json" else {}
        if "settings" not in plan:
            raise RunError(f"'{path}' is not the plan.json of a run.")
        earlier, recipe = plan["settings"], plan["recipe"] and recipe_from_dict(plan["recipe"])
        decided = plan.get("decided", True)
        path = Path(earlier["data"])
    settings = {**_DEFAULTS, **earlier, **{name: value for name, value in given.items() if value is not None}}
    if settings["from_run"] and not earlier:
        if given["backbone"] is None:
            settings["backbone"] = open_run(settings["from_run"]).plan["settings"]["backbone"]
        if settings["image_size"] is None:
            settings["image_size"] = open_run(settings["from_run"]).plan["image_size"]
    settings["data"] = str(path.absolute())
    if settings["fit"] not in FITS:
        raise unknown("fit", settings["fit"], FITS)
    return settings, recipe, decided


def default_backbone() -> tuple[str, str]:
    """The backbone for a person who named none, and why: nothing is downloaded that nobody asked for."""
    if cached_file(BACKBONES["mobilenetv2"]):
        return "mobilenetv2", "none was named, and its ImageNet weights are on this machine"
    return "nano", (
        "none was named, and no ImageNet weights of mobilenetv2 are on this machine; nano comes with tlkit. "
        "--backbone mobilenetv2 downloads them and is more accurate on photographs"
    )


def _networks_of(settings: dict[str, Any]) -> list[Backbone]:
    """The backbone, or those to be compared."""
    networks = named_backbones(settings["backbone"])
    if settings["from_run"]:
        earlier = open_run(settings["from_run"]).plan["settings"]
        if earlier["backbone"] != settings["backbone"]:
            raise SpecError(
                f"The run '{settings['from_run']}' has the backbone {earlier['backbone']}, and {settings['backbone']} was asked for. "
                "Leave --backbone out, or start from another run."
            )
    return networks


def _check_numbers(
    settings: dict[str, Any], network: Backbone, size: int, max_minutes: float | None, cache_gb: float | None
) -> None:
    if size < network.smallest:
        raise SpecError(f"--image-size is {size}, and {network.name} takes {network.smallest} or more pixels.")
    if cache_gb is not None and cache_gb < 0:
        raise SpecError(f"--cache-gb is {cache_gb:g}. Expected 0 or more.")
    if max_minutes is not None and max_minutes <= 0:
        raise SpecError(f"--max-minutes is {max_minutes:g}. Expected a number above 0.")
    if not 0 < settings["validation"] < 1:
        raise SpecError(
            f"--validation is {settings['validation']:g}. Expected a share above 0 and below 1, such as 0.2."
        )


def _data_name(source: Path) -> str:
    """data/ gives data, birds/splits.csv gives birds-splits."""
    source = source.absolute()
    return source.name if source.is_dir() else f"{source.parent.name}-{source.stem}"


# -- the plan ---------------------------------------------------------------------------------------------


def _decide(
    images: ImageSet,
    own: Recipe | None,
    network: Backbone,
    settings: dict[str, Any],
    epochs: int | None,
    batch_size: int | None,
) -> tuple[Recipe, list[dict[str, Any]]]:
    training = int((images.table["part"] == "train").sum())
    if own is not None:
        recipe, decision = (
            own,
            {"what": "recipe", "chosen": own.name, "why": "it was asked for", "evidence": {}},
        )
    else:
        recipe, decision = choose_recipe(training, settings["similar"])
        recipe = _within(recipe, network)
    if epochs is not None:
        recipe = with_epochs(recipe, epochs)
    if batch_size is not None:
        recipe = dataclasses.replace(recipe, batch_size=batch_size)
    return recipe, [decision]


def _within(recipe: Recipe, network: Backbone) -> Recipe:
    """A recipe that was chosen, not asked for, unfreezes no more blocks than one's own small network has, or than may train."""
    most = network.blocks_to_unfreeze

    def fitted(unfreeze: Unfreeze) -> Unfreeze:
        return min(unfreeze, most) if isinstance(unfreeze, int) else unfreeze if most else 0

    stages = [dataclasses.replace(stage, unfreeze=fitted(stage.unfreeze)) for stage in recipe.stages]
    return dataclasses.replace(recipe, stages=tuple(stages))


def _plan(
    settings: dict[str, Any],
    recipe: Recipe,
    decisions: list[dict[str, Any]],
    images: ImageSet,
    network: Backbone,
    size: int,
    pixels: Pixels,
    max_minutes: float | None,
) -> dict[str, Any]:
    device, precision = _device(), _precision(recipe.precision)
    if recipe.precision == "auto":
        why = f"the recipe says auto, and the device is {device}"
        decisions = [
            *decisions,
            {"what": "precision", "chosen": precision, "why": why, "evidence": {"device": device}},
        ]
    if pixels.streamed:
        why = "the decoded images exceed the caches' limit (--cache-gb)"
        decisions = [
            *decisions,
            {"what": "pixels", "chosen": "decoded in every epoch", "why": why, "evidence": {}},
        ]
    parts = images.table["part"].value_counts()
    return {
        "tlkit": metadata.version("tlkit"),
        "command": shlex.join(["tlkit", *sys.argv[1:]]) if Path(sys.argv[0]).stem in ("tlkit", "__main__") else None,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": settings,
        "recipe": to_dict(recipe),
        "decisions": decisions,
        "backbone": {
            "name": network.name,
            "boundaries": list(network.boundaries),
            "parameters": network.parameters,
            "source": network.source,
            "sha256": network.weights_hash if network.source == "module" else None,
            "licence_of_weights": network.licence if network.file or settings["weights"] == "imagenet" else "your own",
        },
        "image_size": size,
        "classes": list(images.class_names),
        "images": {part: int(parts.get(part, 0)) for part in ("train", "val", "test")},
        "problems": summary(images),
        "max_minutes": max_minutes,
        "device": device,
        "precision": precision,
        "versions": {name: _version(name) for name in ("tensorflow", "keras", "numpy", "albumentations", "pandas")}
        | {"python": platform.python_version()},
    }


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The plan for a person to read."""
    images, settings = plan["images"], plan["settings"]
    parts = ", ".join(f"{count:,} {part}" for part, count in images.items() if count)
    lines = [f"data      {settings['data']}: {len(plan['classes'])} classes, {parts}"]
    if plan["problems"]:
        lines.append(f"problems  {plan['problems']} (named in problems.csv)")
    backbone = plan["backbone"]
    weights = f"from {settings['from_run']}" if settings["from_run"] else settings["weights"]
    terms = f" ({backbone['licence_of_weights']})" if settings["weights"] == "imagenet" else ""
    if backbone["name"] in BACKBONES and BACKBONES[backbone["name"]].shipped:
        weights = weights.replace("imagenet", "those that come with tlkit")
    if backbone["source"] != "table":
        weights = "its own" if not settings["from_run"] else weights
    if backbone["source"] == "module":
        terms += f", SHA-256 {backbone['sha256'][:12]}; one block: it is fine-tuned as a whole or not at all"
    lines.append(f"backbone  {backbone['name']} at {plan['image_size']} px, weights: {weights}{terms}")
    for decision in plan["decisions"]:
        sentences = decision["evidence"].get("sentences")
        lines.append(f"{decision['what']:<9} {decision['chosen']}" + ("" if sentences else f": {decision['why']}"))
        lines += [f"{'':<9} - {sentence}" for sentence in sentences or ()]
    return lines


def result_lines(run: Run) -> list[str]:
    """The outcome for a person to read, and what to do next."""
    metrics, lines = run.metrics, [""]
    for part in ("validation", "test"):
        score = metrics[part]
        if score:
            low, high = score["accuracy_95"]
            lines.append(
                f"{part:<11} accuracy {score['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, n = {score['n']:,}), "
                f"macro-F1 {score['macro_f1']:.3f}"
            )
    calibration, best = metrics["calibration"], "test" if metrics["test"] else "validation"
    before, after = calibration["before"][best], metrics[best]
    lines.append(
        f"{'calibrated':<11} temperature {calibration['temperature']:.2f} (from {calibration['fitted_on']:,} validation images): {best} "
        f"calibration error {before['ece']:.3f} to {after['ece']:.3f}, log loss {before['log_loss']:.3f} to {after['log_loss']:.3f}"
    )
    if metrics["refusal"]:
        lines.append(f"{'unsure':<11} {refusal_sentence(metrics['refusal'])}")
    parity = metrics["parity"]
    lines.append(
        f"{'served':<11} equals trained on {parity['top1_agreement']:.0%} of {parity['n']} files, "
        f"largest difference {parity['max_difference']:.1e}"
        + (
            f"; {parity['asked_again']} evaluated again without rounding, which differed by up to {parity['evaluated_difference']:.1e}"
            if parity["asked_again"]
            else ""
        )
    )
    lines += [f"{'note':<11} {note}" for note in metrics["notes"]]
    lines.append(f"{'took':<11} {metrics['seconds']['total']:.0f} s")
    lines.append(f"{'run':<11} {run.folder}")
    lines.append(f"{'next':<11} tlkit predict {run.folder} FILE...")
    return lines


def refusal_sentence(refusal: dict[str, Any]) -> str:
    """What `--max-error` came to."""
    asked, seen = refusal["max_error"], refusal["validation"]
    if refusal["threshold"] > 1:
        return (
            f"no threshold keeps errors at {asked:.1%} on the {seen['n']:,} validation images: every answer is unsure"
        )
    held = (
        "with 95 % confidence"
        if refusal["assured"]
        else f"on the {seen['n']:,} validation images, too few to assure it"
    )
    said = f"below {refusal['threshold']:.3f}, which keeps errors at {asked:.1%} {held}"
    for part in ("validation", "test"):
        if refusal[part] and refusal[part]["answered"]:
            one = refusal[part]
            said += f"; {part}: {one['coverage']:.1%} answered, {one['error']:.1%} of them wrong"
    return said


# -- training ---------------------------------------------------------------------------------------------


def _build(
    network: Backbone, images: ImageSet, head: Head, settings: dict[str, Any], size: int, precision: str
) -> keras.Model:
    from tlkit.inference import load_model
    from tlkit.model import build_classifier, copy_weights

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


def _deadline(
    started: float, max_minutes: float | None, model: keras.Model, images: ImageSet, report: bool
) -> float | None:
    """When training must end, so that evaluation, export, the parity proof and the report still fit into the limit."""
    if max_minutes is None:
        return None
    import numpy as np

    from tlkit.frozen import frozen_call

    call, batch = frozen_call(model, 16), np.zeros((16, *model.input_shape[1:]), "uint8")
    call(batch)  # the first call traces
    before = time.monotonic()
    call(batch)
    per_image = (time.monotonic() - before) / 16
    parts = images.table["part"].value_counts()
    val, test = int(parts.get("val", 0)), int(parts.get("test", 0))
    # the last epoch's validation, the evaluation of both parts, and the proof
    reserve = 25 + 1.3 * per_image * (val + val + test + len(parity_sample(val)))
    if report:  # measured: 5 s with 600 pictures, 22 s with 3,781
        reserve += 5 + 0.005 * len(images)
    return started + 60 * max_minutes - reserve


def _history_table(history: Any) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(history.rows)


def _as_saved(model: keras.Model, network: Backbone, recipe: Recipe, precision: str) -> keras.Model:
    import keras

    from tlkit.model import as_float32

    if precision != "float32":
        model = as_float32(model, network, recipe.head)
    for layer in model.layers:
        layer.trainable = True  # which layers a stage froze is no property of the saved model
    return keras.Model(model.input, model.output, name=model.name)  # without what the last stage compiled into it


def _predict_parts(
    model: keras.Model,
    network: Backbone,
    recipe: Recipe,
    images: ImageSet,
    pixels: Pixels,
    cache_gb: float | None,
    verbose: bool,
    say: Say,
) -> tuple[dict[str, np.ndarray], int]:
    """Probabilities by part, and how many images ran through the frozen blocks."""
    from tlkit.evaluate import predict_from_cache
    from tlkit.features import while_memory_lasts
    from tlkit.frozen import inference_batch

    probabilities, computed = {}, 0
    for part in ("val", "test"):
        chosen, examples = images.part(part), examples_of(images, pixels, part)
        if not len(chosen):
            continue
        found, ran = while_memory_lasts(
            functools.partial(
                predict_from_cache,
                model,
                network,
                recipe.stages[-1].unfreeze,
                examples,
                pixels_key=pixels.key,
                cache_gb=cache_gb,
                verbose=verbose,
            ),
            inference_batch(recipe.batch_size),
            say,
        )
        computed += ran
        probabilities[part] = found
    return probabilities, computed


def _calibrate_and_score(
    run: Run, model: keras.Model, images: ImageSet, raw: dict[str, np.ndarray], max_error: float | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Bakes a temperature into the model, writes the predictions, and returns what `metrics.json` says of both parts and the tempered
    probabilities by part.
    """
    import pandas as pd

    from tlkit.calibrate import bake, fit_temperature, refusal_threshold, temper
    from tlkit.evaluate import evaluate, prediction_table

    labels = {part: images.part(part).labels() for part in raw}
    temperature = fit_temperature(raw["val"], labels["val"])
    bake(model, temperature)
    probabilities = {part: temper(found, temperature) for part, found in raw.items()}
    before, scores, tables = {}, {}, []
    for part, found in probabilities.items():
        uncalibrated = evaluate(raw[part], labels[part], images.class_names)
        before[part] = {name: uncalibrated[name] for name in ("log_loss", "ece")}
        scores[part] = evaluate(found, labels[part], images.class_names)
        mine = images.part(part).table
        table = prediction_table(list(mine["path"]), found, images.class_names)
        table.insert(1, "part", part)
        table.insert(2, "label", list(mine["label"]))
        tables.append(table)
    run.write_table("predictions.csv", pd.concat(tables, ignore_index=True))
    refusal = None
    if max_error is not None:
        chosen = refusal_threshold(probabilities["val"], labels["val"], max_error)
        measured = {part: chosen.measured(probabilities[part], labels[part]) for part in raw}
        refusal = {
            **dataclasses.asdict(chosen),
            "validation": measured["val"],
            "test": measured.get("test"),
        }
    numbers = {
        "validation": scores["val"],
        "test": scores.get("test"),
        "calibration": {
            "temperature": temperature,
            "fitted_on": len(labels["val"]),
            "before": {"validation": before["val"], "test": before.get("test")},
        },
        "refusal": refusal,
    }
    return numbers, probabilities


# -- the machine ------------------------------------------------------------------------------------------


def _use_devices() -> None:
    """Let TensorFlow take a GPU's memory as it needs it, not all at once. Harmless without a GPU."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            return  # TensorFlow is in use already, with the settings of the script that uses it


def _device() -> str:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "unknown") for gpu in gpus]
    return f"GPU, {', '.join(names)}"


def _precision(asked: str) -> str:
    """A recipe's precision as a Keras dtype policy for the device there is."""
    if asked != "auto":
        return asked
    return "mixed_float16" if _device().startswith("GPU") else "float32"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


class _timed:
    """Adds the seconds that a block took to a table."""

    def __init__(self, table: dict[str, float], name: str) -> None:
        self._table, self._name = table, name

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *problem: Sequence[object]) -> None:
        self._table[self._name] = time.monotonic() - self._start
