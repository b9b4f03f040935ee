"""The words that run files of earlier versions used, and what each is now. A run folder of any version can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# What a key of plan.json was before version 0.2, and what it is now. "a.b" is b in a.
KEYS = {
    "settings": "job",
    "max_minutes": "job.max_minutes",
    "images.val": "images.validation",
}


COLUMNS = {"part": "split", "other_part": "other_split"}  # of split.csv, predictions.csv and duplicates.csv
VALUES = {"val": "validation"}  # of the column "split"


def renewed_table(table: pd.DataFrame) -> pd.DataFrame:
    """A run's CSV with today's columns; one of today's version is left as it is."""
    table = table.rename(columns=COLUMNS)
    return table.assign(split=table["split"].replace(VALUES)) if "split" in table else table


def renewed(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a plan.json with today's keys; those of today's version are left as they are.

    >>> renewed({"settings": {"seed": 1}, "max_minutes": 5, "images": {"train": 8, "val": 2}})["job"]
    {'seed': 1, 'max_minutes': 5}
    """
    values = {name: dict(value) if isinstance(value, Mapping) else value for name, value in plan.items()}
    for old, new in KEYS.items():
        inside, _, name = old.rpartition(".")
        holder = values.get(inside, {}) if inside else values
        if name not in holder:
            continue
        value = holder.pop(name)
        inside, _, name = new.rpartition(".")
        (values.setdefault(inside, {}) if inside else values)[name] = value
    return {"decided": True, **values}
