"""ONNX: written by tf2onnx, opened with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.deployment.formats.shared import Answer, Format, _needed, signature

if TYPE_CHECKING:
    import keras
    import numpy as np

RUNTIME = ("onnxruntime", "onnx")


def _write(model: keras.Model, file: Path, images: np.ndarray | None) -> None:
    model.export(str(file), format="onnx", input_signature=signature(model, None), verbose=False)


def _open(file: Path) -> Answer:
    runtime = _needed(*RUNTIME)
    try:
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no narrower base class
        raise ValueError(str(error)) from error
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels.astype("float32")})[0]


ONNX = Format("model.onnx", _write, _open, (RUNTIME,), (("tf2onnx", "onnx"), ("onnx", "onnx")))
