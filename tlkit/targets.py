"""Other places to run a classifier: LiteRT, LiteRT with 8-bit integers, ONNX, and the Keras file, each in a folder with its labels.

A folder holds the model, and `tlkit.json` with the classes, the size and how files become pixels; `open_target` makes it answer again.
What these formats take are squares of pixels: decoding files is the SavedModel's alone (see `tlkit.export`).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlkit.errors import ExportError, ParityError, RunError, unknown
from tlkit.export import PARITY_LIMIT
from tlkit.files import temporary_beside
from tlkit.keras_files import open_model, save_model
from tlkit.runs import DESCRIPTION, check_replaceable, write_description

FILES = {"litert": "model.tflite", "litert-int8": "model.tflite", "onnx": "model.onnx", "keras": "model.keras"}
TARGETS = ("savedmodel", *FILES)
EXTRAS = {"litert": ("ai_edge_litert", "litert"), "onnx": ("onnxruntime", "onnx")}
LEAST_AGREEMENT = 0.95  # of 8-bit integers with the trained model
REPRESENTATIVE = 200  # training images that tell the converter the ranges of activations
INPUT = "image: float32 (n, size, size, 3), RGB 0-255, upright, antialiased; the model normalises by itself"

Answer = Callable[[np.ndarray], np.ndarray]


def check_target(target: str) -> None:
    """Raise NameUnknown for a format that does not exist, ExportError where what writes or runs it is not installed."""
    if target not in TARGETS:
        raise unknown("format", target, TARGETS)
    kind = target.split("-")[0]
    if kind in EXTRAS:
        _needed(*EXTRAS[kind])
    if kind == "onnx":
        _needed("tf2onnx", "onnx")


def _needed(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(
            f"'{package}' is not installed ({error}). Install it with: pip install 'tlkit[{extra}]'."
        ) from None


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
            raise ExportError(f"This model does not convert to {target}: {first}. Try another --format.") from error
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


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Converters write pages past Python, of no use to the person; errors are raised anyway."""
    kept = [os.dup(1), os.dup(2)]
    hidden = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(hidden, number)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, one in zip((1, 2), kept, strict=True):
            os.dup2(one, number)
            os.close(one)
        os.close(hidden)


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


def _keras(file: Path) -> Answer:
    model = open_model(file)
    return lambda pixels: np.asarray(model.predict(pixels, verbose=0))


def _onnx(file: Path) -> Answer:
    runtime = _needed(*EXTRAS["onnx"])
    try:
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # its own errors have no other base
        raise ValueError(str(error)) from error
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels.astype("float32")})[0]


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


def prove_target(
    folder: Path,
    pixels: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Compare an export with the Keras model's own answers on real pictures.

    pixels: uint8, shape (n, size, size, 3). probabilities: what the model answers to them. labels: int, shape (n,).
    Returns n, top1_agreement, max_difference, accuracy and accuracy_before, bytes, milliseconds_an_image, limit and within_limit.

    Raises ParityError: for 8-bit integers below 95 % agreement unless `force`; for the others where one class
    differs or a probability by more than 1e-3.
    """
    description, answer = open_target(folder)
    answer(pixels[:1])
    started = time.perf_counter()
    found = np.concatenate([answer(pixels[at : at + 16]) for at in range(0, len(pixels), 16)])
    seconds = time.perf_counter() - started
    agreement = float((found.argmax(1) == probabilities.argmax(1)).mean())
    difference = float(np.abs(found - probabilities).max())
    proof = {
        "n": len(pixels),
        "top1_agreement": agreement,
        "max_difference": difference,
        "accuracy": float((found.argmax(1) == labels).mean()),
        "accuracy_before": float((probabilities.argmax(1) == labels).mean()),
        "bytes": (folder / description["file"]).stat().st_size,
        "milliseconds_an_image": round(1000 * seconds / len(pixels), 2),
        "limit": PARITY_LIMIT,
        "within_limit": difference < PARITY_LIMIT,
    }
    rounded = description["format"] == "litert-int8"
    if rounded and agreement < LEAST_AGREEMENT and not force:
        raise ParityError(
            f"With 8-bit integers the model agrees with itself on {agreement:.1%} of {len(pixels)} pictures (expected {LEAST_AGREEMENT:.0%} or more), "
            f"accuracy {proof['accuracy_before']:.1%} to {proof['accuracy']:.1%}. Use --format litert, or keep '{folder}' with --force."
        )
    if not rounded and (agreement < 1.0 or difference > 1e-3):
        raise ParityError(
            f"The export agrees with the trained model on {agreement:.2%} of {len(pixels)} pictures (expected 100 %), and its probabilities differ by "
            f"up to {difference:.2g} (expected below {PARITY_LIMIT:g}). Do not deploy '{folder}'."
        )
    return proof
