"""Which column of a table holds what, as a person names it."""

from __future__ import annotations

from collections.abc import Mapping

from tlkit.errors import SpecError, unknown

ROLES = ("path", "label", "split")  # what `columns` may name; the group is named by `group_by`


def named_columns(columns: Mapping[str, str] | str | None) -> dict[str, str]:
    """Return the columns that were named, role -> column.

    Args:
        columns: a mapping such as {"path": "filename"}, or the same as text: "path=filename,label=class".

    Raises:
        NameUnknown: a role is not one of ROLES.
        SpecError: the text is not of this form, or a role is named twice.

    >>> named_columns("path=filename,label=class")
    {'path': 'filename', 'label': 'class'}
    """
    if columns is None:
        return {}
    expected = "Expected the columns of the table by what they hold, such as path=filename,label=class."
    if not isinstance(columns, str):
        pairs = [(str(role), str(name)) for role, name in columns.items()]
    else:
        parts = [part.partition("=") for part in columns.split(",")]
        if not all(sign and name.strip() for _, sign, name in parts):
            raise SpecError(f"`columns` is '{columns}'. {expected}")
        pairs = [(role, name) for role, _, name in parts]
    named: dict[str, str] = {}
    for role, name in ((role.strip().lower(), name.strip()) for role, name in pairs):
        if role not in ROLES:
            raise unknown("role of a column", role, ROLES, see="(`columns`)")
        if role in named:
            raise SpecError(f"`columns` names '{role}' twice: '{named[role]}' and '{name}'. {expected}")
        named[role] = name
    return named
