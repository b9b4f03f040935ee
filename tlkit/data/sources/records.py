"""Reads the rows of a table as text: CSV as Excel, Windows and pandas write it, JSON Lines, or Parquet.

Knows nothing of what the columns mean. Text stays what it is: "NA", "None" and "001" are not converted.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from tlkit.data.sources.member import Root
from tlkit.data.sources.names import is_system
from tlkit.errors import DataError
from tlkit.words import counted

SEPARATORS = ",;\t|"
DELIMITED = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
TABLES = (*DELIMITED, *JSON_LINES, *PARQUET)  # extensions of files that are read as a table
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")  # behind any of them but Parquet's, which compresses by itself
MOST_UNPACKED = 512 * 1024 * 1024  # bytes of a compressed table

SEVERAL = "\x1f"  # joins the values of a list in one cell; no text of a table holds it by chance

_MARKS = (  # byte order mark -> encoding; UTF-32 first, whose mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_SAVE_AS = "in Excel save as 'CSV UTF-8'"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE | re.DOTALL)
_UNCLOSED = "a quotation mark is opened and not closed"
MOST_UNCLOSED = 100  # each costs another look at the lines after it


def kind_of_table(file: Root) -> str:
    """The extension of TABLES that a file's name has, before that of a compression if it has one; "" if none.

    >>> kind_of_table(Path("a/labels.CSV")), kind_of_table(Path("a/labels.csv.gz")), kind_of_table(Path("photos.zip"))
    ('.csv', '.csv', '')
    """
    kind = file.suffix.lower()
    if kind in COMPRESSED:
        inner = Path(file.stem).suffix.lower()
        return inner if inner in (*DELIMITED, *JSON_LINES) else ""
    return kind if kind in TABLES else ""


def likely_table(folder: Root) -> Root | None:
    """The table in a folder that most likely holds labels, by its name. None if there is none."""
    tables: list[Root] = [one for one in folder.iterdir() if kind_of_table(one) not in ("", ".txt")]
    tables = [one for one in tables if "submission" not in one.name.lower()]
    words = ("train", "label", "metadata")
    return min(
        tables,
        key=lambda one: (next((i for i, word in enumerate(words) if word in one.name.lower()), len(words)), one.name),
        default=None,
    )


class Record(NamedTuple):
    """A row of a table.

    number: the line in the file, from 1; in Parquet the row, from 1.
    cells: the text of each column, without spaces around it. A row that is too short lacks its last cells.
    fault: why the row cannot be read, or "".
    """

    number: int
    cells: list[str]
    fault: str = ""


@dataclass(frozen=True)
class Records:
    """The rows of a table.

    names: the columns, as the file names them.
    rows: can be read once.
    inside: the columns of bytes or structures, such as the images themselves. Their cells are "".
    """

    names: list[str]
    rows: Iterator[Record]
    inside: frozenset[str] = frozenset()


def read_records(file: Root) -> Records:
    """Read a table by its extension, one of TABLES, or one of COMPRESSED behind it.

    Raises DataError if it cannot be read or unpacked, is not UTF-8 or UTF-16 with a mark, or is a workbook.
    """
    kind = kind_of_table(file)
    try:
        if kind in PARQUET:
            return _parquet(file)
        lines = list(io.StringIO(_decoded(file), newline=None))
    except OSError as error:
        raise DataError(f"Cannot read '{file}': {error.strerror or error}.") from error
    return _json_lines(file, lines) if kind in JSON_LINES else _delimited(file, lines)


def _decoded(file: Root) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark."""
    data = _unpacked(file) if file.suffix.lower() in COMPRESSED else file.read_bytes()
    if data.startswith(_WORKBOOKS):
        raise DataError(f"'{file}' is a workbook, not text; {_SAVE_AS}.")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        decoded = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(file, data, encoding, error.start)) from None
    if decoded[:1000].count("\x00") > len(decoded[:1000]) // 4:
        raise DataError(
            f"'{file}' is not UTF-8; {_SAVE_AS}. It holds zero bytes, as UTF-16 without a byte order mark does."
        )
    return decoded


def _unpacked(file: Root) -> bytes:
    """The content of a compressed table, at most MOST_UNPACKED bytes."""
    try:
        with _opened(file) as stream:
            data = stream.read(MOST_UNPACKED + 1)
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"Cannot unpack '{file}': {error}. Unpack it with another program, and give the table."
        ) from None
    if len(data) > MOST_UNPACKED:
        raise DataError(f"'{file}' unpacks to more than {MOST_UNPACKED >> 20} MiB. Unpack it, and give the table.")
    return data


def _opened(file: Root) -> IO[bytes] | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    kind = file.suffix.lower()
    opened = file if isinstance(file, Path) else file.open("rb")
    if kind == ".gz":
        return gzip.open(opened)
    if kind == ".bz2":
        return bz2.open(opened)
    if kind == ".xz":
        return lzma.open(opened)
    with zipfile.ZipFile(opened) as archive:  # what it opens stays open
        names = [one.filename for one in archive.infolist() if not one.is_dir()]
        names = [name for name in names if not any(is_system(part) for part in name.split("/"))]
        if len(names) != 1:
            found = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise DataError(f"'{file}' holds {counted(len(names), 'file')} ({found}). Unpack it, and give the table.")
        return archive.open(names[0])


