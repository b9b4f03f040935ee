"""Write files and folders atomically: under a temporary name, then renamed, so that each appears whole or not at all.

Before it is renamed, a file is flushed to the disk (`fsync`), because many file systems may write a rename before the
data: after a loss of power the new name would then hold an empty file. The median on ext4 on a virtual disk, two cores
with other work, without and with it (2026-11-27):

    a text of 2 kB (n = 60)             0.5 ms   15.8 ms
    a model of 14 MB (n = 15)         120.1 ms  130.1 ms
    a folder, 8 files of 7 MB (n = 15) 12.0 ms   92.0 ms

A run writes about 25 files, so it costs about half a second. Files of caches are not flushed, nor copies of images:
a cache's carry checksums, and both can be made again.

Uses only the standard library.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tlkit.disk import disk_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_SECONDS = 1.0  # how long `locked` waits at most

TEMPORARY = ".tmp-"


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Write text to a temporary file in the same folder and rename it, so that no reader sees half a file.

    The file is UTF-8. Bytes of a path that are not, which Python holds as lone surrogates, are written as \\udcXX,
    which JSON reads back. durable: as in `temporary_beside`.
    """
    data = text.encode("utf-8", errors="backslashreplace")
    with temporary_beside(path, needed=len(data), durable=durable) as temporary:
        temporary.write_bytes(data)


def csv_text(table: Any) -> str:
    """A pandas table as CSV, without its index.

    Text is quoted throughout where some of it holds a carriage return, which would end the row for a reader.
    """
    text = table.to_csv(index=False, lineterminator="\n")
    return table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC) if "\r" in text else text


@contextlib.contextmanager
def temporary_beside(path: Path, *, needed: int | None = None, durable: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it to `path` if the block succeeds, else remove it.

    The suffix stays the same, because Keras chooses its format by it. A folder at `path` is replaced, whatever it
    contains: call `tlkit.folders.check_replaceable` first.

    Args:
        path: the file or folder.
        needed: the bytes that it takes, where they are known, for the message of an error.
        durable: whether it must survive a loss of power from now on. What is in a temporary folder is flushed with it.

    Raises:
        DiskError: The disk is full or read-only, or the folder does not exist. What was at `path` is unchanged.
    """
    temporary = name_beside(path, "tmp")
    durable = durable and not any(one.startswith(TEMPORARY) for one in path.parts)  # it is flushed with its folder
    try:
        with disk_errors(path, needed):
            yield temporary
            if durable:
                _flush(temporary)
            if temporary.is_dir():
                replace_folder(path, temporary)
            else:
                temporary.replace(path)
            if durable:
                _flush_names(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or every file of a folder, is on the disk. On macOS, until the drive has it."""
    for file in [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]:
        with file.open("r+b") as stream:
            os.fsync(stream.fileno())
    for folder in [path, *[one for one in path.rglob("*") if one.is_dir()]] if path.is_dir() else []:
        _flush_names(folder)


def _flush_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Not every system and file system can; nothing is said then."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def name_beside(path: Path, why: str) -> Path:
    """Return an unused hidden name in the same folder: .WHY-1a2b3c4d-NAME."""
    return path.with_name(f".{why}-{uuid.uuid4().hex[:8]}-{path.name}")


def contents(folder: Path) -> list[str]:
    """List everything in a folder by names relative to it; empty if there is no folder.

    Files are named "a/b", empty folders "a/b/", and links, which are not followed, "a -> elsewhere". Raises OSError for
    a folder in it that cannot be read.
    """
    found: list[str] = []

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # an unreadable folder must not count as empty
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
    """Remove files of a folder, by names from `contents`, and every folder that this empties. Everything else stays.

    `.json` files are removed last, so that the folder is still recognised if this is interrupted.

    Args:
        folder: the folder.
        names: the files to remove.
        itself: whether the folder is removed too, if it ends up empty.
    """
    for name in sorted(names, key=lambda one: one.endswith(".json")):
        if not name.endswith("/"):
            (folder / name).unlink(missing_ok=True)
    for here, _, _ in os.walk(folder, topdown=False):
        if itself or Path(here) != folder:
            with contextlib.suppress(OSError):  # not empty
                Path(here).rmdir()


def replace_folder(folder: Path, new: Path) -> None:
    """Rename `new` to `folder`, and remove the old contents of `folder`.

    At any moment `folder` is the old or the new one, except between two renames.
    """
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
    with contextlib.suppress(OSError):  # the new folder is already in place
        remove(old, names)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine out of the same block for the same folder while the block runs.

    Waits a second at most for another process and then goes on, so that a process that was stopped holds up none. Does
    nothing on a system or a file system without locks. For blocks that are right without it, nearly always.
    """
    lock: int | None = None
    until = time.monotonic() + LOCK_SECONDS
    try:
        while fcntl is not None and lock is None and time.monotonic() < until:
            try:
                lock = os.open(folder, os.O_RDONLY)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if lock is not None:
                    os.close(lock)
                lock = None
                time.sleep(0.005)
            except OSError:  # there is no such folder, or the file system has no locks
                break
        yield
    finally:
        if lock is not None:
            os.close(lock)
