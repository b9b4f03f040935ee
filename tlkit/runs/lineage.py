"""What the weights of a run were trained on: its own training images, and those of the runs that it started from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlkit.data.limits import FULL_DEPTH
from tlkit.errors import RunError
from tlkit.manifest import check_file
from tlkit.runs.folder import Run


def depth_of_run(run: Run | str | Path) -> int | None:
    """The bits by which the weights of a run saw images of 16 bits scaled; None if they saw none.

    Where the run itself was trained on no such images, it is that of the run that it started from.
    """
    folder: Path | None = run.folder if isinstance(run, Run) else Path(run)
    known: set[Path] = set()
    while folder is not None and folder not in known:
        known.add(folder)
        one = Run(folder)
        try:
            plan = one.plan
            if plan.depth < FULL_DEPTH or (one.read_table("problems.csv")["problem"] == "16-bit").any():
                return plan.depth
        except (RunError, OSError, KeyError):
            return None
        folder = plan.job.from_run
    return None


@dataclass(frozen=True)
class Lineage:
    """The images that a run and its ancestors used, each by the SHA-256 of its file.

    trained_on: training images of any of these runs.
    chosen_by: validation images of any of them that none trained on. They chose epochs and settings.
    missing: folders of ancestors that are gone or are no runs any more, so that their images are not known.
    """

    trained_on: frozenset[str]
    chosen_by: frozenset[str] = frozenset()
    missing: tuple[Path, ...] = ()


def lineage(run: Run | str | Path, *, served: bool = False) -> Lineage:
    """Read which images a run and its ancestors trained on, from their plan.json and split.csv.

    Ancestors are the runs named by `from_run`, and the members of an ensemble.

    served: Of the model that the run delivers, which may have been trained on its validation images too, and on test
        images that it drew. Otherwise of the one that these judge (see `tlkit.runs.reading.load_judged`), from which
        other runs start.

    Raises RunError for a split.csv or a metrics.json that is damaged.
    """
    start = (run.folder if isinstance(run, Run) else Path(run)).absolute()
    waiting, known, missing = [(start, served)], {(start, served)}, []
    trained_on: set[str] = set()
    chosen_by: set[str] = set()
    while waiting:
        folder, delivered = waiting.pop()
        one = Run(folder)
        for name in ("split.csv", "metrics.json"):  # a damaged one is not as good as a missing one
            if (folder / name).is_file():
                check_file(folder, name)
        try:
            plan, table = one.plan, one.read_table("split.csv")
            used = one.learned_from if delivered else ("train",)
            trained_on.update(table.loc[table["split"].isin(used), "sha256"])
            chosen_by.update(table.loc[table["split"] == "validation", "sha256"])
        except (RunError, OSError, KeyError):
            missing.append(folder)
            continue
        earlier = [(Path(member), delivered) for member in plan.ensemble_of or ()]
        earlier += [(plan.job.from_run, False)] if plan.job.from_run else []
        waiting += [one for one in earlier if one not in known]
        known.update(earlier)
    return Lineage(frozenset(trained_on), frozenset(chosen_by - trained_on), tuple(missing))
