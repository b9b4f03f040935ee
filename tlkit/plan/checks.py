"""Checks of the values of a plan. Each raises SpecError or NameUnknown with the value and what was expected."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tlkit.errors import SpecError, unknown


def _from_dict(kind: type, values: Mapping[str, Any]) -> Any:
    names = [f.name for f in dataclasses.fields(kind)]
    for name in values:
        if name not in names:
            raise unknown(f"{kind.__name__} field", name, names)
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in values
    ]
    if missing:
        raise SpecError(f"{kind.__name__} lacks {', '.join(missing)}.")
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise unknown(f"value for {name}", str(value), known)


def _whole(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise SpecError(f"{name} is {value!r}. Expected a whole number of at least {low}.")


def _between(
    name: str,
    value: object,
    low: float,
    high: float | None,
    *,
    open_start: bool = False,
    open_end: bool = False,
) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if good:
        number = float(value)  # type: ignore[arg-type]
        good = (number > low if open_start else number >= low) and (
            high is None or (number < high if open_end else number <= high)
        )
    if not good:
        start = "above" if open_start else "at least"
        end = "" if high is None else f" and {'below' if open_end else 'at most'} {high:g}"
        raise SpecError(f"{name} is {value!r}. Expected a number {start} {low:g}{end}.")


def _range(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise SpecError(f"{name} is {value!r}. Expected a pair (low, high).")
    for end in value:
        _between(name, end, low, high)
    if value[0] > value[1]:
        raise SpecError(f"{name} is {value!r}. Expected low, then high.")
