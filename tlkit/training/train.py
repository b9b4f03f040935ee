"""Carries out a recipe's stages on a classifier. Imports Keras and NumPy only, so it runs on every Keras backend.

For each stage: set what trains, cut the model at the highest frozen boundary, and let the stage's engine work. It
computes the frozen part once (`features`), trains or solves the rest on that, and keeps the best weights by validation.
A stage that ends worse than it began leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import keras
import numpy as np

from tlkit.backbones import Backbone, find_backbone
from tlkit.data.examples import Examples
from tlkit.devices import while_memory_lasts
from tlkit.models.blocks import cut, set_trainable
from tlkit.plan.recipe import Recipe, Unfreeze
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.training.fit import fit_stage
from tlkit.training.history import History, Stopwatch
from tlkit.training.inputs import StageInputs, StagePlan
from tlkit.training.solve import solve_stage

Engine = Callable[[keras.Model, StagePlan, StageInputs, History, Deadline], History]

# By `Stage.solver`. What an engine is given, and gives, is told at `fit_stage`.
ENGINES: dict[str, Engine] = {
    "gradient": fit_stage,
    "logistic": solve_stage,
    "svm": solve_stage,
}


def train(
    model: keras.Model,
    backbone: Backbone | str,
    recipe: Recipe,
    training: Examples,
    validation: Examples,
    *,
    seed: int = 0,
    deadline: Deadline = NO_DEADLINE,
) -> History:
    """Train a classifier in place, stage after stage; it ends with the best weights on validation.

    A line per stage and epoch is logged (see `tlkit.progress`).

    Args:
        model: from `build_classifier`.
        backbone: the model's, or its name.
        recipe: its stages are carried out in order.
        training, validation: decoded images with labels, raw RGB 0-255.
        seed: gives order, views and augmentation.
        deadline: when training ends; at least one epoch of the first stage is done.

    Returns:
        What happened, a row per epoch.

    Raises:
        SpecError: a stage asks for more blocks than there are.
        TrainingError: the loss is not a number.
    """
    backbone = find_backbone(backbone) if isinstance(backbone, str) else backbone
    for stage in recipe.stages:
        backbone.block_count(stage.unfreeze)
    training, validation = _shuffled(training, seed), _shuffled(validation, seed)
    history, clock = History(), Stopwatch()
    for number in range(1, len(recipe.stages) + 1):
        if history.rows and deadline.over:
            history.cut(f"stage {number} of {len(recipe.stages)} was not begun: the time limit was reached")
            continue
        plan = StagePlan(recipe, number, backbone, seed, clock)
        history.append(_train_stage(model, plan, training, validation, history, deadline))
    return history


def _shuffled(examples: Examples, seed: int) -> Examples:
    """The examples in a random order, so that the first of them, all that a time limit may leave, are of every class."""
    return examples.take(np.random.default_rng((seed, 2)).permutation(len(examples)))


def _train_stage(
    model: keras.Model,
    plan: StagePlan,
    training: Examples,
    validation: Examples,
    history: History,
    deadline: Deadline,
) -> History:
    """Train one stage, and return its own log. When memory runs out, it begins anew with half the batch.

    history: of the stages before. A failed attempt leaves in it what it computed, which is cached, and nothing else.
    """
    weights, asked = model.get_weights(), plan.recipe.batch_size

    def attempt(batch_size: int) -> History:
        record = history.continued()
        if batch_size < asked:
            model.set_weights(weights)
            record.notes.append(
                f"stage {plan.number} ran with batches of {batch_size}: memory did not suffice for {asked}"
            )
        resized = replace(plan, recipe=replace(plan.recipe, batch_size=batch_size))
        try:
            inputs = _stage_inputs(model, resized, training, validation)
            return ENGINES[plan.stage.solver](model, resized, inputs, record, deadline)
        except Exception:
            history.images_computed += record.images_computed
            raise

    return while_memory_lasts(attempt, asked)


def _stage_inputs(model: keras.Model, plan: StagePlan, training: Examples, validation: Examples) -> StageInputs:
    """Set what trains in the stage, and cut the model there."""
    stage, stages = plan.stage, plan.recipe.stages
    weights = set_trainable(model, plan.backbone, unfreeze=stage.unfreeze, batch_norm=stage.batch_norm)
    prefix, suffix = cut(model, plan.backbone, stage.unfreeze)
    log.info(
        f"stage {plan.number} of {len(stages)}: {unfrozen(stage.unfreeze)}, {weights:,} weights train, "
        f"up to {stage.epochs} epochs"
    )
    return StageInputs(prefix, suffix, training, validation)


def unfrozen(unfreeze: Unfreeze) -> str:
    """What a stage trains, for a person.

    >>> unfrozen(2), unfrozen((1,))
    ('the head and the top 2 blocks', 'the head and block 1')
    """
    if unfreeze == 0:
        return "the head"
    if isinstance(unfreeze, tuple):
        return f"the head and block{'s' if len(unfreeze) > 1 else ''} {', '.join(map(str, unfreeze))}"
    if unfreeze == "all":
        return "the head and all blocks"
    return f"the head and the top {unfreeze} blocks" if unfreeze != 1 else "the head and the top block"
