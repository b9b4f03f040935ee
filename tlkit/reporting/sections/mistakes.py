"""The most confident mistakes of a report, with their saliency maps, and the least certain predictions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tlkit.reporting.findings import Findings
from tlkit.reporting.page import Section, fill
from tlkit.reporting.thumbnails import SHOWN

SMALL = 84  # pixels of a training image beside a mistake
UNSURE = 8  # least certain predictions on the page

TEMPLATE = """
{% if worst %}<p class="soft">Wrong predictions of {{ split }} images, the most confident first.
{%- if maps %} Beside each image is its saliency map ({{ method }}): the brighter, the more that position supported the
prediction.{% endif %} All: <code>mistakes.csv</code>.</p>
{{ gallery(worst, True) }}{% else %}<p>Every prediction of the {{ split }} images is correct.</p>{% endif %}
{% if alike %}<h3 id="nearest">Nearest training images</h3>
<p class="soft">Each mistake, and the training images that are most like it among {{ among }}, by {{ by }}. The number
is their likeness: 1 for equal features, about 0 for unrelated ones. Where the nearest ones have the predicted class,
look at both labels.</p>
{{ gallery(alike, True) }}{% endif %}
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
    alike = _alike(findings, wrong["path"])
    for figure in worst:
        figure["link"] = next((one["id"] for one in alike if one["path"] == figure["path"]), "")
    unsure = [
        thumbnails.prediction(
            row,
            f"{row.prediction} {row.probability:.0%}, {row.top2} {row.top2_probability:.0%}; labelled {row.label}",
        )
        for row in findings.predictions.sort_values("probability").head(UNSURE).itertuples()
    ]
    method = findings.analysis.cam.method if findings.analysis.cam is not None else ""
    nearest = findings.analysis.nearest
    by, among = (nearest.by, nearest.among) if nearest is not None else ("", "")
    values = {"method": method, "worst": worst, "maps": any(maps), "unsure": unsure, "split": findings.split}
    values |= {"alike": alike, "by": by, "among": among}
    return Section("mistakes", "Most confident mistakes", fill(TEMPLATE, values))


def _alike(findings: Findings, paths: Iterable[str]) -> list[dict[str, Any]]:
    """A figure for each mistake with the training images that are most like it."""
    nearest, thumbnails = findings.analysis.nearest, findings.thumbnails
    found = []
    for number, path in enumerate(paths, start=1):
        pairs = nearest.pairs.get(path, []) if nearest is not None else []
        if not pairs:
            continue
        images = [thumbnails.image(path, f"{path}: the mistake", SMALL)]
        images += [
            thumbnails.image(other, f"{other}: training image of {label}, likeness {one:.2f}", SMALL)
            for other, label, one in pairs
        ]
        caption = ", ".join(f"{label} {one:.2f}" for _, label, one in pairs)
        found.append({"id": f"nearest-{number}", "images": images, "caption": caption, "path": path})
    return found
