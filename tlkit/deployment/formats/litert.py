"""LiteRT: .tflite files in float32, or in 8-bit integers with ranges from representative images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.deployment.formats.metadata import describe_itself
from tlkit.deployment.formats.shared import Answer, Format, _needed, named, signature

if TYPE_CHECKING:
    import keras

REPRESENTATIVE = 200  # training images from which the converter takes the ranges of activations
RUNTIME = ("ai_edge_litert", "litert")
# Of a probability. It was set after 0.042 was seen, with the same classes, on images unlike those of training (see
# benchmarks/clients.py).
HALF_TOLERANCE = 0.1


def _write(model: keras.Model, file: Path, images: np.ndarray | None) -> None:
    import tensorflow as tf

    _export(model, file, {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}})


def _write_half(model: keras.Model, file: Path, images: np.ndarray | None) -> None:
    """Weights in float16, half the size; the runtime computes in float32 from them."""
    import tensorflow as tf

    spec = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS], "supported_types": [tf.float16]}
    _export(model, file, {"target_spec": spec, "optimizations": [tf.lite.Optimize.DEFAULT]})


def _export(model: keras.Model, file: Path, settings: dict[str, Any]) -> None:
    # a batch of one: LiteRT allocates its tensors ahead, for a fixed batch size
    given = signature(model, 1)
    named(model).export(str(file), format="litert", input_signature=given, verbose=False, **settings)


def _write_integers(model: keras.Model, file: Path, images: np.ndarray | None) -> None:
    """Post-training quantisation (Jacob et al. 2018, arXiv:1712.05877); input and output stay float32."""
    import tensorflow as tf

    assert images is not None and len(images)
    representative = images[:REPRESENTATIVE].astype("float32")
    model.export(
        str(file),
        format="litert",
        input_signature=signature(model, 1),
        verbose=False,
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]},
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([one[None]] for one in representative),
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
