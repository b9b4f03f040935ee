"""The confusion matrix of a report, and the pairs of classes that are confused most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.reporting.album import _Album, _answered

if TYPE_CHECKING:
    import pandas as pd


PAIRS, OF_PAIR = 40, 3  # confused pairs with pictures, and how many of each
MOST_CLASSES = 40  # in the confusion matrix


def _confusion(score: dict[str, Any], answers: pd.DataFrame, album: _Album) -> dict[str, Any]:
    names, matrix = score["classes"], np.array(score["confusion_matrix"])
    order = confusion_order(matrix)
    about = "A row is what the picture is, a column what was answered. Classes that are taken for each other stand together; a number leads to its pictures."
    if len(names) > MOST_CLASSES:
        off = matrix - np.diag(np.diag(matrix))
        kept = set(np.argsort(-(off.sum(0) + off.sum(1)), kind="stable")[:MOST_CLASSES].tolist())
        order = [i for i in order if i in kept]
        about += f" The {MOST_CLASSES} most confused of {len(names)} classes."
    wrong = answers[answers["prediction"] != answers["label"]].sort_values("probability", ascending=False)
    groups = sorted(wrong.groupby(["label", "prediction"]), key=lambda one: -len(one[1]))[:PAIRS]
    numbers = {pair: f"pair-{number}" for number, (pair, _) in enumerate(groups)}
    pairs = [
        {
            "id": numbers[a, b],
            "name": f"{a} taken for {b} ({len(rows)})",
            "figures": [_answered(row, album, f"at {row.probability:.0%}") for row in rows.head(OF_PAIR).itertuples()],
        }
        for (a, b), rows in groups
    ]
    rows = []
    for i in order:
        total = max(matrix[i].sum(), 1)
        cells = [
            {
                "count": int(matrix[i, j]),
                "shade": round(0.75 * (matrix[i, j] / total) ** 0.6, 3),
                "title": f"{matrix[i, j]} of {total} {names[i]} were called {names[j]}",
                "link": numbers.get((names[i], names[j])),
            }
            for j in order
        ]
        rows.append({"name": names[i], "cells": cells})
    classes = [{"name": name, **values} for name, values in score["per_class"].items()]
    return {
        "about": about,
        "names": [names[i] for i in order],
        "rows": rows,
        "pairs": pairs,
        "classes": sorted(classes, key=lambda one: one["f1"]),
    }


def confusion_order(matrix: np.ndarray) -> list[int]:
    """An order of classes in which those that are confused stand together: average linkage by how often two are taken for each other,
    leaves ordered (Bar-Joseph et al. 2001). matrix: int, shape (classes, classes).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 3:
        return list(range(len(matrix)))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    apart = 1 - (shares + shares.T) / 2
    np.fill_diagonal(apart, 0)
    return [int(i) for i in leaves_list(linkage(squareform(apart, checks=False), "average", optimal_ordering=True))]
