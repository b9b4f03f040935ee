"""What a run is going to do, and why: the job that was asked, and what was decided for it, as plan.json keeps them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlkit.plan.decision import Decision
from tlkit.plan.job import Job
from tlkit.plan.old import renewed
from tlkit.plan.recipe import Recipe, recipe_from_dict


@dataclass(frozen=True)
class PlannedBackbone:
    """The backbone of a plan. Every field as in `tlkit.Backbone`; sha256 is None but for a SavedModel's."""

    name: str
    boundaries: tuple[str, ...]
    parameters: int
    source: str
    sha256: str | None
    licence_of_weights: str


@dataclass(frozen=True)
class Plan:
    """What a run is going to do, and why.

    tlkit: the version. command: as typed, None in a script. started: date, time and zone. job: what was asked. recipe: None until a
    tournament has decided on it. decisions: with their reasons and evidence, in the order they fell. image_size: pixels of each
    side. classes: the names, in class order. images: how many are train, validation and test. problems: those of the data, counted.
    device, precision, versions: what it was made with. decided: whether nothing is left to decide. ensemble_of: the folders of the
    runs that an ensemble averages.
    """

    tlkit: str
    command: str | None
    started: str
    job: Job
    recipe: Recipe | None
    decisions: tuple[Decision, ...]
    backbone: PlannedBackbone
    image_size: int
    classes: tuple[str, ...]
    images: Mapping[str, int]
    problems: str
    device: str
    precision: str
    versions: Mapping[str, str]
    decided: bool = True
    ensemble_of: tuple[str, ...] = field(default=())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """A Plan from `to_dict`'s values, or from the plan.json of an earlier version."""
        given = renewed(values)
        recipe, backbone = given["recipe"], given["backbone"]
        given["job"] = Job.from_dict(given["job"])
        given["recipe"] = recipe and recipe_from_dict(recipe)
        given["decisions"] = tuple(Decision.from_dict(one) for one in given["decisions"])
        given["backbone"] = PlannedBackbone(**{**backbone, "boundaries": tuple(backbone["boundaries"])})
        given["classes"] = tuple(given["classes"])
        given["ensemble_of"] = tuple(given.get("ensemble_of", ()))
        return cls(**{one.name: given[one.name] for one in dataclasses.fields(cls) if one.name in given})

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for plan.json."""
        return {
            **dataclasses.asdict(self),
            "job": self.job.to_dict(),
            "decisions": [one.to_dict() for one in self.decisions],
        }

    def decision(self, about: str) -> Decision | None:
        """The decision about something, such as "recipe" or "augmentation"; None where there was none."""
        return next((one for one in self.decisions if one.about == about), None)
