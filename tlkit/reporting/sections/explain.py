"""What the answers rest on, in a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.evaluation.saliency import overlay
from tlkit.plan.plan import Plan
from tlkit.reporting.album import SHOWN, _Album, _evidence, as_data

if TYPE_CHECKING:
    import pandas as pd

    from tlkit.evaluation.reliance import Reliance


def _explain(plan: Plan, answers: pd.DataFrame, album: _Album, cam: Any, found: Reliance | None) -> dict[str, Any]:

    if cam is None or found is None:
        return {
            "lines": ["Not measured: the model has no feature maps before its head, or the pictures are gone."],
            "figures": [],
        }
    figures = []
    right = answers[answers["prediction"] == answers["label"]].sort_values("probability", ascending=False)
    for number, name in enumerate(plan.classes[:SHOWN]):
        mine = right[right["label"] == name].head(1)
        pixels = album.pixels(mine.iloc[0]["path"]) if len(mine) else None
        if pixels is None:
            continue
        path = mine.iloc[0]["path"]
        pictures = [as_data(pixels, f"{path}, {name}"), *_evidence([path], album, cam)[0]]
        if number in found.maps:
            flat = np.full_like(pixels, 110)
            pictures.append(as_data(overlay(flat, found.maps[number]), f"mean evidence over the class {name}"))
        figures.append({"pictures": pictures, "said": f"{name}, {mine.iloc[0]['probability']:.0%}", "path": path})
    return {"lines": found.sentences(), "figures": figures}
