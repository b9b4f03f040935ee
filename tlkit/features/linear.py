"""Linear heads that are solved by scikit-learn instead of trained. The result is an ordinary dense layer.

A linear head on frozen features is a convex problem. L-BFGS reaches the optimum that a hundred epochs of gradient steps
only come near. So many values of C can be tried, with cross-validation, in the time of one training.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import softmax

from tlkit.devices import one_thread
from tlkit.errors import TrainingError
from tlkit.features.folds import ALWAYS_TRAINING
from tlkit.stats import log_loss

STRENGTHS = tuple(float(c) for c in np.logspace(-5, 1, 7))  # values of C, the inverse of the L2 penalty
MANY_CLASSES = 100  # from which the outputs of a logistic head are scaled too, see `Solver`
TOLERANCE = 1e-4  # of the largest gradient at which the logistic solver ends; scikit-learn's default
TOLERANCE_CLASSES = 30  # up to which it applies
# See `Solver`. 0, 1/8, 1/4, 3/8 and 1/2 were tried on three data sets, several seeds and two sizes.
BLOCK_SCALING = 0.25
PATIENCE = 1  # values of C without improvement, after which larger ones (weaker penalties) are not tried


@dataclass(frozen=True)
class LinearHead:
    """A dense softmax layer.

    kernel: float32, shape (features, classes). bias: float32, shape (classes,). strength: the C it was solved with.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Predict probabilities: float32, shape (n, classes)."""
        return softmax(features @ self.kernel + self.bias, axis=-1)


@dataclass(frozen=True)
class CrossValidation:
    """The result of cross-validation.

    strength: the C with the lowest log loss.
    probabilities: of the held-out rows, in their order, each predicted by a head that was not trained on it: float32,
        shape (held out, classes).
    loss: the log loss of these probabilities. losses: the log loss for each C that was tried.
    tried: the probabilities for each C that was tried.
    factor: what the outputs of these heads were multiplied by, if the solver scales them.
    edge: "smallest" or "largest" if `strength` is that of the values offered, so that a better one may lie beyond; else
        "".
    """

    strength: float
    probabilities: np.ndarray
    loss: float
    losses: dict[float, float]
    tried: dict[float, np.ndarray] = field(default_factory=dict)
    factor: float = 1.0
    edge: str = ""


@dataclass(frozen=True)
class Solver:
    """How a head is solved, except for its C.

    kind: "logistic", multinomial logistic regression with an L2 penalty by L-BFGS (Liu and Nocedal 1989), until no
        gradient exceeds `tolerance_for`; "svm", a linear one-vs-rest SVM with the squared hinge loss (Fan et al. 2008,
        LIBLINEAR); or "ridge", least squares with targets -1 and 1, in closed form (fast). The last two give margins,
        which are scaled to probabilities; so are the outputs of "logistic" from 100 classes on, where the penalty that
        ranks the classes best makes them too small.
    balanced: weight each class by n / (classes * n_class).
    sizes: the number of features of each tapped block, if there are several.
    standardise: False leaves the features' scales unchanged, for features whose scale carries meaning, such as
        principal components.

    Features are standardised for the solver. If there are several blocks, each block's features are also divided by the
    fourth root of their number. This is a compromise: without it, a block of 1,280 features would dominate one of 24;
    with the square root, both would have equal weight. The kernel of the returned head undoes both scalings.

    Measured on 2026-11-26 on two synthetic problems of 1,000 classes, with 10 training images each, 2 that chose C, and
    3 others (n = 3,000), before and with `tolerance_for` and scaling: C = 10 and 0.01, accuracy 67.6 and 76.0 %, log
    loss 1.32 and 0.99, 119 and 50 s; and C = 1 and 0.01, accuracy 99.2 and 99.8 %, log loss 0.68 (0.02 with the best
    temperature) and 0.003, 15 and 26 s. Larger values of C than those of STRENGTHS are not tried. With few images they
    are worse: of 39 draws of 5 to 60 images a class from five data sets of 2 to 26 classes, features of `nano`, C = 10
    was taken in 7, all of 5 a class; with 100 and 1,000 to choose from, the log loss rose in 6 of them, by 0.05 to
    0.32.
    """

    kind: str = "logistic"
    balanced: bool = False
    sizes: tuple[int, ...] = ()
    standardise: bool = True

    def scales(self, classes: int) -> bool:
        """Whether the outputs are scaled to probabilities by one factor."""
        return self.kind != "logistic" or classes >= MANY_CLASSES


def tolerance_for(classes: int) -> float:
    """Return the largest gradient at which the logistic solver ends.

    The gradient is of the mean loss by one weight, which is smaller the more classes there are. So it is TOLERANCE up
    to 30 classes, and falls as 1 / classes from there on.
    """
    return TOLERANCE * min(1.0, TOLERANCE_CLASSES / classes)


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
    factor: float | None = None,
    weights: np.ndarray | None = None,
) -> LinearHead:
    """Solve a head at one value of C.

    Args:
        features: float32, shape (n, features).
        labels: int, shape (n,).
        classes: number of classes; some may have no rows.
        strength: C, above 0.
        solver: which problem is solved.
        validation: (features, labels) on which outputs are scaled to probabilities, if the solver scales them; default
            the training rows. A logistic head is scaled on given rows only: it fits the training rows too well.
        factor: what the outputs are multiplied by, if it is known already, as from `choose_strength`.
        weights: of the rows, shape (n,), mean 1. None: all rows count alike.
    """
    space = _Space(features, solver.sizes, solver.standardise)
    head = _fit(_estimator(solver), space.rows, labels, classes, strength, weights)
    kernel = space.basis @ head.kernel if space.basis is not None else head.kernel
    kernel = kernel / space.deviation[:, None]
    bias = head.bias - space.mean @ kernel
    if factor is None and solver.scales(classes) and (validation is not None or solver.kind != "logistic"):
        held_out, true = validation if validation is not None else (features, labels)
        factor = _best_factor(held_out @ kernel + bias, true)
    if factor is not None:
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
    weights: np.ndarray | None = None,
) -> CrossValidation:
    """Cross-validate values of C, smallest (strongest penalty) first, until larger ones no longer help.

    Args:
        features, labels, classes, solver: as for `solve`.
        folds: int, shape (n,): the fold in which a row is held out; -1 = always training. With one fold this is plain
            validation.
        strengths: the values of C to try.
        weights: of the rows, in training and in the log loss, shape (n,), mean 1. None: all rows count alike.
    """
    space = _Space(features, solver.sizes, solver.standardise)
    held_out = folds != ALWAYS_TRAINING
    numbers = np.unique(folds[held_out])
    estimators = {number: _estimator(solver) for number in numbers}
    best: CrossValidation | None = None
    losses: dict[float, float] = {}
    tried: dict[float, np.ndarray] = {}
    offered = sorted(strengths)
    for strength in offered:
        logits = np.zeros((len(labels), classes), "float32")
        for number in numbers:
            in_fold = folds == number
            some = None if weights is None else weights[~in_fold]
            head = _fit(estimators[number], space.rows[~in_fold], labels[~in_fold], classes, strength, some)
            logits[in_fold] = space.rows[in_fold] @ head.kernel + head.bias
        margins, true, factor = logits[held_out], labels[held_out], 1.0
        if solver.scales(classes):
            factor = _best_factor(margins, true)
        probabilities = softmax(margins * factor, axis=-1)
        loss = log_loss(probabilities, true, None if weights is None else weights[held_out])
        losses[strength], tried[strength] = loss, probabilities
        if best is None or losses[strength] < best.loss:
            best = CrossValidation(strength, probabilities, losses[strength], losses, tried, factor)
        elif list(losses).index(strength) - list(losses).index(best.strength) >= PATIENCE:
            break
    assert best is not None
    edge = {offered[0]: "smallest", offered[-1]: "largest"}.get(best.strength, "") if len(offered) > 1 else ""
    return replace(best, edge=edge)


class _Space:
    """Standardised features; if there are fewer rows than features, rotated to as many dimensions as rows.

    The L2 penalty is invariant under rotation, so the solution is the same at a fraction of the cost.
    """

    def __init__(self, features: np.ndarray, sizes: Sequence[int] = (), standardise: bool = True) -> None:
        _check_finite(features)
        self.mean = features.mean(0)
        self.deviation = features.std(0) if standardise else np.ones_like(self.mean)
        self.deviation[self.deviation < 1e-6] = 1.0
        if len(sizes) > 1:
            share = features.shape[1] / len(sizes)
            self.deviation = self.deviation * ((np.repeat(sizes, sizes) / share) ** BLOCK_SCALING).astype("float32")
        self.rows = ((features - self.mean) / self.deviation).astype("float32")
        self.basis = None
        if self.rows.shape[0] < self.rows.shape[1]:
            with one_thread():
                self.basis, triangle = np.linalg.qr(self.rows.T)
            self.rows = np.ascontiguousarray(triangle.T)


def _check_finite(features: np.ndarray) -> None:
    """Raise TrainingError if a feature is NaN or infinite: no head can be solved on it."""
    wrong = ~np.isfinite(features).all(1)
    if wrong.any():
        raise TrainingError(
            f"The features of {wrong.sum():,} of {len(wrong):,} images are NaN or infinite, the first in row "
            f"{wrong.argmax()}. Expected finite numbers. Clear the cached features; if that does not "
            "help, use precision 'float32'."
        )


def _estimator(solver: Solver) -> Any:
    """Return scikit-learn's estimator; its C is set later."""
    weights = "balanced" if solver.balanced else None
    if solver.kind == "svm":
        from sklearn.svm import LinearSVC

        return LinearSVC(class_weight=weights, dual="auto", max_iter=5000, random_state=0)
    if solver.kind == "ridge":
        from sklearn.linear_model import RidgeClassifier

        return RidgeClassifier(class_weight=weights)
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight=weights, max_iter=1000, warm_start=True)


