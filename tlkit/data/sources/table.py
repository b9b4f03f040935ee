"""Finds images in a table of paths and labels."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tlkit.data.images import TABLE_COLUMNS, problem
from tlkit.data.sources.item import _Found
from tlkit.data.sources.kinds import root_of_data
from tlkit.data.sources.member import Members, Root
from tlkit.data.sources.names import alike_labels, is_utf8, label_of_name, part_in_name, part_of_name
from tlkit.data.sources.places import IMAGE_EXTENSIONS, Place, Places, Wanted
from tlkit.data.sources.records import SEVERAL, Record, Records, kind_of_table, read_records
from tlkit.data.sources.table_columns import COLUMNS, plain
from tlkit.errors import DataError, unknown
from tlkit.folders import PLAN, own_manifest
from tlkit.plan.in_memory import InMemory, as_data, data_from_json
from tlkit.plan.job import PARTS
from tlkit.plan.old import RENAMED_COLUMNS, renewed
from tlkit.words import counted

ONE, ZERO = ("1", "1.0", "true"), ("0", "0.0", "false", "")  # values of a column that stands for a class
_INDEX = re.compile(r"|index|level\d+|unnamed:?\d+")  # names that pandas gives to an index
MOST_SHOWN = 20  # columns in a message
LONGEST = 100  # characters of a value of a further column


class _Layout(NamedTuple):
    """Which column holds what, by its number. label: -1 if each class has a column of its own."""

    path: int
    label: int
    split: int | None
    group: int | None


def root_of_table(file: Root) -> Root:
    """The folder that the paths of a table are relative to: its own, or the data's for the split.csv of a run.

    The data of a run may be an archive.

    Raises DataError for the split.csv of a run whose images lay in memory.
    """
    seen: set[Path] = set()
    while (
        isinstance(file, Path)
        and file.name == "split.csv"
        and file not in seen
        and (values := own_manifest(file.parent, PLAN))
    ):
        seen.add(file)
        given = data_from_json(renewed(values)["job"].get("data", file.parent))
        if isinstance(given, InMemory):
            return given.folder
        data = as_data(given)
        if isinstance(data, InMemory):
            return data.folder
        if not isinstance(data, Path) or data.is_dir() or not kind_of_table(data):
            return root_of_data(data)
        file = data
    return file.parent


def _read_table(
    file: Root, group_by: str | None, named: Mapping[str, str], findings: list[dict[str, str]]
) -> list[_Found]:
    """Find the images of a table. A row that cannot be used is named in `findings` and left out.

    named: the columns that hold something, if not by one of the names in COLUMNS (see `plan.columns.named_columns`).

    Raises:
        DataError: if the table cannot be read, has no column of paths or of labels, or names several labels for more
            than half of its images.
        NameUnknown: if `group_by` or a column of `named` is not a column.
    """
    records = read_records(file)
    rows = labelled_rows(file, records, group_by, named, findings)
    part = part_in_name(file.stem) or ""  # of two files of one name, train.csv means the one in train/
    wanted = [row if row.split else row._replace(split=part) for row in rows] if part else rows
    return files_of_rows(file, rows, Places(root_of_table(file)).find(wanted), findings)


def labelled_rows(
    file: Root, records: Records, group_by: str | None, named: Mapping[str, str], findings: list[dict[str, str]]
) -> list[Wanted]:
    """The rows of a table with a path and one label; no file is looked for. Otherwise as `_read_table`."""
    return _labelled(file, records, _layout(file, records, group_by, named), findings)


def files_of_rows(
    file: Root, rows: Sequence[Wanted], places: Sequence[Place], findings: list[dict[str, str]]
) -> list[_Found]:
    """The images of rows by the places of their files. What cannot be used is named in `findings`."""
    found = _one_each(file, rows, places, findings)
    findings += [
        problem(path, label, "alike-names", detail)
        for path, label, detail in alike_labels({one.label for one in found})
    ]
    return found


def images_of_records(
    members: Members, records: Records, group_by: str | None, named: Mapping[str, str], findings: list[dict[str, str]]
) -> list[_Found]:
    """The images of a source whose items have labels of their own. A record is read as a row of a table is."""
    shown = Path(members.shown)
    rows = labelled_rows(shown, records, group_by, named, findings)
    return files_of_rows(shown, rows, [Place(row.path, "written") for row in rows], findings)


# -- which column holds what ---------------------------------------------------------------------------------


def _layout(file: Root, records: Records, group_by: str | None, named: Mapping[str, str]) -> _Layout:
    names = records.names
    if isinstance(file, Path) and own_manifest(file.parent, PLAN):
        names = [RENAMED_COLUMNS.get(name, name) for name in names]
    found: dict[str, int | None] = {}
    for role, known in COLUMNS.items():
        wanted = named.get(role) or (group_by if role == "group" else None)
        found[role] = _column(names, [wanted] if wanted else [role, *known])
        if wanted and found[role] is None:
            raise unknown("column", wanted, names, see=f"('{file}')")
    path, label = found["path"], found["label"]
    shown = ", ".join(names[:MOST_SHOWN]) + (f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else "")
    if path is None:
        raise DataError(
            f"'{file}' has no column 'path'. Expected path,label[,split]; found {shown}. "
            + (_no_names(names) or "If another column holds the paths, name it: `columns=path=NAME`.")
        )
    if names[path] in records.inside:
        raise DataError(
            f"'{file}' holds the images themselves in its column '{names[path]}'. tlkit reads images from files: "
            "write each to a file, and the files' paths into the table."
        )
    return _Layout(path, -1 if label is None else label, found["split"], found["group"])


def _no_names(names: Sequence[str]) -> str:
    """What to say of a first line that holds no names of columns: it is a row, or spaces are between its cells."""
    words = [word for name in names for word in name.lower().split()]
    if len(names) == 1 and len(words) > 1:
        done = "Put commas, semicolons, tabs or bars between the cells; spaces separate none"
        return f"{done}, and path,label into the first line."
    if any(word.endswith(tuple(IMAGE_EXTENSIONS)) or "/" in word or "\\" in word for word in words):
        return "The first line is a row already. Put a line with the names of the columns above it, such as path,label."
    return ""


def _column(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """The number of the first column that has one of the names: exactly, or but for capitals, spaces and the like."""
    plain_names = [plain(name) for name in names]
    for one in wanted:
        if one in names:
            return list(names).index(one)
        if plain(one) in plain_names:
            return plain_names.index(plain(one))
    return None


def _class_columns(names: Sequence[str], rows: Sequence[Record], taken: set[int | None]) -> list[int]:
    """The columns that stand for a class each: two or more that hold nothing but 0 and 1, and some 1."""
    found = []
    for i, name in enumerate(names):
        if i in taken or _INDEX.fullmatch(plain(name)):
            continue
        values = {row.cells[i].lower() for row in rows if not row.fault and i < len(row.cells)}
        if values <= {*ONE, *ZERO} and values & {*ONE}:
            found.append(i)
    return found if len(found) > 1 else []


# -- rows ----------------------------------------------------------------------------------------------------


def _labelled(file: Root, records: Records, layout: _Layout, findings: list[dict[str, str]]) -> list[Wanted]:
    """The rows with a path and one label. The others are named in `findings`."""
    rows, names = records.rows, records.names
    classes: list[int] = []
    if layout.label < 0:
        kept = list(rows)
        classes = _class_columns(names, kept, {layout.path, layout.split, layout.group})
        if not classes:
            raise DataError(
                f"'{file}' has no column 'label'. Expected path,label[,split], or a column for each class with 1 in "
                f"one of them; found {', '.join(names[:MOST_SHOWN])}. "
                "If another column holds the labels, name it: `columns=label=NAME`."
            )
        rows = iter(kept)
    found: list[Wanted] = []
    several: list[dict[str, str]] = []
    further = _further(names, layout, classes, records.inside)
    for number, given, fault in rows:
        cells = given if len(given) >= len(names) else [*given, *[""] * (len(names) - len(given))]
        path = cells[layout.path]
        split = "" if layout.split is None else cells[layout.split]
        group = "" if layout.group is None else cells[layout.group]
        if classes:
            labels = [names[i] for i in classes if cells[i].lower() in ONE]
        else:
            labels = [one for one in cells[layout.label].split(SEVERAL) if one]
        if fault:
            findings.append(problem(path, "", "bad-row", f"row {number}: {fault}"))
        elif not path:
            findings.append(problem("", "", "bad-row", f"row {number}: an empty path"))
        elif not _is_text(path, split, group, *labels):
            findings.append(problem(path, "", "bad-row", f"row {number}: it holds what no text holds, such as a zero"))
        elif not labels:
            findings.append(problem(path, "", "no-label", f"row {number} has an empty label"))
        elif len(labels) > 1:
            several.append(problem(path, "", "two-labels", _several(f"row {number}", labels)))
        else:
            label = labels[0] if labels[0].isprintable() else label_of_name(labels[0])
            more = tuple((name, _value(cells[i])) for i, name in further.items())
            found.append(Wanted(path, label, split, number, group, more))
    _check_single(file, several, len(found))
    findings += several
    return _in_parts(names, layout, found, findings)


def _further(names: Sequence[str], layout: _Layout, classes: Sequence[int], inside: Collection[str]) -> dict[int, str]:
    """The columns that the image set does not use, by number: they are kept for `tlkit.slices`.

    One whose name is that of a column of the image set is left out, and so is an index.
    """
    used = {layout.path, layout.label, layout.split, *classes}
    return {
        i: name
        for i, name in enumerate(names)
        if i not in used
        and name not in (*TABLE_COLUMNS, *inside)
        and not _INDEX.fullmatch(plain(name))
        and name.isprintable()
        and is_utf8(name)
    }


def _value(cell: str) -> str:
    """The value of a further column: its first LONGEST characters, and nothing of what no text holds."""
    return cell.replace(SEVERAL, ", ")[:LONGEST] if _is_text(cell) else ""


def _is_text(*cells: str) -> bool:
    """Whether cells hold no zero and no half of a surrogate pair, which no file name and no UTF-8 holds."""
    return all("\x00" not in one and (one.isascii() or is_utf8(one)) for one in cells)


def _several(where: str, labels: Sequence[str]) -> str:
    return f"several labels in {where}: {', '.join(labels[:10])}; tlkit trains single-label classifiers only"


def _check_single(file: Root, several: Sequence[Mapping[str, str]], others: int) -> None:
    """Raise DataError if more images have several labels than have one: they are not for a single-label classifier."""
    if len(several) > others:
        first = several[0]
        raise DataError(
            f"{counted(len(several), 'image')} of {len(several) + others:,} in '{file}' have several labels, such as "
            f"'{first['path']}': {first['detail']}. Give each image one label."
        )


def _in_parts(
    names: Sequence[str], layout: _Layout, rows: list[Wanted], findings: list[dict[str, str]]
) -> list[Wanted]:
    """The rows with their part of the split by tlkit's name. An unknown part is named in `findings`.

    A column that is only called like a split, such as "set", counts if it holds the name of a part.
    """
    values = {value: part_of_name(value) for value in {row.split for row in rows}}
    if layout.split is None or not any(values):
        return rows
    if not any(values.values()) and plain(names[layout.split]) not in COLUMNS["split"][:2]:
        return [row._replace(split="") for row in rows]
    found = []
    for row in rows:
        if (split := values[row.split]) is not None:
            found.append(row._replace(split=split))
        else:
            detail = f"split is '{row.split}' in row {row.number}; expected one of {', '.join(PARTS)}"
            findings.append(problem(row.path, row.label, "bad-row", detail))
    return found


# -- files ---------------------------------------------------------------------------------------------------


def _one_each(
    file: Root, rows: Sequence[Wanted], places: Sequence[Place], findings: list[dict[str, str]]
) -> list[_Found]:
    """The image of each row that leads to a file, once, and without those that rows give different labels."""
    by_file: dict[str, Wanted] = {}
    again: dict[str, list[Wanted]] = defaultdict(list)  # the further rows of a file
    elsewhere: dict[tuple[str, str], int] = {}
    example: dict[tuple[str, str], tuple[Wanted, str]] = {}
    for row, place in zip(rows, places, strict=True):
        if place.how == "missing":
            findings.append(problem(row.path, row.label, "missing-file", f"row {row.number}: {place.detail}"))
            continue
        if by_file.setdefault(place.path, row) is not row:
            again[place.path].append(row)
        if place.how != "written":
            where = (row.path.rpartition("/")[0], place.path.rpartition("/")[0])
            if where in elsewhere:
                elsewhere[where] += 1
            else:
                elsewhere[where], example[where] = 1, (row, place.path)
    for where, count in elsewhere.items():
        row, path = example[where]
        detail = f"read as '{path}'" + (f", and {counted(count - 1, 'path')} like it" if count > 1 else "")
        findings.append(problem(row.path, row.label, "other-path", f"row {row.number}: {detail}"))
    several, found = [], []
    for path, first in by_file.items():
        if path not in again:
            found.append(_Found(path, first.label, first.split, first.group, first.more))
            continue
        others = again[path]
        labels = {first.label, *(row.label for row in others)}
        if len(labels) > 1:
            lines = ", ".join(str(row.number) for row in [first, *others][:10])
            several.append(problem(path, "", "two-labels", _several(f"rows {lines}", sorted(labels))))
            continue
        for row in others:
            findings.append(problem(path, row.label, "repeated-row", f"row {row.number} repeats row {first.number}"))
        found.append(_Found(path, first.label, first.split, first.group, first.more))
    _check_single(file, several, len(found))
    findings += several
    return found
