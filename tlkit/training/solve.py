"""The engine that solves a linear head on cached features. Imports Keras and NumPy only."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tlkit.data.examples import Examples
from tlkit.features.extract import all_rows
from tlkit.features.folds import ALWAYS_TRAINING, ENOUGH_VALIDATION, solving_folds
from tlkit.features.linear import LinearHead, Solver, choose_strength, solve
from tlkit.features.shards import (
    Part,
    bytes_in_memory,
    choose_strength_on_shards,
    scores_on_shards,
    solve_on_shards,
)
from tlkit.plan.recipe import Stage
from tlkit.progress import Deadline, log
from tlkit.stats import log_loss
from tlkit.training.fit import fit_stage
from tlkit.training.history import History, epoch_line
from tlkit.training.inputs import Source, StageInputs, StagePlan, training_source, validation_source
from tlkit.training.monitor import improves
from tlkit.training.own_callbacks import report_rows
from tlkit.words import counted

if TYPE_CHECKING:
    import keras

FEWEST_STEPS = 1000  # of gradient descent, for a head that cannot be solved
FALLBACK_PATIENCE = 10  # epochs
MOST_IN_MEMORY = 2**29  # bytes of features that are solved in memory, which takes about four times as many
Rows = tuple[np.ndarray, np.ndarray]  # features and labels


def solve_stage(
    model: keras.Model, plan: StagePlan, inputs: StageInputs, history: History, deadline: Deadline
) -> History:
    """Solve the head, and copy it into the model if it is the best so far.

    If the caches have no room for the features of augmented images, the head is solved on the images without
    augmentation. If they have no room for these either, it is trained by gradient descent, for FEWEST_STEPS or until it
    no longer improves. Both are noted.

    Args:
        model, plan, inputs, history: as for `tlkit.training.fit.fit_stage`.
        deadline: for computing the features; solving itself has no time limit.

    Returns:
        `history`, with one row.
    """
    found = _sources(plan, inputs, history, deadline)
    if found is None:
        longer = _trained_longer(plan, len(inputs.training))
        history.note(
            f"stage {plan.number}: the head is trained for up to {counted(longer.stage.epochs, 'epoch')} by gradient "
            "descent, not solved, as the caches have no room for its features"
        )
        return fit_stage(model, longer, inputs, history, deadline)
    source, held_out = found
    started, recipe, views = time.monotonic(), plan.recipe, len(source.views)
    solved = _solve_on_shards if _on_shards(source, held_out, plan) else _solve_in_memory
    head, how = solved(plan, source, held_out, model.output_shape[-1])
    strength = head.strength
    scores = {**_scores(head, source), **{f"val_{name}": one for name, one in _scores(head, held_out).items()}}
    best, seconds = improves(scores, history.best, recipe.monitor), time.monotonic() - started
    c, at = strength * views, plan.clock.seconds
    row = history.add(plan.number, scores, best=best, seconds=seconds, at_seconds=at, strength=c)
    line = f"  head solved in {seconds:.1f} s with C = {c:.2g} ({how}); "
    if best:
        model.get_layer("predictions").set_weights([head.kernel, head.bias])
    log.info(line + (epoch_line(row) if best else "no improvement, so the earlier weights are kept"))
    report_rows(plan.callbacks, model, [row])
    return history


def _solve_in_memory(plan: StagePlan, source: Source, held_out: Source, classes: int) -> tuple[LinearHead, str]:
    """Return the head, and how its C was found."""
    views, solver = len(source.views), _solver(plan, source)
    training, validation = _rows(source), _rows(held_out)
    strength, how = (plan.stage.strength or 0.0) / views, "given"  # C is the weight of an image, not of a view
    if plan.stage.strength is None:
        folds, how = _folds(source, held_out, plan.seed)
        rows, labels = (np.concatenate(both) for both in zip(training, validation, strict=True))
        chosen = choose_strength(rows, labels, folds, classes, solver=solver)
        strength, how = chosen.strength, f"{how}, the {chosen.edge} that was tried" if chosen.edge else how
    return solve(*training, classes, strength=strength, solver=solver, validation=validation), how


def _solve_on_shards(plan: StagePlan, source: Source, held_out: Source, classes: int) -> tuple[LinearHead, str]:
    """As `_solve_in_memory`, for features that memory does not hold."""
    views, solver = len(source.views), _solver(plan, source)
    training, validation = _parts(source), _parts(held_out)
    strength, how = (plan.stage.strength or 0.0) / views, "given"
    if plan.stage.strength is None:
        chosen = choose_strength_on_shards(training, validation, classes, solver=solver)
        strength, how = chosen.strength, f"chosen on {held_out.count:,} validation images"
        how = f"{how}, the {chosen.edge} that was tried" if chosen.edge else how
    head = solve_on_shards(training, classes, strength=strength, solver=solver, validation=validation)
    return head, f"{how}; solved shard by shard"


def _solver(plan: StagePlan, source: Source) -> Solver:
    sizes = tuple(rows.row_shape[-1] for rows in source.views[0])
    return Solver(plan.stage.solver, balanced=plan.recipe.class_weights, sizes=sizes)


def _parts(source: Source) -> list[Part]:
    """The cached rows as parts, one for each view."""
    return [Part(view, source.labels) for view in source.views]


def _on_shards(source: Source, held_out: Source, plan: StagePlan) -> bool:
    """Whether the features are too many to be solved in memory, and C is given or chosen on the validation images."""
    large = bytes_in_memory([*_parts(source), *_parts(held_out)]) > MOST_IN_MEMORY
    return large and plan.stage.solver == "logistic" and held_out.count >= ENOUGH_VALIDATION


@dataclass(frozen=True)
class Refit:
    """A head that was solved again on the training and validation images together.

    out_of_fold: probabilities of the training images, each predicted by a head that was not trained on it: float32,
        shape (n, classes). None if the validation images alone were held out, or if the images are augmented.
    """

    head: LinearHead
    out_of_fold: np.ndarray | None


def refit_stage(
    plan: StagePlan, inputs: StageInputs, strength: float, deadline: Deadline, more: Examples | None = None
) -> Refit | None:
    """Solve a head on the training and validation images together, and predict each training image without it.

    The validation images, and `more`, then count as often as the training images have views.

    Args:
        plan, inputs, deadline: As for `solve_stage`.
        strength: C, the weight of an image.
        more: Images that the head also learns from, and `out_of_fold` does not.

    Returns:
        The head; None if the caches have no room for the features.
    """
    found = _sources(plan, inputs, History(), deadline)
    if found is None:
        return None
    source, held_out = found
    others = [held_out]
    if more is not None:
        others.append(validation_source(plan, replace(inputs, validation=more), History(), deadline))
        if others[-1].features is None:
            return None
    views, classes, solver = len(source.views), inputs.suffix.output_shape[-1], _solver(plan, source)
    if _on_shards(source, held_out, plan):
        return _refit_on_shards(plan, source, others, classes, strength)
    training, validation, folds = _rows(source), _rows(held_out), _folds(source, held_out, plan.seed)[0]
    crossed, plain = None, views == 1 and plan.augmentation.is_identity()
    out_of_fold = plain and folds[0] != ALWAYS_TRAINING
    if out_of_fold or solver.scales(classes):
        rows, labels = (np.concatenate(both) for both in zip(training, validation, strict=True))
        crossed = choose_strength(rows, labels, folds, classes, solver=solver, strengths=(strength / views,))
    parts = [training, *[_rows(one) for one in others] * views]
    rows, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    factor = crossed.factor if crossed is not None and solver.scales(classes) else None
    head = solve(rows, labels, classes, strength=strength / views, solver=solver, factor=factor)
    return Refit(head, crossed.probabilities[: source.count] if crossed is not None and out_of_fold else None)


def _refit_on_shards(plan: StagePlan, source: Source, others: list[Source], classes: int, strength: float) -> Refit:
    """As `refit_stage`. others: the validation images, and any more."""
    views, solver, training = len(source.views), _solver(plan, source), _parts(source)
    held_out, factor = _parts(others[0]), None
    if solver.scales(classes):
        strengths = (strength / views,)
        factor = choose_strength_on_shards(training, held_out, classes, solver=solver, strengths=strengths).factor
    parts = [*training, *(part for one in others for part in _parts(one) * views)]
    return Refit(solve_on_shards(parts, classes, strength=strength / views, solver=solver, factor=factor), None)


def _sources(
    plan: StagePlan, inputs: StageInputs, history: History, deadline: Deadline
) -> tuple[Source, Source] | None:
    """Return the sources of the training and the validation images, cached; None if the caches have no room."""
    if inputs.prefix is None:
        return None
    held_out = validation_source(plan, inputs, history, deadline)
    if held_out.features is None:
        return None
    source = training_source(plan, inputs, history, deadline)
    if source.features is None and not plan.augmentation.is_identity():
        source = training_source(_with_stage(plan, replace(plan.stage, augmented=False)), inputs, history, deadline)
        if source.features is not None:
            history.note(
                f"stage {plan.number}: the head is solved on the images without augmentation, as the caches have no "
                f"room for the features of {counted(plan.recipe.views, 'augmented view')} of each"
            )
    return None if source.features is None else (source, held_out)


def _trained_longer(plan: StagePlan, images: int) -> StagePlan:
    """Return the plan with enough epochs for gradient descent on this many images; it ends when nothing improves."""
    steps = math.ceil(images / plan.recipe.batch_size)
    epochs = max(plan.stage.epochs, math.ceil(FEWEST_STEPS / steps))
    patience = plan.stage.patience or FALLBACK_PATIENCE
    return _with_stage(plan, replace(plan.stage, epochs=epochs, patience=patience))


def _with_stage(plan: StagePlan, stage: Stage) -> StagePlan:
    stages = list(plan.recipe.stages)
    stages[plan.number - 1] = stage
    return replace(plan, recipe=replace(plan.recipe, stages=tuple(stages)))


def _rows(source: Source) -> Rows:
    """Return all cached rows, view after view, and their labels."""
    assert source.features is not None
    return all_rows(source.features), np.tile(source.labels, len(source.views))


def _folds(training: Source, validation: Source, seed: int) -> tuple[np.ndarray, str]:
    """Return a fold for each row, training rows first, and a phrase that describes them.

    All views of an image are in the same fold.
    """
    used = [source.examples.take(np.arange(source.count)) for source in (training, validation)]
    folds, how = solving_folds(*[(one.labels, one.groups) for one in used], seed=seed)
    of_training, of_validation = np.split(folds, [training.count])
    return np.concatenate([np.tile(of_training, len(training.views)), of_validation]), how


def _scores(head: LinearHead, source: Source) -> dict[str, float]:
    parts = _parts(source)
    if bytes_in_memory(parts) > MOST_IN_MEMORY:
        return scores_on_shards(head, parts)
    features, labels = _rows(source)
    probabilities = head.probabilities(features)
    return {"loss": log_loss(probabilities, labels), "accuracy": float((probabilities.argmax(1) == labels).mean())}
