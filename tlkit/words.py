"""Numbers with their nouns, and rough times."""

from __future__ import annotations


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
