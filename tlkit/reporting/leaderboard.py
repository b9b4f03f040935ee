"""Several runs ranked on the images they share, in pairs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.errors import SpecError
from tlkit.files import write_atomically
from tlkit.progress import log
from tlkit.reporting.findings import _answers
from tlkit.reporting.page import _render
from tlkit.runs.folder import Run
from tlkit.stats import paired_difference, wilson_interval
from tlkit.tables import Column, table_text

if TYPE_CHECKING:
    import pandas as pd


def leaderboard(runs: Sequence[Run], out: str | Path | None = None) -> Path:
    """A page that ranks runs on the images on which all were judged, each against the best, paired.

    Test images where every run has some, else validation images. Raises SpecError where there are no common ones.
    """
    tables = {part: [_answers(run, part) for run in runs] for part in ("test", "validation")}
    judged = {
        part: functools.reduce(lambda one, other: one & other, [set(table["path"]) for table in answers])
        for part, answers in tables.items()
    }
    part = next((one for one, common in judged.items() if common), "")
    if not part:
        raise SpecError("The runs share no image on which they were judged. Expected runs on the same data and split.")
    common = judged[part]
    rows = rank([str(run.folder) for run in runs], tables[part], common)
    for row, run in zip(rows, [runs[row["place"]] for row in rows], strict=True):
        plan, metrics = run.plan, run.metrics
        row |= {
            "backbone": plan.backbone.name,
            "recipe": plan.recipe.name,
            "size": f"{sum(f.stat().st_size for f in run.saved_model.rglob('*') if f.is_file()) / 1e6:.1f} MB",
            "seconds": f"{metrics['seconds']['total']:.0f} s",
        }
    for line in _lines(rows):
        log.info(line)
    path = Path(out) if out is not None else runs[0].folder.parent / "leaderboard.html"
    page = _render("leaderboard.html.jinja", rows=rows, n=len(common), part=part)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The ranking for a person to read, header first."""
    columns = [
        Column("accuracy", right=True),
        Column("95 % interval", right=True),
        Column("behind the best", right=True),
    ]
    columns += [Column(name) for name in ("backbone", "recipe", "run")]
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


def rank(names: Sequence[str], answers: Sequence[pd.DataFrame], common: set[str]) -> list[dict[str, Any]]:
    """Runs by accuracy on common images, with how far each is behind the best: paired differences, 95 % intervals."""

    right = []
    for table in answers:
        mine = table[table["path"].isin(common)].sort_values("path")
        right.append((mine["prediction"] == mine["label"]).to_numpy())
    order = sorted(range(len(names)), key=lambda i: -right[i].mean())
    rows = []
    for i in order:
        low, high = wilson_interval(int(right[i].sum()), len(common))
        lost, error = paired_difference(right[i], right[order[0]])
        behind = "the best" if i == order[0] else f"{100 * lost:+.1f} ± {196 * error:.1f} points"
        sure = i != order[0] and lost + 1.96 * error < 0
        rows.append(
            {
                "place": i,
                "run": names[i],
                "accuracy": float(right[i].mean()),
                "low": low,
                "high": high,
                "behind": behind,
                "surely_behind": sure,
            }
        )
    return rows
