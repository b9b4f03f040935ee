"""Chooses which unlabelled images to label next, writes them to a table, and takes the labels back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tlkit.data.scan import scan
from tlkit.data.sources.member import Member, Root
from tlkit.data.unlabelled import scan_unlabelled
from tlkit.errors import DataError, unknown
from tlkit.files import csv_text, write_atomically
from tlkit.notebook import card, lines, rows
from tlkit.progress import log
from tlkit.runs.features import pooled_features, probabilities_of
from tlkit.runs.folder import Run, open_run
from tlkit.runs.reading import decoded, load_model, own_part
from tlkit.strategy.active_learning import STRATEGIES, Pool, choose, scaled
from tlkit.strategy.simulation import Gain, simulate
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.plan.in_memory import InMemory

COUNT = 50  # images that are asked for by default
DEFAULT = "core_set"  # where a simulation is not possible; see benchmarks/label_next.py
COLUMNS = ("path", "label", "suggested", "probability", "reason")


@dataclass(frozen=True)
class LabelNext:
    """The images to label next.

    Attributes:
        table: path (as the data names it), label (empty, to be filled), suggested (the predicted class), probability
            (of it) and reason, the first to label first.
        root: The folder that the paths are relative to.
        strategy: How they were chosen.
        gain: What a simulation on the run's own labels says of that; None if there are too few labels.
        known: How many of the images are in the run already, so that they were left out.
    """

    table: pd.DataFrame
    root: Root
    strategy: str
    gain: Gain | None
    known: int = 0

    def sentences(self) -> list[str]:
        """How the images were chosen and what to expect of it, for a person to read."""
        told = [f"{counted(len(self.table), 'image')} to label, chosen by '{self.strategy}'"]
        if self.gain is None:
            told.append("what that gains over a random choice was not measured")
        else:
            told.append(self.gain.sentence())
        if self.known:
            told.append(f"{counted(self.known, 'image')} of the run itself left out")
        return told

    def write(self, file: str | Path) -> Path:
        """Write the table as a CSV whose paths are relative to its folder. Fill its column `label`."""
        file = Path(file)
        there = [_relative(self.root / path, file) for path in self.table["path"]]
        write_atomically(file, csv_text(self.table.assign(path=there)))
        return file

    def _repr_html_(self) -> str:
        """Show in a notebook how the images were chosen, and which."""
        cells = [tuple(row) for row in self.table.drop(columns="label").itertuples(index=False)]
        return card("Label next", None, [lines(self.sentences()), rows(["path", "suggested", "", "reason"], cells)])


def label_next(
    run: Run | str | Path,
    data: str | Path | InMemory,
    *,
    count: int = COUNT,
    strategy: str | None = None,
    columns: Mapping[str, str] | str | None = None,
    seed: int = 0,
) -> LabelNext:
    """Choose which of some unlabelled images to label next.

    A simulation on the run's own training and validation images chooses the strategy, and measures what it gains over a
    random choice: see `tlkit.strategy.simulation`. Each image runs through the network once, and its features are
    cached.

    Args:
        run: A finished run; `open_run(folder, moved_to)` if its images were moved.
        data: A folder of images, searched with its sub-folders; a table with a column of paths; or data in memory.
        count: How many images to choose, 1 or more.
        strategy: One of `tlkit.strategy.active_learning.STRATEGIES`: "random", "margin", "entropy", "core_set",
            "badge", "typiclust" or "cluster_margin". None: the best in the simulation.
        columns: As for `tlkit.scan`.
        seed: Of the simulation and of the choice.

    Raises:
        DataError: There are no images, or all are in the run already.
        NameUnknown: `strategy` is unknown.
    """
    if strategy is not None and strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    if count < 1:
        raise DataError(f"`count` is {count}. Expected 1 or more.")
    run = run if isinstance(run, Run) else open_run(run)
    classes, model = run.plan.classes, load_model(run)
    images = scan_unlabelled(data, classes, columns=columns).images
    own = run.read_table("split.csv")
    table = images.table.drop_duplicates("sha256")
    new = table[~table["sha256"].isin(own["sha256"])].assign(label=classes[0], split="").reset_index(drop=True)
    known = len(table) - len(new)
    if not len(new):
        raise DataError(f"All {counted(known, 'image')} of '{data}' are in the run '{run.folder}' already.")
    asked = decoded(run, dataclasses.replace(images, table=new))
    mine = decoded(run, own_part(run, None))
    mine = dataclasses.replace(mine, images=mine.images.part("train", "validation"))
    features, others = pooled_features(model, mine), pooled_features(model, asked)
    assert features is not None and others is not None
    log.info(f"simulating  on {counted(len(features), 'labelled image')} which choice gains most")
    tried = tuple(STRATEGIES) if strategy is None else (strategy,)
    gain = simulate(features, mine.images.labels(), strategies=tried, seed=seed) if strategy != "random" else None
    chosen = strategy or (DEFAULT if gain is None else gain.strategy)
    probabilities = probabilities_of(model, others)
    both = scaled(np.concatenate([features, others]))
    pool = Pool(both[: len(features)], both[len(features) :], probabilities)
    picked = choose(chosen, pool, count, seed=seed)
    found = _table(asked.images.table["path"].to_numpy(str)[picked], probabilities[picked], classes, chosen)
    return LabelNext(found, images.root, chosen, gain, known)


def _table(paths: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], strategy: str) -> pd.DataFrame:
    made = []
    for path, row in zip(paths, probabilities, strict=True):
        order = np.argsort(-row, kind="stable")
        first = order[0]
        made.append(
            (str(path), "", classes[first], round(float(row[first]), 4), _reason(row, order, classes, strategy))
        )
    return pd.DataFrame(made, columns=list(COLUMNS))


def _reason(row: np.ndarray, order: np.ndarray, classes: tuple[str, ...], strategy: str) -> str:
    if strategy == "random":
        return "drawn at random"
    if strategy == "core_set":
        return "far from all labelled images"
    if strategy == "typiclust":
        return "typical of images that have no label nearby"
    first, second = order[0], order[1]
    unlike = ", and unlike the others that are" if strategy in ("cluster_margin", "badge") else ""
    return f"uncertain: {classes[first]} {row[first]:.0%} or {classes[second]} {row[second]:.0%}{unlike}"


def add_labels(run: Run | str | Path, answers: str | Path, out: str | Path) -> pd.DataFrame:
    """Write a table of a run's images and of those that were labelled since, to train on both.

    The run's images keep their split, so that a new run is judged by the same images. Those that were labelled are
    training images; rows without a label are left out.

    Args:
        run: A finished run; `open_run(folder, moved_to)` if its images were moved.
        answers: The table of `label_next`, with its column `label` filled.
        out: Where the table goes, as CSV. Its paths are relative to its folder.

    Returns:
        The table: path, label and split.

    Raises:
        DataError: No row has a label.
    """
    run, out, answers = run if isinstance(run, Run) else open_run(run), Path(out), Path(answers)
    named = scan(answers, columns={"path": "path", "label": "label"})
    table = named.table
    own = run.read_table("split.csv")
    fresh = table[~table["sha256"].isin(own["sha256"])]
    rows_of = [(_relative(run.data_root / one.path, out), one.label, one.split) for one in own.itertuples()]
    rows_of += [(_relative(named.root / one.path, out), one.label, "train") for one in fresh.itertuples()]
    both = pd.DataFrame(rows_of, columns=["path", "label", "split"])
    write_atomically(out, csv_text(both))
    return both


def _relative(file: Root, table: Path) -> str:
    """The path of a file relative to the folder of a table, with forward slashes. The name of one in an archive."""
    if isinstance(file, Member):
        return str(file)
    return Path(os.path.relpath(file.absolute(), table.absolute().parent)).as_posix()
