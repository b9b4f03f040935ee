"""A network from scratch is trained with the head of its paper, unless the recipe gives another."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tlkit import write_digits
from tlkit.backbones import BACKBONES
from tlkit.finetuning.decide import foresee
from tlkit.finetuning.prepare import prepare
from tlkit.finetuning.resolve import resolve
from tlkit.plan.job import Job
from tlkit.plan.recipe import Head, Recipe, Stage
from tlkit.progress import Clock

ALL = Stage(epochs=1, learning_rate=1e-3, unfreeze="all")
SCRATCH = Recipe("own", stages=(ALL,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "own"),
    [
        (SCRATCH, True),
        (dataclasses.replace(SCRATCH, head=Head(pooling="max")), False),
        (dataclasses.replace(SCRATCH, stages=(Stage(1, 1e-3, solver="logistic"), ALL)), False),
    ],
)
def test_the_plan_takes_the_head_of_the_paper_if_the_recipe_gives_none(
    recipe: Recipe, own: bool, tmp_path: Path
) -> None:
    data = write_digits(tmp_path / "digits", per_class=2)
    job = Job(data, backbone="lenet5", weights="none", recipe=recipe, augment="none")
    plan = foresee(prepare(resolve(job), Clock()))
    assert plan.recipe is not None
    assert (plan.recipe.head == BACKBONES["lenet5"].own_head) == own
    assert any(decision.about == "head" for decision in plan.decisions) == own
