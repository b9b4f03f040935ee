"""Data that is named by a URL, or by a kind and a name, and how secrets are kept out of whatever is written or said.

A URL may hold a password, a token or a signature. What of it may be shown is decided here, and nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, unquote_plus

KINDS = ("hf", "tfds", "zip", "tar", "webdataset", "tfrecord", "parquet", "datasets")  # that may stand before a path
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
_KIND = re.compile(rf"({'|'.join(KINDS)}):(?!//)")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://[^\s'\"<>]*")
SECRET_VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"),
    *("AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "GOOGLE_API_KEY"),
)
SHORTEST = 4  # characters of a value that is taken out of a message wherever it stands
HIDDEN = "..."


@dataclass(frozen=True, eq=False)
class Address:
    """Data at a URL such as s3://bucket/birds, or behind a kind, such as tfds:cifar10 or tfrecord:data/.

    `str()` has neither user, password, query nor fragment of a URL; that is what plans, splits, logs and reports hold.

    secret: the address as given, for whoever opens it.
    """

    secret: str

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __str__(self) -> str:
        return redacted_url(self.secret)

    def __fspath__(self) -> str:
        """Raises TypeError, because no file of this machine has such a path."""
        raise TypeError(f"'{self}' is an address, not a path.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def kind(self) -> str:
        """One of KINDS; "" for a URL."""
        found = _KIND.match(self.secret)
        return found[1] if found else ""

    @property
    def place(self) -> str:
        """What stands behind the kind. It holds no secret, unless it is a URL."""
        return self.secret[len(self.kind) + 1 :]

    @property
    def name(self) -> str:
        """The last part of its path, for the name of a run's folder."""
        return PurePosixPath(re.sub(r"^[A-Za-z0-9+.\-]+:", "", str(self))).name or "data"

    def absolute(self) -> Address:
        """With an absolute path, where it has one on this machine."""
        if self.kind in ("", "hf", "tfds"):
            return self
        return Address(f"{self.kind}:{Path(self.place).absolute()}")

    def scrub(self, text: str) -> str:
        """A message about it, without what it must not say."""
        return without(text, _secrets(self.secret))


def is_address(text: str) -> bool:
    """Whether a text names data by a URL or a kind, and not by a path.

    >>> is_address("s3://bucket/birds"), is_address("tfds:cifar10"), is_address("data/birds"), is_address("C:/birds")
    (True, True, False, False)
    """
    return bool(_URL.match(text) or (_KIND.match(text) and not Path(text).exists()))


def redacted_url(text: str) -> str:
    """A URL without user, password, query and fragment.

    >>> redacted_url("https://me:secret@host/a.zip?signature=1"), redacted_url("s3://bucket/a@b/c.jpg")
    ('https://host/a.zip', 's3://bucket/a@b/c.jpg')
    """
    found = _URL.search(text)
    if not found:
        return text
    before, rest = text[: found.end()], re.split(r"[?#]", text[found.end() :], maxsplit=1)[0]
    host, sign, path = rest.partition("/")
    if "@" in host:
        host = host.rpartition("@")[2]
    elif ":" in host and not host.rpartition(":")[2].isdecimal():  # a password that holds a "/"
        return before + rest.rpartition("@")[2] if "@" in path else before + host.partition(":")[0] + sign + path
    return before + host + sign + path


def redacted(text: str) -> str:
    """A text without the secrets of the URLs in it, and without those of the environment."""
    return without(_IN_TEXT.sub(lambda found: redacted_url(found[0]), text), ())


def redacted_arguments(arguments: Iterable[str]) -> list[str]:
    """The words of a command line, each without the secrets of the URL that it is or ends in."""
    return [without(redacted_url(one), ()) for one in arguments]


def without(text: str, secrets: Iterable[str]) -> str:
    """A text without these values, and without those of the environment variables that hold keys and tokens."""
    known = [os.environ.get(name, "").strip() for name in SECRET_VARIABLES]
    for one in sorted({*secrets, *known}, key=len, reverse=True):
        if len(one) >= SHORTEST:
            text = text.replace(one, HIDDEN)
    return _IN_TEXT.sub(lambda found: redacted_url(found[0]), text)


def _secrets(address: str) -> set[str]:
    """The parts of a URL that are not shown, as they are written and as they are meant."""
    shown = redacted_url(address)
    found = _URL.search(address)
    if not found or shown == address:
        return set()
    rest = address[found.end() :]
    parts = [one for one in re.split(r"[?#]", rest, maxsplit=1)[1:] if one]
    user = rest[: max(0, rest.find(shown[found.end() :]))].rstrip("@") if shown[found.end() :] else ""
    parts += [user, *user.split(":", 1)] if user else []
    values = [one.partition("=")[2] or one for part in parts for one in re.split(r"[&;?#]", part)]
    return {one for part in [*parts, *values] for one in (part, unquote(part), unquote_plus(part)) if one}
