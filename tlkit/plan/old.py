"""Renames keys and columns of earlier versions, so that the run folder of any version can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Keys of plan.json before version 0.2 -> keys now. "a.b" is the key b in the object a.
RENAMED_KEYS = {
    "settings": "job",
    "max_minutes": "job.max_minutes",
    "images.val": "images.validation",
}
RENAMED_COLUMNS = {"part": "split", "other_part": "other_split"}  # of split.csv, predictions.csv and duplicates.csv
RENAMED_SPLITS = {"val": "validation"}  # values of the column "split"


def renewed_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a run's CSV with the current column names. The table of a current run is unchanged."""
    table = table.rename(columns=RENAMED_COLUMNS)
    return table.assign(split=table["split"].replace(RENAMED_SPLITS)) if "split" in table else table


def renewed(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a plan.json with the current keys. Those of a current run are unchanged.

    >>> renewed({"settings": {"seed": 1}, "max_minutes": 5, "images": {"train": 8, "val": 2}})["job"]
    {'seed': 1, 'max_minutes': 5}
    """
    values = {name: dict(value) if isinstance(value, Mapping) else value for name, value in plan.items()}
    for old, new in RENAMED_KEYS.items():
        inside, _, name = old.rpartition(".")
        holder = values.get(inside, {}) if inside else values
        if name not in holder:
            continue
        value = holder.pop(name)
        inside, _, name = new.rpartition(".")
        (values.setdefault(inside, {}) if inside else values)[name] = value
    return {"decided": True, **values}
