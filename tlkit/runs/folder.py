"""The run folder: what it contains, when it is finished, and when it may be replaced.

`plan.json` is written first, and again when a tournament has decided the plan, before the run's first gradient.
`metrics.json` is written last, when everything else is there. So a folder without metrics is a run that did not finish.
Every file is written under a temporary name and then renamed.

`tlkit.folders` says when a folder may be replaced. A run that replaces another is made beside it, in
`.unfinished-1a2b3c4d-NAME`, and renamed when it is finished. Until then the earlier run is kept.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from tlkit.data.sources.names import is_utf8
from tlkit.data.sources.records import kind_of_table
from tlkit.data.sources.table import root_of_table
from tlkit.errors import RunError, SpecError
from tlkit.files import contents, csv_text, name_beside, remove, replace_folder, write_atomically
from tlkit.folders import PLAN, _check_movable, _foreign, _is_left, check_replaceable
from tlkit.notebook import card, interval, lines
from tlkit.plan.old import renewed_table
from tlkit.plan.plan import Plan
from tlkit.words import counted, text_of

if TYPE_CHECKING:
    import pandas as pd

# The keys of metrics.json, of a run and of an ensemble, with their values where nothing was measured.
METRICS: dict[str, Any] = {
    "estimate": None,  # of the accuracy on new images, see `tlkit.evaluation.estimate.Estimate.to_dict`
    "validation": None,  # the numbers of `tlkit.evaluate`
    "test": None,
    "calibration": None,  # the temperature, how many images it was fitted on, and the scores before it
    "refusal": None,  # the threshold of `max_error`
    "transfer": None,  # what transfer would have gained over random weights, see `tlkit.finetuning.transfer`
    "folds": None,  # the accuracy out of fold, as "estimate", of a run with `folds`
    "refit": None,  # on how many images and which splits the delivered model was trained, if not on train alone
    "parity": None,  # the proof that the export predicts as the trained model does
    "members": (),  # of an ensemble: run, accuracy and log_loss of each
    "seconds": {},  # of each step, and "total"
    "images_decoded": 0,
    "images_computed": 0,  # single-image forward passes of frozen layers
    "notes": (),  # what did not go as planned
}
# numeric columns of the CSVs of images
NUMBERS = ("probability", "top2_probability", "top3_probability", "final_probability")


@dataclass(frozen=True)
class Run:
    """A run folder on disk. Files are read on access.

    moved_to: where the run's data is now, if not where the plan says.
    """

    folder: Path
    moved_to: Path | None = None

    def _repr_html_(self) -> str:
        """Show in a notebook what the run did and how good it is."""
        try:
            plan, metrics = self.plan, self.metrics if self.finished else None
        except (RunError, OSError, ValueError) as error:
            return card(f"Run {self.folder}", parts=[lines([str(error)])])
        facts: dict[str, object] = {
            "data": f"{plan.job.data}, {counted(len(plan.classes), 'class', 'classes')}",
            "images": ", ".join(f"{count:,} {split}" for split, count in plan.images.items() if count),
            "backbone": f"{plan.backbone.name} at {plan.image_size} px",
            "recipe": plan.recipe.name if plan.recipe is not None else "not decided yet",
        }
        if metrics is None:
            return card(f"Run {self.folder}: not finished", facts)
        facts |= {f"{name}": interval(metrics[name]) for name in ("estimate", "validation", "test") if metrics[name]}
        if metrics["parity"]:
            agreement, count = metrics["parity"]["top1_agreement"], metrics["parity"]["n"]
            facts["export"] = f"the same class as the trained model for {agreement:.1%} of {counted(count, 'image')}"
        report = self.folder / "report.html"
        facts["report"] = report if report.is_file() else "not written"
        return card(f"Run {self.folder}", facts, [lines([*plan.doubts, *metrics["notes"]])])

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").is_file()

    @property
    def plan(self) -> Plan:
        """What the run does, and why: `plan.json`, of this version or an earlier one."""
        file = self.folder / "plan.json"
        try:
            return Plan.from_dict(_read_json(file))
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"'{file}' is not the plan of a run. Repeat the run.") from error

    @property
    def metrics(self) -> dict[str, Any]:
        """How good the run is: `metrics.json`, with every key of METRICS."""
        return {**METRICS, **_read_json(self.folder / "metrics.json")}

    @property
    def model_file(self) -> Path:
        return self.folder / "model.keras"

    @property
    def judged_head(self) -> Path:
        """The kernel and bias that were trained without the validation images, if model.keras has others."""
        return self.folder / "judged_head.npz"

    @property
    def judged_file(self) -> Path:
        """The whole model that was trained without the validation images, if model.keras differs in more."""
        return self.folder / "judged.keras"

    @property
    def refitted(self) -> bool:
        """Whether model.keras was also trained on the validation images."""
        return self.judged_head.is_file() or self.judged_file.is_file()

    @property
    def learned_from(self) -> tuple[str, ...]:
        """The splits that model.keras was trained on: train, and after a refit validation, and test if it was drawn."""
        if not self.refitted:
            return ("train",)
        refit = self.metrics["refit"] or {} if self.finished else {}
        return tuple(refit.get("splits", ("train", "validation")))

    @property
    def saved_model(self) -> Path:
        return self.folder / "saved_model"

    def write_plan(self, plan: Plan) -> None:
        self.write_json("plan.json", plan.to_dict())

    def write_metrics(self, values: Mapping[str, Any]) -> None:
        """Write metrics.json, after which the run counts as finished. Raises KeyError for a key not in METRICS."""
        unknown = set(values) - set(METRICS)
        if unknown:
            raise KeyError(f"metrics.json has no {', '.join(sorted(unknown))}. Expected among: {', '.join(METRICS)}.")
        self.write_json("metrics.json", {**METRICS, **values})

    def read_table(self, name: str) -> pd.DataFrame:
        """Read one of the run's CSVs of images, with this version's columns: text, except for probabilities."""
        import pandas as pd

        table = renewed_table(pd.read_csv(self.folder / name, dtype=str, keep_default_na=False))
        table = with_slashes(table)
        numbers = [column for column in NUMBERS if column in table]
        return table.assign(**{column: table[column].replace("", "nan").astype(float) for column in numbers})

    @property
    def data_root(self) -> Path:
        """The folder that the paths in split.csv are relative to. It may be gone."""
        data = self.moved_to or self.plan.job.data
        if data.is_dir() or not kind_of_table(data):
            return data
        windows = PureWindowsPath(data)
        return Path(str(windows.parent)) if windows.drive and not data.exists() else root_of_table(data)

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        write_atomically(self.folder / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def write_table(self, name: str, table: Any) -> None:
        """Write a pandas table as CSV, without its index."""
        write_atomically(self.folder / name, csv_text(table))


def with_slashes(table: pd.DataFrame) -> pd.DataFrame:
    """A table of images whose paths have forward slashes, also where they were written on Windows."""
    if "path" not in table or not len(table):
        return table
    windows = table["path"].str.contains("\\", regex=False) & ~table["path"].str.contains("/", regex=False)
    return table.assign(path=table["path"].mask(windows, table["path"].str.replace("\\", "/", regex=False)))


def open_run(folder: str | Path, moved_to: str | Path | None = None) -> Run:
    """Open a finished run.

    Args:
        folder: The run's folder.
        moved_to: Where the run's data is now, if it was moved: the folder or CSV that the run was made from.

    Raises:
        RunError: The folder is not a run, or a run that did not finish.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"No such run: '{folder}'. Expected the folder that `tlkit finetune` wrote.")
    run = Run(folder, None if moved_to is None else Path(moved_to))
    if not (folder / "plan.json").is_file():
        raise RunError(
            f"'{folder}' is not a run: it has no plan.json. Expected the folder that `tlkit finetune` wrote."
        )
    if not run.finished:
        raise RunError(
            f"The run '{folder}' did not finish. "
            f"Repeat it with `tlkit finetune {folder}/plan.json --out {folder} --force`."
        )
    return run


