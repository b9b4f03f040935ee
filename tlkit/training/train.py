"""Runs a recipe's stages on a classifier. Imports Keras and NumPy only, so it runs on every Keras backend.

Each stage sets the trainable layers, cuts the model at the highest frozen boundary, and calls its engine. The engine
computes the outputs of the frozen layers once (`features`), trains or solves the layers above on them, and keeps the
weights with the best validation scores. A stage without improvement leaves the model unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import keras
import numpy as np

from tlkit.backbones import Backbone, find_backbone
from tlkit.data.examples import Examples
from tlkit.devices import while_memory_lasts
from tlkit.models.adversarial import Adversarial
from tlkit.models.blocks import cut, set_trainable
from tlkit.plan.recipe import Recipe, Unfreeze, check_scales
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.training.fit import fit_stage
from tlkit.training.history import History, Stopwatch
from tlkit.training.inputs import StageInputs, StagePlan
from tlkit.training.own_callbacks import checked_callbacks, report_rows
from tlkit.training.resume import Progress, fingerprint, without_resumable
from tlkit.training.solve import Refit, refit_stage, solve_stage
from tlkit.words import counted

Engine = Callable[[keras.Model, StagePlan, StageInputs, History, Deadline], History]

# The engines by `Stage.solver`. `fit_stage` documents their arguments and what they return.
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
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> History:
    """Train a classifier in place, stage by stage. It ends with the weights that are best on the validation images.

    Stages and epochs are logged (see `tlkit.progress`).

    Args:
        model: from `build_classifier`.
        backbone: the model's backbone, or its name.
        recipe: its stages are run in order.
        training, validation: decoded images with labels, raw RGB 0-255.
        seed: seed of the order, the views and the augmentation.
        deadline: when training ends. At least one epoch of the first stage is completed. If it is `whole`, a stage that
            would not end before it is given up in its first steps. The model then has the best weights so far, and the
            history's `expected_seconds` is set.
        callbacks: any of Keras'. Each stage is a `fit` of its own, with `on_train_begin` and `on_train_end`, and epochs
            count on. Their model is the whole classifier, see `tlkit.training.own_callbacks`. With a
            `tlkit.training.resume.Resumable` among them, a training that was stopped goes on.

    Returns:
        The history, a row per epoch. Ctrl-C ends training with the best weights so far, and the history is
        `interrupted`.

    Raises:
        KeyboardInterrupt: Ctrl-C before the first epoch was completed.
        SpecError: a stage unfreezes more blocks than there are, its `scales` are below the image size, or one of
            `callbacks` is none.
        TrainingError: the loss is not finite.
    """
    backbone = find_backbone(backbone) if isinstance(backbone, str) else backbone
    for stage in recipe.stages:
        backbone.block_count(stage.unfreeze)
        check_scales(stage, model.input_shape[1])
    followed, checkpoint = without_resumable(checked_callbacks(callbacks))
    training, validation = _shuffled(training, seed), _shuffled(validation, seed)
    history, clock, progress, count = History(), Stopwatch(), None, len(recipe.stages)
    if checkpoint is not None:
        progress = Progress(checkpoint, model, fingerprint(recipe, seed, len(training), len(validation)))
        clock = progress.read(history)
        if progress.finished:
            _set_trainable(model, StagePlan(recipe, count, backbone, seed, clock))
            report_rows(followed, model, history.rows)
            return history
    for number in range(1 if progress is None else progress.stage, count + 1):
        if history.rows and (deadline.over or history.interrupted):
            why = "the training was interrupted" if history.interrupted else "the time limit was reached"
            history.cut(f"stage {number} of {count} was skipped: {why}")
            continue
        plan = StagePlan(recipe, number, backbone, seed, clock, followed, progress)
        history.append(_train_stage(model, plan, training, validation, history, deadline))
        if progress is not None and not history.interrupted:
            progress.stage_ended(history, clock, last=number == count)
    return history


def refit_head(
    model: keras.Model,
    backbone: Backbone,
    recipe: Recipe,
    training: Examples,
    validation: Examples,
    *,
    strength: float,
    seed: int = 0,
    more: Examples | None = None,
) -> Refit | None:
    """Solve the head of a trained classifier again, on its training and validation images together.

    The accuracy that was measured before is that of the procedure, and a little lower than what the new head has, since
    it learns from more images. The model is not changed.

    Args:
        model, backbone, recipe, training, validation, seed: As for `train`. The recipe has one stage, which solves.
        strength: C, as in the history of the training.
        more: Images that the head also learns from, and the predictions out of fold do not.

    Returns:
        The head; None if the caches have no room for the features.
    """
    plan, order = StagePlan(recipe, 1, backbone, seed, Stopwatch()), _order(training, seed)
    inputs = StageInputs(*cut(model, backbone, plan.stage.unfreeze), training.take(order), _shuffled(validation, seed))
    found = refit_stage(plan, inputs, strength, NO_DEADLINE, more)
    if found is None or found.out_of_fold is None:
        return found
    return replace(found, out_of_fold=found.out_of_fold[np.argsort(order)])


def _shuffled(examples: Examples, seed: int) -> Examples:
    """Return the examples shuffled, so that a run cut short by its time limit still sees every class."""
    return examples.take(_order(examples, seed))


def _order(examples: Examples, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, 2)).permutation(len(examples))


def _train_stage(
    model: keras.Model,
    plan: StagePlan,
    training: Examples,
    validation: Examples,
    history: History,
    deadline: Deadline,
) -> History:
    """Train one stage, and return its own history. If memory runs out, it starts again with half the batch size.

    history: of the stages before. A failed attempt only adds the number of images it computed, which are cached.
    """
    weights, batch_size_asked, progress = model.get_weights(), plan.recipe.batch_size, plan.progress

    def attempt(batch_size: int) -> History:
        record = history.continued()
        if progress is not None:
            progress.begin(record, batch_size)
        if batch_size < batch_size_asked:
            model.set_weights(weights)
            record.note(
                f"stage {plan.number} ran with batches of {batch_size}: memory did not suffice for {batch_size_asked}"
            )
        resized = replace(plan, recipe=replace(plan.recipe, batch_size=batch_size))
        try:
            inputs = _stage_inputs(model, resized, training, validation)
            return ENGINES[plan.stage.solver](model, resized, inputs, record, deadline)
        except Exception:
            history.images_computed += record.images_computed
            raise

    within = progress and progress.within
    return while_memory_lasts(attempt, within["batch_size"] if within else batch_size_asked)


def _set_trainable(model: keras.Model, plan: StagePlan) -> int:
    return set_trainable(model, plan.backbone, unfreeze=plan.stage.unfreeze, batch_norm=plan.stage.batch_norm)


def _stage_inputs(model: keras.Model, plan: StagePlan, training: Examples, validation: Examples) -> StageInputs:
    """Set the trainable layers of the stage, and cut the model below them."""
    stage, stages = plan.stage, plan.recipe.stages
    parameters = _set_trainable(model, plan)
    if stage.adversarial:
        prefix, suffix = None, Adversarial(model, stage.clean_share, stage.adversarial)
    else:
        prefix, suffix = cut(model, plan.backbone, stage.unfreeze)
    log.info(
        f"stage {plan.number} of {len(stages)}: {unfrozen(stage.unfreeze)}, {parameters:,} trainable parameters, "
        f"up to {counted(stage.epochs, 'epoch')}"
    )
    return StageInputs(prefix, suffix, training, validation)


def unfrozen(unfreeze: Unfreeze) -> str:
    """Describe what a stage trains.

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
