"""What a report says of the data: its parts, and what the data doctor found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlkit.plan.plan import Plan
from tlkit.reporting.album import SHOWN, _Album
from tlkit.runs.folder import Run

if TYPE_CHECKING:
    from tlkit.doctor.checkup import Checkup


def _data(run: Run, plan: Plan, checkup: Checkup | None, album: _Album) -> dict[str, Any]:
    import pandas as pd

    problems = pd.read_csv(run.folder / "problems.csv", keep_default_na=False, dtype=str)
    files = [
        f"{len(rows):,} {kind} ({action}), such as {rows.iloc[0]['path']}"
        for (kind, action), rows in problems.groupby(["problem", "action"], sort=True)
    ]
    if checkup is None:
        gone = "The pictures are not where they were, so that the data could not be looked at again."
        return {"lines": [gone], "labels": [], "duplicates": [], "outliers": [], "classes": [], "problems": files}
    everything = sum(plan.images.values())
    if checkup.n < everything:
        files = [
            f"looked at {checkup.n:,} of {everything:,} pictures, drawn at random; tlkit inspect looks at all",
            *files,
        ]
    probable = checkup.label_errors[checkup.label_errors["probable"]].head(SHOWN)
    most = int(checkup.classes["images"].max())
    return {
        "lines": [*checkup.sentences(), *([] if files else ["every file was read and used"])],
        "labels": [
            album.figure(
                row.path,
                f"{row.path}: labelled {row.label}, perhaps {row.suggested}",
                f"labelled {row.label} ({row.probability:.1%}); perhaps {row.suggested} ({row.suggested_probability:.0%})",
            )
            for row in probable.itertuples()
        ],
        "duplicates": [
            {
                "pictures": [
                    album.picture(row.path, f"{row.path}, {row.split}, {row.label}"),
                    album.picture(row.other, f"{row.other}, {row.other_split}, {row.other_label}"),
                ],
                "said": f"{row.kind}: {_part(row.split)} {row.label} and {_part(row.other_split)} {row.other_label}",
                "path": f"{row.path} and {row.other}",
            }
            for row in checkup.duplicates.head(8).itertuples()
        ],
        "outliers": [
            album.figure(
                row.path,
                f"{row.path}: {row.label}, unlike all others",
                f"{row.label}: {row.distance:.1f} times the usual distance",
            )
            for row in checkup.outliers.head(8).itertuples()
        ],
        "classes": [
            {"label": row.label, "images": row.images, "width": round(220 * row.images / most)}
            for row in checkup.classes.head(60).itertuples()
        ],
        "problems": files,
    }


def _part(name: str) -> str:
    return {"train": "training"}.get(name, name)
