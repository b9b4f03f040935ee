from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tlkit.errors import NameUnknown, SpecError
from tlkit.plan.augmentation import Augmentation
from tlkit.plan.recipe import Head, Recipe, Stage, recipe_from_dict, to_dict, with_epochs

FULL = Recipe(
    "full",
    stages=(Stage(3, 1e-3), Stage(2, 1e-4, unfreeze="all", optimizer="adamw", weight_decay=0.01, warmup=0.5)),
    head=Head(pooling="avg+max", hidden=(64, 32), dropout=0.3),
    augmentation=Augmentation(rotate=(-10, 10), zoom=(0.9, 1.1), flip_horizontal=0.5),
)


def test_a_recipe_survives_json() -> None:
    assert recipe_from_dict(json.loads(json.dumps(to_dict(FULL)))) == FULL


@pytest.mark.parametrize(
    "values",
    [
        {"rotate": (-200, 0)},
        {"rotate": (10, -10)},
        {"zoom": (0, 1)},
        {"flip_horizontal": 1.5},
        {"brightness": 0.2},
        {"shift_x": (float("nan"), 0.1)},
    ],
)
def test_an_augmentation_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(values))):
        Augmentation(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"epochs": True},
        {"learning_rate": 0},
        {"unfreeze": -1},
        {"unfreeze": "some"},
        {"layer_decay": 0},
        {"weight_decay": 0.1},
        {"schedule": "plateau", "warmup": 1},
        {"patience": 0},
    ],
)
def test_a_stage_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Stage(**{"epochs": 1, "learning_rate": 1e-3, **values})


def test_a_wrong_word_offers_the_nearest() -> None:
    with pytest.raises(NameUnknown, match="Did you mean 'cosine'"):
        Stage(1, 1e-3, schedule="cosin")
    with pytest.raises(NameUnknown, match="Did you mean 'dropout'"):
        recipe_from_dict({"name": "x", "head": {"droput": 0.5}, "stages": [{"epochs": 1, "learning_rate": 1e-3}]})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(SpecError, match="learning_rate"):
        recipe_from_dict({"name": "x", "stages": [{"epochs": 1}]})


def test_plans_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.batch_size = 1  # type: ignore[misc]


def test_with_epochs_changes_every_stage_and_nothing_else() -> None:
    short = with_epochs(FULL, 1)
    assert [s.epochs for s in short.stages] == [1, 1]
    assert dataclasses.replace(short, stages=FULL.stages) == FULL
