"""Finds the images of a folder, table or archive and names every problem. Reads headers and decodes nothing."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.depth import depth_of
from tlkit.data.foreign import foreign_file
from tlkit.data.images import LEFT_OUT, PROBLEM_COLUMNS, TABLE_COLUMNS, ImageSet, problem, raise_if_strict
from tlkit.data.limits import FULL_DEPTH
from tlkit.data.rows import rows_of
from tlkit.data.sources.archive import TAR, ZIP
from tlkit.data.sources.folder import _walk
from tlkit.data.sources.item import _Found
from tlkit.data.sources.kinds import exists, not_read, root_of_data
from tlkit.data.sources.member import Member, Root
from tlkit.data.sources.memory import InMemoryImages
from tlkit.data.sources.order import ordered_classes
from tlkit.data.sources.records import TABLES, kind_of_table
from tlkit.data.sources.table import _read_table, images_of_records, root_of_table
from tlkit.errors import DataError, nearest
from tlkit.plan.address import Address
from tlkit.plan.columns import named_columns
from tlkit.plan.in_memory import InMemory, as_data, needs_again
from tlkit.progress import bar

if TYPE_CHECKING:
    import pandas as pd

_MAYBE_DEEP = ("tiff", "jpeg2000", "pnm")  # formats that become PNG of 16 bits, if they have them


def scan(
    data: str | Path | Address | InMemory,
    *,
    group_by: str | None = None,
    columns: Mapping[str, str] | str | None = None,
    class_names: Sequence[str] | None = None,
    strict: bool = False,
) -> ImageSet:
    """Find the images of a folder, table or archive and name every problem, from headers and hashes only.

    The format is recognised by a file's first bytes, not by its extension: JPEG, PNG, GIF (first frame), BMP or WebP.
    TIFF, HEIC, AVIF and others are converted when they are decoded, and noted as converted: see `tlkit.convert`. Files
    that do not decode are found later, by `tlkit.decode_images`.

    Args:
        data: a folder of class folders; a folder with train/, val/ and test/ folders of class folders, or names like
            these; class folders with train/ and test/ folders in each; a folder that only wraps one of these; or a
            table with the columns path (relative to the table's folder), label and, optionally, split (train,
            validation, test) and group. The split.csv of a run is such a table, of that run's data. docs/data.md lists
            what is read. Or data in memory, of `tlkit.from_arrays`, `from_dataframe` or `from_dataset`.
        group_by: the column of a table whose equal values must stay in one split (patient, camera, site). Default the
            column "group", if there is one.
        columns: the columns of a table that hold the path, label or split, if they have other names:
            {"path": "photo no", "label": "species"}, or "path=photo no,label=species".
        class_names: the classes in order. Default: alphabetical, or as data in memory has them.
        strict: raise DataError for any problem that is more than a note.

    Returns: the images and the problems.

    Raises:
        DataError: if there are no usable images, or a class that is not in `class_names`.
        NameUnknown: if `group_by` or one of `columns` is not a column.
        SpecError: if `columns` is text of another form.
    """
    import pandas as pd

    data = as_data(data)
    check_exists(data)
    findings: list[dict[str, str]] = []
    named = named_columns(columns)
    if isinstance(data, InMemory):
        root, found = _in_memory(data, group_by, named, findings)
        class_names = class_names or getattr(data, "class_names", None) or None
    else:
        root, found = _images_of(root_of_data(data), group_by, named, findings)
        if isinstance(root, Member):
            class_names = class_names or root.members.class_names or None
            found = list(found)
            root.members.prepare([one.path for one in found])
    composed = (one._replace(label=unicodedata.normalize("NFC", one.label)) for one in found)
    with bar(None, "file") as update:  # the files are found while they are read
        rows = rows_of(root, _counted(composed, update), findings)
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS)).sort_values("path", ignore_index=True)
    table, more = _same_bytes(table)
    findings += more
    order, empty = ordered_classes(class_names, table["label"])
    findings += empty
    problems = pd.DataFrame(findings, columns=list(PROBLEM_COLUMNS))
    names = order or tuple(sorted(set(table["label"])))
    images = _with_depth(ImageSet(root, table, names, problems, source=data if isinstance(data, InMemory) else None))
    images = dataclasses.replace(images, further={row["path"]: dict(row["more"]) for row in rows if row["more"]})
    if not len(table):
        of_table = isinstance(data, InMemory) or _is_table(root_of_data(data))
        raise DataError(_nothing_in_table(data, problems) if of_table else _nothing_found(data, root, problems))
    if strict:
        raise_if_strict(images)
    return images


def _counted(items: Iterable[_Found], update: Callable[[int], None]) -> Iterator[_Found]:
    for number, item in enumerate(items, start=1):
        yield item
        update(number)


WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")


def _is_table(data: Root) -> bool:
    return bool(kind_of_table(data)) and not data.is_dir()


def _images_of(
    data: Root, group_by: str | None, named: Mapping[str, str], findings: list[dict[str, str]]
) -> tuple[Root, Iterable[_Found]]:
    """The folder that names are relative to, and the images, of a folder or a table on disk or in an archive."""
    if isinstance(data, Member):
        findings += data.members.findings
    if isinstance(data, Member) and not data.inside and (records := data.members.records()) is not None:
        return data, images_of_records(data.members, records, group_by, named, findings)
    if data.is_dir():
        if group_by or named:
            asked = f"`group_by={group_by}`" if group_by else "`columns`"
            raise DataError(
                f"{asked} needs a CSV with that column, and '{data}' is {_kind(data)}. "
                "Write a CSV with the columns path, label and the group."
            )
        return data, _walk(data, findings)
    if not _is_table(data):
        raise DataError(_not_a_table(data))
    if not data.is_file():
        raise DataError(f"'{data}' is not a regular file. Expected a table that can be read again: save it as one.")
    root, found = root_of_table(data), _read_table(data, group_by, named, findings)
    if not root.is_dir():
        raise DataError(
            f"The images of '{data}' belong in '{root}', which does not exist. If they were moved, copy the table "
            "into the folder where they are now: its paths are relative to its own folder."
        )
    return root, found


def _kind(data: Root) -> str:
    return "an archive of class folders" if isinstance(data, Member) else "a folder"


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


def _in_memory(
    data: InMemory, group_by: str | None, named: Mapping[str, str], findings: list[dict[str, str]]
) -> tuple[Root, Iterable[_Found]]:
    """The folder and the images of data in memory. Raises DataError for a plan's description of it, without images."""
    if group_by or named:
        raise DataError(
            f"The data is {data}, and `{'group_by' if group_by else 'columns'}` is for tables. Give it to the function "
            "that makes data, such as tlkit.from_dataframe."
        )
    if not isinstance(data, InMemoryImages):
        raise DataError(needs_again(data))
    findings += data.findings
    return data.folder, data.found


