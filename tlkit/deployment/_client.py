"""Answers image files with the model beside this file, as `tlkit predict` does.

    python client.py IMAGE...    prints a JSON line for each: file, class, probabilities, and problem if it has one
    python client.py --check     says whether the packages here give the model's answers for check.json

It needs Pillow, NumPy and what runs the model: see README.md. Import it to classify from Python:

    from client import Classifier
    print(Classifier().classify(open("new.jpg", "rb").read()))
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import warnings  # noqa: F401
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms  # noqa: F401

from tlkit.data.reference import decode_upright, preprocess

# -- the model ----------------------------------------------------------------------------------------------


def open_onnx(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def open_litert(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file))
    interpreter.allocate_tensors()
    image, answer = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def one(images: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(image, images)
        interpreter.invoke()
        return interpreter.get_tensor(answer).copy()

    return one


def open_openvino(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled(images)[0]


def open_keras(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    import keras

    model = keras.saving.load_model(file, compile=False)
    return lambda images: np.asarray(model.predict_on_batch(images))


OPEN = {
    "onnx": open_onnx,
    "litert": open_litert,
    "litert-float16": open_litert,
    "litert-int8": open_litert,
    "openvino": open_openvino,
    "keras": open_keras,
}


class Classifier:
    """The model in a folder: by default the one that this file is in."""

    def __init__(self, folder: str | Path = Path(__file__).parent) -> None:
        folder = Path(folder)
        self.description = json.loads((folder / "tlkit.json").read_text(encoding="utf-8"))
        self.classes: list[str] = self.description["classes"]
        self._rule = self.description["preprocessing"]
        target = self.description["format"]
        if target == "savedmodel":
            import tensorflow as tf

            loaded = tf.saved_model.load(str(folder))  # its functions live as long as it does
            serve = loaded.signatures["serving_default"]
            self._kept, self._ask = loaded, lambda data: serve(image_bytes=tf.constant([data]))
        else:
            self._kept, self._run = None, OPEN[target](folder / self.description["file"])

    def classify(self, data: bytes) -> dict[str, Any]:
        """The answer for an image file's bytes: class, and probabilities by class.

        Raises ValueError if it is not an image that can be read.
        """
        values = self._by_saved_model(data) if self._kept is not None else self._by_pixels(data)
        sure = values.max() >= self.description.get("unsure_below", 0.0)
        best = self.classes[int(values.argmax())] if sure else "unsure"
        return {"class": best, "probabilities": dict(zip(self.classes, values.tolist(), strict=True))}

    def _by_pixels(self, data: bytes) -> np.ndarray:
        images = preprocess(data, self._rule)[None].astype("float32")
        return self._run(images.transpose(0, 3, 1, 2) if self._rule["layout"] == "NCHW" else images)[0]

    def _by_saved_model(self, data: bytes) -> np.ndarray:
        answer = self._ask(data)
        if not answer["ok"].numpy()[0]:  # a format that the model itself does not decode
            out = io.BytesIO()
            upright = decode_upright(data, self._rule["depth"], self._rule["reduce_jpeg"])
            Image.fromarray(upright).save(out, "PNG", compress_level=1)
            answer = self._ask(out.getvalue())
        return answer["probabilities"].numpy()[0]


def check(classifier: Classifier, file: Path) -> bool:
    """Print how far the answers for a check.json are from those in it; return whether all are within its tolerance."""
    told = json.loads(file.read_text(encoding="utf-8"))
    differences = []
    for one in told["images"]:
        found = classifier.classify(base64.b64decode(one["data"]))["probabilities"]
        differences.append(max(abs(found[name] - value) for name, value in one["probabilities"].items()))
        print(f"{one['name']}: largest difference {differences[-1]:.2g}")
    good = [value <= told["tolerance"] for value in differences]
    if all(good):
        print(f"This installation reproduces the model (tolerance {told['tolerance']:g}).")
    elif not good[0]:
        print("It does not: the model itself answers differently here. Try other versions of what runs it.")
    else:
        print("It does not: images become other pixels here. Try other versions of Pillow.")
    return all(good)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    parser.add_argument("--check", action="store_true", help="compare with check.json; exit code 1 if different")
    asked = parser.parse_args()
    if not asked.images and not asked.check:
        parser.error("give image files, or --check")
    classifier, failed = Classifier(), False
    for file in asked.images:
        try:
            answer = classifier.classify(Path(file).read_bytes())
        except (ValueError, OSError) as error:
            answer, failed = {"class": None, "probabilities": None, "problem": str(error)}, True
        print(json.dumps({"file": file, **answer}), flush=True)
    if asked.check:
        failed |= not check(classifier, Path(__file__).with_name("check.json"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
