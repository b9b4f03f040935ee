"""Saliency in a report: maps by class, and the accuracy with the most salient pixels masked."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlkit.evaluation.saliency import overlay
from tlkit.reporting.findings import Findings
from tlkit.reporting.page import Section, fill
from tlkit.reporting.thumbnails import SHOWN, as_data

GREY = 110  # of 255, what a class's mean map is drawn on

TEMPLATE = """
{% for line in lines %}<p>{{ line }}</p>{% endfor %}
{% if figures %}<p class="soft">For each class: its most confident correct prediction, the saliency map of that image
({{ method }}), and the mean saliency map of the class.</p>
{{ gallery(figures, True) }}{% endif %}
"""


def render(findings: Findings) -> Section:
    reliance = findings.analysis.reliance
    lines = ["No saliency map: the model has no feature maps before its head, or the images are no longer there."]
    figures: list[dict[str, Any]] = []
    method = findings.analysis.cam.method if findings.analysis.cam is not None else ""
    if findings.analysis.cam is not None and reliance is not None:
        lines, figures = reliance.sentences(), _figures(findings, reliance.maps)
    return Section("explain", "Saliency", fill(TEMPLATE, {"lines": lines, "figures": figures, "method": method}))


def _figures(findings: Findings, maps: dict[int, np.ndarray]) -> list[dict[str, Any]]:
    figures = []
    correct = findings.predictions[findings.correct].sort_values("probability", ascending=False)
    for number, name in enumerate(findings.record.classes[:SHOWN]):
        best = correct[correct["label"] == name].head(1)
        pixels = findings.thumbnails.pixels(best.iloc[0]["path"]) if len(best) else None
        if pixels is None:
            continue
        path = best.iloc[0]["path"]
        images = [as_data(pixels, f"{path}, {name}"), *findings.thumbnails.saliency([path], findings.analysis.cam)[0]]
        if number in maps:
            mean = overlay(np.full_like(pixels, GREY), maps[number])
            images.append(as_data(mean, f"mean saliency map of the class {name}"))
        figures.append({"images": images, "caption": f"{name}, {best.iloc[0]['probability']:.0%}", "path": path})
    return figures
