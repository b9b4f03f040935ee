"""Scores a classifier: every number with its n, accuracy with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.stats import expected_calibration_error, wilson_interval

if TYPE_CHECKING:
    import pandas as pd


def evaluate(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Score a classifier's predictions.

    Args:
        probabilities: Shape (n, classes), rows sum to 1.
        labels: int, shape (n,).
        class_names: In class order.

    Returns:
        JSON values: n, accuracy, accuracy_95 (Wilson 1927), macro_f1 (mean over the classes that occur), top_k
        (accuracy among the k most probable, k = 2, 3, 5), log_loss (natural, probabilities clipped at 1e-7), ece (15
        equal bins of the top probability; Naeini et al. 2015), per_class (precision, recall, f1, support) and
        confusion_matrix (rows: true, columns: predicted).
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    n, k = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    correct = predicted == labels
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(k), zero_division=0.0
    )
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    picked = np.clip(probabilities[np.arange(n), labels], 1e-7, 1.0)
    return {
        "n": n,
        "accuracy": float(correct.mean()),
        "accuracy_95": list(wilson_interval(int(correct.sum()), n)),
        "macro_f1": float(f1[support > 0].mean()),
        "top_k": {str(top): float((ranked[:, :top] == labels[:, None]).any(1).mean()) for top in (2, 3, 5) if top < k},
        "log_loss": float(-np.log(picked).mean()),
        "ece": expected_calibration_error(probabilities, labels),
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(class_names, precision, recall, f1, support, strict=True)
        },
        "confusion_matrix": confusion_matrix(labels, predicted, labels=range(k)).tolist(),
        "classes": list(class_names),
    }


def prediction_table(
    paths: Sequence[str], probabilities: np.ndarray, class_names: Sequence[str], top: int = 3
) -> pd.DataFrame:
    """One row per image: path, prediction, probability, top2, top2_probability, ... up to `top`."""
    import pandas as pd

    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    columns: dict[str, Any] = {"path": list(paths)}
    for rank in range(min(top, len(class_names))):
        name, value = ("prediction", "probability") if rank == 0 else (f"top{rank + 1}", f"top{rank + 1}_probability")
        columns[name] = [class_names[i] for i in ranked[:, rank]]
        columns[value] = [round(float(p), 6) for p in probabilities[np.arange(len(ranked)), ranked[:, rank]]]
    return pd.DataFrame(columns)
