"""Append rows to CSV tables, and read them; which answers were right, as text."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def append_row(file: Path, row: Mapping[str, object]) -> None:
    """Append a row to a CSV and print it. A new file gets a header; a column missing in an old header is an error."""
    print(dict(row), flush=True)
    columns = list(row)
    if file.exists():
        with file.open(newline="") as stream:
            columns = next(csv.reader(stream))
    new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV as text; none if there is no such file."""
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def bits(right: str, count: int) -> np.ndarray:
    """Which of the first `count` answers were right, from `numpy.packbits(...).tobytes().hex()`: bool, one for each."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(right), "uint8"))[:count].astype(bool)