def at_depth(images: ImageSet, depth: int) -> ImageSet:
    """The images scaled by the bits of others, which a model was trained on, and not by those that they use."""
    if depth == images.depth:
        return images
    problems = images.problems.copy()
    named = problems["problem"] == "16-bit"
    said = f"scaled by {depth} bits, as the images that the model was trained on before"
    if images.depth > depth:
        said += f"; this data set uses {images.depth}, so what is brighter is white"
    problems.loc[named, "detail"] = said
    return dataclasses.replace(images, problems=problems, depth=depth)


def check_exists(data: str | Path | Address | InMemory) -> None:
    """Raise DataError, with the nearest path, if there is no such folder or file, or if data in memory is not here."""
    if isinstance(data, InMemory):
        if not isinstance(data, InMemoryImages):
            raise DataError(needs_again(data))
    elif isinstance(given := as_data(data), Path) and not exists(given):
        raise DataError(_no_such_path(given))


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


def _not_a_table(data: Root) -> str:
    what = f"'{data}' is a file but not a CSV. Expected a folder of class folders or a CSV with path,label"
    if data.suffix.lower() in WORKBOOKS:
        return f"{what}; in Excel save as 'CSV UTF-8'."
    if not_read(data):
        return (
            f"'{data}' is an archive of a kind that is not read. Expected {', '.join((*ZIP, *TAR))}: pack it anew, or "
            "unpack it and give the folder."
        )
    return f"{what} ({', '.join(TABLES)})."


def _nothing_in_table(data: object, problems: pd.DataFrame) -> str:
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


def _nothing_found(data: object, root: Root, problems: pd.DataFrame) -> str:
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
