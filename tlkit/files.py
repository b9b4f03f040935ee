"""Files appear whole or not at all: written under a temporary name, then renamed. Standard library only."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write text under a temporary name in the same folder and rename it, so that no reader sees half a file."""
    with temporary_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it is renamed to `path` when the block ends well, else removed.

    The suffix is kept, because Keras chooses its format by it. A folder at `path` is replaced.
    """
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():
            old = path.with_name(f".old-{uuid.uuid4().hex[:8]}-{path.name}")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
