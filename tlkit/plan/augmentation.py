"""Augmentations as frozen dataclasses: their fields and limits, the presets, and the magnitude of a field.

An `Augmentation` validates itself when it is created. `size_of` measures a field, `scaled` makes it weaker, and
`held_to` clips it to a limit.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

from tlkit.errors import NameUnknown, SpecError, unknown
from tlkit.plan.checks import _between, _from_dict, _one_of, _range
from tlkit.plan.spelling import both_spellings, in_our_spelling, our_spelling, set_by_alias

Range = tuple[float, float]
BORDERS = ("reflect", "replicate", "wrap", "black")
POLICIES = ("all", "one")

FLIPS = ("flip_horizontal", "flip_vertical", "half_turn")
FACTORS = ("zoom", "stretch", "crop")  # multiplicative fields; the others are additive


@both_spellings
@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images. Values are drawn uniformly from each (low, high) range.

    shift_x, shift_y: share of the width or height, right and down are positive; within -1 to 1.
    zoom: factor, above 1 enlarges; within 0.1 to 10. (1, 1) is off.
    rotate: degrees, counter-clockwise is positive; within -180 to 180.
    stretch: aspect ratio, width to height, at constant area: 2 is twice as wide as high; within 0.2 to 5. (1, 1) is
        off.
    crop: share of the area that is cropped and enlarged to the full size, with an aspect ratio of up to 3 : 4 (random
        resized crop, Szegedy et al. 2015, arXiv:1409.4842); within 0.01 to 1. (1, 1) is off.
    flip_horizontal, flip_vertical, half_turn: probability, 0 to 1. A half turn is both flips together.
    brightness: added to every channel, as a share of 255; within -1 to 1.
    contrast: 0.2 moves every value 20 % further from mid-grey, -1 makes the whole image grey; within -1 to 1.
    colour_cast: added to red, green and blue, drawn independently for each, as a share of 255; within -1 to 1.
    pca_colour: standard deviation of the shift along the principal components of ImageNet's colours, as a multiple of
        their variances; 0 to 1. The source uses 0.1 (Krizhevsky, Sutskever and Hinton 2012).
    vignette: share of brightness that the corners lose. The loss grows with the square of the distance from the centre;
        within 0 to 1.
    border: how pixels beyond the edge are filled: "reflect", "replicate", "wrap" or "black".
    policy: "all" = every field is applied to each image; "one" = each image gets one field or none, drawn at random
        (TrivialAugment, Mueller and Hutter 2021, arXiv:2103.10158).
    color_cast, pca_color: other spellings of colour_cast and pca_colour.

    >>> Augmentation(rotate=(-10, 10)).is_identity()
    False
    """

    shift_x: Range = (0.0, 0.0)
    shift_y: Range = (0.0, 0.0)
    zoom: Range = (1.0, 1.0)
    rotate: Range = (0.0, 0.0)
    flip_horizontal: float = 0.0
    flip_vertical: float = 0.0
    half_turn: float = 0.0
    brightness: Range = (0.0, 0.0)
    contrast: Range = (0.0, 0.0)
    colour_cast: Range = (0.0, 0.0)
    pca_colour: float = 0.0
    stretch: Range = (1.0, 1.0)
    vignette: Range = (0.0, 0.0)
    crop: Range = (1.0, 1.0)
    border: str = "reflect"
    policy: str = "all"
    color_cast: InitVar[Range | None] = None
    pca_color: InitVar[float | None] = None

    def __post_init__(self, color_cast: Range | None, pca_color: float | None) -> None:
        set_by_alias(self, {"color_cast": color_cast, "pca_color": pca_color})
        for name, (low, high) in AUGMENTATION_LIMITS.items():
            if isinstance(getattr(Augmentation, name), tuple):
                _range(f"Augmentation.{name}", getattr(self, name), low, high)
            else:
                _between(f"Augmentation.{name}", getattr(self, name), low, high)
        _one_of("Augmentation.border", self.border, BORDERS)
        _one_of("Augmentation.policy", self.policy, POLICIES)

    def fields(self) -> tuple[str, ...]:
        """Return the names of the fields that are on."""
        return tuple(name for name in AUGMENTATION_LIMITS if getattr(self, name) != getattr(Augmentation, name))

    def only(self, *names: str) -> Augmentation:
        """Return a copy in which all other fields are off."""
        return Augmentation(**{name: getattr(self, name) for name in (*names, "border", "policy")})

    def is_identity(self) -> bool:
        """Return whether no field changes an image."""
        return not self.fields()


AUGMENTATION_LIMITS: dict[str, Range] = {
    "shift_x": (-1, 1),
    "shift_y": (-1, 1),
    "zoom": (0.1, 10),
    "rotate": (-180, 180),
    "flip_horizontal": (0, 1),
    "flip_vertical": (0, 1),
    "half_turn": (0, 1),
    "brightness": (-1, 1),
    "contrast": (-1, 1),
    "colour_cast": (-1, 1),
    "pca_colour": (0, 1),
    "stretch": (0.2, 5),
    "vignette": (0, 1),
    "crop": (0.01, 1),
}


