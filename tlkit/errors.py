"""The errors that tlkit raises on purpose, and the suggestion of the nearest name for a mistyped one.

TlkitError
├── SpecError      (ValueError)    an invalid Head, Stage, Augmentation or Recipe
├── NameUnknown    (ValueError)    a backbone, recipe, field or column that does not exist
├── DataError      (ValueError)    a folder, CSV or image set that cannot be used
├── WeightsError   (OSError)       missing or truncated weights, or those of another network
├── RunError       (OSError)       a run folder that is missing, unfinished or in the way
├── DiskError      (OSError)       a disk that is full, read-only or absent
├── TrainingError  (RuntimeError)  training that failed, such as by a loss of NaN
├── ExportError    (RuntimeError)  an export format that cannot be written or run here
└── ParityError    (RuntimeError)  a served model that disagrees with the trained one

Each is also a subclass of the builtin in brackets, so a script can catch either.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TlkitError(Exception):
    """An error that the user can fix. The message says what happened, what was expected, and what to do."""


class SpecError(TlkitError, ValueError):
    """A setting is out of range or contradicts another."""


class NameUnknown(TlkitError, ValueError):
    """A name is not in the table in which it was looked up."""


class DataError(TlkitError, ValueError):
    """The images, their folders or their CSV cannot be used as they are."""


class WeightsError(TlkitError, OSError):
    """Weights are missing, truncated, or belong to another network."""


class RunError(TlkitError, OSError):
    """A run folder is missing, unfinished, or in the way."""


class DiskError(TlkitError, OSError):
    """A file cannot be written or read: its disk is full or read-only, or its folder or a permission is missing."""


class TrainingError(TlkitError, RuntimeError):
    """Training failed."""


class ExportError(TlkitError, RuntimeError):
    """A model cannot be exported to a format, or a package for that format is not installed."""


class ParityError(TlkitError, RuntimeError):
    """The exported model does not give the answers of the trained model."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to a mistyped one, or None if none is close.

    >>> nearest("vgg61", ["vgg16", "resnet50"])
    'vgg16'
    """

    def similarity(other: str) -> tuple[float, float]:
        a, b = name.lower(), other.lower()
        in_order = difflib.SequenceMatcher(None, a, b).ratio()
        return in_order, difflib.SequenceMatcher(None, sorted(a), sorted(b)).ratio()  # breaks ties: swapped letters

    best = max(known, key=similarity, default=None)
    return best if best is not None and similarity(best)[0] >= 0.5 else None


def unknown(what: str, name: str, known: Iterable[str], *, see: str = "") -> NameUnknown:
    """Return the error for a name that is not in `known`. It suggests the nearest name, or lists all.

    >>> print(unknown("backbone", "vgg61", ["vgg16", "resnet50"]))
    Unknown backbone 'vgg61'. Did you mean 'vgg16'?
    """
    names = list(known)
    close = nearest(name, names)
    if close:
        hint = f"Did you mean '{close}'?"
    elif len(names) <= 20:
        hint = f"Expected one of: {', '.join(names)}."
    else:
        hint = f"There are {len(names)} to choose from."
    return NameUnknown(" ".join(part for part in (f"Unknown {what} '{name}'.", hint, see) if part))
