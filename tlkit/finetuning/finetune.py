"""The main job: from a folder of images to a run folder with a deployable classifier."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tlkit.backbones import Backbone
from tlkit.checkpoints import Checkpoints
from tlkit.deployment.parity import FreshProcess
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
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.job import OPTIONS, Job
from tlkit.plan.plan import Plan
from tlkit.plan.recipe import Recipe
from tlkit.progress import Clock, Deadline, log
from tlkit.reporting.report import report
from tlkit.runs.folder import Run, check_out, finish_run, next_free, start_run
from tlkit.stopping import STOPPING
from tlkit.strategy.recipes import delivery_seconds


def finetune(
    data: str | Path | Job | None = None,
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
    resume: str | Path | None = None,
) -> Run:
    """Fine-tune a pretrained backbone on a folder of images, evaluate it, export it, and prove the export.

    Each step is logged, see `tlkit.progress`.

    Args:
        data: A folder of class folders, a folder of train/ val/ test/ folders, or a CSV (see `tlkit.scan`). Or a `Job`,
            which holds all keywords but the last three. Or the plan.json of an earlier run, to repeat that run;
            keywords that differ from their defaults take precedence. To set one back to its default, use
            `dataclasses.replace(tlkit.Job.read("RUN/plan.json"), seed=0)`.
        backbone, ..., report: The fields of `tlkit.Job`, explained there.
        out: The run folder. None: the first free runs/DATA-BACKBONE-N.
        force: Replace an earlier run in `out` when the new one is finished. Other files are never removed (see
            `tlkit.folders`).
        dry_run: Log the plan and stop. Nothing is written, and the Run's folder does not exist.
        resume: The folder of a run that was stopped, to go on with it as it began: nothing else is given but `force`,
            for going on although the data, the weights or a version has changed. Or "auto" with the other arguments:
            the newest unfinished run of the same job, beside `out` or in runs/, or a new one if there is none.

    Returns:
        The finished run.

    Raises:
        TlkitError: One of `tlkit.errors`. Names are checked before any image is read.
    """
    given = locals()
    options = {name: given[name] for name, default in OPTIONS.items() if given[name] != default}
    if isinstance(data, Job) and options:
        raise TypeError(
            f"`{next(iter(options))}` was given with a Job. Set it in the Job instead: dataclasses.replace(job, ...)."
        )
    job = data if isinstance(data, Job) or data is None else Job.given(data, options)
    if resume is not None:
        return resumed(resume, job, out, force=force, given=sorted(options))
    if job is None:
        raise SpecError("No data was given. Expected `data`, or `resume` with the folder of a run that was stopped.")
    return carry_out(job, out, force=force, dry_run=dry_run)


def resumed(
    resume: str | Path, job: Job | None, out: str | Path | None, *, force: bool, given: Sequence[str] = ()
) -> Run:
    """Go on with a run, as `finetune` does. given: the names of the options that were given."""
    if str(resume) != LATEST:
        if job is not None or given or out is not None:
            what = "`data`" if job is not None else f"`{[*given, 'out'][0]}`"
            raise SpecError(f"A run goes on as it began, so `resume` takes no {what}. Begin a new run.")
        return go_on(find_unfinished(resume), force=force)
    if job is None:
        raise SpecError("`resume=auto` needs `data` and the options of the job, to find its newest unfinished run.")
    if out is not None:
        folder = Path(out)
        return go_on(find_unfinished(folder), force=force) if (folder / PLAN).is_file() else carry_out(job, out)
    found = newest_unfinished(resolve(job).job, Path("runs"))
    return carry_out(job, force=force) if found is None else go_on(found, force=force)


def carry_out(job: Job, out: str | Path | None = None, *, force: bool = False, dry_run: bool = False) -> Run:
    """Do a job: resolve its names, prepare the data, decide what was left open, fit, evaluate, deliver.

    out, force, dry_run: as in `finetune`.
    """
    clock = Clock(_deadline(job, 0.0))
    with STOPPING.on_signals():
        resolved = resolve(job)
        folder = Path(out) if out is not None else next_free(Path("runs"), resolved.name)
        check_out(folder, force, resolved.job.data)
        check_room(folder, resolved.bytes_on_disk, "the run's folder")
        prepared = prepare(resolved, clock)
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


def go_on(unfinished: Unfinished, *, force: bool = False) -> Run:
    """Go on with a run that was stopped, see `tlkit.finetuning.resume`. force: although something has changed."""
    run, job = unfinished.run, unfinished.run.plan.job
    checkpoints = Checkpoints(run.folder / CHECKPOINTS)
    spent = checkpoints.spent()
    clock = Clock(_deadline(job, spent.get("total", 0.0)), spent)
    checkpoints.seconds = clock.seconds
    log.info(f"resuming  {unfinished.into}, on which {spent.get('total', 0.0):.0f} s were spent")
    with STOPPING.on_signals(), checkpoints.locked(), _how_to_go_on(unfinished):
        if is_delivered(unfinished, checkpoints):
            return _with_report(unfinished)
        prepared = prepare(resolve(job), clock)
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
        judged = judged_once(run, checkpoints, evaluated)
        STOPPING.delivering = True
        finished = deliver(decided.plan, judged, prepared, run, into=unfinished.into, fresh=fresh, clock=clock)
    if judged.interrupted:
        log.info(f"the training was interrupted. To go on with it: `tlkit finetune --resume {finished.folder}`")
    else:
        Checkpoints(finished.folder / CHECKPOINTS).remove()
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
        if (unfinished.run.folder / PLAN).is_file():
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
