"""The main job: from a folder of images to a run folder with a deployable classifier."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.backbones import Backbone
from tlkit.checkpoints import Checkpoints
from tlkit.cluster import working_on
from tlkit.deployment.parity import FreshProcess
from tlkit.devices import use_devices
from tlkit.disk import check_room
from tlkit.errors import SpecError
from tlkit.finetuning.decide import decide, foresee
from tlkit.finetuning.deliver import deliver
from tlkit.finetuning.fit import fit
from tlkit.finetuning.judge import Judged, judge
from tlkit.finetuning.prepare import Prepared, prepare
from tlkit.finetuning.resolve import resolve
from tlkit.finetuning.resume import (
    LATEST,
    Unfinished,
    check_unchanged,
    find_unfinished,
    is_delivered,
    judged_once,
    newest_unfinished,
)
from tlkit.finetuning.transfer import transfer_gain
from tlkit.finetuning.words import plan_lines
from tlkit.folders import CHECKPOINTS, PLAN
from tlkit.plan.address import Address
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.in_memory import InMemory, as_data
from tlkit.plan.job import OPTIONS, Job
from tlkit.plan.plan import Plan
from tlkit.plan.recipe import Recipe
from tlkit.plan.spelling import JOB_ALIASES, in_names_of_a_job
from tlkit.progress import Clock, Deadline, log
from tlkit.reporting.report import report
from tlkit.runs.folder import Run, check_out, finish_run, next_free, start_run
from tlkit.runs.trackers import tell
from tlkit.stopping import STOPPING
from tlkit.strategy.recipes import delivery_seconds
from tlkit.training.own_callbacks import check_resumable, checked_callbacks

if TYPE_CHECKING:
    import keras


def finetune(
    data: str | Path | Address | InMemory | Job | None = None,
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
    fair_to: str | None = None,
    max_error: float | None = None,
    known: float | None = None,
    coverage: float | None = None,
    max_minutes: float | None = None,
    cache_gb: float | None = None,
    on: str | None = None,
    devices: str | int | None = None,
    scale_batch: bool = False,
    strict: bool = False,
    report: bool = True,
    out: str | Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    resume: str | Path | None = None,
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
        resume: The folder of a run that was stopped, to go on with it as it began. `force` goes on although the data,
            the weights or a version has changed, and `data` says where the data is now, or gives it again if it lay in
            memory; nothing else is given. Or "auto" with the other arguments: the newest unfinished run of the same
            job, beside `out` or in runs/, or a new one if there is none.
        callbacks: Any of Keras', for the training: see `tlkit.train`. A solved head, each fold of cross-validation and
            the winner of a tournament, whose trainings they take no part in, are told to them afterwards. Of a callback
            with `on_run_begin(run)` or `on_run_end(run)` these are called when the plan is decided, and when the run is
            finished. With `resume`, each must declare its state, see `tlkit.training.own_callbacks.check_resumable`.
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
    if resume is not None and str(resume) != LATEST:
        return resumed(resume, data, out, force=force, given=sorted(options), callbacks=callbacks)
    if data is None:
        raise SpecError("No data was given. Expected `data`, or `resume` with the folder of a run that was stopped.")
    job = data if isinstance(data, Job) else Job.given(data, options)
    if resume is not None:
        return resumed(resume, job, out, force=force, callbacks=callbacks)
    return carry_out(job, out, force=force, dry_run=dry_run, callbacks=callbacks)


def resumed(
    resume: str | Path,
    data: str | Path | Address | InMemory | Job | None,
    out: str | Path | None,
    *,
    force: bool,
    given: Sequence[str] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Go on with a run, as `finetune` does. given: the names of the options that were given."""
    if str(resume) != LATEST:
        if isinstance(data, Job) or given or out is not None:
            what = "Job" if isinstance(data, Job) else f"`{[*given, 'out'][0]}`"
            raise SpecError(f"A run goes on as it began, so `resume` takes no {what}. Begin a new run.")
        return go_on(find_unfinished(resume), data, force=force, callbacks=callbacks)
    if not isinstance(data, Job):
        raise SpecError("`resume=auto` needs `data` and the options of the job, to find its newest unfinished run.")
    found = newest_unfinished(resolve(data).job, Path("runs") if out is None else Path(out).parent, out)
    if found is None:
        return carry_out(data, out, force=force, callbacks=callbacks)
    return go_on(found, data.data, force=force, callbacks=callbacks)


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
    clock, followed = Clock(_deadline(job, 0.0)), checked_callbacks(callbacks)
    with STOPPING.on_signals(), use_devices(job.devices), working_on(job.on):
        resolved = resolve(job)
        folder = Path(out) if out is not None else next_free(Path("runs"), resolved.name)
        check_out(folder, force, resolved.job.data)
        check_room(folder, resolved.bytes_on_disk, "the run's folder")
        prepared = dataclasses.replace(prepare(resolved, clock), callbacks=followed)
        if dry_run:
            _log_plan(foresee(prepared, clock.deadline), prepared.backbone)
            return Run(folder)
        run = start_run(folder, force)
        if run.folder != folder:
            log.info(f"replaces  {folder}, which is kept until the new run, in {run.folder}, is finished\n")
        checkpoints, unfinished = Checkpoints(run.folder / CHECKPOINTS, seconds=clock.seconds), Unfinished(run, folder)
        with checkpoints.locked(), _how_to_go_on(unfinished):
            prepared.write(run)
            return _work(prepared, unfinished, clock, checkpoints)


