"""The confusion matrix of a report, and the pairs of classes that are confused most."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tlkit.reporting.findings import Findings
from tlkit.reporting.page import Section, fill
from tlkit.words import counted

PAIRS, OF_PAIR = 40, 3  # confused pairs with images, and how many of each
MOST_CLASSES = 40  # in the matrix

TEMPLATE = """
<p class="soft">{{ about }}</p>
<div class="wide"><table class="matrix"><tr><th></th>{% for name in names %}
<th class="column"><div>{{ name }}</div></th>{% endfor %}</tr>
{% for row in rows %}<tr><th class="row">{{ row.name }}</th>{% for cell in row.cells %}
<td style="background: rgba(var(--{{ cell.colour }}), {{ cell.shade }})" title="{{ cell.title }}">
{%- if cell.link %}<a href="#{{ cell.link }}">{{ cell.count }}</a>{% else %}<span>{{ cell.count or '' }}</span>
{%- endif %}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<div class="flow">{% for one in pairs %}<div id="{{ one.id }}"><h3>{{ one.name }}</h3>{{ gallery(one.figures) }}</div>
{% endfor %}</div>
<details><summary>Precision, recall and F1 of every class</summary>
<div class="wide"><table><tr><th>class</th><th>precision</th><th>recall</th><th>F1</th><th>images</th></tr>
{% for row in classes %}<tr><td>{{ row.name }}</td>
{%- if row.images %}<td>{{ '%.3f' % row.precision }}</td><td>{{ '%.3f' % row.recall }}</td>
<td>{{ '%.3f' % row.f1 }}</td>{% else %}<td colspan="3">not measured</td>{% endif %}<td>{{ row.images }}</td></tr>
{% endfor %}</table></div></details>
"""


def render(findings: Findings) -> Section:
    score = findings.record.score
    names = [one.name for one in score.classes]
    order = shown_order(score.confusion_matrix)
    about = (
        f"Rows are true classes, columns predicted classes, of the {findings.split} images. Classes that are often "
        "confused stand next to each other. A linked number leads to examples."
    )
    if len(order) < len(names):
        about += f" These are the {len(order)} most confused of {len(names)} classes."
    pairs = _pairs(findings)
    links = {pair["classes"]: pair["id"] for pair in pairs}
    values = {
        "about": about,
        "names": [names[i] for i in order],
        "rows": _rows(score.confusion_matrix, names, order, links),
        "pairs": pairs,
        "classes": sorted(score.classes, key=lambda one: math.inf if one.f1 is None else one.f1),
    }
    return Section("confusion", "Confusion matrix", fill(TEMPLATE, values))


def _pairs(findings: Findings) -> list[dict[str, Any]]:
    """The pairs of classes with the most mistakes, each with its most confident ones."""
    groups = sorted(findings.mistakes.groupby(["label", "prediction"]), key=lambda one: -len(one[1]))[:PAIRS]
    return [
        {
            "id": f"pair-{number}",
            "classes": (label, predicted),
            "name": f"{label} predicted as {predicted} ({len(rows)})",
            "figures": [
                findings.thumbnails.prediction(row, f"{row.probability:.0%} confident")
                for row in rows.head(OF_PAIR).itertuples()
            ],
        }
        for number, ((label, predicted), rows) in enumerate(groups)
    ]


def _rows(
    matrix: np.ndarray, names: list[str], order: list[int], links: dict[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """The cells of the matrix: the larger the share of the true class, the darker; mistakes in another colour."""
    rows = []
    for i in order:
        total = int(matrix[i].sum())
        cells = [
            {
                "count": int(matrix[i, j]),
                "colour": "mark" if i == j else "miss",
                "shade": round(0.75 * (matrix[i, j] / max(total, 1)) ** 0.6, 3),
                "title": f"{matrix[i, j]} of {counted(total, 'image')} of {names[i]} predicted as {names[j]}",
                "link": links.get((names[i], names[j])),
            }
            for j in order
        ]
        rows.append({"name": names[i], "cells": cells})
    return rows


def shown_order(matrix: np.ndarray) -> list[int]:
    """The classes of the page in its order: all, or of many those that are confused most."""
    order = confusion_order(matrix)
    if len(matrix) <= MOST_CLASSES:
        return order
    off = matrix - np.diag(np.diag(matrix))
    kept = set(np.argsort(-(off.sum(0) + off.sum(1)), kind="stable")[:MOST_CLASSES].tolist())
    return [i for i in order if i in kept]


def confusion_order(matrix: np.ndarray) -> list[int]:
    """An order of classes in which those that are confused stand next to each other.

    Average linkage by how often two classes are confused, leaves ordered (Bar-Joseph et al. 2001).
    matrix: int, shape (classes, classes).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 3:
        return list(range(len(matrix)))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    apart = 1 - (shares + shares.T) / 2
    np.fill_diagonal(apart, 0)
    return [int(i) for i in leaves_list(linkage(squareform(apart, checks=False), "average", optimal_ordering=True))]
