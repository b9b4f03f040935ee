"""Finds the images of a folder or table and names every problem. Reads headers and decodes nothing."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.headers import _read_file
from tlkit.data.images import LEFT_OUT, PROBLEM_COLUMNS, TABLE_COLUMNS, ImageSet, problem, raise_if_strict
from tlkit.data.sources.folder import _walk
from tlkit.data.sources.records import TABLES
from tlkit.data.sources.table import _read_table, root_of_table
from tlkit.errors import DataError, nearest
from tlkit.plan.columns import named_columns

if TYPE_CHECKING:
    import pandas as pd


def scan(
    data: str | Path,
    *,
    group_by: str | None = None,
    columns: Mapping[str, str] | str | None = None,
    strict: bool = False,
) -> ImageSet:
    """Find the images of a folder or table and name every problem, from headers and hashes only.

    The format is recognised by a file's first bytes, not by its extension: JPEG, PNG, GIF (first frame), BMP or WebP.
    Files that do not decode are found later, by `tlkit.decode_images`.

    Args:
        data: a folder of class folders; a folder with train/, val/ and test/ folders of class folders, or names like
            these; class folders with train/ and test/ folders in each; a folder that only wraps one of these; or a
            table with the columns path (relative to the table's folder), label and, optionally, split (train,
            validation, test) and group. The split.csv of a run is such a table, of that run's data. docs/data.md lists
            what is read.
        group_by: the column of a table whose equal values must stay in one split (patient, camera, site). Default the
            column "group", if there is one.
        columns: the columns of a table that hold the path, label or split, if they have other names:
            {"path": "photo no", "label": "species"}, or "path=photo no,label=species".
        strict: raise DataError for any problem that is more than a note.

    Returns: the images and the problems.

    Raises:
        DataError: if there are no usable images.
        NameUnknown: if `group_by` or one of `columns` is not a column.
        SpecError: if `columns` is text of another form.
    """
    import pandas as pd

    data = Path(data)
    check_exists(data)
    findings: list[dict[str, str]] = []
    named, is_table = named_columns(columns), data.suffix.lower() in TABLES and not data.is_dir()
    if data.is_dir():
        if group_by or named:
            asked = f"`group_by={group_by}`" if group_by else "`columns`"
            raise DataError(
                f"{asked} needs a CSV with that column, and '{data}' is a folder. "
                "Write a CSV with the columns path, label and the group."
            )
        root, found = data, _walk(data, findings)
    elif is_table:
        root, found = root_of_table(data), iter(_read_table(data, group_by, named, findings))
        if not root.is_dir():
            raise DataError(
                f"The images of '{data}' belong in '{root}', which does not exist. If they were moved, copy the table "
                "into the folder where they are now: its paths are relative to its own folder."
            )
    else:
        raise DataError(_not_a_table(data))
    composed = (replace(one, label=unicodedata.normalize("NFC", one.label)) for one in found)
    rows = [row for item in composed if (row := _read_file(root, item, findings)) is not None]
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS)).sort_values("path", ignore_index=True)
    table, more = _same_bytes(table)
    findings += more
    problems = pd.DataFrame(findings, columns=list(PROBLEM_COLUMNS))
    names = tuple(sorted(set(table["label"])))
    images = ImageSet(root, table, names, problems)
    if not len(table):
        raise DataError(_nothing_in_table(data, problems) if is_table else _nothing_found(data, problems))
    if strict:
        raise_if_strict(images)
    return images


WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")


def check_exists(data: str | Path) -> None:
    """Raise DataError, with the nearest path, if there is no such folder or file."""
    if not Path(data).exists():
        raise DataError(_no_such_path(Path(data)))


def _same_bytes(table: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Find byte-identical files. With two labels all of them are left out; with one label they are noted."""
    findings, left_out = [], []
    for _, same in table[table.duplicated("sha256", keep=False)].groupby("sha256", sort=False):
        labels = sorted(set(same["label"]))
        paths = list(same["path"])
        for index, path, label in zip(same.index, paths, same["label"], strict=True):
            if len(labels) > 1:
                left_out.append(index)
                others = ", ".join(f"{p} ({b})" for p, b in zip(paths, same["label"], strict=True) if p != path)
                findings.append(problem(path, label, "two-labels", f"the same bytes as {others}"))
            elif path != paths[0]:
                findings.append(problem(path, label, "duplicate", f"the same bytes as {paths[0]}"))
    return table.drop(index=left_out).reset_index(drop=True), findings


def _no_such_path(data: Path) -> str:
    siblings = [p.name for p in data.parent.iterdir()] if data.parent.is_dir() else []
    close = nearest(data.name, siblings)
    hint = f"Did you mean '{data.parent / close}'?" if close else "Expected a folder of class folders, or a CSV."
    return f"No such file or folder: '{data}'. {hint}"


def _not_a_table(data: Path) -> str:
    what = f"'{data}' is a file but not a CSV. Expected a folder of class folders or a CSV with path,label"
    if data.suffix.lower() in WORKBOOKS:
        return f"{what}; in Excel save as 'CSV UTF-8'."
    return f"{what} ({', '.join(TABLES)})."


def _nothing_in_table(data: Path, problems: pd.DataFrame) -> str:
    """The message for a table without a usable image: what is wrong with its first row, and all by kind."""
    lost = problems[problems["action"] == LEFT_OUT]
    if not len(lost):
        return f"No usable images in '{data}': the table has no rows. Expected a line path,label for each image."
    counts = ", ".join(f"{n} {kind}" for kind, n in Counter(lost["problem"]).most_common())
    first = lost.iloc[0]
    said = f"No usable images in '{data}'. Found: {counts}. The first: '{first['path']}', {first['detail']}."
    if "missing-file" not in set(lost["problem"]):
        return said
    return f"{said} Paths are relative to the table's folder."


def _nothing_found(data: Path, problems: pd.DataFrame) -> str:
    counts = Counter(problems["problem"]).most_common()
    found = ", ".join(f"{n} {kind}" for kind, n in counts) or "no files at all"
    return f"No usable images in '{data}'. Found: {found}. Expected JPEG, PNG, GIF, BMP or WebP files in class folders."
