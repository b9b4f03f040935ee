"""Reads images whose classes are not known. Where class folders or a table give labels, they are kept aside."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from tlkit.data.images import PROBLEM_COLUMNS, TABLE_COLUMNS, ImageSet, problem
from tlkit.data.rows import row_of
from tlkit.data.scan import check_exists, scan
from tlkit.data.sources.folder import NOT_UTF_8, files_below
from tlkit.data.sources.item import _Found
from tlkit.data.sources.names import is_utf8
from tlkit.data.sources.places import Places, Wanted
from tlkit.data.sources.records import kind_of_table, read_records
from tlkit.data.sources.table import _layout, files_of_rows, root_of_table
from tlkit.errors import DataError
from tlkit.plan.columns import named_columns
from tlkit.plan.in_memory import InMemory, as_data

UNKNOWN = ""  # the label of an image whose class is not known


@dataclasses.dataclass(frozen=True)
class UnlabelledImages:
    """Images without labels, and the labels that were there.

    images: every label is UNKNOWN, which is the only class, so that nothing that reads the set can use them.
    labels: the label that the data gives each path, if it is one of the classes asked for.
    """

    images: ImageSet
    labels: Mapping[str, str]

    def class_numbers(self, images: ImageSet, classes: Collection[str]) -> np.ndarray:
        """The class number of each of some of the images, -1 where it is not known: int64, shape (n,)."""
        number = {name: i for i, name in enumerate(classes)}
        return np.array([number.get(self.labels.get(path, UNKNOWN), -1) for path in images.table["path"]], "int64")


def scan_unlabelled(
    data: str | Path | InMemory, classes: Collection[str], *, columns: Mapping[str, str] | str | None = None
) -> UnlabelledImages:
    """Find the images of a folder or table without needing labels. Files that cannot be used are named as problems.

    Args:
        data: A folder, which is searched with all its sub-folders; a table with a column of paths; or data in memory,
            of `tlkit.from_arrays` and the like.
        classes: A sub-folder, or a table's label, that has the name of one of these is kept as the image's label.
        columns: As for `tlkit.scan`.

    Raises:
        DataError: There are no such data, or no image in them can be used.
    """
    data = as_data(data)
    check_exists(data)
    names = {unicodedata.normalize("NFC", name): name for name in classes}
    findings: list[dict[str, str]] = []
    source = data if isinstance(data, InMemory) else None
    if isinstance(data, InMemory):
        known = scan(data)
        root, table, findings = known.root, known.table, known.problems.to_dict("records")
    elif data.is_dir():
        root, table = data, _rows(data, _of_folder(data, names, findings), findings)
    elif kind_of_table(data):
        root = root_of_table(data)
        table = _rows(root, _of_table(data, columns, findings), findings)
    else:
        raise DataError(f"'{data}' is neither a folder nor a table. Expected a folder of images, or a CSV of paths.")
    if not len(table):
        why = f", such as '{findings[0]['path']}': {findings[0]['detail']}" if findings else ""
        raise DataError(f"No image in '{data}' can be used{why}. Expected image files.")
    found = {path: names[label] for path, label in zip(table["path"], table["label"], strict=True) if label in names}
    problems = pd.DataFrame(findings, columns=list(PROBLEM_COLUMNS))
    images = ImageSet(root, table.assign(label=UNKNOWN, split=""), (UNKNOWN,), problems, source=source)
    return UnlabelledImages(images, found)


def _rows(root: Path, found: list[_Found], findings: list[dict[str, str]]) -> pd.DataFrame:
    rows = [row for one in found if (row := row_of(root, one, findings)) is not None]
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS)).sort_values("path", ignore_index=True)


def _of_folder(folder: Path, names: Collection[str], findings: list[dict[str, str]]) -> list[_Found]:
    """The files below a folder. The label is the outermost sub-folder that has a class's name, or UNKNOWN."""
    found = []
    for file, aside in files_below(folder):
        path = file.relative_to(folder)
        if aside or not is_utf8(path.as_posix()):
            findings.append(problem(path.as_posix(), UNKNOWN, "unreadable", aside or NOT_UTF_8))
            continue
        labels = [name for one in path.parts[:-1] if (name := unicodedata.normalize("NFC", one)) in names]
        found.append(_Found(path.as_posix(), labels[0] if labels else UNKNOWN))
    return found


def _of_table(file: Path, columns: Mapping[str, str] | str | None, findings: list[dict[str, str]]) -> list[_Found]:
    """The rows of a table that lead to a file. An empty label, or no column of labels, is no problem."""
    records = read_records(file)
    layout = _layout(file, records, None, named_columns(columns))
    rows = []
    for number, cells, fault in records.rows:
        path = cells[layout.path] if layout.path < len(cells) else ""
        if fault or not path or "\x00" in path or not is_utf8(path):
            findings.append(problem(path, UNKNOWN, "bad-row", f"row {number}: {fault or 'no path that can be read'}"))
            continue
        label = cells[layout.label] if 0 <= layout.label < len(cells) else UNKNOWN
        rows.append(Wanted(path, unicodedata.normalize("NFC", label), "", number, ""))
    return files_of_rows(file, rows, Places(root_of_table(file)).find(rows), findings)
