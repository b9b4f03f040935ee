"""What is settled before any image is read: settings, names and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlkit.backbones import BACKBONES, Backbone, cached_file, named_backbones
from tlkit.errors import RunError, SpecError, unknown
from tlkit.plan.job import _DEFAULTS, FITS
from tlkit.plan.recipe import Recipe, recipe_from_dict
from tlkit.runs.folder import Run, open_run


def _settings(data: str | Path, given: dict[str, Any]) -> tuple[dict[str, Any], Recipe | None, bool]:
    """What was given, over what an earlier plan says, over the defaults; that plan's recipe, None if it was to be found by a tournament; and
    whether the plan was decided when its run ended, its augmentation checked.
    """
    path, earlier, recipe, decided = Path(data), {}, None, True
    if path.is_dir() and (path / "plan.json").is_file():
        raise RunError(f"'{path}' is a run, not data. To repeat it, give '{path / 'plan.json'}'.")
    if path.suffix == ".json":
        if not path.is_file():
            raise RunError(f"No such plan: '{path}'. Expected the plan.json of an earlier run.")
        plan = Run(path.parent).plan if path.name == "plan.json" else {}
        if "settings" not in plan:
            raise RunError(f"'{path}' is not the plan.json of a run.")
        earlier, recipe = plan["settings"], plan["recipe"] and recipe_from_dict(plan["recipe"])
        decided = plan.get("decided", True)
        path = Path(earlier["data"])
    settings = {**_DEFAULTS, **earlier, **{name: value for name, value in given.items() if value is not None}}
    if settings["from_run"] and not earlier:
        if given["backbone"] is None:
            settings["backbone"] = open_run(settings["from_run"]).plan["settings"]["backbone"]
        if settings["image_size"] is None:
            settings["image_size"] = open_run(settings["from_run"]).plan["image_size"]
    settings["data"] = str(path.absolute())
    if settings["fit"] not in FITS:
        raise unknown("fit", settings["fit"], FITS)
    return settings, recipe, decided


def default_backbone() -> tuple[str, str]:
    """The backbone for a person who named none, and why: nothing is downloaded that nobody asked for."""
    if cached_file(BACKBONES["mobilenetv2"]):
        return "mobilenetv2", "none was named, and its ImageNet weights are on this machine"
    return "nano", (
        "none was named, and no ImageNet weights of mobilenetv2 are on this machine; nano comes with tlkit. "
        "`backbone=mobilenetv2` downloads them and is more accurate on photographs"
    )


def _networks_of(settings: dict[str, Any]) -> list[Backbone]:
    """The backbone, or those to be compared."""
    networks = named_backbones(settings["backbone"])
    if settings["from_run"]:
        earlier = open_run(settings["from_run"]).plan["settings"]
        if earlier["backbone"] != settings["backbone"]:
            raise SpecError(
                f"The run '{settings['from_run']}' has the backbone {earlier['backbone']}, and {settings['backbone']} was asked for. "
                "Leave `backbone` out, or start from another run."
            )
    return networks


def _check_numbers(
    settings: dict[str, Any], network: Backbone, size: int, max_minutes: float | None, cache_gb: float | None
) -> None:
    if size < network.smallest:
        raise SpecError(f"`image_size` is {size}, and {network.name} takes {network.smallest} or more pixels.")
    if cache_gb is not None and cache_gb < 0:
        raise SpecError(f"`cache_gb` is {cache_gb:g}. Expected 0 or more.")
    if max_minutes is not None and max_minutes <= 0:
        raise SpecError(f"`max_minutes` is {max_minutes:g}. Expected a number above 0.")
    if not 0 < settings["validation"] < 1:
        raise SpecError(
            f"`validation` is {settings['validation']:g}. Expected a share above 0 and below 1, such as 0.2."
        )


def _data_name(source: Path) -> str:
    """data/ gives data, birds/splits.csv gives birds-splits."""
    source = source.absolute()
    return source.name if source.is_dir() else f"{source.parent.name}-{source.stem}"
