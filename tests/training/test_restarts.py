"""Random restarts: which training is kept, and what is told of the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.training.test_training import BACKBONE, SCORES, examples, recipe, tiny, weights_by_path
from tlkit import Stage
from tlkit.errors import SpecError, TrainingError
from tlkit.plan.recipe import recipe_from_dict, to_dict
from tlkit.progress import Deadline
from tlkit.reporting.findings import Record
from tlkit.runs.folder import Run
from tlkit.training.history import History
from tlkit.training.restarts import train_best
from tlkit.training.train import train

TRAINED = recipe(Stage(2, 1e-2, unfreeze=1))


def found_by(monkeypatch: pytest.MonkeyPatch, losses: dict[int, float | None], **settings: Any) -> tuple[Any, History]:
    """The result of `train_best` where a training with a seed ends at this validation loss; None: it diverges.

    The model is the seed, in words.
    """

    def trained(model: str, *rest: Any, seed: int, deadline: Deadline, callbacks: Any) -> History:
        assert model == f"model of {seed}"
        loss = losses[seed]
        if loss is None:
            raise TrainingError(f"the loss of seed {seed}")
        history = History(images_computed=seed)
        for value in (loss + 1, loss):
            history.add(1, {**SCORES, "val_loss": value}, best=True, seconds=1, at_seconds=1)
        return history

    monkeypatch.setattr("tlkit.training.restarts.train", trained)
    plan = dataclasses.replace(TRAINED, restarts=len(losses) - 1, **settings.pop("changed", {}))
    data = examples(4)
    return train_best(lambda seed: f"model of {seed}", BACKBONE, plan, data, data, seed=min(losses), **settings)


@pytest.mark.parametrize("changed", [{}, {"monitor": "last"}])
def test_the_lowest_validation_loss_is_kept_and_all_are_recorded(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], tmp_path: Path
) -> None:
    model, history = found_by(monkeypatch, {5: 0.4, 6: 0.2, 7: 0.3}, changed=changed)
    assert model == "model of 6" and history.restart == 1 and len(history.rows) == 2
    assert history.rows[-1]["val_loss"] == 0.2 and history.images_computed == 18
    assert "1 was kept" in history.notes[-1] and "0: 0.4000, 1: 0.2000, 2: 0.3000" in history.notes[-1]
    table = pd.DataFrame(history.table())
    assert table["restart"].tolist() == [0, 0, 1, 1, 2, 2]
    assert table["kept"].tolist() == [False, False, True, True, False, False]
    table.to_csv(tmp_path / "history.csv", index=False)
    assert Record(Run(tmp_path)).history()["validation_loss"].tolist() == [1.2, 0.2], "the report's curves"


def test_one_that_diverges_is_left_out_unless_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model, history = found_by(monkeypatch, {0: None, 1: 0.3, 2: None})
    assert model == "model of 1" and sum("was given up" in note for note in history.notes) == 2
    with pytest.raises(TrainingError, match="seed 1"):
        found_by(monkeypatch, {0: None, 1: None})


def test_after_the_deadline_none_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    model, history = found_by(monkeypatch, {0: 0.4, 1: 0.1}, deadline=Deadline.after(0))
    assert model == "model of 0" and "restart 1 of 1 was left out" in history.notes[-1]


@pytest.mark.slow
def test_a_restart_has_other_weights_and_is_the_training_with_its_seed() -> None:
    data, validation = examples(16, 1), examples(9, 2)
    plan = dataclasses.replace(TRAINED, restarts=1)
    model, history = train_best(lambda seed: tiny(seed=seed), BACKBONE, plan, data, validation, seed=3)
    one = tiny(seed=3 + history.restart)
    alone = train(one, BACKBONE, plan, data, validation, seed=3 + history.restart)
    assert all(np.array_equal(value, weights_by_path(one)[name]) for name, value in weights_by_path(model).items())
    assert alone.best is not None and min(row["val_loss"] for row in history.table()) == alone.best["val_loss"]
    assert len({row["val_loss"] for row in history.table()}) == 4


def test_a_number_that_cannot_be_is_refused() -> None:
    with pytest.raises(SpecError, match=r"Recipe\.restarts is -1"):
        dataclasses.replace(TRAINED, restarts=-1)
    with pytest.raises(SpecError, match="does not depend on the seed"):
        recipe(Stage(1, 1e-3, solver="logistic"), restarts=2)
    plan = dataclasses.replace(TRAINED, restarts=2)
    assert recipe_from_dict(to_dict(plan)) == plan
