"""Several runs ranked on the images they share, in pairs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.disk import check_writable
from tlkit.errors import SpecError
from tlkit.files import write_atomically
from tlkit.notebook import card, rows
from tlkit.progress import log
from tlkit.reporting.findings import Record
from tlkit.reporting.page import fill_file
from tlkit.runs.folder import Run, open_run
from tlkit.runs.reading import groups_of
from tlkit.stats import AT_CHANCE, effective_images, holm, paired_difference, paired_p_value, wilson_interval
from tlkit.tables import Column, table_text
from tlkit.words import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """Several runs ranked on the images on which all were evaluated.

    images: how many images these are, and of which split, such as "120 test images".
    rows: for each run, the best first, the dict that `rank` returns, with backbone, recipe, size and seconds.
    """

    images: str
    rows: tuple[dict[str, Any], ...]

    def _repr_html_(self) -> str:
        """Show the ranking in a notebook."""
        return card(f"Runs compared on {self.images}", None, [rows(COLUMNS, _cells(self.rows))])

    def __str__(self) -> str:
        return table_text([Column(name, right=name in COLUMNS[:3]) for name in COLUMNS], _cells(self.rows))


COLUMNS = ("accuracy", "95 % interval", "behind the best", "backbone", "recipe", "run")


def compare_runs(runs: Sequence[Run | str | Path]) -> Comparison:
    """Rank runs on the images on which all were evaluated, each compared with the best in pairs.

    Test images are taken where every run has some in common, else validation images. See `rank` for the statistics.

    Args:
        runs: finished runs, two or more.

    Returns: the ranking, which shows itself in a notebook and prints as a table.

    Raises:
        SpecError: fewer than two runs, or runs that have no such image in common.
        RunError: a folder is not a finished run.
    """
    if len(runs) < 2:
        raise SpecError(f"{counted(len(runs), 'run')} given. Expected two or more runs to compare.")
    opened = [one if isinstance(one, Run) else open_run(one) for one in runs]
    records = [Record(run) for run in opened]
    split, predictions, common = _common(records)
    groups = dict(zip(sorted(common), groups_of(opened[0], sorted(common)).tolist(), strict=True))
    ranked = rank([str(run.folder) for run in opened], predictions, common, groups)
    for row in ranked:
        record = records[row["index"]]
        row |= {
            "backbone": record.backbone,
            "recipe": record.recipe,
            "size": f"{record.model_bytes / 1e6:.1f} MB",
            "seconds": f"{record.seconds:.0f} s",
        }
    return Comparison(counted(len(common), f"{split} image"), tuple(ranked))


def leaderboard(runs: Sequence[Run], out: str | Path | None = None) -> Path:
    """Write a page that ranks runs on the images on which all were evaluated, each compared with the best in pairs.

    Test images are taken where every run has some in common, else validation images.

    Args:
        runs: finished runs, two or more.
        out: the page, default leaderboard.html beside the first run.

    Returns: the path of the page.

    Raises:
        SpecError: the runs have no such image in common.
    """
    path = Path(out) if out is not None else runs[0].folder.parent / "leaderboard.html"
    check_writable(path, makes_folders=True)
    compared = compare_runs(runs)
    for line in str(compared).splitlines():
        log.info(line)
    page = fill_file("leaderboard.html.jinja", {"rows": compared.rows, "images": compared.images})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def _cells(ranked: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The ranking for a person to read: a row for each run, with a cell for each of COLUMNS."""
    return [
        (
            f"{row['accuracy']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            row["behind"],
            row["backbone"],
            row["recipe"],
            row["run"],
        )
        for row in ranked
    ]


def _common(records: Sequence[Record]) -> tuple[str, list[pd.DataFrame], set[str]]:
    """The split on which the runs are compared, each run's predictions of it, and the paths that all have."""
    for split in ("test", "validation"):
        predictions = [one.predictions(split) for one in records]
        common = functools.reduce(lambda one, other: one & other, [set(table["path"]) for table in predictions])
        if common:
            return split, predictions, common
    raise SpecError("The runs were evaluated on no image in common. Expected runs on the same data and split.")


def rank(
    names: Sequence[str],
    predictions: Sequence[pd.DataFrame],
    common: set[str],
    groups: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Rank runs by accuracy on common images: the best first.

    The best of many is best partly by chance. So the intervals hold for all runs at once, with 95 % confidence
    (Bonferroni). A run is surely behind if an exact paired test says so after Holm's correction for their number.

    groups: the group of each image, by its path. None: each image is its own.

    Returns a dict for each run: index (in `names`), run, accuracy with low and high, behind (the paired difference to
    the best with its 95 % interval and the corrected p-value, in words) and surely_behind.
    """
    correct = []
    for table in predictions:
        shared = table[table["path"].isin(common)].sort_values("path")
        correct.append((shared["prediction"] == shared["label"]).to_numpy())
    order = sorted(range(len(names)), key=lambda i: -correct[i].mean())
    behind, mine = order[1:], None if groups is None else np.array([groups[path] for path in sorted(common)])
    p_values = [paired_p_value(correct[i], correct[order[0]], mine) for i in behind]
    corrected = dict(zip(behind, holm(p_values), strict=True))
    ranked = []
    for i in order:
        effective = effective_images(correct[i], mine)
        low, high = wilson_interval(correct[i].mean() * effective, effective, level=1 - 0.05 / len(names))
        lost, error = paired_difference(correct[i], correct[order[0]], mine)
        best = i == order[0]
        ranked.append(
            {
                "index": i,
                "run": names[i],
                "accuracy": float(correct[i].mean()),
                "low": float(low),
                "high": float(high),
                "behind": "the best"
                if best
                else f"{100 * lost:+.1f} ± {196 * error:.1f} points, p = {corrected[i]:.2g}",
                "surely_behind": not best and lost < 0 and corrected[i] < AT_CHANCE,
            }
        )
    return ranked
