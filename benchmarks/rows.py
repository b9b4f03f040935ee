"""Tables that grow a row at a time."""

import csv
from collections.abc import Mapping
from pathlib import Path


def append_row(file: Path, row: Mapping[str, object]) -> None:
    """Append a row to a CSV, with a header if the file is new; print it too."""
    print(dict(row), flush=True)
    new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
