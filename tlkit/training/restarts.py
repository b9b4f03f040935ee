"""Trains a classifier several times from other seeds, and keeps the best (random restarts).

Imports Keras and NumPy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import keras

from tlkit.backbones import Backbone, find_backbone
from tlkit.cluster import current
from tlkit.data.examples import Examples
from tlkit.errors import TrainingError
from tlkit.plan.recipe import Recipe
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.training.history import History
from tlkit.training.monitor import improves
from tlkit.training.own_callbacks import checked_callbacks
from tlkit.training.resume import of_restart, without_resumable
from tlkit.training.several import Training, train_several
from tlkit.training.train import train


def train_best(
    build: Callable[[int], keras.Model],
    backbone: Backbone | str,
    recipe: Recipe,
    training: Examples,
    validation: Examples,
    *,
    seed: int = 0,
    deadline: Deadline = NO_DEADLINE,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> tuple[keras.Model, History]:
    """Train a classifier 1 + `recipe.restarts` times, and return the one that is best on the validation images.

    Restart r has the seed + r: random weights, the order, the views and the augmentation differ. Features that are
    cached already are found again. A restart whose loss is not finite is left out.

    Args:
        build: gives the classifier with the random weights of a seed.
        deadline: when training ends. A restart that has not begun by then is left out.
        backbone, recipe, training, validation, seed, callbacks: as in `tlkit.train`. The checkpoints of the restarts
            lie beside that of the first training.

    Returns:
        The model, and its history. Its `restart` is the number of the one that was kept, 0 = the first training, and
        its `others` has the rows of the others.

    Raises:
        TrainingError: no training has a finite loss. Otherwise as `tlkit.train`.
    """
    best: tuple[keras.Model, History] | None = None
    failed: TrainingError | None = None
    outcomes: list[History] = []
    notes: list[str] = []
    network = find_backbone(backbone) if isinstance(backbone, str) else backbone
    trainings = (
        Training(build(seed + number), network, recipe, training, validation, seed + number, deadline)
        for number in range(recipe.restarts + 1)
    )
    attempts = _attempts(trainings, callbacks)
    for number in range(recipe.restarts + 1):
        if best is not None and (deadline.over or best[1].interrupted or outcomes[-1].interrupted):
            notes.append(f"restart {number} of {recipe.restarts} was left out, and any after it: the time was over")
            break
        if number:
            log.info(f"restart {number} of {recipe.restarts}, with seed {seed + number}")
        model, history = next(attempts)
        if isinstance(history, TrainingError):
            failed = history
            notes.append(f"the training with seed {seed + number} was given up: {history}")
            continue
        history.restart = number
        outcomes.append(history)
        if best is None or improves(history.best or {}, best[1].best, _monitor(recipe)):
            best = model, history
    if best is None:
        assert failed is not None
        raise failed
    _join(best[1], outcomes, notes)
    return best


def _attempts(
    trainings: Iterator[Training], callbacks: Sequence[keras.callbacks.Callback]
) -> Iterator[tuple[keras.Model, History | TrainingError]]:
    """Train one after another; on a cluster, where one is used and no callback is to be told, at once."""
    first, workers = next(trainings), current()
    if first.recipe.restarts and workers is not None and not without_resumable(checked_callbacks(callbacks))[0]:
        together = [first, *trainings]
        yield from zip([one.model for one in together], train_several(workers, together), strict=True)
        return
    for number, one in enumerate(itertools.chain([first], trainings)):
        place = callbacks if not number else of_restart(callbacks, number)
        given = (one.model, one.backbone, one.recipe, one.training, one.validation)
        try:
            yield one.model, train(*given, seed=one.seed, deadline=one.deadline, callbacks=place)
        except TrainingError as error:
            yield one.model, error


def _monitor(recipe: Recipe) -> str:
    """What trainings are compared by. The last epoch of each is its best one for "last", so these are compared."""
    return "val_loss" if recipe.monitor == "last" else recipe.monitor


def _join(kept: History, outcomes: list[History], notes: list[str]) -> None:
    """Add what the other trainings found to the history of the one that is kept."""
    losers = [one for one in outcomes if one is not kept]
    kept.others += [{**row, "restart": one.restart} for one in losers for row in one.rows]
    kept.images_computed += sum(one.images_computed for one in losers)
    kept.cut_short |= any(one.cut_short for one in losers)
    for sentence in notes:
        kept.note(sentence)
    if losers:
        found = ", ".join(f"{one.restart}: {one.best['val_loss']:.4f}" for one in outcomes if one.best is not None)
        kept.note(
            f"of the first training (0) and its restarts, {kept.restart} was kept. Validation log losses: {found}"
        )
