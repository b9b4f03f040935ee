"""Goes on with a run that was stopped, and ends as the uninterrupted run would have.

What was computed from images is in the caches. The checkpoints in the run's folder hold the rest (`tlkit.checkpoints`):
the decisions, how far each training is (`tlkit.training.resume`), the evaluation. The run goes the same way again and
finds them. Export, proof and report, which take seconds, are made again if they had not all ended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.backbones.weights import weights_sha256
from tlkit.checkpoints import Checkpoints
from tlkit.devices import _device
from tlkit.errors import RunError
from tlkit.finetuning.decide import versions
from tlkit.finetuning.judge import Judged
from tlkit.folders import CHECKPOINTS, PLAN
from tlkit.plan.job import Job
from tlkit.progress import log
from tlkit.runs.folder import Run, replacement_of
from tlkit.runs.reading import load_judged, load_model
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.finetuning.prepare import Prepared

LATEST = "auto"  # the newest unfinished run of the same job
EVALUATION = "evaluation"


@dataclass(frozen=True)
class Unfinished:
    """A run that was stopped.

    run: what there is of it. into: the folder that it belongs in, if it was to replace an earlier run there.
    """

    run: Run
    into: Path


def find_unfinished(folder: str | Path) -> Unfinished:
    """Find the run to resume: in its folder, or beside it if it was to replace an earlier run there.

    A finished run whose training Ctrl-C ended early has kept its checkpoints, and counts as unfinished.

    Raises RunError if there is nothing to resume.
    """
    into = Path(folder)
    for run in (replacement_of(into), Run(into)):
        if run is None or not (run.folder / PLAN).is_file():
            continue
        if not run.finished or (run.folder / CHECKPOINTS).is_dir():
            return Unfinished(run, into)
    if Run(into).finished:
        raise RunError(f"The run '{into}' is finished: there is nothing to resume.")
    if not into.exists():
        raise RunError(f"No such run: '{into}'. Expected the folder of a run that was stopped.")
    raise RunError(
        f"There is nothing to resume in '{into}': it has no plan.json yet. Give the command that began the run again: "
        "the images that it decoded are in the cache."
    )


def newest_unfinished(job: Job, parent: Path, out: str | Path | None = None) -> Unfinished | None:
    """The newest unfinished run of the same job among the folders in `parent`, or in `out`; None if there is none."""
    plans = [Path(out) / PLAN] if out is not None else list(parent.glob(f"*/{PLAN}"))
    for file in sorted(filter(Path.is_file, plans), key=lambda one: one.stat().st_mtime, reverse=True):
        run = Run(file.parent)
        try:
            same = not run.finished and run.plan.job == job
        except RunError:
            continue
        if same:
            return Unfinished(run, run.folder)
    return None


def is_delivered(unfinished: Unfinished, checkpoints: Checkpoints) -> bool:
    """Whether all that is missing is the report.

    A run that Ctrl-C ended early and that was delivered counts as unfinished again, so that its training goes on.
    """
    run, evaluation = unfinished.run, checkpoints.of(EVALUATION)
    if not run.finished:
        return False
    found = evaluation.read()
    if found is None or not found["interrupted"]:
        return True
    (run.folder / "metrics.json").unlink()
    evaluation.forget()
    checkpoints.of("decided").forget()
    return False


def check_unchanged(unfinished: Unfinished, prepared: Prepared, *, force: bool) -> None:
    """Raise RunError if the data, the weights, the device or a version is not that of the run any more.

    force: it is only logged. The result is then another than that of the uninterrupted run.
    """
    plan = unfinished.run.plan
    before, now = {"tlkit": plan.tlkit, **plan.versions}, {"tlkit": metadata.version("tlkit"), **versions()}
    changed = [f"{name} was {one} and is {now[name]}" for name, one in before.items() if now.get(name, one) != one]
    if plan.device != _device():
        changed.append(f"the device was {plan.device} and is {_device()}")
    digest = weights_sha256(prepared.backbone, plan.job.weights)
    if plan.job.from_run is None and plan.backbone.name == prepared.backbone.name and plan.backbone.sha256 != digest:
        changed.append(f"the weights of {plan.backbone.name} had the SHA-256 {plan.backbone.sha256} and have {digest}")
    changed += _changed_images(unfinished.run, prepared)
    if not changed:
        return
    sentence = f"The run '{unfinished.into}' cannot go on as it began: {'; '.join(changed)}."
    if not force:
        raise RunError(f"{sentence} Restore that, use `force` to go on nevertheless, or begin a new run.")
    log.warning(f"{sentence} It goes on nevertheless.")


def _changed_images(run: Run, prepared: Prepared) -> list[str]:
    columns = ["path", "label", "split", "sha256"]
    try:
        before = run.read_table("split.csv")[columns]
    except (OSError, KeyError, ValueError, RunError):
        return ["split.csv cannot be read"]
    now = prepared.dataset.images.table[columns].astype(str)
    old, new = (set(one.itertuples(index=False, name=None)) for one in (before, now))
    if old == new:
        return []
    first = sorted(old ^ new)[0][0]
    return [f"the data has changed ({counted(len({one[0] for one in old ^ new}), 'image')} differ, such as '{first}')"]


def judged_once(run: Run, checkpoints: Checkpoints, judge: Callable[[], Judged]) -> Judged:
    """Return a run's evaluated model: of `judge`, or as it is in the run's folder if it was evaluated before."""
    step = checkpoints.of(EVALUATION)
    found = step.read()
    if found is None:
        judged = judge()
        values = {one.name: getattr(judged, one.name) for one in dataclasses.fields(judged)}
        same = judged.reported is judged.model
        step.save({**values, "model": None, "reported": None, "reports_delivered": same})
        return judged
    model = load_model(run)
    reported = model if found.pop("reports_delivered") else load_judged(run)
    return Judged(**{**found, "model": model, "reported": reported, "notes": tuple(found["notes"])})
