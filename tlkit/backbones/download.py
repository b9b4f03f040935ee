"""Downloads a file: with progress, continued where a cut connection left it, checked, and only then given its name.

Uses only the standard library. Nothing here is called unless weights were asked for that are not on this machine.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tlkit.errors import WeightsError
from tlkit.files import write_atomically
from tlkit.progress import bar, log

TORCHVISION = "https://download.pytorch.org/models/"  # where torchvision's weights are
MIRROR = "TLKIT_TORCHVISION"  # the environment variable that replaces this address
TRIES = 8  # how often a connection is opened for one file
PAUSE = 0.5  # seconds before the second connection; each later one waits twice as long
TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20


class NotDownloaded(Exception):
    """Why a file could not be downloaded, as the rest of a sentence. `find_weights` says of which file."""


def models_folder() -> Path:
    """Return the folder in which Keras stores downloaded weights, and tlkit too."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models"


def mirrored(url: str) -> str:
    """Return the address to download from: that of the mirror in $TLKIT_TORCHVISION for one of torchvision's files."""
    mirror = os.environ.get(MIRROR)
    if not mirror or not url.startswith(TORCHVISION):
        return url
    return f"{mirror.rstrip('/')}/{url.removeprefix(TORCHVISION)}"


def digits_in(name: str) -> str | None:
    """Return the first eight digits of the SHA-256 at the end of a file's name, as in torchvision's; None without them.

    >>> digits_in("resnext50_32x4d-7cdf4587.pth")
    '7cdf4587'
    """
    found = re.search(r"-([0-9a-f]{8})\.[a-z]+$", name)
    return found[1] if found else None


