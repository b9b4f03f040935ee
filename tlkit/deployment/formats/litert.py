"""LiteRT: opens a .tflite file. 8-bit integers take their ranges from representative images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tlkit.deployment.formats.shared import EXTRAS, Answer, _needed

REPRESENTATIVE = 200  # training images that tell the converter the ranges of activations


def _litert(file: Path) -> Answer:
    _needed(*EXTRAS["litert"])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    image, answer = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def one(picture: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(image, picture[None].astype("float32"))
        interpreter.invoke()
        return interpreter.get_tensor(answer)[0].copy()

    return lambda pixels: np.stack([one(picture) for picture in pixels])
