"""The main job: from a folder of images to a run folder with a deployable classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.backbones import Backbone
from tlkit.deployment.parity import FreshProcess
from tlkit.finetuning.decide import decide, foresee
from tlkit.finetuning.deliver import deliver
from tlkit.finetuning.fit import fit
from tlkit.finetuning.judge import judge
from tlkit.finetuning.prepare import prepare
from tlkit.finetuning.resolve import resolve
from tlkit.finetuning.transfer import transfer_gain
from tlkit.finetuning.words import plan_lines
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.in_memory import InMemory
from tlkit.plan.job import OPTIONS, Job
from tlkit.plan.plan import Plan
from tlkit.plan.recipe import Recipe
from tlkit.plan.spelling import JOB_ALIASES, in_names_of_a_job
from tlkit.progress import Clock, Deadline, log
from tlkit.runs.folder import Run, check_out, next_free, start_run
from tlkit.runs.trackers import tell
from tlkit.strategy.recipes import delivery_seconds
from tlkit.training.own_callbacks import checked_callbacks

if TYPE_CHECKING:
    import keras


def finetune(
    data: str | Path | InMemory | Job,
    *,
    backbone: str | None = None,
    recipe: Recipe | str | None = None,
    similar: bool | None = None,
    effort: str = "normal",
    metric: str | None = None,
    balance: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    learning_rate: float | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    weights: str = "imagenet",
    accept_licence: bool = False,
    validation: float = 0.2,
    test: float | None = None,
    group_by: str | None = None,
    columns: Mapping[str, str] | str | None = None,
    class_names: Sequence[str] | None = None,
    fit: str = "squash",
    from_run: str | Path | None = None,
    augment: Augmentation | str | None = None,
    allow: Sequence[str] = (),
    refit: bool | None = None,
    folds: int | None = None,
    max_error: float | None = None,
    max_minutes: float | None = None,
    cache_gb: float | None = None,
    strict: bool = False,
    report: bool = True,
    out: str | Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    accept_license: bool | None = None,
    validation_split: float | None = None,
    crop_to_aspect_ratio: bool | None = None,
    pad_to_aspect_ratio: bool | None = None,
    color_mode: str | None = None,
) -> Run:
    """Fine-tune a pretrained backbone on a folder of images, evaluate it, export it, and prove the export.

    Each step is logged, see `tlkit.progress`.

    Args:
        data: A folder of class folders, a folder of train/ val/ test/ folders, or a CSV (see `tlkit.scan`). Or data in
            memory: see `tlkit.from_arrays`, `tlkit.from_dataframe` and `tlkit.from_dataset`. Or a `Job`,
            which holds all keywords up to `report`. Or the plan.json of an earlier run, to repeat that run;
            keywords that differ from their defaults take precedence. To set one back to its default, use
            `dataclasses.replace(tlkit.Job.read("RUN/plan.json"), seed=0)`.
        backbone, ..., report: The fields of `tlkit.Job`, explained there.
        out: The run folder. None: the first free runs/DATA-BACKBONE-N.
        force: Replace an earlier run in `out` when the new one is finished. Other files are never removed (see
            `tlkit.folders`).
        dry_run: Log the plan and stop. Nothing is written, and the Run's folder does not exist.
        callbacks: Any of Keras', for the training: see `tlkit.train`. A solved head, each fold of cross-validation and
            the winner of a tournament, whose trainings they take no part in, are told to them afterwards. Of a callback
            with `on_run_begin(run)` or `on_run_end(run)` these are called when the plan is decided, and when the run is
            finished.
        accept_license, validation_split, crop_to_aspect_ratio, pad_to_aspect_ratio, color_mode: Other names, as Keras
            has them, of `accept_licence`, `validation`, `fit="crop"`, `fit="pad"`, and of what is always "rgb".

    Returns:
        The finished run.

    Raises:
        TlkitError: One of `tlkit.errors`. Names are checked before any image is read.
    """
    given = locals()
    options = {name: given[name] for name, default in OPTIONS.items() if given[name] != default}
    options |= {name: given[name] for name in JOB_ALIASES if given[name] is not None}
    options = in_names_of_a_job(options)
    if isinstance(data, Job) and options:
        raise TypeError(
            f"`{next(iter(options))}` was given with a Job. Set it in the Job instead: dataclasses.replace(job, ...)."
        )
    job = data if isinstance(data, Job) else Job.given(data, options)
    return carry_out(job, out, force=force, dry_run=dry_run, callbacks=callbacks)


def carry_out(
    job: Job,
    out: str | Path | None = None,
    *,
    force: bool = False,
    dry_run: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Do a job: resolve its names, prepare the data, decide what was left open, fit, evaluate, deliver.

    out, force, dry_run, callbacks: as in `finetune`.
    """
    clock = Clock(Deadline.after(None if job.max_minutes is None else 60 * job.max_minutes))
    followed, resolved = checked_callbacks(callbacks), resolve(job)
    folder = Path(out) if out is not None else next_free(Path("runs"), resolved.name)
    check_out(folder, force, resolved.job.data)
    prepared = dataclasses.replace(prepare(resolved, clock), callbacks=followed)
    if dry_run:
        _log_plan(foresee(prepared, clock.deadline), prepared.backbone)
        return Run(folder)
    run = start_run(folder, force)
    if run.folder != folder:
        log.info(f"replaces  {folder}, which is kept until the new run, in {run.folder}, is finished\n")
    prepared.write(run)
    _log_short_time(clock.deadline, len(prepared.dataset), resolved.job)
    with FreshProcess() as fresh:  # it imports TensorFlow while this one decides and trains
        decided = decide(prepared, run, clock)
        _log_plan(decided.plan, prepared.backbone)
        tell(followed, "on_run_begin", run)
        trained = fit(decided, prepared, clock)
        judged = judge(decided.plan, trained, prepared, run, clock)
        judged.scores["transfer"] = transfer_gain(prepared, run, clock)
        run = deliver(decided.plan, judged, prepared, run, into=folder, fresh=fresh, clock=clock)
    if isinstance(data := resolved.job.data, InMemory):
        run = dataclasses.replace(run, moved_to=data)
    tell(followed, "on_run_end", run)
    return run


def _log_short_time(deadline: Deadline, images: int, job: Job) -> None:
    """Say before anything is fitted that the time limit is shorter than what comes after it."""
    needed = delivery_seconds(images, job.report)
    if deadline.left < needed:
        log.info(
            f"time      {max(deadline.left, 0):.0f} s are left of `max_minutes`, and the export, its proof and the "
            f"report take about {needed:.0f} s: the run will pass its limit, and fits only what is quick"
        )


def _log_plan(plan: Plan, backbone: Backbone) -> None:
    for line in plan_lines(plan, backbone):
        log.info(line)
