"""Every error tlkit raises on purpose, and how a wrong name finds its nearest right one.

TlkitError
├── SpecError      (ValueError)    a Head, Stage, Augmentation or Recipe that cannot be
├── NameUnknown    (ValueError)    a backbone, recipe, field or column that does not exist
├── DataError      (ValueError)    a folder, CSV or image set that cannot be used
├── WeightsError   (OSError)       weights that are absent, truncated or of another network
├── RunError       (OSError)       a run folder that is absent, unfinished or in the way
├── TrainingError  (RuntimeError)  training that broke down, such as a loss of NaN
├── ExportError    (RuntimeError)  a format that cannot be written or run here
└── ParityError    (RuntimeError)  a served model that disagrees with the trained one

Each is also the builtin named beside it, so a script can catch either.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TlkitError(Exception):
    """Something a person can mend. The message says what happened, what was expected, what to do."""


class SpecError(TlkitError, ValueError):
    """A plan's value is out of range or contradicts another."""


class NameUnknown(TlkitError, ValueError):
    """A name that is not in the table it was looked up in."""


class DataError(TlkitError, ValueError):
    """The images, their folders or their CSV cannot be used as they are."""


class WeightsError(TlkitError, OSError):
    """Weights are absent, truncated, or belong to another network."""


class RunError(TlkitError, OSError):
    """A run folder is absent, unfinished, or in the way."""


class TrainingError(TlkitError, RuntimeError):
    """Training broke down."""


class ExportError(TlkitError, RuntimeError):
    """A model that cannot be written in a format, or what that format needs is not installed."""


class ParityError(TlkitError, RuntimeError):
    """The exported model does not answer what the trained model answers."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a mistyped one, or None when nothing is close.

    >>> nearest("vgg61", ["vgg16", "resnet50"])
    'vgg16'
    """

    def likeness(other: str) -> tuple[float, float]:
        a, b = name.lower(), other.lower()
        in_order = difflib.SequenceMatcher(None, a, b).ratio()
        return in_order, difflib.SequenceMatcher(None, sorted(a), sorted(b)).ratio()  # ties: swapped letters

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best)[0] >= 0.5 else None


def unknown(what: str, name: str, known: Iterable[str], *, see: str = "") -> NameUnknown:
    """The error for a name that is not in `known`: offers the nearest one, or lists all.

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
