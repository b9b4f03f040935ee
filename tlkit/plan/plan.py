"""The plan of a run: the job that was requested, and the decisions made for it, as plan.json stores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlkit.plan.decision import Decision
from tlkit.plan.job import Job
from tlkit.plan.old import renewed
from tlkit.plan.recipe import Recipe, recipe_from_dict
from tlkit.words import counted

BACKBONE = "the backbone"  # of what validation images chose


@dataclass(frozen=True)
class PlannedBackbone:
    """The backbone of a plan. The fields are as in `tlkit.Backbone`, except for sha256.

    sha256: the hash of the weights that the run starts from: of the weights file, of the earlier run's model.keras, or
        of all files of a SavedModel or a preset. None for random weights, for a preset known by its name only, and in
        a run of an earlier version.
    pixels: how pixels are normalised, which a PyTorch weights file may decide; "" if only the network itself knows.
    """

    name: str
    boundaries: tuple[str, ...]
    parameters: int
    source: str
    sha256: str | None
    licence_of_weights: str
    pixels: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run will do, and why.

    tlkit: the version of tlkit. command: the command as typed; None in a script.
    started: date, time and time zone. job: the request.
    recipe: the recipe; None until a tournament has chosen it.
    decisions: the decisions with their reasons and evidence, in the order they were made.
    backbone: the backbone. image_size: pixels of each side. classes: the class names, in class order.
    images: the number of train, validation and test images. problems: the counts of problems in the data.
    device, precision, versions: the device, the dtype policy and the package versions of the run.
    decided: whether all decisions have been made.
    depth: the bits that the data set's images of 16 bits use; one factor scales them all to 8.
    ensemble_of: the folders of the runs that an ensemble averages.
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
    depth: int = 16
    ensemble_of: tuple[str, ...] = field(default=())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Create a Plan from the values of `to_dict`, or of the plan.json of an earlier version."""
        given = renewed(values)
        recipe, backbone = given["recipe"], given["backbone"]
        given["job"] = Job.from_dict(given["job"])
        given["recipe"] = recipe and recipe_from_dict(recipe)
        given["decisions"] = tuple(Decision.from_dict(one) for one in given["decisions"])
        given["backbone"] = PlannedBackbone(**{**backbone, "boundaries": tuple(backbone["boundaries"])})
        given["classes"] = tuple(given["classes"])
        given["ensemble_of"] = tuple(given.get("ensemble_of", ()))
        return cls(**{one.name: given[one.name] for one in dataclasses.fields(cls) if one.name in given})

    @property
    def doubts(self) -> list[str]:
        """Why accuracy on new images is probably lower than on those of a given split, as sentences."""
        split = self.decision("split")
        found = split.evidence if split is not None else {}
        told = []
        if found.get("groups_across_parts"):
            told.append(
                f"{found['groups_across_parts']:,} of {counted(found['groups'], 'group')} are in several of the given "
                "splits: on new groups the accuracy is probably lower"
            )
        if found.get("held_out_but_trained_on_before"):
            held_out = counted(found["held_out_but_trained_on_before"], "validation or test image")
            told.append(f"an earlier run was trained on {held_out}: on new images the accuracy is probably lower")
        return told

    @property
    def also_chose(self) -> list[str]:
        """What the validation images were used to choose, in words."""
        decisions = {decision.about: decision.evidence for decision in self.decisions}
        chose = [BACKBONE] if "compared" in decisions.get("backbone", {}) else []
        if decisions.get("recipe", {}).get("contenders"):
            chose.append("the recipe")
        if self.recipe is None:
            return chose
        stages = self.recipe.stages
        if any(stage.solver != "gradient" and stage.strength is None for stage in stages):
            chose.append("the head's penalty")
        if self.recipe.monitor != "last" and any(stage.solver == "gradient" for stage in stages):
            chose.append("the epoch that was kept")
        if self.recipe.restarts:
            chose.append("the restart that was kept")
        if any(stage.interpolate == "chosen" for stage in stages):
            chose.append("the weights between the first and the last epoch")
        return chose

    @property
    def drew_test(self) -> bool:
        """Whether the test images were drawn by the run, and not given with the data."""
        split = self.decision("split")
        return split is not None and bool(split.evidence.get("test_share"))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values, for plan.json."""
        return {
            **dataclasses.asdict(self),
            "job": self.job.to_dict(),
            "decisions": [one.to_dict() for one in self.decisions],
        }

    def decision(self, about: str) -> Decision | None:
        """Return the decision about a topic, such as "recipe" or "augmentation"; None if there is none."""
        return next((one for one in self.decisions if one.about == about), None)
