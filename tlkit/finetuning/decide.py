"""Decides the recipe and its augmentation, and writes down the plan with its reasons."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.backbones import Backbone
from tlkit.data.images import summary
from tlkit.devices import _device, _precision
from tlkit.plan.decision import Decision
from tlkit.plan.recipe import Recipe, Unfreeze, to_dict, with_epochs
from tlkit.progress import Deadline, log
from tlkit.safety.check import check_safety
from tlkit.safety.verdict import sentence
from tlkit.strategy.recipes import choose_recipe

if TYPE_CHECKING:
    from tlkit.data.dataset import Dataset


CHECK_SECONDS = 15  # at most for the class-safety check of a run without a limit of its own


def _narrow(
    recipe: Recipe,
    dataset: Dataset,
    allow: Sequence[str],
    settings: dict[str, Any],
    max_minutes: float | None,
) -> tuple[Recipe, Decision]:
    """The recipe with its augmentation narrowed to what is safe for these pictures, and the decision for the plan."""

    seconds = CHECK_SECONDS if max_minutes is None else 6 * max_minutes  # a tenth of the run
    log.info("checking  what the augmentation does to the classes of these pictures")
    safety = check_safety(
        dataset.images,
        recipe.augmentation,
        allow=allow,
        seed=settings["seed"],
        deadline=Deadline.after(seconds),
        thorough=False,
        cache=dataset.cache,
    )
    on = safety.augmentation.fields()
    decision = Decision("augmentation", ", ".join(on) or "none", sentence(safety), safety.to_dict())
    return dataclasses.replace(recipe, augmentation=safety.augmentation), decision


def _decide(
    dataset: Dataset,
    own: Recipe | None,
    network: Backbone,
    settings: dict[str, Any],
    epochs: int | None,
    batch_size: int | None,
) -> tuple[Recipe, list[Decision]]:
    if own is not None:
        recipe, decision = own, Decision("recipe", own.name, "it was asked for")
    else:
        recipe, decision = choose_recipe(dataset.count("train"), settings["similar"])
        recipe = _within(recipe, network)
    if epochs is not None:
        recipe = with_epochs(recipe, epochs)
    if batch_size is not None:
        recipe = dataclasses.replace(recipe, batch_size=batch_size)
    return recipe, [decision]


def _within(recipe: Recipe, network: Backbone) -> Recipe:
    """A recipe that was chosen, not asked for, unfreezes no more blocks than one's own small network has, or than may train."""
    most = network.blocks_to_unfreeze

    def fitted(unfreeze: Unfreeze) -> Unfreeze:
        return min(unfreeze, most) if isinstance(unfreeze, int) else unfreeze if most else 0

    stages = [dataclasses.replace(stage, unfreeze=fitted(stage.unfreeze)) for stage in recipe.stages]
    return dataclasses.replace(recipe, stages=tuple(stages))


def _plan(
    settings: dict[str, Any],
    recipe: Recipe,
    decisions: Sequence[Decision],
    dataset: Dataset,
    network: Backbone,
    max_minutes: float | None,
) -> dict[str, Any]:
    device, precision = _device(), _precision(recipe.precision)
    if recipe.precision == "auto":
        why = f"the recipe says auto, and the device is {device}"
        decisions = [
            *decisions,
            Decision("precision", precision, why, {"device": device}),
        ]
    if dataset.pixels.streamed:
        why = "the decoded images exceed the caches' limit (`cache_gb`)"
        decisions = [
            *decisions,
            Decision("pixels", "decoded in every epoch", why),
        ]
    return {
        "tlkit": metadata.version("tlkit"),
        "command": shlex.join(["tlkit", *sys.argv[1:]]) if Path(sys.argv[0]).stem in ("tlkit", "__main__") else None,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": settings,
        "recipe": to_dict(recipe),
        "decisions": [one.to_dict() for one in decisions],
        "backbone": {
            "name": network.name,
            "boundaries": list(network.boundaries),
            "parameters": network.parameters,
            "source": network.origin,
            "sha256": network.sha256,
            "licence_of_weights": network.licence_line(settings["weights"]),
        },
        "image_size": dataset.pixels.size,
        "classes": list(dataset.class_names),
        "images": {part: dataset.count(part) for part in ("train", "val", "test")},
        "problems": summary(dataset.images),
        "max_minutes": max_minutes,
        "device": device,
        "precision": precision,
        "versions": {name: _version(name) for name in ("tensorflow", "keras", "numpy", "albumentations", "pandas")}
        | {"python": platform.python_version()},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
