"""OpenVINO: written by Keras, opened with OpenVINO's runtime in float32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.deployment.formats.shared import Answer, Format, _needed, named, signature

if TYPE_CHECKING:
    import keras
    import numpy as np

RUNTIME = ("openvino", "openvino")
_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}  # on some processors the default is bfloat16


def _write(model: keras.Model, file: Path, images: np.ndarray | None) -> None:
    """Write `file` and, beside it, the weights with the suffix .bin."""
    named(model).export(str(file), format="openvino", input_signature=signature(model, None), verbose=False)
    openvino = _needed(*RUNTIME)
    written = openvino.Core().read_model(str(file))
    written.outputs[0].tensor.set_names({"probabilities"})
    again = file.with_name(f"named-{file.name}")
    openvino.serialize(written, str(again))
    del written  # it maps the weights into memory
    for suffix in (".xml", ".bin"):
        again.with_suffix(suffix).replace(file.with_suffix(suffix))


def _open(file: Path) -> Answer:
    openvino = _needed(*RUNTIME)
    compiled = openvino.Core().compile_model(str(file), "CPU", _PRECISION)
    return lambda pixels: compiled(pixels.astype("float32"))[0].copy()


OPENVINO = Format("model.xml", _write, _open, (RUNTIME,))
