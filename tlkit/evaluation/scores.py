"""Scores a classifier: every number with its n, accuracy with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.stats import expected_calibration_error, log_loss, proportion_interval

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str], groups: np.ndarray | None = None
) -> dict[str, Any]:
    """Score a classifier's predictions.

    Args:
        probabilities: Shape (n, classes), rows sum to 1.
        labels: int, shape (n,).
        class_names: In class order.
        groups: Shape (n,). Images with equal values, such as those of one patient, are not independent, and the
            interval is wider.

    Returns:
        JSON values: n, accuracy, accuracy_95 (see `tlkit.stats.proportion_interval`), balanced_accuracy (mean recall of
        the classes that occur), macro_f1 (mean over the classes that occur), roc_auc (see `roc_auc`), top_k (accuracy
        among the k most probable, k = 2, 3, 5), log_loss (natural, probabilities clipped at 1e-7), ece (15 equal bins
        of the top probability; Naeini et al. 2015), per_class (precision, recall, f1, support; the first three are None
        for a class without images) and confusion_matrix (rows: true, columns: predicted).
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    n, k = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    correct = predicted == labels
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(k), zero_division=0.0
    )
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    return {
        "n": n,
        "accuracy": float(correct.mean()),
        "accuracy_95": list(proportion_interval(correct, groups)),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(f1[support > 0].mean()),
        "roc_auc": roc_auc(probabilities, labels),
        "top_k": {str(top): float((ranked[:, :top] == labels[:, None]).any(1).mean()) for top in (2, 3, 5) if top < k},
        "log_loss": log_loss(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels),
        "per_class": {
            name: {
                "precision": float(p) if s else None,
                "recall": float(r) if s else None,
                "f1": float(f) if s else None,
                "support": int(s),
            }
            for name, p, r, f, s in zip(class_names, precision, recall, f1, support, strict=True)
        },
        "confusion_matrix": confusion_matrix(labels, predicted, labels=range(k)).tolist(),
        "classes": list(class_names),
    }


def roc_auc(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """The area under the ROC curve, of each class against the others, averaged over the classes that occur.

    It does not change where the threshold is moved, nor, for two classes, with their shares (Fawcett 2006). 0.5 is
    chance, and 1 that every image of a class is more probable of it than every other image. None if all labels are
    equal.

    probabilities: shape (n, classes). labels: int, shape (n,).
    """
    from sklearn.metrics import roc_auc_score

    occurring = np.unique(labels)
    if len(occurring) < 2:
        return None
    return float(np.mean([roc_auc_score(labels == one, probabilities[:, one]) for one in occurring]))


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
