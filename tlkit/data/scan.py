"""Finds the images of a folder or CSV and names every problem. Reads headers and decodes nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.depth import depth_of
from tlkit.data.foreign import foreign_file
from tlkit.data.images import PROBLEM_COLUMNS, TABLE_COLUMNS, ImageSet, problem, raise_if_strict
from tlkit.data.limits import FULL_DEPTH
from tlkit.data.rows import row_of
from tlkit.data.sources.folder import _walk
from tlkit.data.sources.table import TABLES, _read_csv, root_of_table
from tlkit.errors import DataError, nearest

if TYPE_CHECKING:
    import pandas as pd

_MAYBE_DEEP = ("tiff", "jpeg2000", "pnm")  # formats that become PNG of 16 bits, if they have them


def scan(data: str | Path, *, group_by: str | None = None, strict: bool = False) -> ImageSet:
    """Find the images of a folder or CSV and name every problem, from headers and hashes only.

    The format is recognised by a file's first bytes, not by its extension: JPEG, PNG, GIF (first frame), BMP or WebP.
    TIFF, HEIC, AVIF and others are converted when they are decoded, and noted as converted: see `tlkit.convert`. Files
    that do not decode are found later, by `tlkit.decode_images`.

    Args:
        data: a folder of class folders; a folder with train/, val/ and test/ folders of class folders; or a CSV with
            the columns path (relative to the CSV's folder), label and, optionally, split (train, validation, test)
            and group. The split.csv of a run is such a CSV, of that run's data.
        group_by: the CSV column whose equal values must stay in one split (patient, camera, site). A column named
            "group" is used by default.
        strict: raise DataError for any problem that is more than a note.

    Returns: the images and the problems.

    Raises:
        DataError: if there are no usable images.
        NameUnknown: if `group_by` is not a column.
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
    rows = [row for item in found if (row := row_of(root, item, findings)) is not None]
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS)).sort_values("path", ignore_index=True)
    table, more = _same_bytes(table)
    findings += more
    problems = pd.DataFrame(findings, columns=list(PROBLEM_COLUMNS))
    names = tuple(sorted(set(table["label"])))
    images = _with_depth(ImageSet(root, table, names, problems))
    if not len(table):
        raise DataError(_nothing_found(data, root, problems))
    if strict:
        raise_if_strict(images)
    return images


def _with_depth(images: ImageSet) -> ImageSet:
    """Measure the bits that the images of 16 bits use, and say it where these are named."""
    import pandas as pd

    named = images.problems["problem"] == "16-bit"
    deep = set(images.problems.loc[named, "path"])
    table = images.table
    files = [root_file for root_file in table["path"] if root_file in deep]
    files += [path for path, kind in zip(table["path"], table["format"], strict=True) if kind in _MAYBE_DEEP]
    depth = depth_of(images.root / path for path in files)
    if depth == FULL_DEPTH:
        return dataclasses.replace(images, depth=depth)
    problems = pd.DataFrame(images.problems)
    problems.loc[named, "detail"] = f"scaled by the {depth} bits that the data set uses"
    return dataclasses.replace(images, problems=problems, depth=depth)


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


def _nothing_found(data: Path, root: Path, problems: pd.DataFrame) -> str:
    """What was found instead of images, by format where it is known, and what converts the most frequent one."""
    named = [
        foreign_file(root / path) if kind in ("unsupported-format", "not-an-image") else None
        for path, kind in zip(problems["path"], problems["problem"], strict=True)
    ]
    kinds = [one.name if one else kind for one, kind in zip(named, problems["problem"], strict=True)]
    counts = Counter(kinds).most_common()
    found = ", ".join(f"{n:,} {kind}" for kind, n in counts) or "no files at all"
    first = next((one for one in named if one and one.remedy and one.name == counts[0][0]), None)
    todo = f" {first.name}: {first.remedy}." if first else ""
    return (
        f"No usable images in '{data}'. Found: {found}.{todo} Expected JPEG, PNG, GIF, BMP, WebP, TIFF or HEIC files "
        "in class folders."
    )
