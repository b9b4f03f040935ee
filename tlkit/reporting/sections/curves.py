"""The learning curves of a report."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlkit.reporting import charts
from tlkit.runs.folder import Run


def _curves(run: Run) -> dict[str, Any]:
    import pandas as pd

    history = pd.read_csv(run.folder / "history.csv") if (run.folder / "history.csv").is_file() else pd.DataFrame()
    lines, drawn = [], []
    if len(history) > 1:
        place = np.arange(1, len(history) + 1)
        first = history["stage"].ne(history["stage"].shift()).to_numpy()
        marks = [(float(at), f"stage {stage}") for at, stage in zip(place[first], history["stage"][first], strict=True)]
        for name, percent in (("accuracy", True), ("loss", False)):
            series = {}
            for word, column in (("training", name), ("validation", f"val_{name}")):
                if column in history and history[column].notna().any():
                    known = history[column].notna().to_numpy()
                    series[word] = list(zip(place[known].tolist(), history[column][known].tolist(), strict=True))
            words = ", ".join(f"{word} ends at {points[-1][1]:.3f}" for word, points in series.items())
            drawn.append(
                charts.lines(
                    series,
                    title=f"{name} by epoch: {words}",
                    x_label="epoch, all stages",
                    y_label=name,
                    percent=percent,
                    marks=marks,
                )
            )
    for stage, rows in history.groupby("stage", sort=True) if len(history) else ():
        last = rows.iloc[-1]
        solved = "strength" in rows and rows["strength"].notna().any()
        how = f"solved at strength {last['strength']:g}" if solved else f"{len(rows)} epochs"
        lines.append(
            f"Stage {stage}: {how}, {rows['seconds'].sum():.0f} s; validation accuracy {last['val_accuracy']:.1%} at its end."
        )
    return {"charts": drawn, "lines": lines or ["This model was not trained; it averages others."]}
