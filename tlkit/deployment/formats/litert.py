"""LiteRT: .tflite files in float32 or in 8-bit integers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.deployment.formats.metadata import describe_itself
from tlkit.deployment.formats.quantization import quantised
from tlkit.deployment.formats.shared import Answer, Format, _needed, named, signature

if TYPE_CHECKING:
    import keras

RUNTIME = ("ai_edge_litert", "litert")
# Of a probability. It was set after 0.042 was seen, with the same classes, on images unlike those of training (see
# benchmarks/clients.py).
HALF_TOLERANCE = 0.1


def _write(model: keras.Model, file: Path, images: np.ndarray | None) -> None:
    _convert(model, file)


def _write_integers(model: keras.Model, file: Path, images: np.ndarray | None) -> None:
    """Write 8-bit integers; input and output stay float32. See `tlkit.deployment.formats.quantization`."""
    import tensorflow as tf

    assert images is not None and len(images)
    prepared, ranges_are_marked = quantised(model, images)
    if ranges_are_marked:
        _convert(prepared, file, optimizations=[tf.lite.Optimize.DEFAULT])
        return
    floats = images.astype("float32")
    _convert(
        prepared,
        file,
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([one[None]] for one in floats),
        operations=(tf.lite.OpsSet.TFLITE_BUILTINS_INT8,),
    )


def _write_half(model: keras.Model, file: Path, images: np.ndarray | None) -> None:
    """Weights in float16, half the size; the runtime computes in float32 from them."""
    import tensorflow as tf

    _convert(model, file, optimizations=[tf.lite.Optimize.DEFAULT], types=[tf.float16])


def _convert(
    model: keras.Model,
    file: Path,
    *,
    optimizations: Sequence[Any] = (),
    representative_dataset: Callable[[], Iterable[list[np.ndarray]]] | None = None,
    operations: Sequence[Any] = (),
    types: Sequence[Any] = (),
) -> None:
    """Write a model with LiteRT's converter, whose settings these are. operations: preferred to those of float32."""
    import tensorflow as tf

    # a batch of one: LiteRT allocates its tensors ahead, for a fixed batch size
    named(model).export(
        str(file),
        format="litert",
        input_signature=signature(model, 1),
        verbose=False,
        target_spec={
            "supported_ops": [*operations, tf.lite.OpsSet.TFLITE_BUILTINS],
            **({"supported_types": list(types)} if types else {}),
        },
        optimizations=list(optimizations),
        representative_dataset=representative_dataset,
    )


def _open(file: Path) -> Answer:
    _needed(*RUNTIME)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    image, answer = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def one(pixels: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(image, pixels[None].astype("float32"))
        interpreter.invoke()
        return interpreter.get_tensor(answer)[0].copy()

    return lambda pixels: np.stack([one(image) for image in pixels])


LITERT = Format("model.tflite", _write, _open, (RUNTIME,), batch=1, finish=describe_itself)
LITERT_FLOAT16 = Format(
    "model.tflite", _write_half, _open, (RUNTIME,), tolerance=HALF_TOLERANCE, batch=1, finish=describe_itself
)
LITERT_INT8 = Format(
    "model.tflite", _write_integers, _open, (RUNTIME,), by_images=True, rounds=True, batch=1, finish=describe_itself
)
