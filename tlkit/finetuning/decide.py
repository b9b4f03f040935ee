"""Decides the recipe and its augmentation, and writes the plan with its reasons."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tlkit.backbones import Backbone
from tlkit.backbones.weights import sha256_of, weights_sha256
from tlkit.checkpoints import Checkpoints
from tlkit.data.images import summary
from tlkit.devices import _device, _precision, several_devices
from tlkit.finetuning.build import Decided, Trained, build
from tlkit.finetuning.prepare import Prepared
from tlkit.folders import PLAN
from tlkit.plan.address import redacted_arguments
from tlkit.plan.augmentation import PRESETS, Augmentation, augmentation_from_dict
from tlkit.plan.decision import Decision
from tlkit.plan.job import Job
from tlkit.plan.plan import Plan, PlannedBackbone
from tlkit.plan.recipe import Head, Recipe, Unfreeze, with_epochs, with_learning_rate
from tlkit.plan.scaling import RULE, scaled
from tlkit.progress import NO_DEADLINE, Clock, Deadline, log
from tlkit.runs.folder import Run, open_run
from tlkit.safety.check import check_safety
from tlkit.safety.verdict import sentence
from tlkit.strategy.recipes import STEP, choose_recipe, decide_by_tournament, foresee_tournament
from tlkit.strategy.tournament import training_name

CHECK_SECONDS = 180  # time limit of the class-safety check in a run without a time limit: several times what it takes,
# so that a machine that is busy with other work checks the same fields
VERSIONS = ("tensorflow", "keras", "numpy", "albumentations", "pandas")


def decide(prepared: Prepared, run: Run, clock: Clock | None = None, checkpoints: Checkpoints | None = None) -> Decided:
    """Decide what the job leaves open: the recipe, and how much of its augmentation keeps the classes.

    The run's plan.json is written before anything is decided, and again after each decision. With the checkpoints of a
    run that was stopped, what was decided is not decided again.
    """
    clock, done = clock or Clock(), None if checkpoints is None else checkpoints.of("decided")
    if done and (before := done.read()) is not None:
        return Decided(run.plan, None, before["images_computed"], before["training"])
    decided = _decide(prepared, run, clock, checkpoints)
    if done:
        done.save({"images_computed": decided.images_computed, "training": decided.training})
    return decided


def _decide(prepared: Prepared, run: Run, clock: Clock, checkpoints: Checkpoints | None) -> Decided:
    recipe, decisions = _asked_or_by_size(prepared)
    trained, computed, training = None, 0, "train"
    begun = run.plan if checkpoints is not None and (run.folder / PLAN).is_file() else None
    undecided = None if prepared.job.by_tournament else recipe
    run.write_plan(_as_begun(draw_up(prepared, undecided, (), decided=False), begun))
    if prepared.job.by_tournament:
        safe = functools.cache(functools.partial(_safe, prepared, clock, checkpoints))
        with clock.timed(STEP):
            builder = functools.partial(build, prepared, precision=_precision("auto"))
            pool, count = prepared.dataset.part("train", "validation"), prepared.dataset.count("train")
            outcome, decisions = decide_by_tournament(
                builder, prepared.backbone, pool, count, prepared.job, clock.deadline, lambda: safe()[0], checkpoints
            )
        recipe, computed = _limited_to(outcome.recipe, prepared.backbone), outcome.images_computed
        if outcome.model is not None and outcome.history is not None:
            training = training_name(outcome.recipe)
            trained = Trained(outcome.model, outcome.history, computed + outcome.history.images_computed)
            decisions = [*decisions, safe()[1]]
        run.write_plan(_as_begun(draw_up(prepared, recipe, decisions, decided=False), begun))
    if trained is None and prepared.augmentation is not None:
        recipe = dataclasses.replace(recipe, augmentation=prepared.augmentation)
    if trained is None and not recipe.augmentation.is_identity() and not _was_checked(prepared):
        augmentation, narrowed = _narrow(recipe.augmentation, prepared, clock, checkpoints)
        recipe, decisions = dataclasses.replace(recipe, augmentation=augmentation), [*decisions, narrowed]
    plan = _as_begun(draw_up(prepared, recipe, decisions), begun)
    run.write_plan(plan)
    return Decided(plan, trained, computed, training)


def _as_begun(plan: Plan, begun: Plan | None) -> Plan:
    """A plan with the command and the date of the one that a resumed run began with."""
    return plan if begun is None else dataclasses.replace(plan, command=begun.command, started=begun.started)


def foresee(prepared: Prepared, deadline: Deadline = NO_DEADLINE) -> Plan:
    """The plan of a dry run: as far as it is known before anything but a forward pass is timed."""
    recipe, decisions = _asked_or_by_size(prepared)
    if prepared.job.by_tournament:
        builder = functools.partial(build, prepared, precision=_precision("auto"))
        training, validation = (prepared.dataset.count(split) for split in ("train", "validation"))
        foreseen = foresee_tournament(builder, prepared.backbone, training, validation, prepared.job, deadline)
        decisions = [foreseen]
    if prepared.augmentation is not None:
        recipe = dataclasses.replace(recipe, augmentation=prepared.augmentation)
    return draw_up(prepared, recipe, decisions, decided=False)


def _command() -> str | None:
    """The command line, without secrets; None if tlkit was called from Python."""
    if Path(sys.argv[0]).stem not in ("tlkit", "__main__"):
        return None
    return shlex.join(["tlkit", *redacted_arguments(sys.argv[1:])])


def draw_up(prepared: Prepared, recipe: Recipe | None, decisions: Sequence[Decision], *, decided: bool = True) -> Plan:
    """Make the plan of a job.

    Its decisions are those of `prepared`, then these, then those that follow from them (precision, pixels).
    """
    job, dataset, backbone = prepared.job, prepared.dataset, prepared.backbone
    earlier = None if job.from_run is None else open_run(job.from_run)
    asked_precision = recipe.precision if recipe else "auto"
    device, precision = _device(), _precision(asked_precision)
    follows = []
    if asked_precision == "auto":
        why = f"the recipe says auto, and the device is {device}"
        follows.append(Decision("precision", precision, why, {"device": device}))
    if job.devices is not None or several_devices():
        follows.append(_devices(job, recipe))
    if dataset.pixels.streamed:
        why = "the decoded images exceed the caches' limit (`cache_gb`)"
        follows.append(Decision("pixels", "decoded in every epoch", why))
    return Plan(
        tlkit=metadata.version("tlkit"),
        command=_command(),
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        job=job,
        recipe=recipe,
        decisions=(*prepared.decisions, *decisions, *follows),
        backbone=PlannedBackbone(
            backbone.name,
            backbone.boundaries,
            backbone.parameters,
            backbone.origin,
            weights_sha256(backbone, job.weights) if earlier is None else sha256_of(earlier.model_file),
            backbone.licence_line(job.weights) if earlier is None else earlier.plan.backbone.licence_of_weights,
            backbone.pixels,
        ),
        image_size=dataset.pixels.size,
        depth=dataset.pixels.depth,
        classes=tuple(dataset.class_names),
        images={split: dataset.count(split) for split in ("train", "validation", "test")},
        problems=summary(dataset.images),
        device=device,
        precision=precision,
        versions=versions(),
        decided=decided,
    )


def _devices(job: Job, recipe: Recipe | None) -> Decision:
    """What is computed on several devices, and what it changes."""
    devices = several_devices()
    found = "it was asked for" if job.devices is not None else "they are all GPUs of this machine"
    if not devices:
        return Decision("devices", str(job.devices), found)
    evidence = {"devices": list(devices), "batch_size": recipe and recipe.batch_size, "scaled": job.scale_batch}
    if job.scale_batch:
        what = f"the batch is {len(devices)} times as large, and {RULE}"
    else:
        what = "batch size, learning rate and losses stay those of one device"
    return Decision("devices", f"{len(devices)} ({', '.join(devices)})", f"{found}; {what}", evidence)


def _asked_or_by_size(prepared: Prepared) -> tuple[Recipe, list[Decision]]:
    """The recipe that was asked for, else one by the number of images, with what the job says of its training."""
    job = prepared.job
    if prepared.recipe is not None:
        recipe, decision = prepared.recipe, Decision("recipe", prepared.recipe.name, "it was asked for")
    else:
        recipe, decision = choose_recipe(prepared.dataset.count("train"), job.similar)
        recipe = _limited_to(recipe, prepared.backbone)
    if job.epochs is not None:
        recipe = with_epochs(recipe, job.epochs)
    if job.learning_rate is not None:
        recipe = with_learning_rate(recipe, job.learning_rate)
    if job.batch_size is not None:
        recipe = dataclasses.replace(recipe, batch_size=job.batch_size)
    if job.balance is not None:
        weights, prior = job.balance == "weights", job.balance == "prior"
        recipe = dataclasses.replace(recipe, class_weights=weights, prior_shift=prior)
    if job.scale_batch:
        recipe = scaled(recipe, len(several_devices()))
    own_head = prepared.backbone.own_head
    if own_head is not None and _takes_own_head(job, recipe):
        why = f"{prepared.backbone.name} starts from random weights, and the recipe gives no other head"
        recipe = dataclasses.replace(recipe, head=own_head)
        return recipe, [decision, Decision("head", "that of the network's paper", why)]
    return recipe, [decision]


def _takes_own_head(job: Job, recipe: Recipe) -> bool:
    """Whether a network that starts from random weights takes the head of its paper, since no other is given."""
    scratch = job.weights == "none" and job.from_run is None
    return scratch and recipe.head == Head() and all(stage.solver == "gradient" for stage in recipe.stages)


def _was_checked(prepared: Prepared) -> bool:
    """Whether an earlier run has checked this recipe's augmentation on these images."""
    recipe = prepared.recipe
    return recipe is not None and recipe == prepared.job.checked and prepared.augmentation is None


