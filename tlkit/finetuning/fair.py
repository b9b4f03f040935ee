"""Solves the head of a run again so that the groups of a column count alike in each class.

A head that was solved on all images alike leans on whatever goes with a class in most of them, such as the site that
most of its images are from. Where it is solved again on balanced groups, features that hold in all of them are enough
to undo that (deep feature reweighting, Kirichenko et al. 2023, arXiv:2204.02937). The backbone stays as it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tlkit.features.folds import stratified_folds
from tlkit.features.linear import Solver, choose_strength, solve
from tlkit.finetuning.groups import balancing, values_of
from tlkit.finetuning.refit import Refitted
from tlkit.models.blocks import feature_extractor
from tlkit.progress import Clock, log
from tlkit.runs.features import pooled_features
from tlkit.stats import wilson_interval
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.finetuning.build import Trained
    from tlkit.finetuning.prepare import Prepared
    from tlkit.plan.plan import Plan

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

    Both learn from weighted images. C is chosen by cross-validation, by the weighted log loss. The same is done without
    weights, on the same folds, to say what balancing costs and gains.

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
        weights, classes = balancing(values, labels), len(dataset.class_names)
        cells = pd.factorize(pd.Series(values) + "\0" + pd.Series(labels).astype(str))[0]
        groups = images.groups()
        folds = stratified_folds(cells, groups if len(np.unique(groups)) < len(groups) else None, seed=plan.job.seed)
        sizes = tuple(int(one.shape[-1]) for one in feature_extractor(trained.model).outputs)
        solver = Solver(recipe.stages[0].solver, balanced=recipe.class_weights, sizes=sizes)
        before = choose_strength(features, labels, folds, classes, solver=solver)
        after = choose_strength(features, labels, folds, classes, solver=solver, weights=weights)
        settings = {"strength": after.strength, "solver": solver, "factor": after.factor}
        judged = solve(features[:count], labels[:count], classes, **settings, weights=weights[:count])  # type: ignore[arg-type]
        whole = solve(features, labels, classes, **settings, weights=weights)  # type: ignore[arg-type]
        trained.model.get_layer("predictions").set_weights([judged.kernel, judged.bias])
    right = [one.probabilities.argmax(1) == labels for one in (before, after)]
    compared = compare(values, np.array(dataset.class_names)[labels], right[0], right[1], column)
    log.info(f"{'balanced':<11} {compared.sentence()}")
    trained.history.note(compared.sentence())
    return Refitted((whole.kernel, whole.bias), out_of_fold=after.probabilities[:count]), compared


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
