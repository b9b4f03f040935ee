"""American spellings of public names, and Keras' names, accepted beside ours. Files and output have ours, in British.

A dataclass accepts an American spelling as a keyword if it has an `InitVar` of that name with the default None, and the
decorator `both_spellings`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, TypeVar

from tlkit.errors import SpecError

OURS = {
    "color_cast": "colour_cast",
    "pca_color": "pca_colour",
    "license": "licence",
    "accept_license": "accept_licence",
    "validation_split": "validation",  # of `keras.utils.image_dataset_from_directory`
}
# keywords of Keras' `image_dataset_from_directory` for what `fit` says -> the value of `fit`
FITS_OF_KERAS = {"crop_to_aspect_ratio": "crop", "pad_to_aspect_ratio": "pad"}
COLOR_MODE = "color_mode"
JOB_ALIASES = ("accept_license", "validation_split", *FITS_OF_KERAS, COLOR_MODE)  # that a job takes
FORMATS_ELSEWHERE = {"tf_saved_model": "savedmodel", "saved_model": "savedmodel", "tflite": "litert"}  # our exports

Kind = TypeVar("Kind", bound=type)


def our_spelling(name: str) -> str:
    """Return the British spelling of a name.

    >>> our_spelling("color_cast"), our_spelling("rotate")
    ('colour_cast', 'rotate')
    """
    return OURS.get(name, name)


def in_our_spelling(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with names in British spelling. Raises SpecError if both spellings of a name are given."""
    for american, british in OURS.items():
        if american in values and british in values:
            raise SpecError(f"'{american}' and '{british}' are one field in two spellings. Give only one.")
    return {our_spelling(name): value for name, value in values.items()}


def both_spellings(kind: Kind) -> Kind:
    """Class decorator, above `dataclass`: makes each alias among the InitVars readable, and not a field."""
    fields = vars(kind)["__dataclass_fields__"]
    for american in OURS.keys() & fields.keys():
        setattr(kind, american, property(operator.attrgetter(OURS[american])))
        del fields[american]  # else `dataclasses.replace` would pass the alias's value too
    return kind


def set_by_alias(value: Any, given: Mapping[str, Any]) -> None:
    """Set fields of a frozen dataclass, in its `__post_init__`, from the American names whose values are not None."""
    for american, one in given.items():
        if one is not None:
            object.__setattr__(value, OURS[american], one)


def in_names_of_a_job(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a job with ours for other names of them.

    given: names and values, only of what was given.

    Raises:
        SpecError: an option is given under two names, or color_mode asks for other channels than RGB.

    >>> in_names_of_a_job({"validation_split": 0.3, "crop_to_aspect_ratio": True, "color_mode": "rgb"})
    {'validation': 0.3, 'fit': 'crop'}
    """
    found = dict(given)
    mode = found.pop(COLOR_MODE, "rgb")
    if mode != "rgb":
        raise SpecError(
            f"`color_mode` is '{mode}'. Models of tlkit take RGB, and grey images become RGB with equal channels: "
            "leave it out."
        )
    renamed = {name: our_spelling(name) for name in JOB_ALIASES if name in found and name in OURS}
    values: dict[str, Any] = {name: found.pop(name) for name in renamed}
    for name, fit in FITS_OF_KERAS.items():
        if found.pop(name, False):
            renamed[name], values[name] = "fit", fit
    for name, ours in renamed.items():
        if ours in found:
            raise SpecError(f"`{name}` and `{ours}` are one option under two names. Give only one.")
        found[ours] = values[name]
    return found
