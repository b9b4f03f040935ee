"""Files and folders appear whole or not at all: written under a temporary name, then renamed. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write text under a temporary name in the same folder and rename it, so that no reader sees half a file."""
    with temporary_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it is renamed to `path` when the block ends well, else removed.

    The suffix is kept, because Keras chooses its format by it. A folder at `path` is replaced, whatever it holds: see
    `tlkit.folders.check_replaceable`.
    """
    temporary = name_beside(path, "tmp")
    try:
        yield temporary
        if temporary.is_dir():
            replace_folder(path, temporary)
        else:
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def name_beside(path: Path, why: str) -> Path:
    """A name in the same folder that nothing has, hidden: .WHY-1a2b3c4d-NAME."""
    return path.with_name(f".{why}-{uuid.uuid4().hex[:8]}-{path.name}")


def contents(folder: Path) -> list[str]:
    """All that a folder holds, as names relative to it: files, empty folders ("a/b/") and links ("a -> elsewhere"), which are not followed.

    Nothing, where there is no folder. Raises OSError for a folder in it that cannot be read.
    """
    found: list[str] = []

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # what cannot be read is not nothing
            raise error

    there = folder.is_dir() and not folder.is_symlink()
    for here, folders, files in os.walk(folder, onerror=stop) if there else ():
        at = Path(here)
        for one in (at / name for name in (*folders, *files)):
            name = one.relative_to(folder).as_posix()
            if one.is_symlink():
                found.append(f"{name} -> {one.readlink()}")
            elif one.name in files:
                found.append(name)
        if at != folder and not folders and not files:
            found.append(f"{at.relative_to(folder).as_posix()}/")
    return sorted(found)


def remove(folder: Path, names: Iterable[str], *, itself: bool = True) -> None:
    """Remove files of a folder, by names from `contents`, and what this empties: folders in it, and `itself`. Whatever else is there stays.

    Descriptions (`.json`) go last, so that what is left is still known if this is stopped.
    """
    for name in sorted(names, key=lambda one: one.endswith(".json")):
        if not name.endswith("/"):
            (folder / name).unlink(missing_ok=True)
    for here, _, _ in os.walk(folder, topdown=False):
        if itself or Path(here) != folder:
            with contextlib.suppress(OSError):  # it is not empty
                Path(here).rmdir()


def replace_folder(folder: Path, new: Path) -> None:
    """Rename `new` to `folder`, and remove what `folder` held. It holds the one or the other at any moment, but for that between two renames."""
    if not folder.is_dir():
        new.rename(folder)
        return
    names, old = contents(folder), name_beside(folder, "old")
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    with contextlib.suppress(OSError):  # the new one is in its place
        remove(old, names)
