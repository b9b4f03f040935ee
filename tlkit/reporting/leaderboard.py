"""Several runs ranked on the images they share, in pairs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.disk import check_writable
from tlkit.errors import SpecError
from tlkit.files import write_atomically
from tlkit.progress import log
from tlkit.reporting.findings import Record
from tlkit.reporting.page import fill_file
from tlkit.runs.folder import Run
from tlkit.runs.reading import groups_of
from tlkit.stats import AT_CHANCE, effective_images, holm, paired_difference, paired_p_value, wilson_interval
from tlkit.tables import Column, table_text
from tlkit.words import counted

if TYPE_CHECKING:
    import pandas as pd


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
    records = [Record(run) for run in runs]
    split, predictions, common = _common(records)
    groups = dict(zip(sorted(common), groups_of(runs[0], sorted(common)).tolist(), strict=True))
    rows = rank([str(run.folder) for run in runs], predictions, common, groups)
    for row in rows:
        record = records[row["index"]]
        row |= {
            "backbone": record.backbone,
            "recipe": record.recipe,
            "size": f"{record.model_bytes / 1e6:.1f} MB",
            "seconds": f"{record.seconds:.0f} s",
        }
    for line in _lines(rows):
        log.info(line)
    page = fill_file("leaderboard.html.jinja", {"rows": rows, "images": counted(len(common), f"{split} image")})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The ranking for a person to read, header first."""
    numbers = [Column(name, right=True) for name in ("accuracy", "95 % interval", "behind the best")]
    columns = [*numbers, *[Column(name) for name in ("backbone", "recipe", "run")]]
    cells = [
        (
            f"{row['accuracy']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            row["behind"],
            row["backbone"],
            row["recipe"],
            row["run"],
        )
        for row in rows
    ]
    return table_text(columns, cells).splitlines()


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
    rows = []
    for i in order:
        effective = effective_images(correct[i], mine)
        low, high = wilson_interval(correct[i].mean() * effective, effective, level=1 - 0.05 / len(names))
        lost, error = paired_difference(correct[i], correct[order[0]], mine)
        best = i == order[0]
        rows.append(
            {
                "index": i,
                "run": names[i],
                "accuracy": float(correct[i].mean()),
                "low": low,
                "high": high,
                "behind": "the best"
                if best
                else f"{100 * lost:+.1f} ± {196 * error:.1f} points, p = {corrected[i]:.2g}",
                "surely_behind": not best and lost < 0 and corrected[i] < AT_CHANCE,
            }
        )
    return rows
