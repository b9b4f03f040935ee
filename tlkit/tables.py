"""Tables as text: fitted to the width of a terminal, and one line per row everywhere else.

A pipe or a file gets each row on one line, however long, with two or more spaces between cells and no colour, so that
`re.split(r" {2,}", line)` returns the cells. No lines are drawn, so a terminal without Unicode shows the same table.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlkit.words import shown

EMPTY = "-"  # shown for an empty cell, so that every row has as many cells as the header
GAP = 2
NARROWEST = 12  # characters of a wrapped column; if that does not fit, the table is not wrapped


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: its header.
        right: whether its cells are aligned to the right, as numbers are.
        wraps: whether its cells may take several lines on a terminal.
    """

    name: str
    right: bool = False
    wraps: bool = False


def table_text(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, width: int | None = None) -> str:
    """Return a table as text, header first, without a final newline.

    Args:
        columns: the columns.
        rows: a cell for each column; "" is shown as "-".
        width: characters of the terminal to fit into, if the columns that do not wrap leave enough of them. None: each
            row on one line.
    """
    cells = [[_one_line(str(cell)) or EMPTY for cell in row] for row in rows]
    widths = [max(cell_len(text) for text in column) for column in zip([c.name for c in columns], *cells, strict=True)]
    least = [min(n, NARROWEST) if one.wraps else n for n, one in zip(widths, columns, strict=True)]
    gaps = GAP * (len(columns) - 1)
    fitted = width if width is not None and sum(least) + gaps <= width else sum(widths) + gaps
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="")
    for one in columns:
        table.add_column(
            Text(one.name), justify="right" if one.right else "left", overflow="fold", no_wrap=not one.wraps
        )
    for row in cells:
        table.add_row(*[Text(cell) for cell in row])
    out = io.StringIO()
    Console(file=out, width=fitted, color_system=None, legacy_windows=False).print(table, crop=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def shown_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> str:
    """Return a table for standard output: fitted to its width if it is a terminal, else one line per row."""
    return table_text(columns, rows, width=_terminal_width())


def _terminal_width() -> int | None:
    """Return the characters of a line of standard output, or None if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _one_line(text: str) -> str:
    """Replace line breaks and runs of spaces, which would look like another row or cell; escape control characters."""
    return shown(" ".join(text.split()))
