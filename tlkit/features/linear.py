"""Linear heads that are solved instead of trained: scikit-learn finds the optimum, and it ends as an ordinary dense layer.

A head on frozen features is a convex problem. L-BFGS reaches its optimum where a hundred epochs of small steps come near it, so the
strength of regularisation can be tried at many values, with cross-validation, in the time of one training.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax

from tlkit.features.folds import ALWAYS_TRAINING
from tlkit.stats import log_loss

STRENGTHS = tuple(float(c) for c in np.logspace(-5, 1, 7))  # C, the inverse of the penalty's weight
BLOCK_SCALING = 0.25  # see `Solver`; 0, 1/8, 1/4, 3/8 and 1/2 were tried on three data sets, seeds and two sizes
PATIENCE = 1  # strengths without improvement, after which weaker penalties are not tried


@dataclass(frozen=True)
class LinearHead:
    """A dense softmax layer: kernel float32, shape (features, classes); bias float32, shape (classes,). strength: its C."""

    kernel: np.ndarray
    bias: np.ndarray
    strength: float

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """float32, shape (n, classes)."""
        return softmax(features @ self.kernel + self.bias, axis=-1)


@dataclass(frozen=True)
class Validated:
    """What cross-validation says. probabilities: of the held-out rows, in their order, each by a head that did not see it,
    float32, shape (held out, classes). loss: their log loss. strength: the C with the lowest. losses: by strength tried.
    """

    strength: float
    probabilities: np.ndarray
    loss: float
    losses: dict[float, float]


@dataclass(frozen=True)
class Solver:
    """How a head is solved, but for its strength.

    kind: "logistic", multinomial logistic regression with an L2 penalty by L-BFGS (Liu and Nocedal 1989); "svm",
        linear one-against-rest with the squared hinge (Fan et al. 2008, LIBLINEAR); or "ridge", least squares against
        -1 and 1, in closed form (for a quick look). The last two give margins, which are scaled to probabilities.
    balanced: weigh each class by n / (classes * n_class).
    sizes: how many of the features belong to each tapped block, where there are several.
    standardise: False leaves the features' scales as they are, where these mean something (principal directions, say).

    Features are standardised for the solver, and where there are several blocks each one's are divided by the fourth
    root of their number: between outweighing a block of 24 with one of 1,280 and giving both the same say. The kernel
    undoes both.
    """

    kind: str = "logistic"
    balanced: bool = False
    sizes: tuple[int, ...] = ()
    standardise: bool = True


LOGISTIC = Solver()
UNSCALED = Solver(standardise=False)


def solve(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    strength: float,
    solver: Solver = LOGISTIC,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> LinearHead:
    """The head at one strength of regularisation.

    Args:
        features: float32, shape (n, features).
        labels: int, shape (n,).
        classes: how many there are; some may be absent.
        strength: C, above 0.
        solver: what is solved.
        validation: (features, labels) on which margins are scaled to probabilities; default the training rows. A
            logistic head needs none.
    """
    space = _Space(features, solver.sizes, solver.standardise)
    head = _fit(_estimator(solver), space.rows, labels, classes, strength)
    kernel = space.basis @ head.kernel if space.basis is not None else head.kernel
    kernel = kernel / space.deviation[:, None]
    bias = head.bias - space.mean @ kernel
    if solver.kind != "logistic":
        held_out, true = validation if validation is not None else (features, labels)
        factor = _best_factor(held_out @ kernel + bias, true)
        kernel, bias = kernel * factor, bias * factor
    return LinearHead(kernel.astype("float32"), bias.astype("float32"), strength)


def choose_strength(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    classes: int,
    *,
    solver: Solver = LOGISTIC,
    strengths: Sequence[float] = STRENGTHS,
) -> Validated:
    """Cross-validate the strengths, strongest penalty first, until weaker ones do not help any more.

    Args:
        features, labels, classes, solver: as for `solve`.
        folds: int, shape (n,): the fold in which a row is held out, -1 = in none. With one fold this is a plain
            validation.
        strengths: the values of C to try.
    """
    space = _Space(features, solver.sizes, solver.standardise)
    held_out = folds != ALWAYS_TRAINING
    numbers = np.unique(folds[held_out])
    estimators = {number: _estimator(solver) for number in numbers}
    best: Validated | None = None
    losses: dict[float, float] = {}
    for strength in sorted(strengths):
        logits = np.zeros((len(labels), classes), "float32")
        for number in numbers:
            mine = folds == number
            head = _fit(estimators[number], space.rows[~mine], labels[~mine], classes, strength)
            logits[mine] = space.rows[mine] @ head.kernel + head.bias
        found, true = logits[held_out], labels[held_out]
        if solver.kind != "logistic":
            found = found * _best_factor(found, true)
        probabilities = softmax(found, axis=-1)
        losses[strength] = log_loss(probabilities, true)
        if best is None or losses[strength] < best.loss:
            best = Validated(strength, probabilities, losses[strength], losses)
        elif list(losses).index(strength) - list(losses).index(best.strength) >= PATIENCE:
            break
    assert best is not None
    return best


class _Space:
    """Standardised features; where there are fewer rows than features, turned into as many directions as rows.

    An L2 penalty does not change under rotation, so the solution is the same and the work is a fraction.
    """

    def __init__(self, features: np.ndarray, sizes: Sequence[int] = (), standardise: bool = True) -> None:
        self.mean = features.mean(0)
        self.deviation = features.std(0) if standardise else np.ones_like(self.mean)
        self.deviation[self.deviation < 1e-6] = 1.0
        if len(sizes) > 1:
            share = features.shape[1] / len(sizes)
            self.deviation = self.deviation * ((np.repeat(sizes, sizes) / share) ** BLOCK_SCALING).astype("float32")
        self.rows = ((features - self.mean) / self.deviation).astype("float32")
        self.basis = None
        if self.rows.shape[0] < self.rows.shape[1]:
            left, lengths, right = np.linalg.svd(self.rows, full_matrices=False)
            self.rows, self.basis = left * lengths, right.T


def _estimator(solver: Solver) -> Any:
    """scikit-learn's estimator, its strength not yet set."""
    weights = "balanced" if solver.balanced else None
    if solver.kind == "svm":
        from sklearn.svm import LinearSVC

        return LinearSVC(class_weight=weights, dual="auto", max_iter=5000, random_state=0)
    if solver.kind == "ridge":
        from sklearn.linear_model import RidgeClassifier

        return RidgeClassifier(class_weight=weights)
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight=weights, max_iter=1000, warm_start=True)