def _safe(prepared: Prepared, clock: Clock, checkpoints: Checkpoints | None) -> tuple[Augmentation, Decision]:
    """The augmentation of fine-tuning in a tournament: the one asked for or the standard one, as far as safe."""
    asked = prepared.augmentation
    if asked is not None and asked.is_identity():
        return asked, Decision("augmentation", "none", "it was asked for")
    return _narrow(asked or PRESETS["standard"], prepared, clock, checkpoints)


def _narrow(
    augmentation: Augmentation, prepared: Prepared, clock: Clock, checkpoints: Checkpoints | None
) -> tuple[Augmentation, Decision]:
    """Narrow an augmentation to what is safe for these images, once for a run, also if it is stopped and resumed.

    Returns it, and the decision for the plan.
    """

    def checked() -> dict[str, Any]:
        narrowed, decision = _checked(augmentation, prepared, clock)
        return {"augmentation": dataclasses.asdict(narrowed), "decision": decision.to_dict()}

    if checkpoints is None:
        return _checked(augmentation, prepared, clock)
    digest = hashlib.sha256(repr(augmentation).encode()).hexdigest()
    found = checkpoints.once(f"check {digest[:8]}", checked)
    return augmentation_from_dict(found["augmentation"]), Decision.from_dict(found["decision"])


