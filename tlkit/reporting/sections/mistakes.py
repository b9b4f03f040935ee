"""The most confident mistakes of a report, with their saliency maps, and the least certain predictions."""

from __future__ import annotations

from tlkit.reporting.findings import Findings
from tlkit.reporting.page import Section, fill
from tlkit.reporting.thumbnails import SHOWN

UNSURE = 8  # least certain predictions on the page

TEMPLATE = """
{% if worst %}<p class="soft">Wrong predictions of {{ split }} images, the most confident first.
{%- if maps %} Beside each image is its saliency map ({{ method }}): the brighter, the more that position supported the
prediction.{% endif %} All: <code>mistakes.csv</code>.</p>
{{ gallery(worst, True) }}{% else %}<p>Every prediction of the {{ split }} images is correct.</p>{% endif %}
{% if unsure %}<h3>Least certain</h3><p class="soft">The predictions with the lowest probability, correct or not.</p>
{{ gallery(unsure) }}{% endif %}
"""


def render(findings: Findings) -> Section:
    thumbnails = findings.thumbnails
    wrong = findings.mistakes.head(SHOWN)
    worst = [thumbnails.prediction(row) for row in wrong.itertuples()]
    maps = thumbnails.saliency(list(wrong["path"]), findings.analysis.cam)
    for figure, drawn in zip(worst, maps, strict=True):
        figure["images"] += drawn
    unsure = [
        thumbnails.prediction(
            row,
            f"{row.prediction} {row.probability:.0%}, {row.top2} {row.top2_probability:.0%}; labelled {row.label}",
        )
        for row in findings.predictions.sort_values("probability").head(UNSURE).itertuples()
    ]
    method = findings.analysis.cam.method if findings.analysis.cam is not None else ""
    values = {"method": method, "worst": worst, "maps": any(maps), "unsure": unsure, "split": findings.split}
    return Section("mistakes", "Most confident mistakes", fill(TEMPLATE, values))
