"""The data in a report: wrong and surprising labels, duplicates, outliers, class sizes and problem files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlkit.data.images import NOT_OF_FILES
from tlkit.reporting.findings import Duplicate, Findings
from tlkit.reporting.page import Section, fill
from tlkit.reporting.thumbnails import SHOWN, Thumbnails
from tlkit.words import counted

if TYPE_CHECKING:
    import pandas as pd

MOST = 8  # surprising labels, duplicates and outliers on the page
MOST_CLASSES = 60
BAR = 220  # pixels, of the largest class

TEMPLATE = """
<ul>{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ul>
{% if labels %}<h3>Labels that are probably wrong</h3><p class="soft">A classifier that was not trained on these images
is surer of another class than hard images explain. Look at each before you change its label.
All: <code>label_errors.csv</code>.</p>
{{ gallery(labels) }}{% endif %}
{% if surprising %}<h3>Surprising labels</h3><p class="soft">The classifier is sure of another class, but about as often
as with hard images: most of these labels are right. The least probable label first.
All: <code>label_errors.csv</code>.</p>
{{ gallery(surprising) }}{% endif %}
{% if duplicates %}<h3>Duplicates and near duplicates</h3><p class="soft">Pairs across splits come first.
All: <code>duplicates.csv</code>.</p>
{{ gallery(duplicates, True) }}{% endif %}
{% if outliers %}<h3>Outliers</h3><p class="soft">Images that are unlike all others.
All: <code>outliers.csv</code>.</p>
{{ gallery(outliers) }}{% endif %}
{% if classes %}<h3>Images per class</h3>
<div class="wide"><table>{% for row in classes %}<tr><td>{{ row.label }}</td><td>{{ row.images }}</td>
<td class="words"><span class="strip" style="width: {{ row.width }}px"></span></td></tr>
{% endfor %}</table></div>{% endif %}
{% if problems %}<h3>Problem files</h3><ul>{% for line in problems %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}
"""


def render(findings: Findings) -> Section:
    return Section("data-problems", "Data problems", fill(TEMPLATE, _values(findings)))


def _values(findings: Findings) -> dict[str, Any]:
    checkup, thumbnails = findings.analysis.checkup, findings.thumbnails
    problems = _problems(findings.record.problems())
    if checkup is None:
        gone = "The images are no longer there, so the data could not be checked again."
        nothing: dict[str, Any] = {"labels": [], "surprising": []}
        return nothing | {"lines": [gone], "duplicates": [], "outliers": [], "classes": [], "problems": problems}
    lines = [*checkup.sentences(), *([] if problems else ["every file was read and used"])]
    if checkup.drawn_from is not None:
        sample = f"{checkup.n:,} of {counted(checkup.drawn_from, 'image')} were checked, drawn at random"
        lines = [f"{sample}; tlkit inspect {findings.record.data} checks all", *lines]
    errors = checkup.label_errors
    largest = int(checkup.classes["images"].max())
    return {
        "lines": lines,
        "labels": _labels(errors[errors["probable"]].head(SHOWN), thumbnails),
        "surprising": _labels(errors[errors["surprising"]].head(MOST), thumbnails),
        "duplicates": [_pair(one, findings) for one in findings.duplicates[:MOST]],
        "outliers": [
            thumbnails.figure(
                row.path,
                f"{row.path}: {row.label}, unlike all others",
                f"{row.label}, {row.distance:.1f} times the usual distance to the nearest image",
            )
            for row in checkup.outliers.head(MOST).itertuples()
        ],
        "classes": [
            {"label": row.label, "images": row.images, "width": round(BAR * row.images / largest)}
            for row in checkup.classes.head(MOST_CLASSES).itertuples()
        ],
        "problems": problems,
    }


def _labels(rows: pd.DataFrame, thumbnails: Thumbnails) -> list[Any]:
    return [
        thumbnails.figure(
            row.path,
            f"{row.path}: labelled {row.label}, perhaps {row.suggested}",
            f"labelled {row.label} ({row.probability:.1%}), perhaps {row.suggested} "
            f"({row.suggested_probability:.0%}); wrong with a probability of {row.wrong:.0%}",
        )
        for row in rows.itertuples()
    ]


def _problems(table: pd.DataFrame) -> list[str]:
    """One line for each kind of problem, with an example."""
    return [
        f"{kind} ({action}): {counted(len(rows), *_noun(kind))}, such as {rows.iloc[0]['path']}"
        for (kind, action), rows in table.groupby(["problem", "action"], sort=True)
    ]


def _noun(kind: str) -> tuple[str, str]:
    """What a problem of this kind is counted in, in singular and plural."""
    return ("folder or class", "folders or classes") if kind in NOT_OF_FILES else ("file", "files")


def _pair(pair: Duplicate, findings: Findings) -> dict[str, Any]:
    each = list(zip(pair.paths, pair.splits, pair.labels, strict=True))
    return {
        "images": [findings.thumbnails.image(path, f"{path}, {split}, {label}") for path, split, label in each],
        "caption": f"{pair.kind}: " + " and ".join(f"{label} ({split})" for _, split, label in each),
        "path": " and ".join(pair.paths),
    }
