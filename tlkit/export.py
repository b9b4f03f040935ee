"""The SavedModel: image bytes in, class names and probabilities out, and the proof that it equals the trained model.

It holds the decoder that training used and the classifier in float32, needs TensorFlow alone, and holds each variable once. One
bad image does not fail its batch: it comes back with `ok` false.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.decode import attempt, decode_and_resize, first_frame, fit_to_square, read_header
from tlkit.errors import ParityError, SpecError
from tlkit.files import temporary_beside
from tlkit.runs import DESCRIPTION, check_replaceable, write_description

PARITY_LIMIT = 1e-5
EVALUATED_LIMIT = 1e-2  # rounding in `tlkit.frozen`, magnified by a head of large weights, came to 9e-5 at most
LARGE = 12_000_000  # pixels of an image that is decoded alone
PARALLEL = 4
UNSURE = "unsure"  # what is served in the place of a class
_WORKER = Path(__file__).with_name("_serve_files.py")


def export(
    model: keras.Model,
    class_names: Sequence[str],
    folder: str | Path,
    *,
    fit: str = "squash",
    unsure_below: float = 0.0,
) -> Path:
    """Write a classifier as a SavedModel that answers encoded images.

    model: float32, raw RGB 0-255 in, probabilities out. class_names: in class order.
    unsure_below: where the highest probability is lower, the class is "unsure" (see `tlkit.calibrate.refusal_threshold`); 0 = never.
    folder: replaced if it holds an earlier export and nothing else; written under another name first.

    Signatures:
      serving_default, serve_bytes: image_bytes string (n,) -> class string (n,), probability float32 (n,),
        probabilities float32 (n, classes), classes string (n, classes), sure bool (n,), ok bool (n,), problem string (n,). Where `ok` is
        false, `problem` says why, the class is "" and the probabilities are 0; where only `sure` is, the class is "unsure". Every
        output has a row for each image, as TensorFlow Serving's REST interface wants it.
      serve: image uint8 (n, height, width, 3), RGB -> the same without ok and problem. serve_float: the same for float32 0-255.

    Raises RunError for a folder that holds anything else (see `tlkit.runs`), SpecError for a class that is called "unsure".
    """
    folder = Path(folder)
    check_replaceable(folder, DESCRIPTION)
    if unsure_below:
        check_no_class_is_unsure(class_names)
    size = int(model.input_shape[1])
    module = _Served(model, list(class_names), size, fit, unsure_below)
    signatures = {
        "serving_default": module.serve_bytes.get_concrete_function(),
        "serve_bytes": module.serve_bytes.get_concrete_function(),
        "serve": module.serve.get_concrete_function(tf.TensorSpec((None, None, None, 3), tf.uint8, name="image")),
        "serve_float": module.serve.get_concrete_function(
            tf.TensorSpec((None, None, None, 3), tf.float32, name="image")
        ),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(folder) as temporary:
        tf.saved_model.save(module, str(temporary), signatures=signatures)
        description = {
            "classes": list(class_names),
            "image_size": size,
            "fit": fit,
            "unsure_below": unsure_below,
            "input": "image_bytes: encoded JPEG, PNG, GIF, BMP or WebP files, string (n,)",
        }
        write_description(temporary, description)
        check_replaceable(folder, DESCRIPTION)  # again: what came there meanwhile stays
    return folder


def check_no_class_is_unsure(class_names: Sequence[str]) -> None:
    """Raise SpecError where a class has the name that is served in the place of one."""
    if UNSURE in class_names:
        raise SpecError(
            f"A class is called '{UNSURE}', which is what is served in the place of a class that is not sure. Rename it."
        )


class _Served(tf.Module):
    """What is saved. Holds the classifier's variables themselves, so each is stored once."""

    def __init__(
        self, model: keras.Model, class_names: list[str], size: int, fit: str, unsure_below: float = 0.0
    ) -> None:
        super().__init__()
        self._variables = [variable.value for variable in model.variables]
        shape = tf.TensorSpec((None, size, size, 3), tf.float32)
        # one trace that all signatures call
        self._call = tf.function(lambda images: model(images, training=False), input_signature=[shape], autograph=False)
        self._names, self._size, self._fit, self._unsure_below = class_names, size, fit, unsure_below
        self._square = tf.function(
            lambda data: decode_and_resize(data, size, fit),
            input_signature=[tf.TensorSpec((), tf.string)],
            autograph=False,
        )

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")], autograph=False)
    def serve_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        ok, problem, pixels = self._decode_each(image_bytes)
        answers = self._answers(tf.cast(pixels, tf.float32))
        answers["probabilities"] *= tf.cast(ok, tf.float32)[:, None]
        answers["probability"] *= tf.cast(ok, tf.float32)
        answers["class"] = tf.where(ok, answers["class"], "")
        answers["sure"] &= ok
        return {**answers, "ok": ok, "problem": problem}

    @tf.function(autograph=False)  # there is nothing to convert, and converting takes seconds
    def serve(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        squares = tf.map_fn(
            lambda one: fit_to_square(one, self._size, self._fit),
            image,
            fn_output_signature=tf.TensorSpec((self._size, self._size, 3), image.dtype),
        )
        return self._answers(tf.cast(squares, tf.float32))

    def _answers(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.shape(images)[0]
        blank = tf.zeros((tf.cast(count == 0, tf.int32), self._size, self._size, 3))  # layers refuse an empty batch
        probabilities = self._call(tf.concat([images, blank], 0))[:count]
        names, highest = tf.constant(self._names), tf.reduce_max(probabilities, axis=1)
        sure, best = highest >= self._unsure_below, tf.gather(names, tf.argmax(probabilities, axis=1))
        return {
            "class": tf.where(sure, best, UNSURE) if self._unsure_below else best,
            "sure": sure,
            "probability": highest,
            "probabilities": probabilities,
            "classes": tf.repeat(names[None], count, axis=0),
        }

    def _decode_each(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(ok, problem, pixels): what has a faulty header, or fails an attempt at decoding, is not ok, and its pixels are zero.

        An operation that fails would fail the whole batch; a data set that ignores errors is the one place in a graph where
        one item may fail alone.
        """
        image_bytes = tf.map_fn(first_frame, image_bytes)
        signature = (tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64))
        fault, pixels = tf.map_fn(read_header, image_bytes, fn_output_signature=signature)
        sound = fault == b""
        # one at a time where one is large, so that memory is that of one
        large = tf.reduce_any(sound & (pixels > LARGE))
        ok = tf.cond(
            large, lambda: self._tried(image_bytes, sound, 1), lambda: self._tried(image_bytes, sound, PARALLEL)
        )
        squares = tf.cond(
            large, lambda: self._squares(image_bytes, ok, 1), lambda: self._squares(image_bytes, ok, PARALLEL)
        )
        return ok, tf.where(ok, "", tf.where(sound, "it does not decode", fault)), squares

    def _tried(self, image_bytes: tf.Tensor, sound: tf.Tensor, parallel: int) -> tf.Tensor:
        safe = tf.where(sound, image_bytes, b"")
        count = tf.shape(image_bytes, out_type=tf.int64)[0]
        items = tf.data.Dataset.from_tensor_slices((tf.range(count), safe))
        tried = items.map(_attempt_item, num_parallel_calls=parallel).ignore_errors()
        options = tf.data.Options()
        options.autotune.enabled = False  # tuning and rewriting the data set would cost most of a request's time
        options.experimental_optimization.apply_default_optimizations = False
        return tried.with_options(options).reduce(tf.zeros((count,), tf.bool), _mark_item)

    def _squares(self, image_bytes: tf.Tensor, ok: tf.Tensor, parallel: int) -> tf.Tensor:
        shape = (self._size, self._size, 3)
        return tf.map_fn(
            lambda one: tf.cond(one[0], lambda: self._square(one[1]), lambda: tf.zeros(shape, tf.uint8)),
            (ok, image_bytes),
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            parallel_iterations=parallel,
        )


@tf.autograph.experimental.do_not_convert
def _attempt_item(index: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return index, attempt(data)


@tf.autograph.experimental.do_not_convert
def _mark_item(ok: tf.Tensor, item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    return tf.tensor_scatter_nd_update(ok, [[item[0]]], [True])


# -- the proof --------------------------------------------------------------------------------------------


class FreshProcess:
    """A process that has TensorFlow and nothing of Keras or tlkit, to ask a SavedModel in.

    Importing TensorFlow takes it seconds, so it is made before it is needed. Answers once; a context ends it in any case.
    """

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)
        self._process = subprocess.Popen([sys.executable, str(_WORKER)], stdin=subprocess.PIPE, stderr=self._errors)

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(self, *problem: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, saved_model: str | Path, files: Sequence[Path], batch_size: int = 16) -> dict[str, np.ndarray]:
        """What the SavedModel answers to files: probabilities (n, classes), class (n,), sure (n,) and ok (n,), and how many seconds that took."""
        with tempfile.TemporaryDirectory() as scratch:
            answers = Path(scratch) / "answers.npz"
            question = {
                "saved_model": str(saved_model),
                "files": [str(Path(f).resolve()) for f in files],
                "answers": str(answers),
                "batch_size": batch_size,
            }
            self._process.communicate(json.dumps(question).encode())
            if self._process.returncode != 0:
                self._errors.seek(0)
                said = self._errors.read().decode("utf-8", "replace")[-1500:]
                raise ParityError(f"The exported model '{saved_model}' failed in a fresh process:\n{said}")
            with np.load(answers, allow_pickle=False) as loaded:
                return {name: loaded[name] for name in loaded.files}


def serve_files(saved_model: str | Path, files: Sequence[Path]) -> dict[str, np.ndarray]:
    """What a SavedModel answers to files, asked in a `FreshProcess`."""
    with FreshProcess() as fresh:
        return fresh.ask(saved_model, files)


def prove_parity(
    saved_model: str | Path,
    files: Sequence[Path],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    fresh: FreshProcess | None = None,
    ask_again: Callable[[Sequence[int]], np.ndarray] | None = None,
) -> dict[str, Any]:
    """Compare a SavedModel on files with the Keras model's probabilities for their cached pixels.

    fresh: a process made ahead; default one made now.
    ask_again: gives the Keras model's own probabilities for the files at some places. `probabilities` may come from
        `tlkit.frozen`, whose graph joins layers and rounds otherwise, and a head with large weights magnifies that; where they differ by
        more than the limit, the model itself is asked, so that what is left is the difference between it and what is served. Rounding
        explains no more than `EVALUATED_LIMIT`: beyond it the reported numbers are not this model's.
    Returns n, top1_agreement (share), max_difference (largest of any probability), asked_again (how many files), evaluated_difference
    (largest before asking again), bytes, milliseconds_an_image (reading and decoding included), limit and within_limit. Raises ParityError when one class differs, one file is refused, or a
    difference exceeds 1e-3 (the target is below 1e-5), or when `probabilities` differ from the model's own by `EVALUATED_LIMIT` or more.
    """
    served = fresh.ask(saved_model, files) if fresh else serve_files(saved_model, files)
    if not served["ok"].all():
        refused = [str(f) for f, ok in zip(files, served["ok"], strict=True) if not ok]
        raise ParityError(
            f"The exported model refuses {len(refused)} files that training read, such as '{refused[0]}'."
        )
    differences = np.abs(served["probabilities"] - probabilities).max(axis=1)
    evaluated_difference = float(differences.max())
    again: list[int] = np.flatnonzero(differences >= PARITY_LIMIT).tolist() if ask_again else []
    if ask_again and again:
        own = ask_again(again)
        _check_evaluated(probabilities[again], own, [files[i] for i in again])
        probabilities = probabilities.copy()
        probabilities[again] = own
    names = np.array(class_names)
    sure = served.get("sure", served["ok"])  # an older export is sure of everything
    expected = np.where(sure, names[probabilities.argmax(axis=1)], UNSURE)
    agreement = float((served["class"] == expected).mean())
    difference = float(np.abs(served["probabilities"] - probabilities).max())
    proof = {
        "n": len(files),
        "top1_agreement": agreement,
        "max_difference": difference,
        "asked_again": len(again),
        "evaluated_difference": evaluated_difference,
        "bytes": sum(file.stat().st_size for file in Path(saved_model).rglob("*") if file.is_file()),
        "milliseconds_an_image": round(1000 * float(served["seconds"]) / len(files), 2),
        "limit": PARITY_LIMIT,
        "within_limit": difference < PARITY_LIMIT,
    }
    if agreement < 1.0 or difference > 1e-3:
        raise ParityError(
            f"The exported model agrees with the trained one on {agreement:.2%} of {len(files)} files (expected 100 %), and its "
            f"probabilities differ by up to {difference:.2g} (expected below {PARITY_LIMIT:g}). Do not deploy '{saved_model}'."
        )
    return proof


def _check_evaluated(evaluated: np.ndarray, own: np.ndarray, files: Sequence[Path]) -> None:
    """Raise ParityError if evaluated probabilities differ from the model's own by more than rounding explains.

    evaluated, own: float32, shape (n, classes).
    """
    differences = np.abs(evaluated - own).max(axis=1)
    wrong = differences >= EVALUATED_LIMIT
    if wrong.any():
        worst = int(differences.argmax())
        raise ParityError(
            f"The probabilities that were evaluated differ from the model's own on {wrong.sum()} of {len(files)} files asked again, by "
            f"up to {differences[worst]:.2g} on '{files[worst]}' (expected below {EVALUATED_LIMIT:g}). The reported accuracy is not this "
            "model's. Cached images or features may be damaged or out of date: clear them (`tlkit cache` shows how), and run again."
        )
