"""A training that is stopped and resumed ends as one that is not: its weights and history are equal bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.test_training import BACKBONE, SHIFT, examples, recipe, tiny
from tlkit import Head, Recipe, Stage, train
from tlkit.checkpoints import Checkpoint, Checkpoints
from tlkit.training.resume import MEASURED, Resumable


class Killed(BaseException):
    """Stands for the end of the process."""


def trained(plan: Recipe, checkpoint: Checkpoint | None) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Weights and history of a training, without what is measured in it."""
    model, callbacks = tiny(head=plan.head, seed=1), [] if checkpoint is None else [Resumable(checkpoint)]
    history = train(model, BACKBONE, plan, examples(40), examples(12, seed=1), seed=3, callbacks=callbacks)
    return model.get_weights(), [{name: row[name] for name in row if name not in MEASURED} for row in history.rows]


def stopped_again_and_again(monkeypatch: pytest.MonkeyPatch, folder: Path, plan: Recipe, steps: int) -> tuple[Any, int]:
    """Train with a checkpoint after every step, and stop after each `steps` of them, until it is finished."""
    place = Checkpoints(folder, every=0.0)
    save, saved, ends = Checkpoint.save, 0, 0

    def saving(self: Checkpoint, values: dict[str, Any]) -> None:
        nonlocal saved
        save(self, values)
        saved += 1
        if saved % steps == 0 and not values.get("finished"):
            raise Killed

    monkeypatch.setattr(Checkpoint, "save", saving)
    monkeypatch.setattr("tlkit.checkpoints.MOST_OF_TIME", float("inf"))
    while True:
        try:
            return trained(plan, place.of("one")), ends
        except Killed:
            ends += 1
            assert ends < 100


RECIPES = {
    "moving statistics, mixup, EMA, dropout": recipe(
        Stage(3, 1e-3, unfreeze="all", batch_norm="moving", mixup=0.2, ema=0.9),
        augmentation=SHIFT,
        head=Head(hidden=(8,), dropout=0.5),
    ),
    "plateau, patience, interpolation": recipe(
        Stage(4, 3e-2, unfreeze=2, schedule="plateau", patience=2, optimizer="sgd", interpolate="chosen"),
    ),
    "a solved head, then recalibration and cutmix": recipe(
        Stage(1, 1e-3, solver="logistic"),
        Stage(
            2, 1e-3, unfreeze=1, batch_norm="recalibrated", cutmix=1.0, optimizer="adamw", weight_decay=0.01, warmup=0.5
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.long) if "plateau" in one else one for one in RECIPES]
)
def test_a_training_that_is_stopped_ends_as_one_that_is_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, rows = trained(RECIPES[name], None)
    (resumed, same), ends = stopped_again_and_again(monkeypatch, tmp_path, RECIPES[name], 3)
    assert ends >= 2
    assert same == rows
    assert all(np.array_equal(one, other) for one, other in zip(weights, resumed, strict=True))
