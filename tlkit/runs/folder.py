"""The run folder: what it contains, when it is finished, and when it may be replaced.

`plan.json` is written first, and again when a tournament has decided the plan, before the run's first gradient.
`metrics.json` is written last, when everything else is there. So a folder without metrics is a run that did not finish.
Every file is written under a temporary name and then renamed.

`manifest.json` lists the SHA-256 of every file of a finished run (see `tlkit.manifest`). A file is compared with it
when it is read, so a damaged one is refused by those who need it, and only by them; `tlkit verify` looks at all. A run
without a manifest, of an earlier version, is read as it is.

plan.json is also what a person edits, to run it again. So a changed one is said, and is used if the trained model does
not depend on the change; if its classes, image size, fit or depth are not those of the model, the run is refused.

`tlkit.folders` says when a folder may be replaced. A run that replaces another is made beside it, in
`.unfinished-1a2b3c4d-NAME`, and renamed when it is finished. Until then the earlier run is kept.
"""

from __future__ import annotations

import functools
import glob
import importlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from tlkit.checkpoints import Checkpoints, in_use
from tlkit.data.sources.kinds import root_of_data
from tlkit.data.sources.member import Root
from tlkit.data.sources.names import is_utf8
from tlkit.data.sources.records import kind_of_table
from tlkit.data.sources.table import root_of_table
from tlkit.disk import check_writable
from tlkit.errors import RunError, SpecError, TlkitError
from tlkit.files import contents, csv_text, name_beside, remove, replace_folder, write_atomically
from tlkit.folders import (
    CHECKPOINTS,
    KNOWN,
    PLAN,
    _check_movable,
    _foreign,
    _is_left,
    check_replaceable,
    exports_in,
    own_manifest,
    run_files,
)
from tlkit.manifest import MANIFEST, Manifest, check_file, digest, digest_of, known_manifest, note_files
from tlkit.notebook import card, interval, lines
from tlkit.plan.address import Address
from tlkit.plan.in_memory import InMemory, as_data
from tlkit.plan.old import renewed_table
from tlkit.plan.plan import Plan
from tlkit.progress import log
from tlkit.runs.hub import local_folder
from tlkit.words import counted, text_of

if TYPE_CHECKING:
    import keras
    import pandas as pd

