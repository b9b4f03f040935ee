"""The surest mistakes of a report, with their saliency maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlkit.reporting.album import SHOWN, _Album, _answered, _evidence

if TYPE_CHECKING:
    import pandas as pd


def _mistakes(answers: pd.DataFrame, album: _Album, cam: Any, part: str) -> dict[str, Any]:
    wrong = answers[answers["prediction"] != answers["label"]].sort_values("probability", ascending=False).head(SHOWN)
    worst = [_answered(row, album) for row in wrong.itertuples()]
    for figure, evidence in zip(worst, _evidence(list(wrong["path"]), album, cam), strict=True):
        figure["pictures"] += evidence
    unsure = answers.sort_values("probability").head(8)
    least = [
        _answered(
            row,
            album,
            f"{row.prediction} {row.probability:.0%}, {row.top2} {row.top2_probability:.0%}; labelled {row.label}",
        )
        for row in unsure.itertuples()
    ]
    return {"worst": worst, "unsure": least, "part": part}