def check_members(runs: Sequence[Run | str | Path]) -> list[Run]:
    """Open the runs of an ensemble. Raises RunError if one is not a run, SpecError if they do not go together."""
    members = [one if isinstance(one, Run) else open_run(one) for one in runs]
    if len(members) < 2:
        raise SpecError(f"An ensemble was given {counted(len(members), 'run')}. Expected two or more.")
    first = members[0].plan
    for one in members[1:]:
        for name, mine, theirs in (
            ("classes", one.plan.classes, first.classes),
            ("image size", one.plan.image_size, first.image_size),
            ("fit", one.plan.job.fit, first.job.fit),
            ("data", one.plan.job.data, first.job.data),
        ):
            if mine != theirs:
                raise SpecError(
                    f"The runs '{one.folder}' and '{members[0].folder}' differ in {name}: {mine} and {theirs}. "
                    "The runs of an ensemble must share it."
                )
    return members


def check_out(folder: Path, force: bool, data: Path | None = None) -> None:
    """Raise RunError if a run may not be written to `folder`, because it holds something and `force` was not given.

    Even with `force`, a folder with anything but a run's own files is refused, so that nothing else is lost.
    data: what the run learns from. Neither may lie inside the other.
    """
    if data is not None:
        _check_apart(folder, data)
    check_replaceable(folder, PLAN)
    replaced = _holds_something(folder)
    if replaced and not force:
        state = "a finished run" if Run(folder).finished else "an unfinished run"
        raise RunError(f"'{folder}' holds {state}. Use `force` to replace it, or another `out`.")
    path = folder.resolve() if replaced else folder
    if not is_utf8(str(path)):  # TensorFlow writes to no such path
        raise RunError(f"The path of the run's folder '{text_of(path)}' is not UTF-8. Give another `out`.")
    if replaced:
        _check_movable(folder)
    stuck = [] if folder.exists() else _left_beside(folder, "old")
    stuck += [one for one in _left_beside(folder, "unfinished") if Run(one).finished]
    if stuck:
        raise RunError(
            f"A command that replaced '{folder}' was stopped at its very end, and left '{stuck[0]}'. "
            "Rename or remove that folder first."
        )


