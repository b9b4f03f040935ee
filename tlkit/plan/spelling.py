"""American spellings of public names, taken wherever ours are. What is saved and shown has ours.

A dataclass takes one as a keyword by an `InitVar` of that name, None where it is not given, and by `both_spellings`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, TypeVar

from tlkit.errors import SpecError

OURS = {"color_cast": "colour_cast", "pca_color": "pca_colour", "license": "licence"}

Kind = TypeVar("Kind", bound=type)


def our_spelling(name: str) -> str:
    """The name as we spell it.

    >>> our_spelling("color_cast"), our_spelling("rotate")
    ('colour_cast', 'rotate')
    """
    return OURS.get(name, name)


def in_our_spelling(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values by the names as we spell them. Raises SpecError where both spellings of a name are given."""
    for theirs, ours in OURS.items():
        if theirs in values and ours in values:
            raise SpecError(f"'{theirs}' and '{ours}' are one field in two spellings. Expected one of them.")
    return {our_spelling(name): value for name, value in values.items()}


def both_spellings(kind: Kind) -> Kind:
    """A class decorator above `dataclass`: each alias among its InitVars can be read too, and is no field."""
    fields = vars(kind)["__dataclass_fields__"]
    for theirs in OURS.keys() & fields.keys():
        setattr(kind, theirs, property(operator.attrgetter(OURS[theirs])))
        del fields[theirs]  # else `dataclasses.replace` would hand on what it reads from the alias
    return kind


def set_by_alias(value: Any, given: Mapping[str, Any]) -> None:
    """Set fields of a frozen dataclass, in its `__post_init__`, to what is given by their American names and not None."""
    for theirs, one in given.items():
        if one is not None:
            object.__setattr__(value, OURS[theirs], one)
