"""The formats of exports but SavedModel: LiteRT, LiteRT with 8-bit integers, ONNX, and the Keras file, each in a folder with its labels.

A format is one file here that makes a `Format`, and one row in `FORMATS`.

A folder holds the model, and `tlkit.json` with the classes, the size and how files become pixels; `open_target` makes it answer again.
What these formats take are squares of pixels: decoding files is the SavedModel's alone (see `tlkit.export`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.deployment.formats.keras import KERAS
from tlkit.deployment.formats.litert import LITERT, LITERT_INT8
from tlkit.deployment.formats.onnx import ONNX
from tlkit.deployment.formats.shared import Answer, Format, _needed
from tlkit.errors import ExportError, RunError, unknown
from tlkit.files import temporary_beside
from tlkit.folders import DESCRIPTION, check_replaceable, write_description
from tlkit.quiet import _quietly

if TYPE_CHECKING:
    import keras


FORMATS: dict[str, Format] = {"litert": LITERT, "litert-int8": LITERT_INT8, "onnx": ONNX, "keras": KERAS}
TARGETS = ("savedmodel", *FORMATS)
INPUT = "image: float32 (n, size, size, 3), RGB 0-255, upright, antialiased; the model normalises by itself"


def check_target(target: str) -> None:
    """Raise NameUnknown for a format that does not exist, ExportError where what writes or runs it is not installed."""
    if target not in TARGETS:
        raise unknown("format", target, TARGETS)
    if target in FORMATS:
        for package, extra in (*FORMATS[target].runs_with, *FORMATS[target].writes_with):
            _needed(package, extra)


def write_target(
    model: keras.Model,
    class_names: Sequence[str],
    folder: str | Path,
    target: str,
    *,
    fit: str = "squash",
    unsure_below: float = 0.0,
    representative: np.ndarray | None = None,
) -> Path:
    """Write a classifier in a format of TARGETS but "savedmodel" into a folder of its own, which is replaced if it holds one and nothing else.

    model: float32, raw RGB 0-255 in, probabilities out. representative: for "litert-int8", training pictures, uint8, shape (n, size, size, 3),
    from which ranges are taken (post-training quantisation, Jacob et al. 2018, arXiv:1712.05877); input and output stay float32.

    Raises ExportError for what cannot be converted, RunError for a folder that holds something else.
    """
    check_target(target)
    folder = Path(folder)
    check_replaceable(folder, DESCRIPTION)
    folder.parent.mkdir(parents=True, exist_ok=True)
    size = int(model.input_shape[1])
    description = {
        "classes": list(class_names),
        "image_size": size,
        "fit": fit,
        "unsure_below": unsure_below,
        "format": target,
        "file": FORMATS[target].file,
        "input": INPUT,
    }
    with temporary_beside(folder) as temporary:
        temporary.mkdir()
        try:
            with _quietly():
                FORMATS[target].write(model, temporary / FORMATS[target].file, representative)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ExportError(f"This model does not convert to {target}: {first}. Try another format.") from error
        write_description(temporary, description)
        check_replaceable(folder, DESCRIPTION)  # again: what came there meanwhile stays
    return folder


def read_description(folder: Path) -> dict[str, Any]:
    """An export's `tlkit.json`. Raises RunError where there is none."""
    try:
        return json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"'{folder}' has no readable {DESCRIPTION}: {error}. Export the run again.") from None


def open_target(folder: str | Path) -> tuple[dict[str, Any], Answer]:
    """An export's description, and the export as a function: pixels, uint8 or float32, shape (n, size, size, 3), to probabilities,
    float32, shape (n, classes). Not for SavedModels.

    Raises RunError for a folder that is no such export, ExportError where what runs it is not installed.
    """
    folder = Path(folder)
    description = read_description(folder)
    target = description.get("format", "savedmodel")
    if target not in FORMATS:
        raise RunError(f"'{folder}' holds a {target}. Expected one of {', '.join(FORMATS)}.")
    file = folder / FORMATS[target].file
    try:
        return description, FORMATS[target].open(file)
    except (OSError, ValueError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise RunError(f"'{file}' does not load: {first}. Export the run again.") from error
