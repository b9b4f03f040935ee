"""The export formats other than SavedModel: LiteRT (in float32, float16 or 8-bit integers), ONNX, OpenVINO and Keras.

Each format is one file in this folder that makes a `Format`, and one row in `FORMATS`.

An export is a folder with the model, `tlkit.json`, which holds the classes, the image size and how files become pixels,
and a client for other programs (`tlkit.deployment.client`); `open_target` opens it again. These formats take square
images as pixels. Only the SavedModel decodes files (see `tlkit.export`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.data.preprocessing import preprocessing
from tlkit.deployment.client import write_client
from tlkit.deployment.formats.keras import KERAS
from tlkit.deployment.formats.litert import LITERT, LITERT_FLOAT16, LITERT_INT8
from tlkit.deployment.formats.onnx import ONNX
from tlkit.deployment.formats.openvino import OPENVINO
from tlkit.deployment.formats.shared import Answer, Format, _needed
from tlkit.errors import ExportError, RunError, SpecError, unknown
from tlkit.files import temporary_beside
from tlkit.folders import DESCRIPTION, check_export, check_replaceable, read_description, write_description
from tlkit.models.files import size_of
from tlkit.plan.spelling import FORMATS_ELSEWHERE
from tlkit.quiet import _quietly

if TYPE_CHECKING:
    import keras


FORMATS: dict[str, Format] = {
    "litert": LITERT,
    "litert-float16": LITERT_FLOAT16,
    "litert-int8": LITERT_INT8,
    "onnx": ONNX,
    "openvino": OPENVINO,
    "keras": KERAS,
}
TARGETS = ("savedmodel", *FORMATS)
LAYOUTS = ("nhwc", "nchw")


def known_target(target: str) -> str:
    """Return the name of a format, given by it or by Keras' name for it, such as "tf_saved_model".

    Raises NameUnknown for an unknown format.
    """
    target = FORMATS_ELSEWHERE.get(target, target)
    if target not in TARGETS:
        raise unknown("format", target, TARGETS)
    return target


def check_target(target: str) -> None:
    """Raise NameUnknown for an unknown format, ExportError if a package that writes or runs it is not installed."""
    target = known_target(target)
    if target in FORMATS:
        for package, extra in (*FORMATS[target].runs_with, *FORMATS[target].writes_with):
            _needed(package, extra)


def write_target(
    model: keras.Model,
    class_names: Sequence[str],
    folder: str | Path,
    target: str,
    *,
    fit: str | dict[str, Any] = "squash",
    unsure_below: float = 0.0,
    refusal: dict[str, Any] | None = None,
    representative: np.ndarray | None = None,
) -> Path:
    """Write a classifier into a folder of its own, in a format other than SavedModel.

    Args:
        model: float32, raw RGB 0-255 in, probabilities out.
        class_names: In class order.
        folder: Replaced if it holds an earlier export and nothing else.
        target: One of `FORMATS`, or Keras' name of one.
        fit: How an image becomes square, as in training; or the whole rule, of `tlkit.data.preprocessing`. Its layout
            "NCHW" is for "onnx" alone.
        unsure_below: Where the highest probability is lower, the class is "unsure". 0 = never.
        refusal: What is known of that threshold, as in metrics.json of a run, for the export's description.
        representative: Training images for "litert-int8", uint8, shape (n, size, size, 3), which give the ranges of
            activations (post-training quantisation, Jacob et al. 2018, arXiv:1712.05877). Input and output stay
            float32.

    Returns:
        The folder.

    Raises:
        NameUnknown: The format is unknown.
        ExportError: The model cannot be converted, or a package is not installed.
        SpecError: The format has no such layout.
        RunError: The folder holds something else.
    """
    check_target(target)
    target = known_target(target)
    size, form = int(model.input_shape[1]), FORMATS[target]
    rule = preprocessing(size, fit) if isinstance(fit, str) else fit
    check_layout(target, rule["layout"])
    folder = Path(folder)
    check_replaceable(folder, DESCRIPTION)
    folder.parent.mkdir(parents=True, exist_ok=True)
    description = {
        "classes": list(class_names),
        "image_size": size,
        "fit": rule["fit"],
        "depth": rule["depth"],
        "preprocessing": rule,
        "unsure_below": unsure_below,
        "refusal": refusal,
        "format": target,
        "file": form.file,
        "batch": form.batch,
        "input": _input(rule, form),
    }
    with temporary_beside(folder, needed=size_of(model)) as temporary:
        temporary.mkdir()
        try:
            with _quietly():
                form.write(model, temporary / form.file, representative)
                if form.finish is not None:
                    form.finish(temporary / form.file, description)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ExportError(f"This model cannot be converted to {target}: {first}. Try another format.") from error
        write_client(temporary, description, form.open(temporary / form.file), rounds=form.rounds)
        write_description(temporary, description)
        check_replaceable(folder, DESCRIPTION)  # again, to keep files that came there meanwhile
    return folder


def check_layout(target: str, layout: str) -> None:
    """Raise NameUnknown for an unknown layout, SpecError for one that the format has not."""
    if layout.lower() not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if layout.lower() == "nchw" and target != "onnx":
        raise SpecError(f"The format {target} has no layout NCHW. Expected NHWC, or the format onnx.")


def _input(rule: dict[str, Any], form: Format) -> str:
    """The model's input in words, for people who read `tlkit.json`; `preprocessing` has it as fields."""
    count, size = "1" if form.batch == 1 else "n", rule["size"]
    shape = f"{count}, 3, {size}, {size}" if rule["layout"] == "NCHW" else f"{count}, {size}, {size}, 3"
    return f"images: float32 ({shape}), {rule['layout']}, RGB 0-255 by `preprocessing`; the model normalises by itself"


def open_target(folder: str | Path) -> tuple[dict[str, Any], Answer]:
    """Open an export other than a SavedModel.

    Returns:
        Its description, and a function from pixels, uint8 or float32, shape (n, size, size, 3), to probabilities,
        float32, shape (n, classes).

    Raises:
        RunError: The folder is not such an export, does not load, or a file of it is damaged.
        ExportError: A package that runs it is not installed.
    """
    folder = Path(folder)
    description = read_description(folder)
    target = description.get("format", "savedmodel")
    if target not in FORMATS:
        raise RunError(f"'{folder}' holds an export as {target}. Expected one of {', '.join(FORMATS)}.")
    check_export(folder)
    file = folder / FORMATS[target].file
    try:
        return description, FORMATS[target].open(file)
    except Exception as error:  # each format's package raises kinds of its own for a damaged file
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(f"'{file}' cannot be loaded: {first}. Export the run again.") from error
