"""The groups of a column that a run is to be fair to, and the weights with which they count alike."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tlkit.errors import DataError, SpecError, unknown
from tlkit.plan.job import AUTO, Job
from tlkit.plan.recipe import Recipe

if TYPE_CHECKING:
    from tlkit.data.images import ImageSet

FEWEST = 10  # images that a group counts as at least, so that none of a few images weighs more than all others


def heads_only(job: Job, recipe: Recipe | None) -> Job:
    """The job so that no network is trained, which `fair_to` could not balance.

    Raises SpecError if the recipe that was given trains one.
    """
    if job.fair_to is None:
        return job
    if recipe is not None and (len(recipe.stages) > 1 or recipe.stages[0].solver == "gradient"):
        raise SpecError(
            f"`fair_to` solves a head on frozen features, and the recipe '{recipe.name}' trains a network. Leave "
            "`recipe` out, or give one that solves its head alone, such as small_similar."
        )
    return dataclasses.replace(job, effort="quick", recipe=job.recipe or AUTO)


def check_column(images: ImageSet, column: str | None) -> None:
    """Raise NameUnknown if the images have no such column, DataError if it does not divide them."""
    if column is None:
        return
    values = values_of(images, column)
    if len(set(values)) < 2:
        raise DataError(f"All images have the same value in the column '{column}' (`fair_to`). Expected 2 or more.")


def values_of(images: ImageSet, column: str) -> list[str]:
    """The value of each image."""
    if column == "group" and (images.table["group"] != "").any():
        return [str(one) for one in images.table["group"]]
    further = images.further_columns()
    if column not in further and len(further.columns):
        raise unknown("column", column, further.columns, see="(`fair_to`)")
    if column not in further:
        raise DataError(f"There is no column '{column}' (`fair_to`). Expected a table with such a column.")
    return [str(one) for one in further[column]]


def balancing(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights with which every value counts alike within its class, and every class as much as before.

    values: shape (n,). labels: int, shape (n,). Returns float, shape (n,), mean 1. A value with few images of a class
    counts as if it had FEWEST of them at least.

    >>> balancing(np.array(["a"] * 30 + ["b"] * 10), np.zeros(40, int))[[0, -1]].round(2).tolist()
    [0.67, 2.0]
    """
    weights = np.ones(len(labels))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        _, index, counts = np.unique(values[mine], return_inverse=True, return_counts=True)
        each = 1.0 / np.maximum(counts[index], FEWEST)
        weights[mine] = each * len(mine) / each.sum()
    return weights
