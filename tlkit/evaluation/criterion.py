"""What trained models are chosen by, on held-out images: log loss, or another metric that the user asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlkit.evaluation.calibration import fit_temperature, temper, without_prior
from tlkit.evaluation.scores import roc_auc
from tlkit.stats import balancing_weights, log_loss

IMBALANCED = 3.0  # the largest class has more than this many times as many images as the smallest


def is_imbalanced(labels: np.ndarray) -> bool:
    """Whether the largest class has more than three times as many images as the smallest one that occurs."""
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return bool(counts.max() > IMBALANCED * counts.min())


@dataclass(frozen=True)
class Criterion:
    """Compares predictions on the same images. Lower is better.

    metric: one of `tlkit.plan.job.METRICS`. balanced: whether each class counts equally in the log loss.
    """

    metric: str = "log_loss"
    balanced: bool = False

    def __str__(self) -> str:
        return f"balanced {self._name}" if self.balanced and self.metric == "log_loss" else self._name

    @property
    def _name(self) -> str:
        return {"auc": "ROC AUC", "macro_f1": "macro-F1"}.get(self.metric, self.metric.replace("_", " "))

    def loss(self, probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """What is to be minimised: the metric's loss (1 minus a score), and the log loss, which decides between equals.

        probabilities: shape (n, classes). labels: int, shape (n,), n 1 or more.
        """
        weights = balancing_weights(labels) if self.balanced else None
        losses = log_loss(probabilities, labels, weights)
        if self.metric == "log_loss":
            return losses, losses
        correct = probabilities.argmax(1) == labels
        if self.metric == "accuracy":
            score = float(correct.mean())
        elif self.metric == "balanced_accuracy":
            score = float(np.average(correct, weights=balancing_weights(labels)))
        elif self.metric == "macro_f1":
            from sklearn.metrics import f1_score

            score = float(f1_score(labels, probabilities.argmax(1), labels=np.unique(labels), average="macro"))
        else:
            score = roc_auc(probabilities, labels) or 0.0
        return 1.0 - score, losses

    def served(self, probabilities: np.ndarray, labels: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
        """The probabilities as they would be served: with their own temperature, and without the classes' shares.

        shares: see `without_prior`; None keeps them.
        """
        found = probabilities if shares is None else without_prior(probabilities, shares)
        return temper(found, fit_temperature(found, labels, balanced=shares is not None))