def _fit(estimator: Any, rows: np.ndarray, labels: np.ndarray, classes: int, strength: float) -> LinearHead:
    kernel = np.zeros((rows.shape[1], classes), "float32")
    bias = np.full(classes, -30.0, "float32")  # a class without images stays improbable
    present = np.unique(labels)
    if len(present) == 1:
        bias[present] = 0.0
        return LinearHead(kernel, bias, strength)
    settings = {"C": strength} if hasattr(estimator, "C") else {"alpha": 1 / strength}
    with _one_thread(), warnings.catch_warnings():
        # where a weak penalty has not converged after 1,000 steps, a stronger one is better anyway
        warnings.filterwarnings("ignore", "(?s).*failed to converge.*")
        estimator.set_params(**settings).fit(rows, labels)
    if len(present) == 2:  # one boundary: half of it for each side
        normal, offset = np.ravel(estimator.coef_), np.ravel(estimator.intercept_)[0]
        kernel[:, present] = np.stack([-normal, normal], axis=1) / 2
        bias[present] = np.array([-offset, offset]) / 2
    else:
        kernel[:, present], bias[present] = estimator.coef_.T, estimator.intercept_
    return LinearHead(kernel, bias, strength)


def _one_thread() -> AbstractContextManager[Any]:
    """Holds the matrix library to one thread: a step's products are too small to share out.

    Measured on two cores, 2 threads against 1: 390 rows, 26 classes, all strengths 13.6 and 0.9 s; 10,000 rows of 1,280, 10 classes,
    one strength 0.59 and 0.25 s.
    """
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _best_factor(margins: np.ndarray, labels: np.ndarray) -> float:
    """What margins are multiplied by for the lowest log loss (Platt 1999, without the offset).

    By `tlkit.stats`, because its softmax gives SciPy's numbers to the last bit, and sooner. In this function, with
    SciPy 1.17 and one thread, medians of 9, against SciPy's: 24 rows, 3 classes 0.37 and 0.49 ms; 3,000 rows, 26
    classes 8.8 and 9.1 ms; 10,000 rows, 100 classes 74 and 310 ms. scikit-learn's log_loss took 11 to 70 times as
    long as ours, and bounds probabilities at another number.
    """
    return min(
        (float(factor) for factor in np.logspace(-1, 1.5, 26)),
        key=lambda factor: log_loss(softmax(margins * factor, axis=-1), labels),
    )
