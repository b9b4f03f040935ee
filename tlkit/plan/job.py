"""What can be asked of a run: the settings and their defaults, ways to fit an image into a square, parts of a data set."""

from __future__ import annotations

from typing import Any

from tlkit.errors import SpecError

FITS = ("squash", "crop", "pad")
PARTS = ("train", "val", "test")

AUTO = "auto"

_DEFAULTS: dict[str, Any] = {
    "backbone": None,
    "seed": 0,
    "image_size": None,
    "weights": "imagenet",
    "validation": 0.2,
    "group_by": None,
    "fit": "squash",
    "from_run": None,
    "similar": None,
    "max_error": None,
}


def check_max_error(max_error: float | None) -> None:
    """Raise SpecError unless 0 < max_error < 1, or it is None."""
    if max_error is not None and not 0 < max_error < 1:
        raise SpecError(f"`max_error` is {max_error:g}. Expected a share above 0 and below 1, such as 0.05.")
