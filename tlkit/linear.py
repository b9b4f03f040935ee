"""Linear heads that are solved instead of trained: scikit-learn finds the optimum, and it ends as an ordinary dense layer.

A head on frozen features is a convex problem. L-BFGS reaches its optimum where a hundred epochs of small steps come near it, so the
strength of regularisation can be tried at many values in the time of one training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

STRENGTHS = tuple(float(c) for c in np.logspace(-4, 2, 13))  # C, the inverse of the penalty's weight


@dataclass(frozen=True)
class LinearHead:
    """A dense softmax layer: kernel float32, shape (features, classes); bias float32, shape (classes,). strength: its C."""

    kernel: np.ndarray
    bias: np.ndarray
    strength: float

    def scores(self, features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Log loss (natural, probabilities held above 1e-7) and accuracy."""
        probabilities = softmax(features @ self.kernel + self.bias)
        right = probabilities[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(right, 1e-7)).mean()), float((probabilities.argmax(1) == labels).mean())


def solve(
    features: np.ndarray,
    labels: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    *,
    kind: str = "logistic",
    balanced: bool = False,
) -> Iterator[LinearHead]:
    """A head for each of 13 strengths of regularisation, weakest C first; which is best, validation must say.

    features: float32, shape (n, features). labels: int, shape (n,). validation: the same two for the validation part, by which
    an SVM's margins are scaled to probabilities. kind: "logistic", multinomial logistic regression with an L2 penalty by
    L-BFGS (Liu and Nocedal 1989); or "svm", linear one-against-rest with the squared hinge (Fan et al. 2008, LIBLINEAR).
    balanced: weigh each class by n / (classes * n_class). Features are standardised for the solver, which the kernel undoes.
    """
    mean, deviation = features.mean(0), features.std(0)
    deviation[deviation < 1e-6] = 1.0
    x = ((features - mean) / deviation).astype("float64" if kind == "svm" else "float32")
    solver = _solver(kind, "balanced" if balanced else None)
    for strength in STRENGTHS:
        solver.set_params(C=strength).fit(x, labels)
        kernel, bias = (
            np.zeros((x.shape[1], classes)),
            np.full(classes, -30.0),
        )  # a class without images stays improbable
        if len(solver.classes_) == 2:  # one boundary: half of it for each side
            kernel[:, solver.classes_] = np.stack([-solver.coef_[0], solver.coef_[0]], axis=1) / 2
            bias[solver.classes_] = np.array([-solver.intercept_[0], solver.intercept_[0]]) / 2
        else:
            kernel[:, solver.classes_], bias[solver.classes_] = solver.coef_.T, solver.intercept_
        kernel = kernel / deviation[:, None]
        head = LinearHead(kernel.astype("float32"), (bias - mean @ kernel).astype("float32"), strength)
        yield head if kind == "logistic" else _scaled(head, *validation)


def _solver(kind: str, weights: str | None):  # type: ignore[no-untyped-def]
    if kind == "svm":
        from sklearn.svm import LinearSVC

        return LinearSVC(class_weight=weights, dual="auto", max_iter=5000, random_state=0)
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight=weights, max_iter=1000, warm_start=True)


def _scaled(head: LinearHead, features: np.ndarray, labels: np.ndarray) -> LinearHead:
    """Margins times the factor that gives the lowest log loss on validation (Platt 1999, without the offset)."""
    heads = [
        LinearHead(head.kernel * factor, head.bias * factor, head.strength)
        for factor in np.logspace(-1, 1.5, 26).astype("float32")
    ]
    return min(heads, key=lambda one: one.scores(features, labels)[0])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Along the last axis.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