# The keys of metrics.json, of a run and of an ensemble, with their values where nothing was measured.
METRICS: dict[str, Any] = {
    "estimate": None,  # of the accuracy on new images, see `tlkit.evaluation.estimate.Estimate.to_dict`
    "validation": None,  # the numbers of `tlkit.evaluate`
    "test": None,
    "calibration": None,  # the temperature, how many images it was fitted on, and the scores before it
    "refusal": None,  # the threshold of `max_error`
    "known": None,  # how many known images the SavedModel takes for others, see `tlkit.finetuning.known`
    "prediction_sets": None,  # the thresholds of `coverage`, and how often the true class was in the set
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
# the columns that a run's CSVs must have
COLUMNS: dict[str, tuple[str, ...]] = {
    "split.csv": ("path", "label", "split", "sha256"),
    "predictions.csv": ("path", "label", "split", "prediction", "probability"),
    "history.csv": ("stage", "epoch"),
    "problems.csv": ("path", "problem", "action"),
    "exports.csv": ("format", "folder"),
}
NEVER_EMPTY = ("split.csv", "predictions.csv")
# numeric columns of the CSVs of images
NUMBERS = ("probability", "top2_probability", "top3_probability", "final_probability")


@dataclass(frozen=True)
class Run:
    """A run folder on disk. Files are read on access.

    moved_to: where the run's data is now, if not where the plan says; or the data, if it is in memory.
    """

    folder: Path
    moved_to: Path | Address | InMemory | None = None

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
        values, data = _read_json(file)
        _check_plan(self.folder, values, data)
        try:
            return Plan.from_dict(values)
        except TlkitError:  # its message names the field
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RunError(f"'{file}' is not the plan of a run. Repeat the run.") from error

    @property
    def metrics(self) -> dict[str, Any]:
        """How good the run is: `metrics.json`, with every key of METRICS."""
        values, data = _read_json(self.folder / "metrics.json")
        check_file(self.folder, "metrics.json", data)
        if not any(isinstance(values.get(split), dict) for split in ("validation", "test")):
            raise RunError(f"'{self.folder / 'metrics.json'}' has no scores of a run. Repeat the run.")
        return {**METRICS, **values}

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
    def known_file(self) -> Path:
        """What tells images of the classes from others, if enough images were held out for it."""
        return self.folder / KNOWN

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

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the model's outputs."""
        return self.plan.classes

    @functools.cached_property
    def model(self) -> keras.Model:
        """The classifier: an ordinary Keras model, raw RGB 0-255 in, probabilities out; read when first used.

        It is compiled, so that `evaluate` and `fit` go on at once, with class numbers as labels: see
        `tlkit.runs.reading.compiled_model`.
        """
        return _here("reading").compiled_model(self)

    @property
    def predictions(self) -> pd.DataFrame:
        """The predictions of validation and test images, calibrated, one row per image: `predictions.csv`."""
        return self.read_table("predictions.csv")

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, or per solved head: `history.csv`, with the columns of `History.rows`."""
        import pandas as pd

        return pd.read_csv(self.folder / "history.csv")

    def predict(self, images: Any, *, top: int = 3) -> pd.DataFrame:
        """Classify image files or arrays with the exported model: see `tlkit.predict`."""
        return _here("predict").predict(self._opened, images, top=top)

    def similar(self, images: Any, *, count: int = 5, out: str | Path | None = None) -> pd.DataFrame:
        """Find the training images that are most like image files or arrays: see `tlkit.similar`."""
        return _here("similar").similar(self, images, count=count, out=out)

    @functools.cached_property
    def _learned(self) -> Any:
        """The images that the run learned from, and their features, computed or read once."""
        return _here("similar").learned(self)

    @functools.cached_property
    def _opened(self) -> Any:
        """The exported model, loaded once."""
        return _here("predict").opened(self.folder)

    def write_plan(self, plan: Plan) -> None:
        self.write_json("plan.json", plan.to_dict())

    def write_metrics(self, values: Mapping[str, Any]) -> None:
        """Write manifest.json and metrics.json, after which the run counts as finished.

        Raises KeyError for a key not in METRICS.
        """
        unknown = set(values) - set(METRICS)
        if unknown:
            raise KeyError(f"metrics.json has no {', '.join(sorted(unknown))}. Expected among: {', '.join(METRICS)}.")
        text = _json_text({**METRICS, **values})
        write_manifest(self, {"metrics.json": _bytes_of(text)})
        write_atomically(self.folder / "metrics.json", text)

    def read(self, name: str) -> bytes:
        """Read one of the run's files. Raises RunError if it is absent or has changed since the run was finished."""
        file = self.folder / name
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise RunError(f"'{file}' does not exist. Expected the folder of a finished run.") from None
        check_file(self.folder, name, data)
        return data

    def read_table(self, name: str) -> pd.DataFrame:
        """Read one of the run's CSVs of images, with this version's columns: text, except for probabilities."""
        table = with_slashes(self.read_csv(name))
        numbers = [column for column in NUMBERS if column in table]
        try:
            return table.assign(**{column: table[column].replace("", "nan").astype(float) for column in numbers})
        except ValueError as error:
            raise RunError(f"'{self.folder / name}' is damaged: {error}. Repeat the run.") from None

    def read_csv(self, name: str, *, text: bool = True) -> pd.DataFrame:
        """Read one of the run's CSVs, with this version's columns.

        text: every cell as text. Otherwise columns of numbers are numbers, and an empty cell is NaN.

        Raises RunError for a file that is absent, empty, cut off or another table.
        """
        import pandas as pd

        file = self.folder / name
        data = self.read(name)
        try:
            table = pd.read_csv(io.BytesIO(data), dtype=str if text else None, keep_default_na=not text)
        except ValueError as error:  # pandas' errors are of this kind
            raise RunError(f"'{file}' is empty or damaged: {str(error).strip()}. Repeat the run.") from None
        table = renewed_table(table)
        missing = [column for column in COLUMNS.get(name, ()) if column not in table]
        if missing:
            raise RunError(f"'{file}' has no column {', '.join(missing)}: it is damaged or another table.")
        if not data.endswith(b"\n") or (name in NEVER_EMPTY and not len(table)):
            raise RunError(f"'{file}' is cut off after {counted(len(table), 'row')}. Repeat the run.")
        return table

    @property
    def data_root(self) -> Root:
        """The folder that the paths in split.csv are relative to, on disk or in an archive. It may be gone.

        Raises DataError if the data lay in memory and is not here.
        """
        data = self.moved_to or self.plan.job.data
        if isinstance(data, InMemory):
            return data.folder
        if not isinstance(data, Path) or data.is_dir() or not kind_of_table(data):
            return root_of_data(data)
        windows = PureWindowsPath(data)
        return Path(str(windows.parent)) if windows.drive and not data.exists() else root_of_table(data)

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        self.write_text(name, _json_text(values))

    def write_table(self, name: str, table: Any) -> None:
        """Write a pandas table as CSV, without its index."""
        self.write_text(name, csv_text(table))

    def write_text(self, name: str, text: str) -> None:
        """Write a file of text, and list it in the run's manifest if it has one."""
        note_files(self.folder, {name: _bytes_of(text)})
        write_atomically(self.folder / name, text)


def write_manifest(run: Run, coming: Mapping[str, bytes]) -> None:
    """Write the manifest of a run that is finished but for some files. coming: their bytes by name."""
    files = {name: digest(run.folder / name) for name in run_files(run.folder)}
    files |= {name: digest_of(data) for name, data in coming.items()}
    plan = own_manifest(run.folder, PLAN)
    Manifest(files, exports_in(run.folder), _of_model(plan or {})).write(run.folder)


def _of_model(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What of a plan.json's values the trained model depends on."""
    job = plan.get("job", plan.get("settings", {}))
    names = ("classes", "image_size", "depth")
    return {name: plan.get(name) for name in names} | {"fit": job.get("fit")}


def _check_plan(folder: Path, values: Any, data: bytes) -> None:
    """Say that a run's plan.json was changed after the run. Raises RunError if the model does not go with it."""
    manifest = known_manifest(folder)
    if manifest is None or manifest.agrees(PLAN, digest_of(data)):
        return
    try:
        now = _of_model(values)
    except AttributeError:
        return  # what reads the plan says so
    for name, was in (manifest.model or {}).items():
        if now[name] != was:
            raise RunError(
                f"'{folder / PLAN}' was changed after the run: its {name.replace('_', ' ')} is {now[name]}, but the "
                f"model was trained with {was}. Put that back. To train with the changed plan, use "
                f"`tlkit finetune {folder}/plan.json`."
            )
    changed = (folder, manifest.files[PLAN]["sha256"], len(data))
    if changed not in _SAID:
        log.warning(
            f"'{folder / PLAN}' was changed after the run, by a person or by damage: its SHA-256 is not the one in "
            f"{MANIFEST}. It is used as it is now."
        )
    _SAID.add(changed)


_SAID: set[tuple[Path, str, int]] = set()  # changed plans that were named in the log


def _here(module: str) -> Any:
    """A module of this room that imports Keras, which reading a run's files does not need."""
    return importlib.import_module(f"tlkit.runs.{module}")


def with_slashes(table: pd.DataFrame) -> pd.DataFrame:
    """A table of images whose paths have forward slashes, also where they were written on Windows."""
    if "path" not in table or not len(table):
        return table
    windows = table["path"].str.contains("\\", regex=False) & ~table["path"].str.contains("/", regex=False)
    return table.assign(path=table["path"].mask(windows, table["path"].str.replace("\\", "/", regex=False)))


def open_run(folder: str | Path, moved_to: str | Path | Address | InMemory | None = None) -> Run:
    """Open a finished run.

    Args:
        folder: The run's folder, or "hf://USER/NAME" (see `tlkit.push`), which is downloaded and verified.
        moved_to: Where the run's data is now, if it was moved: the folder or CSV that the run was made from. Data that
            lay in memory is given again: `tlkit.from_arrays(...)` of the same images in the same order.

    Raises:
        RunError: The folder is not a run, or a run that did not finish, or its plan does not go with its model.
    """
    folder = local_folder(folder)
    if not folder.is_dir():
        raise RunError(f"No such run: '{folder}'. Expected the folder that `tlkit finetune` wrote.")
    run = Run(folder, None if moved_to is None else as_data(moved_to))
    if not (folder / "plan.json").is_file():
        raise RunError(
            f"'{folder}' is not a run: it has no plan.json. Expected the folder that `tlkit finetune` wrote."
        )
    if not run.finished:
        raise RunError(
            f"The run '{folder}' did not finish. Go on with it: `tlkit finetune --resume {folder}`. "
            f"Or begin it anew: `tlkit finetune {folder}/plan.json --out {folder} --force`."
        )
    if (folder / MANIFEST).is_file():
        _check_plan(folder, *_read_json(folder / PLAN))
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


def check_out(folder: Path, force: bool, data: Path | Address | InMemory | None = None) -> None:
    """Raise RunError if a run may not be written to `folder`, because it holds something and `force` was not given.

    Even with `force`, a folder with anything but a run's own files is refused, so that nothing else is lost.
    data: what the run learns from. Neither may lie inside the other, if it is a folder or a file.
    """
    if isinstance(data, Path):
        _check_apart(folder, data)
    for one in (folder, *_left_beside(folder, "unfinished")):
        if Checkpoints(one / CHECKPOINTS).held:
            raise in_use(folder)
    check_replaceable(folder, PLAN)
    replaced = _holds_something(folder)
    if replaced and not force:
        state = "a finished run" if Run(folder).finished else "an unfinished run, which `resume` goes on with"
        raise RunError(f"'{folder}' holds {state}. Use `force` to replace it, or another `out`.")
    path = folder.resolve() if replaced else folder
    if not is_utf8(str(path)):  # TensorFlow writes to no such path
        raise RunError(f"The path of the run's folder '{text_of(path)}' is not UTF-8. Give another `out`.")
    if replaced:
        _check_movable(folder)
    check_writable(path, makes_folders=True)
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


def replacement_of(folder: Path) -> Run | None:
    """The newest run that was to replace the one in `folder`, and was stopped; None if there is none."""
    left = [one for one in _left_beside(folder, "unfinished") if (one / PLAN).is_file()]
    return Run(max(left, key=lambda one: one.stat().st_mtime)) if left else None


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


def _json_text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _bytes_of(text: str) -> bytes:
    """What `write_atomically` writes."""
    return text.encode("utf-8", "backslashreplace")


def _read_json(file: Path) -> tuple[Any, bytes]:
    """A file's values, and its bytes."""
    try:
        data = file.read_bytes()
        values = json.loads(data)
    except FileNotFoundError:
        raise RunError(f"'{file}' does not exist. Expected the folder of a run that `tlkit finetune` wrote.") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"'{file}' is not JSON: {error}. Repeat the run.") from None
    if not isinstance(values, dict):
        raise RunError(f"'{file}' holds {type(values).__name__} instead of an object. Repeat the run.")
    return values, data
