"""The order of the classes, where it is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tlkit.data.images import problem
from tlkit.data.sources.names import label_of_name
from tlkit.errors import DataError
from tlkit.words import counted


def ordered_classes(names: Sequence[str] | None, labels: Iterable[str]) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The names of classes that images have, in the order given, and a problem for each of the others.

    Returns () for no order. Raises DataError for a label that is not among the names, or a name that is there twice.
    """
    if names is None:
        return (), []
    given = [label_of_name(one) for one in names]
    twice = [one for one in given if given.count(one) > 1]
    if twice:
        raise DataError(f"`class_names` has '{twice[0]}' twice. Expected each class once.")
    there = set(labels)
    strange = sorted(there - set(given))
    if strange:
        raise DataError(
            f"{counted(len(strange), 'class', 'classes')} of the data {'is' if len(strange) == 1 else 'are'} not in "
            f"`class_names`, such as '{strange[0]}'. Expected all of them, in their order; given: "
            f"{', '.join(given[:20])}."
        )
    missing = [one for one in given if one not in there]
    empty = [problem(one, one, "empty-class", f"class '{one}' of `class_names` has no images") for one in missing]
    return tuple(one for one in given if one in there), empty
