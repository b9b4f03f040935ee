"""Numbers with their nouns, rough times, and names of files as one line of text."""

from __future__ import annotations

import os
import unicodedata


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in singular or plural. plural: default the noun with an s.

    >>> counted(1, "image"), counted(2000, "image"), counted(2, "class", "classes")
    ('1 image', '2,000 images', '2 classes')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def roughly(seconds: float) -> str:
    """Return a time that was estimated, in words.

    >>> roughly(3.2), roughly(44), roughly(200), roughly(9000)
    ('about 5 seconds', 'about 45 seconds', 'about 3 minutes', 'about 2.5 hours')
    """
    if seconds < 90:
        return f"about {max(5, 5 * round(seconds / 5))} seconds"
    return f"about {seconds / 60:.0f} minutes" if seconds < 5400 else f"about {seconds / 3600:.1f} hours"


def text_of(path: object) -> str:
    """Return a path as text that can be written to any file: bytes that are not UTF-8 are escaped.

    >>> text_of("caf\\udce9.png"), text_of("café.png")
    ('caf\\\\xe9.png', 'café.png')
    """
    text = str(path)
    if not any("\ud800" <= one <= "\udfff" for one in text):
        return text
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, which no file name has
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(text: object, keep: str = "") -> str:
    """Return a path or a name for a terminal: on one line, with control characters escaped except those to keep.

    >>> shown("a\\nb\\x1b[31m.png")
    'a\\\\nb\\\\x1b[31m.png'
    """
    return "".join(
        one.encode("unicode_escape").decode("ascii")
        if unicodedata.category(one) in ("Cc", "Zl", "Zp") and one not in keep
        else one
        for one in text_of(text)
    )
