"""Backbones: their names, how they are built, where their blocks end and where their weights come from.

`find_backbone` turns a name, a `.keras` file or a SavedModel folder into a `Backbone`. The table is
`tlkit.backbones.table`. Importing a module registers nothing, and Keras is imported only when a network is built.
"""

from __future__ import annotations

from pathlib import Path

from tlkit.backbones.backbone import Backbone, Weights
from tlkit.backbones.keras_file import own_backbone
from tlkit.backbones.table import BACKBONES
from tlkit.backbones.weights import cached_file, find_weights, load_backbone_weights
from tlkit.errors import unknown
from tlkit.plan.job import AUTO

__all__ = [
    "BACKBONES",
    "Backbone",
    "Weights",
    "cached_file",
    "check_backbone_name",
    "find_backbone",
    "find_weights",
    "load_backbone_weights",
    "named_backbones",
]


def find_backbone(name: str) -> Backbone:
    """Find a backbone by its name, or read it from a file or a folder.

    Args:
        name: a row of the table; "hub:HANDLE" or "hub:FOLDER"; "kerashub:PRESET" or "kerashub:FOLDER"; a handle
            of KerasHub as it stands, "hf://..." or "kaggle://..."; or the path of your own `.keras` file or SavedModel
            folder.

    Raises:
        NameUnknown: no row has this name. The message holds the nearest name. Raised before any image is read.
        WeightsError: the file, folder or address cannot be fetched or read.

    >>> find_backbone("vgg16").size
    224
    """
    kind = _kind(name)
    if kind == "keras":
        return own_backbone(name)
    if kind == "module":
        from tlkit.backbones.hub import hub_backbone

        return hub_backbone(name)
    if kind == "kerashub":
        from tlkit.backbones.kerashub import kerashub_backbone

        return kerashub_backbone(name)
    check_backbone_name(name)
    return BACKBONES[name]


def check_backbone_name(name: str) -> None:
    """Check a name without importing Keras.

    Raises NameUnknown if it is not in the table, and WeightsError for a folder that does not exist.
    """
    kind = _kind(name)
    if kind == "module" and "://" not in name:
        from tlkit.backbones.hub import find_module

        find_module(name)
    if kind == "kerashub":
        from tlkit.backbones.kerashub import check_preset

        check_preset(name)
    if kind == "table" and name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES, see="`tlkit backbones` lists them all.")


KERASHUB_HANDLES = ("hf://", "kaggle://")  # as `from_preset` of KerasHub takes them


def _kind(name: str) -> str:
    if name.endswith(".keras"):
        return "keras"
    if name.startswith(("kerashub:", *KERASHUB_HANDLES)):
        return "kerashub"
    return "module" if name.startswith("hub:") or (name not in BACKBONES and Path(name).is_dir()) else "table"


def named_backbones(names: str) -> list[Backbone]:
    """Return the backbones of a list of names.

    names: one name, several separated by commas, or "auto" for all whose weights are on this machine.

    >>> [one.name for one in named_backbones("vgg16,nano")]
    ['vgg16', 'nano']
    """
    if names == AUTO:
        return [one for one in BACKBONES.values() if cached_file(one)]
    return [find_backbone(name.strip()) for name in dict.fromkeys(names.split(","))]
