"""What is in the folder: finds the images and names every problem. Reads headers, decodes nothing.

`scan` turns a folder or CSV into an `ImageSet`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.headers import _look
from tlkit.data.images import PROBLEM_COLUMNS, TABLE_COLUMNS, ImageSet, problem, raise_if_strict
from tlkit.data.sources.folder import _walk
from tlkit.data.sources.table import TABLES, _read_csv, root_of_table
from tlkit.errors import DataError, nearest

if TYPE_CHECKING:
    import pandas as pd


def scan(data: str | Path, *, group_by: str | None = None, strict: bool = False) -> ImageSet:
    """Find the images of a folder or CSV and name every problem, reading headers and hashes only.

    data: a folder of class folders; a folder of train/, val/, test/ folders of class folders; or a CSV with the
        columns path (relative to the CSV's folder), label and, if wanted, split (train, validation, test) and group. The split.csv of
        a run is such a CSV, of that run's data.
    group_by: the CSV's column whose equal values must stay in one part (patient, camera, site). A column called
        "group" is used without asking.
    strict: any problem that is more than a note raises DataError.

    Files are known by their first bytes, not by their extension: JPEG, PNG, GIF (first frame), BMP, WebP.
    Files that turn out not to decode are found by `tlkit.decode_images`.

    Raises DataError when nothing usable is there, NameUnknown for a group_by that is no column.
    """
    import pandas as pd

    data = Path(data)
    check_exists(data)
    findings: list[dict[str, str]] = []
    if data.is_dir():
        if group_by:
            raise DataError(
                f"`group_by={group_by}` needs a CSV with that column, and '{data}' is a folder. "
                "Write a CSV with the columns path, label and the group."
            )
        root, found = data, _walk(data, findings)
    elif data.suffix.lower() in TABLES:
        root, found = root_of_table(data), _read_csv(data, group_by, findings)
    else:
        raise DataError(
            f"'{data}' is a file but not a CSV. Expected a folder of class folders or a CSV with path,label."
        )
    rows = [row for item in found if (row := _look(root, item, findings)) is not None]
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS)).sort_values("path", ignore_index=True)
    table, more = _same_bytes(table)
    findings += more
    problems = pd.DataFrame(findings, columns=list(PROBLEM_COLUMNS))
    names = tuple(sorted(set(table["label"])))
    images = ImageSet(root, table, names, problems)
    if not len(table):
        raise DataError(_nothing_found(data, problems))
    if strict:
        raise_if_strict(images)
    return images


def check_exists(data: str | Path) -> None:
    """Raise DataError, with the nearest path, if there is no such folder or file."""
    if not Path(data).exists():
        raise DataError(_no_such_path(Path(data)))


def _same_bytes(table: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Byte-identical files: under two labels all are left out, under one they are noted."""
    findings, gone = [], []
    for _, same in table[table.duplicated("sha256", keep=False)].groupby("sha256", sort=False):
        labels = sorted(set(same["label"]))
        paths = list(same["path"])
        for index, path, label in zip(same.index, paths, same["label"], strict=True):
            if len(labels) > 1:
                gone.append(index)
                others = ", ".join(f"{p} ({b})" for p, b in zip(paths, same["label"], strict=True) if p != path)
                findings.append(problem(path, label, "two-labels", f"the same bytes as {others}"))
            elif path != paths[0]:
                findings.append(problem(path, label, "duplicate", f"the same bytes as {paths[0]}"))
    return table.drop(index=gone).reset_index(drop=True), findings


def _no_such_path(data: Path) -> str:

    siblings = [p.name for p in data.parent.iterdir()] if data.parent.is_dir() else []
    close = nearest(data.name, siblings)
    hint = f"Did you mean '{data.parent / close}'?" if close else "Expected a folder of class folders, or a CSV."
    return f"No such file or folder: '{data}'. {hint}"


def _nothing_found(data: Path, problems: pd.DataFrame) -> str:
    counts = Counter(problems["problem"]).most_common()
    found = ", ".join(f"{n} {kind}" for kind, n in counts) or "no files at all"
    return f"No usable images in '{data}'. Found: {found}. Expected JPEG, PNG, GIF, BMP or WebP files in class folders."
