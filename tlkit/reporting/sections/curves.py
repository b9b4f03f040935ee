"""The learning curves of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tlkit.reporting import charts
from tlkit.reporting.findings import Findings
from tlkit.reporting.page import Section, fill
from tlkit.words import counted

if TYPE_CHECKING:
    import pandas as pd

TEMPLATE = """
{% if charts %}<div class="two">{% for one in charts %}<div>{{ one | safe }}</div>{% endfor %}</div>{% endif %}
{% for line in lines %}<p>{{ line }}</p>{% endfor %}
"""


def render(findings: Findings) -> Section:
    history = findings.record.history()
    drawn = [_chart(history, name) for name in ("accuracy", "loss")] if len(history) > 1 else []
    lines = _stages(history) or ["This model was not trained: it averages the predictions of other models."]
    return Section("curves", "Learning curves", fill(TEMPLATE, {"charts": drawn, "lines": lines}))


def _chart(history: pd.DataFrame, name: str) -> str:
    """Accuracy or loss by epoch, of training and validation images, with a mark where each stage starts."""
    epochs = np.arange(1, len(history) + 1)
    first = history["stage"].ne(history["stage"].shift()).to_numpy()
    series = {}
    for split, column in (("training", name), ("validation", f"validation_{name}")):
        if column in history and history[column].notna().any():
            known = history[column].notna().to_numpy()
            series[split] = list(zip(epochs[known].tolist(), history[column][known].tolist(), strict=True))
    words = ", ".join(f"{split} ends at {points[-1][1]:.3f}" for split, points in series.items())
    return charts.lines(
        series,
        title=f"{name} by epoch: {words}",
        x=charts.Axis("epoch, all stages"),
        y=charts.Axis(name, percent=name == "accuracy"),
        marks=[(float(x), f"stage {n}") for x, n in zip(epochs[first], history["stage"][first], strict=True)],
    )


def _stages(history: pd.DataFrame) -> list[str]:
    lines = []
    for stage, rows in history.groupby("stage", sort=True) if len(history) else ():
        last = rows.iloc[-1]
        solved = "c" in rows and rows["c"].notna().any()
        how = f"head solved with C = {last['c']:g}" if solved else counted(len(rows), "epoch")
        lines.append(
            f"Stage {stage}: {how}, {rows['seconds'].sum():.0f} s. "
            f"Validation accuracy at its end: {last['validation_accuracy']:.1%}."
        )
    return lines