def check_fields(names: Iterable[str]) -> list[str]:
    """Return the names of augmentation fields in British spelling. Raises NameUnknown for other names."""
    fields = [our_spelling(name) for name in names]
    for name in fields:
        if name not in AUGMENTATION_LIMITS:
            raise unknown("augmentation field", name, list(AUGMENTATION_LIMITS))
    return fields


def augmentation_from_dict(values: Mapping[str, Any]) -> Augmentation:
    """Create an Augmentation from the values of `to_dict`.

    Raises NameUnknown for a field that does not exist, and SpecError for an invalid value.

    >>> augmentation_from_dict({"color_cast": [-0.1, 0.1]}).colour_cast
    (-0.1, 0.1)
    """
    return _from_dict(Augmentation, in_our_spelling(values))


_LIGHT = Augmentation(
    shift_x=(-0.05, 0.05),
    shift_y=(-0.05, 0.05),
    zoom=(0.95, 1.05),
    rotate=(-5, 5),
    flip_horizontal=0.5,
    brightness=(-0.1, 0.1),
)
_STANDARD = Augmentation(
    shift_x=(-0.1, 0.1),
    shift_y=(-0.1, 0.1),
    zoom=(0.9, 1.1),
    rotate=(-15, 15),
    flip_horizontal=0.5,
    brightness=(-0.2, 0.2),
    colour_cast=(-0.1, 0.1),
)
_STRONG = Augmentation(
    shift_x=(-0.2, 0.2),
    shift_y=(-0.2, 0.2),
    zoom=(0.7, 1.4),
    rotate=(-45, 45),
    flip_horizontal=0.5,
    flip_vertical=0.5,
    half_turn=0.25,
    brightness=(-0.3, 0.3),
    contrast=(-0.3, 0.3),
    colour_cast=(-0.2, 0.2),
    pca_colour=0.1,
    stretch=(0.8, 1.25),
    vignette=(0.0, 0.5),
    crop=(0.5, 1.0),
)
PRESETS = {
    "none": Augmentation(),
    "light": _LIGHT,
    "standard": _STANDARD,
    "strong": _STRONG,
    "trivial": dataclasses.replace(_STRONG, policy="one"),
}


# -- sizes ------------------------------------------------------------------------------------------------


def size_of(augmentation: Augmentation, name: str) -> float:
    """Return the magnitude of a field, in its unit: the larger absolute end of its range.

    A zoom or stretch of 0.5 counts as 2. For a crop it is the smallest share; for a flip it is 1.

    >>> size_of(Augmentation(zoom=(0.5, 1.5), rotate=(-10, 20)), "zoom")
    2.0
    """
    if name in FLIPS:
        return 1.0
    value = getattr(augmentation, name)
    if not isinstance(value, tuple):
        return float(value)
    if name == "crop":
        return float(value[0])
    return float(max(value[1], 1 / value[0]) if name in FACTORS else max(abs(value[0]), abs(value[1])))


def scaled(augmentation: Augmentation, name: str, share: float) -> Augmentation:
    """Return a copy with one field's range scaled: 0 = off, 1 = unchanged. A flip is unchanged at 1, else off.

    >>> scaled(Augmentation(rotate=(-90, 90)), "rotate", 0.5).rotate
    (-45.0, 45.0)
    """
    value = getattr(augmentation, name)
    narrowed: Any
    if name in FLIPS:
        narrowed = value if share >= 1 else 0.0
    elif not isinstance(value, tuple):
        narrowed = value * share
    elif name in FACTORS:
        narrowed = tuple(end**share for end in value)
    else:
        narrowed = tuple(end * share for end in value)
    return dataclasses.replace(augmentation, **{name: narrowed})


def held_to(augmentation: Augmentation, name: str, limit: float) -> Augmentation:
    """Return a copy with one field clipped to a magnitude (see `size_of`).

    >>> held_to(Augmentation(rotate=(-90, 20)), "rotate", 30).rotate
    (-30, 20)
    """
    value = getattr(augmentation, name)
    clipped: Any
    if not isinstance(value, tuple):
        clipped = min(value, limit)
    elif name == "crop":
        clipped = (max(value[0], limit), max(value[1], limit))
    elif name in FACTORS:
        clipped = (min(max(value[0], 1 / limit), limit), max(min(value[1], limit), 1 / limit))
    else:
        clipped = (min(max(value[0], -limit), limit), max(min(value[1], limit), -limit))
    return dataclasses.replace(augmentation, **{name: clipped})


def find_augmentation(name: str | Augmentation) -> Augmentation:
    """Find an augmentation by a preset's name, or read it from a JSON file of its fields, as `tlkit augment` writes it.

    Raises NameUnknown with the nearest name, and SpecError for an invalid file.
    """
    if isinstance(name, Augmentation):
        return name
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if path.suffix != ".json":
        raise unknown("augmentation", name, list(PRESETS), see="A path to a .json file works too.")
    if not path.is_file():
        raise NameUnknown(f"No such augmentation file: '{name}'.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpecError(f"'{name}' is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise SpecError(
            f"'{name}' does not hold the fields of an augmentation. "
            'Expected an object such as {"rotate": [-10, 10]}.'
        )
    return augmentation_from_dict(values)