def digest_of(file: Path, like: str) -> str:
    """Return a file's hash in hexadecimal: its MD5 if `like` has the 32 digits of one, else its SHA-256."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "md5" if len(like) == 32 else "sha256").hexdigest()


def download(url: str, target: Path, digest: str | None) -> Path:
    """Download a file, unless it is there. Returns `target`.

    The bytes go to a file beside it, NAME.part, which gets the name when it is complete and its hash is right. A part
    that an earlier call left is continued if the publisher gives a hash; nothing else would show that two halves belong
    together. Of two processes that download the same file, one waits.

    digest: the file's MD5 or SHA-256 in hexadecimal, or the first digits of its SHA-256; None: not checked.

    Raises NotDownloaded. A part of the file that was received is kept, unless the hash of the whole was wrong.
    """
    url = mirrored(url)
    if urlsplit(url).scheme not in ("http", "https"):
        raise NotDownloaded(f"'{_public(url)}' is not an http or https address")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part):
            if target.is_file():  # another process was faster
                part.unlink(missing_ok=True)
                return target
            if digest is None and part.exists():
                os.truncate(part, 0)
            continued = part.exists() and part.stat().st_size > 0
            log.info(f"download  {target.name} from {_public(url)}" + (", continued" if continued else ""))
            _complete(url, part)
            if continued and not _is(part, digest):  # the part was of another file
                os.truncate(part, 0)
                _complete(url, part)
            if digest is not None and not _is(part, digest):
                found = digest_of(part, digest)
                part.unlink()
                kind = "MD5" if len(digest) == 32 else "SHA-256"
                expected = digest if len(digest) > 8 else f"one that begins with {digest}"
                raise NotDownloaded(f"the {kind} of what {_public(url)} sent is {found}, expected {expected}")
            part.replace(target)
    except OSError as error:
        where = f": '{error.filename}'" if error.filename else ""
        raise NotDownloaded(f"{error.strerror or error}{where}") from error
    return target


def _is(file: Path, digest: str | None) -> bool:
    return digest is None or digest_of(file, digest).startswith(digest)


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Let one process at a time work on a part. The system ends the claim of a process that is killed.

    On Windows, where an open file cannot be renamed, and on file systems without locks there is no such claim.
    """
    if os.name == "nt":
        yield
        return
    import fcntl

    while True:
        with part.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info(f"download  waiting for another process that downloads {part.name.removesuffix('.part')}")
                fcntl.flock(stream, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                    raise
            if part.exists() and os.path.samestat(os.fstat(stream.fileno()), part.stat()):
                try:
                    yield
                finally:
                    if part.exists() and part.stat().st_size == 0:
                        part.unlink()
                return


def _complete(url: str, part: Path) -> None:
    """Receive the rest of a file. After a cut, a new connection is opened, as long as there is hope."""
    for attempt in range(TRIES):
        before = part.stat().st_size if part.exists() else 0
        lasting = False
        try:
            if _receive(url, part, before):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            reason = f"{_public(url)} answers {error.code} {error.reason}"
            lasting = error.code < 500 and error.code != 429
            error.close()
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = _said(error)
            lasting = isinstance(error, urllib.error.URLError | http.client.InvalidURL) and attempt == 0
        received = part.stat().st_size if part.exists() else 0
        if lasting:
            break
        if attempt + 1 < TRIES:
            time.sleep(PAUSE * 2**attempt)
    kept = f"; {received / 1e6:,.1f} MB are kept in '{part}', and the next download continues them" if received else ""
    raise NotDownloaded(reason + kept)


def _receive(url: str, part: Path, before: int) -> bool:
    """Append to a part what a server sends from there on. Returns whether the file is complete now."""
    headers = {"User-Agent": "tlkit", "Accept-Encoding": "identity"}
    if before:
        headers["Range"] = f"bytes={before}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not before:
            raise
        whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        error.close()
        if whole is None or int(whole[1]) != before:
            os.truncate(part, 0)  # it is longer than the file: begin anew
            return False
        return True
    with response:
        start, size = _extent(response)
        if start not in (0, before):
            os.truncate(part, 0)
            return False
        _check_space(part, None if size is None else size - start)
        with part.open("r+b" if part.exists() else "wb") as stream, bar(_megabytes(size), "megabyte") as shown:
            stream.truncate(start)
            stream.seek(start)
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                shown(stream.tell() // 10**6)
            return size is None or stream.tell() == size


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return the place of the first byte that is sent, and the size of the whole file if it is known."""
    if response.status == 206:
        given = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return (int(given[1]), int(given[2])) if given else (-1, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _check_space(part: Path, needed: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed is not None and needed > free:
        raise NotDownloaded(f"{needed / 1e6:,.0f} MB are to come, and {free / 1e6:,.0f} MB are free in '{part.parent}'")


def _megabytes(size: int | None) -> int:
    return -(-(size or 0) // 10**6)


def _said(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    text = getattr(reason, "strerror", None) or str(reason)
    return text.splitlines()[0][:160] if text else type(error).__name__


def _public(url: str) -> str:
    """Return an address without a user's name and password, and without a query, which may hold a key."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def check_digest(file: Path, digest: str | None, whose: str) -> None:
    """Raise WeightsError if a file on this machine does not have this hash. digest: as for `download`."""
    if _is(file, digest):
        return
    assert digest is not None
    kind = "md5" if len(digest) == 32 else "sha256"
    expected = digest if len(digest) > 8 else f"that it begins with {digest}"
    raise WeightsError(
        f"'{file}' is damaged or not the weights of {whose}: its {kind} is {digest_of(file, digest)}, "
        f"expected {expected}. Delete it and download it again, or give another file as `weights=FILE`."
    )


def check_unchanged(file: Path, whose: str) -> None:
    """Raise WeightsError if a file is another one than when it was first used here.

    For weights whose publisher gives no hash. The first use stores the file's SHA-256 beside it, in NAME.sha256, as the
    program `sha256sum` does. Where nothing can be written, nothing is compared.
    """
    note, found = file.with_name(f"{file.name}.sha256"), digest_of(file, "")
    try:
        first = note.read_text(encoding="utf-8").split()[0]
    except (OSError, ValueError, IndexError):
        with contextlib.suppress(OSError):
            write_atomically(note, f"{found}  {file.name}\n")
        return
    if first != found:
        raise WeightsError(
            f"'{file}', the weights of {whose}, has changed since it was first used: its sha256 is {found}, expected "
            f"{first}. Delete it and download it again. If you replaced it yourself, delete '{note.name}' beside it."
        )