def _checked(augmentation: Augmentation, prepared: Prepared, clock: Clock) -> tuple[Augmentation, Decision]:
    job, dataset = prepared.job, prepared.dataset
    seconds = CHECK_SECONDS if job.max_minutes is None else 6 * job.max_minutes  # a tenth of the run
    log.info("checking  whether the augmentation keeps the classes of these images")
    with clock.timed("check"):
        safety = check_safety(
            dataset,
            augmentation,
            allow=job.allow,
            seed=job.seed,
            deadline=Deadline.after(seconds),
            thorough=False,
        )
    fields = safety.augmentation.fields()
    decision = Decision("augmentation", ", ".join(fields) or "none", sentence(safety), safety.to_dict())
    return safety.augmentation, decision


def _limited_to(recipe: Recipe, network: Backbone) -> Recipe:
    """Limit a recipe to the blocks that a network has and may train.

    Only for a recipe that was chosen by tlkit: one that was asked for fails instead.
    """
    most = network.blocks_to_unfreeze

    def limited(unfreeze: Unfreeze) -> Unfreeze:
        return min(unfreeze, most) if isinstance(unfreeze, int) else unfreeze if most else 0

    stages = [dataclasses.replace(stage, unfreeze=limited(stage.unfreeze)) for stage in recipe.stages]
    return dataclasses.replace(recipe, stages=tuple(stages))


def versions() -> dict[str, str]:
    """The installed versions of what a run depends on, for the plan."""
    return {name: _version(name) for name in VERSIONS} | {"python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
