"""ONNX: opens an .onnx file with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from tlkit.deployment.formats.shared import EXTRAS, Answer, _needed


def _onnx(file: Path) -> Answer:
    runtime = _needed(*EXTRAS["onnx"])
    try:
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # its own errors have no other base
        raise ValueError(str(error)) from error
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels.astype("float32")})[0]