def start_run(folder: Path, force: bool) -> Run:
    """Make an empty folder for a run: `folder`, or, to replace an earlier run there, one beside it for `finish_run`."""
    check_out(folder, force)
    if not _holds_something(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove(folder, filter(_is_left, contents(folder)), itself=False)
        return Run(folder)
    for one in (*_left_beside(folder, "unfinished"), *_left_beside(folder, "old")):
        if not _foreign(one, PLAN):
            remove(one, contents(one))
    new = name_beside(folder.resolve(), "unfinished")
    try:
        new.mkdir()
    except OSError as error:
        raise RunError(
            f"'{new.parent}', where the run that replaces '{folder}' is made, cannot be written to: {error.strerror}. "
            "Give another `out`."
        ) from None
    return Run(new)


def finish_run(run: Run, folder: Path) -> Run:
    """Move a finished run of `start_run` to its final folder.

    Raises RunError if that folder holds files by now that are not a run's.
    """
    if run.folder == folder:
        return run
    try:
        check_replaceable(folder, PLAN)
        replace_folder(folder.resolve(), run.folder)
    except OSError as error:
        raise RunError(f"{error} The new run is finished, and stays in '{run.folder}'.") from error
    return Run(folder)


def next_free(parent: Path, name: str) -> Path:
    """parent/name-N with the first number N from 1 that is not taken."""
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def _holds_something(folder: Path) -> bool:
    return any(name != ".DS_Store" and not _is_left(name) for name in contents(folder))


def _left_beside(folder: Path, why: str) -> list[Path]:
    """The folders that `name_beside` named for this folder."""
    path = folder.resolve()
    return sorted(path.parent.glob(f".{why}-{'[0-9a-f]' * 8}-{glob.escape(path.name)}"))


def _check_apart(folder: Path, data: Path) -> None:
    """Raise RunError if the run's folder lies in the data, where it would become a class, or the data in it."""
    out, source = folder.resolve(), data.resolve()
    if source.is_dir() and source in (out, *out.parents):
        raise RunError(
            f"The run's folder '{folder}' lies in the data '{data}', where it would count as a class. "
            "Give a folder outside it as `out`."
        )
    if out in source.parents:
        raise RunError(f"The data '{data}' lies in the run's folder '{folder}'. Give another `out`.")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"'{file}' does not exist. Expected the folder of a run that `tlkit finetune` wrote.") from None
    except ValueError as error:
        raise RunError(f"'{file}' is not JSON: {error}. Repeat the run.") from None
