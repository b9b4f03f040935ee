"""What is settled before any image is read: the names of a job become values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from tlkit.backbones import BACKBONES, Backbone, cached_file, check_backbone_name, find_weights, named_backbones
from tlkit.data.scan import check_exists
from tlkit.errors import SpecError
from tlkit.plan.augmentation import Augmentation, find_augmentation
from tlkit.plan.decision import Decision
from tlkit.plan.job import AUTO, Job
from tlkit.plan.recipe import Recipe
from tlkit.recipes import find_recipe
from tlkit.runs.folder import open_run


@dataclass(frozen=True)
class Resolved:
    """A job whose names became values.

    job: as asked, with absolute paths. backbones: one, or those to be compared. image_size: pixels of each side, None for the
    backbone's own. recipe: what was asked for, None where it is to be decided. augmentation: what was asked for in the place of the
    recipe's. decisions: what nobody asked for and is settled by now.
    """

    job: Job
    backbones: tuple[Backbone, ...]
    image_size: int | None
    recipe: Recipe | None
    augmentation: Augmentation | None
    decisions: tuple[Decision, ...] = ()

    @property
    def name(self) -> str:
        """What a run's folder is called: the data and the backbone."""
        backbone = self.backbones[0].short_name if len(self.backbones) == 1 else "compared"
        return f"{_data_name(self.job.data)}-{backbone}"


def check_names(job: Job) -> None:
    """Raise NameUnknown for a name that stands for nothing, in a tenth of a second: without Keras, and without running a recipe."""
    if job.backbone not in (None, AUTO):
        for name in str(job.backbone).split(","):
            check_backbone_name(name.strip())
    if isinstance(job.recipe, str) and job.recipe != AUTO and not job.recipe.endswith(".py"):
        find_recipe(job.recipe)
    if job.augment is not None:
        find_augmentation(job.augment)
    check_exists(job.data)


def resolve(job: Job) -> Resolved:
    """Turn the names of a job into values, and check that they go together. Reads no image.

    Raises NameUnknown for a name that stands for nothing, WeightsError for weights that are not there, SpecError for what does not go
    together, RunError for a `from_run` that is no finished run.
    """
    start = None if job.from_run is None else job.from_run.absolute()
    job = dataclasses.replace(job, data=job.data.absolute(), from_run=start)
    name, size = job.backbone, job.image_size
    decisions: tuple[Decision, ...] = ()
    if start is not None:
        earlier = open_run(start).plan
        name, size = name or earlier.backbone.name, size or earlier.image_size
    if name is None:
        name, why = default_backbone()
        decisions = (Decision("backbone", name, why),)
    backbones = tuple(named_backbones(name))
    if start is not None:
        _check_same_backbone(start, backbones[0])
    recipe = find_recipe(job.recipe) if isinstance(job.recipe, str) and job.recipe != AUTO else job.recipe
    recipe = None if isinstance(recipe, str) else recipe
    augmentation = None if job.augment is None else find_augmentation(job.augment)
    for one in backbones:
        _check_backbone(job, one, size or one.size, recipe)
    return Resolved(job, backbones, size, recipe, augmentation, decisions)


def default_backbone() -> tuple[str, str]:
    """The backbone for a person who named none, and why: nothing is downloaded that nobody asked for."""
    if cached_file(BACKBONES["mobilenetv2"]):
        return "mobilenetv2", "none was named, and its ImageNet weights are on this machine"
    return "nano", (
        "none was named, and no ImageNet weights of mobilenetv2 are on this machine; nano comes with tlkit. "
        "`backbone=mobilenetv2` downloads them and is more accurate on photographs"
    )


def _check_same_backbone(start: Path, backbone: Backbone) -> None:
    earlier = open_run(start).plan.backbone.name
    if earlier != backbone.name:
        raise SpecError(
            f"The run '{start}' has the backbone {earlier}, and {backbone.name} was asked for. "
            "Leave `backbone` out, or start from another run."
        )


def _check_backbone(job: Job, backbone: Backbone, size: int, recipe: Recipe | None) -> None:
    """Raise SpecError for what a backbone cannot do, WeightsError where its weights are not there."""
    for stage in recipe.stages if recipe else ():
        backbone.block_count(stage.unfreeze)
    if size < backbone.smallest:
        raise SpecError(f"`image_size` is {size}, and {backbone.name} takes {backbone.smallest} or more pixels.")
    if job.from_run is not None:
        return
    find_weights(backbone, job.weights)
    if backbone.brings_weights and job.weights == "none":
        raise SpecError(
            f"`weights=none` asks for random weights, and '{backbone.name}' brings its own. Leave `weights` out."
        )


def _data_name(source: Path) -> str:
    """data/ gives data, birds/splits.csv gives birds-splits."""
    source = source.absolute()
    return source.name if source.is_dir() else f"{source.parent.name}-{source.stem}"
