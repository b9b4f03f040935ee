"""Disks that are full, read-only or absent: what to say of them, and how to find out before the work.

Uses only the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from tlkit.errors import DiskError, TlkitError

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
SPARE = 1_000_000  # bytes that must stay free beside what is needed
TEMPORARY_PREFIX = 14  # characters of ".tmp-1a2b3c4d-", see `tlkit.files.name_beside`
ALWAYS = (*FULL, errno.EROFS)  # errors that are of the file that is written, not of one that is read
_NUMBERS = (*ALWAYS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOENT, errno.EIO)


def megabytes(size: float) -> str:
    """Say a number of bytes.

    >>> megabytes(13_234_000), megabytes(1_950), megabytes(3.2e9)
    ('13.2 MB', '2 kB', '3.2 GB')
    """
    if size < 1e5:
        return f"{-(-int(size) // 1000)} kB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def free_bytes(path: Path) -> int | None:
    """The bytes that may still be written where `path` is or will be; None if that cannot be told."""
    try:
        return shutil.disk_usage(_existing(path)).free
    except OSError:
        return None


def check_room(path: Path, needed: int, what: str) -> None:
    """Raise DiskError unless `needed` bytes are free where `path` is or will be.

    what: what needs them, such as "the run's folder".
    """
    free = free_bytes(path)
    if free is not None and free < needed + SPARE:
        raise DiskError(
            f"{what[:1].upper()}{what[1:]} needs about {megabytes(needed)} in '{_existing(path)}', and "
            f"{megabytes(free)} are free there. Nothing was written. Make room, or write to another disk."
        )


def check_writable(path: str | Path, *, makes_folders: bool = False) -> None:
    """Raise DiskError unless a file can be written at `path`. A file is made beside it for that, and removed.

    makes_folders: whether folders that are missing will be made. Otherwise a missing one is an error.
    """
    path = Path(path).absolute()
    there = _existing(path.parent)
    _check_names(path, there)
    if path.is_dir() and not makes_folders:
        raise DiskError(f"'{path}' is a folder. Expected the name of a file to write.")
    if there != path.parent and not makes_folders:
        raise DiskError(f"'{path}' cannot be written: the folder '{path.parent}' does not exist. Make it first.")
    probe = there / f".tmp-{uuid.uuid4().hex[:8]}-probe"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError as error:
        raise disk_error(error, path) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _check_names(path: Path, there: Path) -> None:
    """Raise DiskError for a path that is too long, or has a part that is, with the prefix of a temporary file."""
    try:
        most, whole = os.pathconf(there, "PC_NAME_MAX"), os.pathconf(there, "PC_PATH_MAX")
    except (OSError, ValueError, AttributeError):  # a system that does not tell
        return
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest + TEMPORARY_PREFIX > most or len(os.fsencode(path)) + TEMPORARY_PREFIX >= whole:
        raise disk_error(OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)), path)


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    for one in (path, *path.parents):
        with contextlib.suppress(OSError, ValueError):
            if one.exists():
                return one
    return path


@contextlib.contextmanager
def disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Raise DiskError for what a full, read-only or absent disk makes of writing `path` in this block.

    Errors of TensorFlow and h5py, which write files of their own, are recognised too. An error of another file, such as
    one that the block reads, is raised as it is.

    needed: the bytes that are to be written, where they are known.
    """
    try:
        yield
    except TlkitError:
        raise
    except Exception as error:
        found = next((one for one in _chain(error) if errno_of(one) in ALWAYS), error)
        number = errno_of(found)
        named = getattr(found, "filename", None)
        elsewhere = isinstance(named, str | Path) and not Path(named).absolute().is_relative_to(path.absolute().parent)
        if number is None or (elsewhere and number not in ALWAYS):
            raise
        cause = found if isinstance(found, OSError) and found.errno else OSError(number, os.strerror(number))
        raise disk_error(cause, path, needed) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it followed: a file that cannot be closed hides the reason, a full disk."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def errno_of(error: BaseException) -> int | None:
    """The errno behind an error of a file, also of TensorFlow's and h5py's; None if it is no such error."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, OSError | RuntimeError):  # h5py gives it in its text alone
        found = re.search(r"\berrno = (\d+)", str(error))
        return int(found[1]) if found else None
    if is_of_tensorflow(error):  # it ends with the system's own text
        text = str(error)
        return next((number for number in _NUMBERS if os.strerror(number) in text), None)
    return None


def is_of_tensorflow(error: BaseException) -> bool:
    """Whether an error was raised by TensorFlow's runtime, which this module does not import."""
    return any(one.__module__.startswith("tensorflow.") and one.__name__ == "OpError" for one in type(error).__mro__)


def disk_error(error: OSError, path: Path | None = None, needed: int | None = None) -> DiskError:
    """Say what an OSError means for the file that was to be written or read, and what to do.

    path: of that file. None: the one that the error names.
    needed: the bytes that were to be written, where they are known.
    """
    named = error.filename if isinstance(error.filename, str | bytes) else ""
    path = path if path is not None else Path(os.fsdecode(named)) if named else None
    there = f"'{_short(path)}'" if path is not None else "A file"
    if error.errno in FULL:
        return DiskError(_full(error.errno, path, needed))
    if error.errno == errno.EROFS:
        return DiskError(f"{there} cannot be written: its disk is read-only. Write to another disk.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return DiskError(f"{there}: permission denied. Change its permissions, or give another path.")
    if error.errno == errno.ENAMETOOLONG:
        return DiskError(f"{there}: the name or the path is too long for this disk. Give a shorter one.")
    if error.errno == errno.ENOENT and path is not None and not path.parent.is_dir():
        return DiskError(f"{there}: the folder '{_short(path.parent)}' does not exist. Make it, or give another path.")
    if error.errno == errno.ENOENT and path is not None and not path.exists():
        return DiskError(f"{there}: '{_short(path.parent)}' takes no new files. Give a path elsewhere.")
    if error.errno == errno.ENOTDIR:
        return DiskError(f"{there}: a part of this path is a file, not a folder. Give another path.")
    if error.errno == errno.EIO:
        return DiskError(f"{there}: the disk reports an input or output error. Check the disk, or use another.")
    return DiskError(f"{there}: {error.strerror or error}. Give another path, or see what is in the way.")


def _full(number: int | None, path: Path | None, needed: int | None) -> str:
    """What to say of a full disk or an exhausted quota. path: of the file that did not fit."""
    quota = number != errno.ENOSPC
    free = None if path is None else free_bytes(path)
    where = "The disk" if path is None else f"The disk of '{_short(path)}'"
    state = f"{where} is full" if not quota else f"Your quota on {where[0].lower()}{where[1:]} is used up"
    numbers = [] if needed is None else [f"it needs about {megabytes(needed)}"]
    numbers += [f"{megabytes(free)} are free"] if free is not None and not quota else []
    told = f" ({', '.join(numbers)})" if numbers else ""
    return f"{state}{told}. What was there before is unchanged. Make room, or write to another disk."


def _short(path: Path) -> str:
    """A path, without the prefix of temporary names, and without the middle of a very long one."""
    text = re.sub(r"(\.tmp-[0-9a-f]{8}-)+", "", str(path))
    return text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}"
