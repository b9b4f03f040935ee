"""American spellings of public names, accepted wherever the British ones are. Files and output have the British ones.

A dataclass accepts an American spelling as a keyword if it has an `InitVar` of that name with the default None, and the
decorator `both_spellings`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, TypeVar

from tlkit.errors import SpecError

OURS = {"color_cast": "colour_cast", "pca_color": "pca_colour", "license": "licence"}

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
