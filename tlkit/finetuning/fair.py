"""Solves the head of a run again so that the groups of a column count alike in each class.

A head that was solved on all images alike leans on whatever goes with a class in most of them, such as the site that
most of its images are from. Where it is solved again on balanced groups, features that hold in all of them are enough
to undo that (deep feature reweighting, Kirichenko et al. 2023, arXiv:2204.02937). The backbone stays as it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tlkit.features.folds import stratified_folds
from tlkit.features.linear import Solver, choose_strength, solve
from tlkit.finetuning.groups import balancing, values_of
from tlkit.finetuning.refit import Refitted
from tlkit.models.blocks import feature_extractor
from tlkit.progress import Clock, log
from tlkit.runs.features import pooled_features
from tlkit.stats import log_loss, wilson_interval
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.finetuning.build import Trained
    from tlkit.finetuning.prepare import Prepared
    from tlkit.plan.plan import Plan

MOST_COST = 0.02  # of the accuracy of all images
POWERS = (0.5, 0.75, 1.0)  # of the weights with which groups count alike
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # values of C
JUDGED = 10  # images of a group whose accuracy is compared


@dataclass(frozen=True)
class Balanced:
    """What balancing costs and gains, out of fold.

    Attributes:
        table: value, class, images, before, after, low and high (of after, 95 %) of each group, the worst before first.
        worst: The lowest accuracy of a group before and after. mean: The accuracy of all images before and after.
        column: The column.
    """

    table: pd.DataFrame
    worst: tuple[float, float]
    mean: tuple[float, float]
    column: str

    def sentence(self) -> str:
        """For a person to read."""
        (before, after), (mean, now) = self.worst, self.mean
        gained = "" if after > before else ": nothing is gained, so a run without `fair_to` is better"
        return (
            f"the head is balanced over '{self.column}': out of fold, the worst group of value and class went from "
            f"{before:.1%} to {after:.1%}, and the accuracy of all {int(self.table['images'].sum()):,} images from "
            f"{mean:.1%} to {now:.1%}{gained}"
        )


def balance(plan: Plan, trained: Trained, prepared: Prepared, clock: Clock) -> tuple[Refitted, Balanced]:
    """Solve the head of a trained classifier on balanced groups, in place, and once more with the validation images.

    Both learn from weighted images, see `balanced_heads`. The same is done without weights, on the same folds, to say
    what balancing costs and gains.

    Returns the head that is delivered, and the comparison.
    """
    column, recipe, dataset = plan.job.fair_to, plan.recipe, prepared.dataset
    assert column is not None and recipe is not None
    count = dataset.count("train")
    images = dataset.images.part("train", "validation")
    log.info(f"balancing  the head over '{column}', on {counted(len(images), 'training and validation image')}")
    with clock.timed("balance"):
        both = dataclasses.replace(dataset, images=images)
        features = pooled_features(trained.model, both)
        assert features is not None
        labels, values = images.labels(), np.array(values_of(images, column), str)
        classes = len(dataset.class_names)
        cells = pd.factorize(pd.Series(values) + "\0" + pd.Series(labels).astype(str))[0]
        groups = images.groups()
        folds = stratified_folds(cells, groups if len(np.unique(groups)) < len(groups) else None, seed=plan.job.seed)
        sizes = tuple(int(one.shape[-1]) for one in feature_extractor(trained.model).outputs)
        solver = Solver(recipe.stages[0].solver, balanced=recipe.class_weights, sizes=sizes)
        before, found = balanced_heads(features, labels, values, folds, classes, solver)
        some: dict[str, Any] = {"strength": found.strength, "solver": solver, "factor": found.factor}
        judged = solve(features[:count], labels[:count], classes, **some, weights=found.weights[:count])
        whole = solve(features, labels, classes, **some, weights=found.weights)
        trained.model.get_layer("predictions").set_weights([judged.kernel, judged.bias])
    right = [one.argmax(1) == labels for one in (before, found.probabilities)]
    compared = compare(values, np.array(dataset.class_names)[labels], right[0], right[1], column)
    log.info(f"{'balanced':<11} {compared.sentence()}")
    trained.history.note(compared.sentence())
    return Refitted((whole.kernel, whole.bias), out_of_fold=found.probabilities[:count]), compared


@dataclass(frozen=True)
class Chosen:
    """How a head is balanced: the weights of the images, shape (n,), its C, and what its outputs are multiplied by.

    probabilities: Out of fold, shape (n, classes).
    """

    weights: np.ndarray
    strength: float
    factor: float | None
    probabilities: np.ndarray


def balanced_heads(
    features: np.ndarray, labels: np.ndarray, values: np.ndarray, folds: np.ndarray, classes: int, solver: Solver
) -> tuple[np.ndarray, Chosen]:
    """Choose by cross-validation how far, and with which C, a head is balanced.

    The weights of full balance, and powers of them, are tried with several values of C. Of those that cost at most
    MOST_COST of the accuracy of all images, the one with the lowest log loss on balanced groups is taken. C matters:
    where a head can tell the images apart without error, weights change little unless the penalty is strong.

    values: of the column, shape (n,). The rest as in `choose_strength`. Returns the probabilities out of fold without
    balance, and how to balance.
    """
    weights = balancing(values, labels)
    plain = choose_strength(features, labels, folds, classes, solver=solver)
    least = float((plain.probabilities.argmax(1) == labels).mean()) - MOST_COST
    best = Chosen(np.ones(len(labels)), plain.strength, plain.factor, plain.probabilities)
    lowest = log_loss(plain.probabilities, labels, weights)
    for power in POWERS:
        some = weights**power
        some = some / some.mean()
        tried = choose_strength(features, labels, folds, classes, solver=solver, strengths=STRENGTHS, weights=some)
        for strength, found in tried.tried.items():
            loss, right = log_loss(found, labels, weights), found.argmax(1) == labels
            if right.mean() >= least and loss < lowest:
                lowest, best = loss, Chosen(some, strength, None, found)
    if best.factor is None:
        settings: dict[str, Any] = {"solver": solver, "strengths": (best.strength,), "weights": best.weights}
        best = dataclasses.replace(best, factor=choose_strength(features, labels, folds, classes, **settings).factor)
    return plain.probabilities, best


def compare(values: np.ndarray, labels: np.ndarray, before: np.ndarray, after: np.ndarray, column: str) -> Balanced:
    """Compare which images were right before and after balancing, by value and class.

    values, labels: text, shape (n,). before, after: bool, shape (n,). The worst group is sought among those with JUDGED
    images or more, if there are any.
    """
    rows = []
    for (value, label), mine in pd.Series(range(len(labels))).groupby([values, labels]):
        right = after[mine]
        low, high = wilson_interval(float(right.sum()), len(mine))
        rows.append((value or "(none)", label, len(mine), before[mine].mean(), right.mean(), low, high))
    table = pd.DataFrame(rows, columns=["value", "class", "images", "before", "after", "low", "high"])
    table = table.sort_values("before", ignore_index=True)
    large = table[table["images"] >= JUDGED]
    large = table if large.empty else large
    worst = float(large["before"].min()), float(large["after"].min())
    return Balanced(table, worst, (float(before.mean()), float(after.mean())), column)
