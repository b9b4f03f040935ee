"""Finds images in a CSV of paths and labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tlkit.data.images import problem
from tlkit.data.sources.item import _Found, _split_named
from tlkit.errors import DataError, unknown
from tlkit.folders import PLAN, own_manifest
from tlkit.plan.old import renewed, renewed_table

TABLES = (".csv", ".tsv", ".txt")


def root_of_table(file: Path) -> Path:
    """The folder that the paths of a CSV are relative to: its own, or the data's for the split.csv of a run."""
    seen: set[Path] = set()
    while file.name == "split.csv" and file not in seen and (values := own_manifest(file.parent, PLAN)):
        seen.add(file)
        data = Path(renewed(values)["job"].get("data", file.parent))
        if data.is_dir() or data.suffix.lower() not in TABLES:
            return data
        file = data
    return file.parent


def _read_csv(file: Path, group_by: str | None, findings: list[dict[str, str]]) -> Iterator[_Found]:
    """Yield the images of a CSV and append the problems to `findings`."""
    import pandas as pd

    try:
        with file.open(encoding="utf-8-sig") as stream:
            header = stream.readline()
        separator = max(",;\t", key=header.count)
        table = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        table = renewed_table(table) if own_manifest(file.parent, PLAN) else table
    except (OSError, ValueError) as error:  # pandas' errors are ValueErrors
        raise DataError(f"Cannot read '{file}' as a CSV: {error}. Expected the columns path,label[,split].") from None
    columns = [str(c) for c in table.columns]
    for needed in ("path", "label"):
        if needed not in columns:
            raise DataError(
                f"'{file}' has no column '{needed}'. Expected path,label[,split]; found {', '.join(columns)}."
            )
    if group_by and group_by not in columns:
        raise unknown("column", group_by, columns, see=f"('{file}')")
    group_column = group_by or ("group" if "group" in columns else None)
    seen: dict[str, str] = {}
    for number, row in enumerate(table.to_dict("records"), start=2):
        path, label = row["path"].strip(), row["label"].strip()
        split = _split_named(row["split"], file, number) if "split" in columns else ""
        if not label:
            findings.append(problem(path, "", "no-label", f"row {number} has an empty label"))
        elif path in seen and seen[path] != label:
            raise DataError(
                f"'{path}' has two labels in '{file}': '{seen[path]}' and '{label}' (row {number}). tlkit trains "
                "single-label classifiers only. Give each image one label."
            )
        elif path in seen:
            findings.append(problem(path, label, "repeated-row", f"row {number} repeats an earlier one"))
        else:
            seen[path] = label
            yield _Found(path, label, split, row[group_column].strip() if group_column else "")
