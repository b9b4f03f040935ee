"""The engine that solves a linear head on cached features. Imports Keras and NumPy only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from tlkit.features.extract import all_rows
from tlkit.features.folds import solving_folds
from tlkit.features.linear import LinearHead, Solver, choose_strength, solve
from tlkit.progress import Deadline, log
from tlkit.stats import log_loss
from tlkit.training.fit import fit_stage
from tlkit.training.history import History, epoch_line
from tlkit.training.inputs import Source, StageInputs, StagePlan, training_source, validation_source
from tlkit.training.monitor import improves

if TYPE_CHECKING:
    import keras

Rows = tuple[np.ndarray, np.ndarray]  # features and labels


def solve_stage(
    model: keras.Model, plan: StagePlan, inputs: StageInputs, history: History, deadline: Deadline
) -> History:
    """Solve the head, and copy it into the model if it is the best so far.

    If the caches have no room for the features, the head is trained by gradient descent instead.

    Args:
        model, plan, inputs, history: as for `tlkit.training.fit.fit_stage`.
        deadline: for computing the features; solving itself has no time limit.

    Returns:
        `history`, with one row.
    """
    held_out = validation_source(plan, inputs, history, deadline) if inputs.prefix is not None else None
    if held_out is None or held_out.features is None:
        return fit_stage(model, plan, inputs, history, deadline)
    source = training_source(plan, inputs, history, deadline)
    if source.features is None:
        return fit_stage(model, plan, inputs, history, deadline)
    started, recipe = time.monotonic(), plan.recipe
    classes, training, validation = model.output_shape[-1], _rows(source), _rows(held_out)
    sizes = tuple(rows.row_shape[-1] for rows in source.views[0])
    solver = Solver(plan.stage.solver, balanced=recipe.class_weights, sizes=sizes)
    strength, how = plan.stage.strength, "given"
    if strength is not None:  # C weighs the sum over all rows, and each view of an image is a row
        strength /= len(source.views)
    else:
        folds, how = _folds(source, held_out, plan.seed)
        rows, labels = (np.concatenate(both) for both in zip(training, validation, strict=True))
        strength = choose_strength(rows, labels, folds, classes, solver=solver).strength
    head = solve(*training, classes, strength=strength, solver=solver, validation=validation)
    scores = {**_scores(head, training), **{f"val_{name}": one for name, one in _scores(head, validation).items()}}
    best, seconds = improves(scores, history.best, recipe.monitor), time.monotonic() - started
    row = history.add(plan.number, scores, best=best, seconds=seconds, at_seconds=plan.clock.seconds, strength=strength)
    line = f"  head solved in {seconds:.1f} s with C = {strength:.2g} ({how}); "
    if best:
        model.get_layer("predictions").set_weights([head.kernel, head.bias])
    log.info(line + (epoch_line(row) if best else "no improvement, so the earlier weights are kept"))
    return history


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


def _scores(head: LinearHead, rows: Rows) -> dict[str, float]:
    features, labels = rows
    probabilities = head.probabilities(features)
    return {"loss": log_loss(probabilities, labels), "accuracy": float((probabilities.argmax(1) == labels).mean())}
