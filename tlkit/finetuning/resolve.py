"""Resolves the names of a job to values, before any image is read."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from tlkit.backbones import BACKBONES, Backbone, cached_file, check_backbone_name, find_weights, named_backbones
from tlkit.backbones.published import Card, check_handle, fetch, is_handle, pinned, read_card
from tlkit.backbones.weights import row_of_weights
from tlkit.data.scan import check_exists
from tlkit.data.sources.names import is_utf8
from tlkit.data.sources.records import kind_of_table
from tlkit.errors import SpecError
from tlkit.finetuning.groups import heads_only
from tlkit.plan.address import Address
from tlkit.plan.augmentation import Augmentation, find_augmentation
from tlkit.plan.decision import Decision
from tlkit.plan.in_memory import InMemory
from tlkit.plan.job import AUTO, Job
from tlkit.plan.recipe import Recipe, check_scales
from tlkit.recipes import find_recipe
from tlkit.runs.folder import open_run

COPIES = 4  # of a model's weights: model.keras and the one that replaces it, the export, and the one that was judged
BESIDE_WEIGHTS = 8_000_000  # bytes of the export's decoder, the report and the tables, about
_ENDING = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.\w+|tfrecords?|parquet)$", re.IGNORECASE)  # of data in one file
LONGEST_NAME = 80  # characters of the data's name in the name of a run's folder


@dataclass(frozen=True)
class Resolved:
    """A job with its names resolved.

    Attributes:
        job: As given, with absolute paths.
        backbones: One, or those to be compared.
        image_size: Pixels of each side. None: the backbone's own.
        recipe: As given. None: still to be decided.
        augmentation: As given. None: the recipe's own.
        decisions: Those taken by default.
    """

    job: Job
    backbones: tuple[Backbone, ...]
    image_size: int | None
    recipe: Recipe | None
    augmentation: Augmentation | None
    decisions: tuple[Decision, ...] = ()

    @property
    def name(self) -> str:
        """The name of a run's folder, without its number: the data and the backbone."""
        backbone = self.backbones[0].short_name if len(self.backbones) == 1 else "compared"
        return f"{_data_name(self.job.data)}-{backbone}"

    @property
    def bytes_on_disk(self) -> int:
        """About how many bytes the run's folder takes while it is written, of the largest backbone."""
        return 4 * COPIES * max(one.parameters for one in self.backbones) + BESIDE_WEIGHTS


def check_names(job: Job) -> None:
    """Raise NameUnknown for an unknown name. Takes 0.1 s: does not import Keras, and runs no recipe script."""
    if job.backbone not in (None, AUTO):
        for name in str(job.backbone).split(","):
            check_backbone_name(name.strip())
    check_handle(job.weights)
    if isinstance(job.recipe, str) and job.recipe != AUTO and not job.recipe.endswith(".py"):
        find_recipe(job.recipe)
    if job.augment is not None:
        find_augmentation(job.augment)
    check_exists(job.data)


def resolve(job: Job) -> Resolved:
    """Resolve the names of a job to values, and check that these go together. Reads no image.

    Raises:
        NameUnknown: A name is unknown.
        WeightsError: Weights are not available.
        SpecError: Two settings contradict each other.
        RunError: `from_run` is not a finished run.
    """
    start = None if job.from_run is None else job.from_run.absolute()
    data = job.data if isinstance(job.data, InMemory) else job.data.absolute()
    job = dataclasses.replace(job, data=data, from_run=start)
    name, size = job.backbone, job.image_size
    decisions: tuple[Decision, ...] = ()
    if start is not None:
        earlier = open_run(start).plan
        name, size = name or earlier.backbone.name, size or earlier.image_size
    card = None if start is not None else read_card(job.weights)
    if name is None:
        name, why = _default_backbone(job.weights)
        decisions = (Decision("backbone", name, why),)
    backbones = tuple(one.taking(job.weights) for one in named_backbones(name))
    if start is not None:
        _check_same_backbone(start, backbones[0])
        backbones = (backbones[0].with_pixels(open_run(start).plan.backbone.pixels),)
    recipe = find_recipe(job.recipe) if isinstance(job.recipe, str) and job.recipe != AUTO else job.recipe
    recipe = None if isinstance(recipe, str) else recipe
    job = heads_only(job, recipe)
    augmentation = None if job.augment is None else find_augmentation(job.augment)
    for one in backbones:
        _check_backbone(job, one, size or one.size, recipe)
    if card is not None:
        job, decision = _pinned(job, card)
        decisions = (*decisions, decision)
    return Resolved(job, backbones, size, recipe, augmentation, decisions)


def _default_backbone(weights: str) -> tuple[str, str]:
    """The backbone if none was named, and why: the one that weights by name are of, if they say it."""
    row = row_of_weights(weights)
    return default_backbone() if row is None else (row.name, "none was named, and the weights are of this network")


def _pinned(job: Job, card: Card) -> tuple[Job, Decision]:
    """The job with its weights by name as the plan keeps them, and what their publisher says of them."""
    file = fetch(card, accept_licence=job.accept_licence)
    name = pinned(card, file) if is_handle(job.weights) else job.weights
    evidence = {
        "architecture": card.architecture,
        "pixels": card.pixels,
        "size": card.size,
        "licence": card.licence,
        **card.settings,
    }
    return dataclasses.replace(job, weights=name), Decision("weights", card.name, card.sentence(), evidence)


def default_backbone() -> tuple[str, str]:
    """The backbone if none was named, and why. It is one that needs no download."""
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
            f"The run '{start}' has the backbone {earlier}, but `backbone` is {backbone.name}. "
            "Leave `backbone` out, or start from another run."
        )


def _check_backbone(job: Job, backbone: Backbone, size: int, recipe: Recipe | None) -> None:
    """Raise SpecError for a job that a backbone cannot do, WeightsError if its weights are not available."""
    for stage in recipe.stages if recipe else ():
        backbone.block_count(stage.unfreeze)
        check_scales(stage, size)
    if size < backbone.smallest:
        raise SpecError(f"`image_size` is {size}. {backbone.name} needs {backbone.smallest} pixels or more.")
    if job.from_run is not None:
        return
    if backbone.learn is None or job.weights != "imagenet":
        find_weights(backbone, job.weights, accept_licence=job.accept_licence)
    if backbone.brings_weights and backbone.parameters and job.weights == "none":
        raise SpecError(
            f"`weights=none` asks for random weights, but '{backbone.name}' has its own. Leave `weights` out."
        )


def _data_name(source: Path | Address | InMemory) -> str:
    """A name for the data, as part of a folder's name: data/ gives data, birds/splits.csv gives birds-splits."""
    if not isinstance(source, Path):
        name = source.name.replace("/", "_").replace("\\", "_")
    else:
        source = source.absolute()
        table = kind_of_table(source) and not source.is_dir()
        name = f"{source.parent.name}-{source.stem}" if table else source.name
    if not (isinstance(source, Path) and source.is_dir()):
        name = _ENDING.sub("", name)
    name = "".join(one if is_utf8(one) and one.isprintable() else "_" for one in name)
    return name.lstrip(".-")[:LONGEST_NAME] or "data"
