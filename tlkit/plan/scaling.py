"""Batch size and learning rate for several devices."""

from __future__ import annotations

import dataclasses

from tlkit.plan.recipe import Recipe, Stage

RULE = (
    "the learning rate rises in proportion under SGD (Goyal et al. 2017, arXiv:1706.02677) and by the square root "
    "under Adam and others (Malladi et al. 2022, arXiv:2205.10287), with a warm-up of at least one epoch"
)


def scaled(recipe: Recipe, devices: int) -> Recipe:
    """Return a recipe with batches so many times as large, and learning rates to go with them, as RULE says.

    A solved head takes no steps, so its stage stays as it is. Goyal et al. warm up for 5 epochs of 90.

    >>> plan = scaled(Recipe("mine", stages=(Stage(9, 0.01, optimizer="sgd"), Stage(9, 0.01)), batch_size=32), 4)
    >>> plan.batch_size, [(one.learning_rate, one.warmup) for one in plan.stages]
    (128, [(0.04, 1.0), (0.02, 1.0)])
    """
    if devices < 2:
        return recipe

    def stage(one: Stage) -> Stage:
        if one.solver != "gradient":
            return one
        factor = devices if one.optimizer == "sgd" else devices**0.5
        warmup = max(one.warmup, 1.0) if one.schedule != "plateau" else one.warmup
        return dataclasses.replace(one, learning_rate=one.learning_rate * factor, warmup=warmup)

    stages = tuple(stage(one) for one in recipe.stages)
    return dataclasses.replace(recipe, batch_size=recipe.batch_size * devices, stages=stages)