def _fit(
    estimator: Any,
    rows: np.ndarray,
    labels: np.ndarray,
    classes: int,
    strength: float,
    weights: np.ndarray | None = None,
) -> LinearHead:
    kernel = np.zeros((rows.shape[1], classes), "float32")
    bias = np.full(classes, -30.0, "float32")  # a class without images gets a probability near 0
    present = np.unique(labels)
    if len(present) == 1:
        bias[present] = 0.0
        return LinearHead(kernel, bias, strength)
    settings = {"C": strength} if hasattr(estimator, "C") else {"alpha": 1 / strength}
    with one_thread(), warnings.catch_warnings():
        # if a weak penalty has not converged after 1,000 steps, a stronger one is better anyway
        warnings.filterwarnings("ignore", "(?s).*failed to converge.*")
        if hasattr(estimator, "l1_ratio"):  # logistic regression
            settings["tol"] = tolerance_for(len(present))
        estimator.set_params(**settings).fit(rows, labels, sample_weight=weights)
    if len(present) == 2:  # a binary problem has one boundary: each class gets half of it
        normal, offset = np.ravel(estimator.coef_), np.ravel(estimator.intercept_)[0]
        kernel[:, present] = np.stack([-normal, normal], axis=1) / 2
        bias[present] = np.array([-offset, offset]) / 2
    else:
        kernel[:, present], bias[present] = estimator.coef_.T, estimator.intercept_
    return LinearHead(kernel, bias, strength)


def _best_factor(margins: np.ndarray, labels: np.ndarray) -> float:
    """Find the factor that scales margins to the lowest log loss (Platt 1999, without the offset).

    Measured with SciPy 1.17 and one thread, medians of 9: 0.49 ms for 24 rows, 3 classes; 9.1 ms for 3,000 rows, 26
    classes; 310 ms for 10,000 rows, 100 classes. scikit-learn's log_loss took 11 to 70 times as long as ours, and it
    clips probabilities at another value.
    """
    return min(
        (float(factor) for factor in np.logspace(-1, 1.5, 26)),
        key=lambda factor: log_loss(softmax(margins * factor, axis=-1), labels),
    )