def _not_utf8(file: Root, data: bytes, encoding: str, place: int) -> str:
    """The message for a file that does not decode at a byte. What it was meant to be is shown, never assumed."""
    if encoding not in ("utf-8", "utf-8-sig"):
        return f"'{file}' begins as {encoding.upper()} and is damaged after byte {place:,}. Save it again, as UTF-8."
    row = data.count(b"\n", 0, place) + 1
    start = data.rfind(b"\n", 0, place) + 1
    shown = data[start : start + 80].split(b"\n")[0].decode("cp1252", errors="replace").strip()
    return (
        f"'{file}' is not UTF-8; {_SAVE_AS}. Row {row} holds the byte 0x{data[place]:02x}; in Windows-1252 it would be "
        f"'{shown}', but other encodings give other letters, so none is assumed."
    )


# -- CSV -----------------------------------------------------------------------------------------------------


def _delimited(file: Root, lines: list[str]) -> Records:
    """The rows of a CSV whose cells are separated by one of SEPARATORS, by the header or a line `sep=;`."""
    start = next((i for i, one in enumerate(lines) if one.strip()), len(lines))
    given = _SEPARATOR_LINE.fullmatch(lines[start]) if start < len(lines) else None
    if given:
        start = next((i for i in range(start + 1, len(lines)) if lines[i].strip()), len(lines))
    if start == len(lines):
        raise DataError(f"Cannot read '{file}': it has no rows. Expected a line with the names of the columns.")
    separator = given[1] if given else _separator(lines[start])
    found = _parsed(file, lines, start, separator)
    header = next(found)
    if header.fault:
        raise DataError(f"Cannot read '{file}': {header.fault} in row {header.number}, the names of the columns.")
    return Records(header.cells, _checked(found, len(header.cells)))


def _separator(header: str) -> str:
    outside = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=outside.count)


def _checked(found: Iterator[Record], columns: int) -> Iterator[Record]:
    """Leave out empty rows, and name those with more cells than columns. Empty cells at the end do not count."""
    for one in found:
        if not one.fault and len(one.cells) > columns:
            if any(one.cells[columns:]):
                fault = f"{len(one.cells)} cells and {columns} columns; put text that holds the separator in quotes"
                yield Record(one.number, one.cells[:columns], fault)
                continue
            one = Record(one.number, one.cells[:columns])
        if one.fault or any(one.cells):
            yield one


def _parsed(file: Root, lines: list[str], start: int, separator: str) -> Iterator[Record]:
    """Every row from a line on. A row whose quotation mark is not closed is named, and the next line read afresh."""
    unclosed = 0
    while start < len(lines):
        reader = csv.reader(itertools.islice(lines, start, None), delimiter=separator, skipinitialspace=True)
        used = 0
        while True:
            before, number, bad, fault = used, start + used + 1, False, _UNCLOSED
            try:
                cells = next(reader, None)
                used = reader.line_num
                if used - before > 1:
                    bad = sum(lines[i].count('"') for i in range(start + before, start + used)) % 2 == 1
            except csv.Error:
                cells, bad = [], True
                if len(lines[number - 1]) > csv.field_size_limit():
                    fault = f"a cell of more than {csv.field_size_limit():,} characters"
            if cells is None:
                return
            if bad:
                break
            yield Record(number, [cell.strip() for cell in cells])
        unclosed += 1
        if unclosed > MOST_UNCLOSED:
            raise DataError(f"Cannot read '{file}': in more than {MOST_UNCLOSED} rows, such as {number}, {fault}.")
        yield Record(number, [lines[number - 1].strip()[:200]], fault)
        start = number


# -- JSON Lines and Parquet ----------------------------------------------------------------------------------


def _json_lines(file: Root, lines: list[str]) -> Records:
    """The rows of a file with a JSON object in each line. The columns are the keys of all of them."""
    names: dict[str, int] = {}
    rows: list[Record] = []
    for number, one in enumerate(lines, start=1):
        if not one.strip():
            continue
        try:
            values = json.loads(one)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            rows.append(Record(number, [one.strip()[:200]], "not a JSON object"))
            continue
        for name in values:
            names.setdefault(str(name), len(names))
        cells = [""] * len(names)
        for name, value in values.items():
            cells[names[str(name)]] = as_text(value)
        rows.append(Record(number, cells))
    if not names:
        raise DataError(f"Cannot read '{file}': none of its lines is a JSON object, such as {_OBJECT}.")
    return Records(list(names), iter(rows))


_OBJECT = '{"file_name": "cat/001.jpg", "label": "cat"}'


def _parquet(file: Root) -> Records:
    """The rows of a Parquet file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"Reading '{file}' needs the package pyarrow. Install it with `pip install tlkit[parquet]`, "
            "or save the table as CSV UTF-8."
        ) from None
    try:
        opened = parquet.ParquetFile(file if isinstance(file, Path) else file.open("rb"))
    except pyarrow.ArrowException as error:
        raise DataError(f"Cannot read '{file}' as Parquet: {error}.") from error
    types, is_a = opened.schema_arrow, pyarrow.types
    inside = [one.name for one in types if is_a.is_struct(one.type) or is_a.is_binary(one.type)]

    def rows() -> Iterator[Record]:
        done = 0
        try:
            for batch in opened.iter_batches(columns=[name for name in types.names if name not in inside]):
                values = dict(zip(batch.schema.names, (column.to_pylist() for column in batch.columns), strict=True))
                columns = [values.get(name, [""] * len(batch)) for name in types.names]
                for number, cells in enumerate(zip(*columns, strict=True), start=done + 1):
                    yield Record(number, [as_text(cell) for cell in cells])
                done += len(batch)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"Cannot read '{file}' as Parquet after row {done:,}: {error}.") from error

    return Records(list(types.names), rows(), frozenset(inside))


def as_text(value: Any) -> str:
    """A value of JSON or Parquet as text: whole numbers without a point, lists joined by SEVERAL."""
    if isinstance(value, str):
        return value.strip()
    if value is None or isinstance(value, dict | bytes) or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return SEVERAL.join(as_text(one) for one in value)
    return str(value)
