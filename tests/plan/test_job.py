"""A job, the request for a run, and its conversion to plan.json and back."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from tlkit import Augmentation, Job, Recipe, Stage, finetune
from tlkit.cli.main import main
from tlkit.errors import NameUnknown, RunError, SpecError
from tlkit.plan.decision import Decision
from tlkit.plan.job import OPTIONS
from tlkit.plan.old import renewed
from tlkit.plan.plan import Plan, PlannedBackbone
from tlkit.plan.recipe import with_learning_rate
from tlkit.plan.spelling import JOB_ALIASES

RECIPE = Recipe("mine", stages=(Stage(3, 1e-3, unfreeze=(2,)),), augmentation=Augmentation(rotate=(-5, 5)))
OF_THE_CALL = {
    "json",
    "quiet",
    "resume",
    "moved_to",
    "out",
    "force",
    "dry_run",
    "callbacks",
    "log_to",
    *JOB_ALIASES,
}  # where a run goes, not what it is


def plan(job: Job, **changes: Any) -> Plan:
    return replace(
        Plan(
            tlkit="0.2.0",
            command=None,
            started="2026-11-25T00:00:00+0000",
            job=job,
            recipe=RECIPE,
            decisions=(Decision("recipe", "mine", "it was asked for"),),
            backbone=PlannedBackbone("vgg16", ("after block1_pool",), 14_714_688, "table", None, "CC BY 4.0"),
            image_size=64,
            classes=("a", "b"),
            images={"train": 8, "validation": 2, "test": 0},
            problems="",
            device="CPU",
            precision="float32",
            versions={"keras": "3"},
        ),
        **changes,
    )


def test_the_keywords_of_finetune_are_the_fields_of_a_job_with_the_same_defaults() -> None:
    keywords = {
        name: one.default
        for name, one in inspect.signature(finetune).parameters.items()
        if one.kind is one.KEYWORD_ONLY and name not in OF_THE_CALL
    }
    assert keywords == OPTIONS


def test_the_options_of_the_command_are_the_fields_of_a_job() -> None:
    options = {one.name for one in main.commands["finetune"].params if isinstance(one, click.Option)}
    assert options - OF_THE_CALL == set(OPTIONS)


def test_every_field_of_a_job_is_described() -> None:
    described = str(Job.__doc__)
    assert [one.name for one in dataclasses.fields(Job) if f"        {one.name}: " not in described] == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fit": "sqash"}, NameUnknown),
        ({"effort": "slow"}, NameUnknown),
        ({"allow": ("rotat",)}, NameUnknown),
        ({"validation": 1.0}, SpecError),
        ({"validation": 0}, SpecError),
        ({"max_minutes": 0}, SpecError),
        ({"cache_gb": -0.5}, SpecError),
        ({"max_error": 1.0}, SpecError),
        ({"epochs": 0}, SpecError),
        ({"batch_size": 2.5}, SpecError),
        ({"image_size": 0}, SpecError),
        ({"seed": -1}, SpecError),
        ({"columns": "filename"}, SpecError),
    ],
)
def test_a_job_checks_itself_and_names_the_option(options: dict[str, Any], error: type[Exception]) -> None:
    ((name, value),) = options.items()
    named = {"fit": "fit 'sqash'", "effort": "effort 'slow'", "allow": "field 'rotat'"}.get(
        name, f"`{name}` is {value!r}"
    )
    with pytest.raises(error, match=re.escape(named)):
        Job("data", **options)


def test_a_job_comes_back_from_json_as_it_was() -> None:
    jobs = [
        Job("data"),
        Job("data.csv", columns={"path": "photo, no", "label": "kind=of"}),
        Job("data", recipe="auto", similar=False, seed=3, epochs=2, allow=("rotate",), from_run="runs/a"),
        Job("data", recipe=RECIPE, augment=Augmentation(zoom=(0.9, 1.1)), checked=RECIPE, max_minutes=2.5),
    ]
    for job in jobs:
        assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job
    with pytest.raises(NameUnknown, match="Did you mean 'seed'"):
        Job.from_dict({"data": "data", "sead": 3})


def test_a_plan_comes_back_from_json_as_it_was() -> None:
    for one in (
        plan(Job("data", seed=2)),
        plan(Job("data"), recipe=None, decided=False),
        plan(Job("data"), ensemble_of=("a",)),
    ):
        assert Plan.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_repeating_a_decided_plan_takes_what_was_decided(tmp_path: Path) -> None:
    asked = Job("data", backbone="auto", recipe="auto", seed=4, epochs=9, augment="strong", allow=("rotate",))
    (tmp_path / "plan.json").write_text(json.dumps(plan(asked).to_dict()))
    job = Job.read(tmp_path / "plan.json")
    assert (job.backbone, job.recipe, job.checked, job.seed) == ("vgg16", RECIPE, RECIPE, 4)
    assert (job.epochs, job.augment, job.allow) == (None, None, ())  # the recipe has them
    assert Job.given(tmp_path / "plan.json", {"seed": 5}) == replace(job, seed=5)


def test_repeating_an_undecided_plan_asks_for_the_same_again(tmp_path: Path) -> None:
    asked = Job("data", seed=4, epochs=9, batch_size=7, augment="strong", allow=("rotate",), similar=True)
    (tmp_path / "plan.json").write_text(json.dumps(plan(asked, recipe=None, decided=False).to_dict()))
    assert Job.read(tmp_path / "plan.json") == asked


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text("[1, 2]")
    (tmp_path / "cut.json").write_text("{")
    for name, values in {
        "empty.json": {},
        "text.json": {"job": "birds"},
        "undecided.json": {"job": {"data": "birds"}, "decided": True},
        "both.json": plan(Job("data"), ensemble_of=("a", "b")).to_dict(),
    }.items():
        (tmp_path / name).write_text(json.dumps(values))
    for name, message in (
        ("words.json", "not the plan"),
        ("cut.json", "not the plan"),
        ("empty.json", "not the plan"),
        ("text.json", "not the plan"),
        ("undecided.json", "not the plan"),
        ("both.json", "plan of an ensemble"),
        ("gone.json", "No such plan"),
    ):
        with pytest.raises(RunError, match=message):
            Job.given(tmp_path / name, {})


def test_the_plan_of_an_earlier_version_is_read() -> None:
    settings = {
        "data": "/d",
        "backbone": "vgg16",
        "seed": 1,
        "image_size": None,
        "weights": "imagenet",
        "validation": 0.2,
    }
    settings |= {"group_by": None, "fit": "crop", "from_run": None, "similar": None, "max_error": None}
    old = plan(Job("/d")).to_dict()
    del old["job"], old["decided"], old["ensemble_of"]
    old |= {"settings": settings, "max_minutes": 5, "images": {"train": 8, "val": 2, "test": 0}}
    found = Plan.from_dict(old)
    assert found.job == Job("/d", backbone="vgg16", seed=1, fit="crop", max_minutes=5)
    assert found.images == {"train": 8, "validation": 2, "test": 0} and found.decided
    assert renewed(found.to_dict()) == found.to_dict()


def test_a_keyword_beside_a_job_is_refused() -> None:
    with pytest.raises(TypeError, match="`seed` was given with a Job"):
        finetune(Job("data"), seed=3)


def test_the_rate_asked_for_is_the_last_stages_and_the_others_keep_their_proportion() -> None:
    recipe = Recipe("two", stages=(Stage(2, 1e-2), Stage(2, 1e-3, unfreeze=1)))
    assert [stage.learning_rate for stage in with_learning_rate(recipe, 5e-4).stages] == pytest.approx([5e-3, 5e-4])
    with pytest.raises(SpecError, match="learning_rate"):
        Job("data", learning_rate=0.0)
