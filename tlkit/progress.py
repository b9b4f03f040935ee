"""What a long job says while it runs, and how long each of its steps took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

Say = Callable[[str], None]


class _timed:
    """Adds the seconds that a block took to a table."""

    def __init__(self, table: dict[str, float], name: str) -> None:
        self._table, self._name = table, name

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *problem: Sequence[object]) -> None:
        self._table[self._name] = time.monotonic() - self._start
