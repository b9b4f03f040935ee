"""Other places to run a classifier: LiteRT, LiteRT with 8-bit integers, ONNX, and the Keras file, each in a folder with its labels.

A folder holds the model, and `tlkit.json` with the classes, the size and how files become pixels; `open_target` makes it answer again.
What these formats take are squares of pixels: decoding files is the SavedModel's alone (see `tlkit.export`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.deployment.formats.keras import _keras
from tlkit.deployment.formats.litert import REPRESENTATIVE, _litert
from tlkit.deployment.formats.onnx import _onnx
from tlkit.deployment.formats.shared import EXTRAS, Answer, _needed
from tlkit.errors import ExportError, RunError, unknown
from tlkit.files import temporary_beside
from tlkit.folders import DESCRIPTION, check_replaceable, write_description
from tlkit.models.files import save_model
from tlkit.quiet import _quietly

if TYPE_CHECKING:
    import keras


FILES = {"litert": "model.tflite", "litert-int8": "model.tflite", "onnx": "model.onnx", "keras": "model.keras"}
TARGETS = ("savedmodel", *FILES)
INPUT = "image: float32 (n, size, size, 3), RGB 0-255, upright, antialiased; the model normalises by itself"


def check_target(target: str) -> None:
    """Raise NameUnknown for a format that does not exist, ExportError where what writes or runs it is not installed."""
    if target not in TARGETS:
        raise unknown("format", target, TARGETS)
    kind = target.split("-")[0]
    if kind in EXTRAS:
        _needed(*EXTRAS[kind])
    if kind == "onnx":
        _needed("tf2onnx", "onnx")


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
        "file": FILES[target],
        "input": INPUT,
    }
    with temporary_beside(folder) as temporary:
        temporary.mkdir()
        try:
            with _quietly():
                _write(model, temporary / FILES[target], target, representative)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ExportError(f"This model does not convert to {target}: {first}. Try another format.") from error
        write_description(temporary, description)
        check_replaceable(folder, DESCRIPTION)  # again: what came there meanwhile stays
    return folder


def _write(model: keras.Model, file: Path, target: str, representative: np.ndarray | None) -> None:
    if target == "keras":
        save_model(model, file)
        return
    import tensorflow as tf

    # one picture at a time for LiteRT, which fixes its memory beforehand
    shape = (1 if target.startswith("litert") else None, *model.input_shape[1:])
    signature = [tf.TensorSpec(shape, tf.float32, name="image")]
    if target == "onnx":
        model.export(str(file), format="onnx", input_signature=signature, verbose=False)
        return
    settings: dict[str, Any] = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
    if target == "litert-int8":
        assert representative is not None and len(representative)
        pictures = representative[:REPRESENTATIVE].astype("float32")
        settings = {
            "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]},
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "representative_dataset": lambda: ([one[None]] for one in pictures),
        }
    model.export(str(file), format="litert", input_signature=signature, verbose=False, **settings)


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
    if target not in FILES:
        raise RunError(f"'{folder}' holds a {target}. Expected one of {', '.join(FILES)}.")
    file = folder / FILES[target]
    try:
        return description, {"keras": _keras, "onnx": _onnx}.get(target, _litert)(file)
    except (OSError, ValueError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise RunError(f"'{file}' does not load: {first}. Export the run again.") from error