def go_on(
    unfinished: Unfinished,
    data: str | Path | Address | InMemory | None = None,
    *,
    force: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Go on with a run that was stopped, see `tlkit.finetuning.resume`.

    data: where its data is now, if it was moved, or the data, if it lay in memory. force: although something has
    changed. callbacks: each must declare its state.
    """
    run, job, followed = unfinished.run, unfinished.run.plan.job, checked_callbacks(callbacks)
    check_resumable(followed)
    if data is not None:
        job = dataclasses.replace(job, data=as_data(data))
    checkpoints = Checkpoints(run.folder / CHECKPOINTS)
    spent = checkpoints.spent()
    clock = Clock(_deadline(job, spent.get("total", 0.0)), spent)
    checkpoints.seconds = clock.seconds
    log.info(f"resuming  {unfinished.into}, on which {spent.get('total', 0.0):.0f} s were spent")
    with (
        STOPPING.on_signals(),
        use_devices(job.devices),
        working_on(job.on),
        checkpoints.locked(),
        _how_to_go_on(unfinished),
    ):
        if is_delivered(unfinished, checkpoints):
            return _with_report(unfinished)
        prepared = dataclasses.replace(prepare(resolve(job), clock), callbacks=followed)
        check_unchanged(unfinished, prepared, force=force)
        prepared.write(run)
        return _work(prepared, unfinished, clock, checkpoints)


def _work(prepared: Prepared, unfinished: Unfinished, clock: Clock, checkpoints: Checkpoints) -> Run:
    """Do what comes after the data was prepared, or what is left of it."""
    run = unfinished.run
    _log_short_time(clock.deadline, len(prepared.dataset), prepared.job)

    def evaluated() -> Judged:
        trained = fit(decided, prepared, clock, checkpoints)
        STOPPING.delivering = True
        judged = judge(decided.plan, trained, prepared, run, clock, checkpoints)
        judged.scores["transfer"] = transfer_gain(prepared, run, clock)
        return judged

    with FreshProcess() as fresh:  # it imports TensorFlow while this one decides and trains
        decided = decide(prepared, run, clock, checkpoints)
        _log_plan(decided.plan, prepared.backbone)
        tell(prepared.callbacks, "on_run_begin", run)
        judged = judged_once(run, checkpoints, evaluated)
        STOPPING.delivering = True
        finished = deliver(decided.plan, judged, prepared, run, into=unfinished.into, fresh=fresh, clock=clock)
    if judged.interrupted:
        log.info(f"the training was interrupted. To go on with it: `tlkit finetune --resume {finished.folder}`")
    else:
        Checkpoints(finished.folder / CHECKPOINTS).remove()
    if isinstance(data := prepared.job.data, InMemory):
        finished = dataclasses.replace(finished, moved_to=data)
    tell(prepared.callbacks, "on_run_end", finished)
    return finished


def _with_report(unfinished: Unfinished) -> Run:
    """Finish a run that was stopped when it had written all but its report."""
    run = finish_run(unfinished.run, unfinished.into)
    if run.plan.job.report:
        report([run])
    Checkpoints(run.folder / CHECKPOINTS).remove()
    return run


@contextlib.contextmanager
def _how_to_go_on(unfinished: Unfinished) -> Iterator[None]:
    """If the block fails or is stopped, say how the run goes on."""
    try:
        yield
    except BaseException:
        if (unfinished.run.folder / PLAN).is_file() and not Run(unfinished.into).finished:
            log.info(f"not finished. To go on where it was: `tlkit finetune --resume {unfinished.into}`")
        raise


def _deadline(job: Job, spent: float) -> Deadline:
    """When the job must end. spent: seconds, before the run was stopped."""
    return Deadline.after(None if job.max_minutes is None else 60 * job.max_minutes - spent)


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
