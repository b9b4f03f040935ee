"""ONNX: written by tf2onnx, made to describe itself, opened with ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.deployment.formats.shared import Answer, Format, _needed, signature

if TYPE_CHECKING:
    import keras
    import numpy as np

RUNTIME = ("onnxruntime", "onnx")
IMAGES, PROBABILITIES, BATCH = "images", "probabilities", "batch"


def _write(model: keras.Model, file: Path, images: np.ndarray | None) -> None:
    model.export(str(file), format="onnx", input_signature=signature(model, None), verbose=False)


def _finish(file: Path, description: dict[str, Any]) -> None:
    """Name the input, the output and the batch, turn the layout if NCHW is asked for, and add `metadata_props`.

    Raises ValueError if the result is no valid ONNX model.
    """
    import onnx

    model, rule = onnx.load(str(file)), description["preprocessing"]
    graph, size = model.graph, rule["size"]
    is_nchw = rule["layout"] == "NCHW"
    inside = "images_nhwc" if is_nchw else IMAGES
    _rename(graph, {graph.input[0].name: inside, graph.output[0].name: PROBABILITIES})
    if is_nchw:
        turn = onnx.helper.make_node("Transpose", [IMAGES], [inside], name="to_nhwc", perm=[0, 2, 3, 1])
        graph.node.insert(0, turn)
    shape: list[str | int | None] = [BATCH, 3, size, size] if is_nchw else [BATCH, size, size, 3]
    kind = onnx.TensorProto.FLOAT
    graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(IMAGES, kind, shape))
    outputs: list[str | int | None] = [BATCH, len(description["classes"])]
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(PROBABILITIES, kind, outputs))
    del graph.value_info[:]  # shapes of the converter, with other names for the batch
    onnx.helper.set_model_props(
        model,
        {
            "classes": json.dumps(description["classes"], ensure_ascii=False),
            "image_size": str(size),
            "layout": rule["layout"],
            "preprocessing": json.dumps(rule),
            "unsure_below": str(description["unsure_below"]),
        },
    )
    model.doc_string = f"An image classifier written by tlkit. Input: float32, RGB 0-255, {rule['layout']}."
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ValueError(str(error)) from error
    onnx.save(model, str(file))


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Rename values wherever they are made or used."""
    for node in graph.node:
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                values[place] = names.get(name, name)


def _open(file: Path) -> Answer:
    runtime = _needed(*RUNTIME)
    try:
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no narrower base class
        raise ValueError(str(error)) from error
    given = session.get_inputs()[0]
    is_nchw = given.shape[1] == 3
    return lambda pixels: session.run(
        None, {given.name: (pixels.transpose(0, 3, 1, 2) if is_nchw else pixels).astype("float32")}
    )[0]


ONNX = Format("model.onnx", _write, _open, (RUNTIME,), (("tf2onnx", "onnx"), ("onnx", "onnx")), finish=_finish)
