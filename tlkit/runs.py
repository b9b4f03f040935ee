"""The run folder: what is in it, when it is whole, and when it may be replaced.

`plan.json` is written before the run's first gradient (a tournament that decides the plan comes before it); `metrics.json` last, when
everything else is there. So a folder without metrics is a run that did not finish. Every file is written under a temporary name and renamed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlkit.errors import RunError
from tlkit.files import write_atomically

OF_REPORT = (
    "mistakes.csv",
    "label_errors.csv",
    "duplicates.csv",
    "outliers.csv",
    "report.json",
    "report.html",
)
EXPORTED = "exports.csv"
# what only some runs hold: the folders that `tlkit export` added and their table, the module of a backbone that is a SavedModel
SOMETIMES = ("litert", "litert-int8", "onnx", "keras", EXPORTED, "modules")
FILES = (
    "plan.json",
    "split.csv",
    "problems.csv",
    "history.csv",
    "model.keras",
    "predictions.csv",
    "saved_model",
    *OF_REPORT,
    "metrics.json",
)


@dataclass(frozen=True)
class Run:
    """A run folder on disk. Nothing is read before it is asked for."""

    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").is_file()

    @property
    def plan(self) -> dict[str, Any]:
        """What was going to be done, and why: `plan.json`."""
        return _read_json(self.folder / "plan.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """How good it is: `metrics.json`."""
        return _read_json(self.folder / "metrics.json")

    @property
    def model_file(self) -> Path:
        return self.folder / "model.keras"

    @property
    def saved_model(self) -> Path:
        return self.folder / "saved_model"

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        write_atomically(self.folder / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def write_table(self, name: str, table: Any) -> None:
        """A pandas table as CSV, without its index."""
        write_atomically(self.folder / name, table.to_csv(index=False))


def open_run(folder: str | Path) -> Run:
    """A finished run. Raises RunError if the folder is no run, or one that did not finish."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"No such run: '{folder}'. Expected the folder that `tlkit finetune` wrote.")
    run = Run(folder)
    if not (folder / "plan.json").is_file():
        raise RunError(
            f"'{folder}' is not a run: it has no plan.json. Expected the folder that `tlkit finetune` wrote."
        )
    if not run.finished:
        raise RunError(
            f"The run '{folder}' did not finish. Repeat it with `tlkit finetune {folder}/plan.json --out {folder} --force`."
        )
    return run


def check_out(folder: Path, force: bool) -> None:
    """Raise RunError if a run may not be written to `folder`: it holds something and `force` was not given.

    Even with `force`, a folder that holds anything but a run's own files is refused, so that nothing else is lost.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"'{folder}' is a file. Expected a new or empty folder for the run.")
    foreign = [p.name for p in _entries(folder) if p.name not in (*FILES, *SOMETIMES)]
    if foreign:
        raise RunError(
            f"'{folder}' holds files that are not a run's: {', '.join(sorted(foreign)[:3])}. Expected a new or empty folder."
        )
    if not force and any(_entries(folder)):
        state = "a finished run" if Run(folder).finished else "an unfinished run"
        raise RunError(f"'{folder}' holds {state}. Use --force to replace it, or another --out.")


def start_run(folder: Path, force: bool) -> Run:
    """An empty run folder. With `force`, an earlier run's files in it are removed, `metrics.json` first."""
    check_out(folder, force)
    folder.mkdir(parents=True, exist_ok=True)
    leftovers = [p for p in folder.iterdir() if p.name.startswith((".tmp-", ".old-"))]
    for path in [*(folder / name for name in reversed((*SOMETIMES, *FILES))), *leftovers]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return Run(folder)


def next_free(parent: Path, name: str) -> Path:
    """parent/name-1, or the first number that is not taken."""
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def _entries(folder: Path) -> Iterator[Path]:
    return (p for p in folder.iterdir() if not p.name.startswith((".tmp-", ".old-", ".DS_Store")))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"'{file}' does not exist. Expected the folder of a run that `tlkit finetune` wrote.") from None
    except ValueError as error:
        raise RunError(f"'{file}' is not JSON: {error}. Repeat the run.") from None
