"""The SavedModel: image bytes in, class names and probabilities out.

It contains the decoder that training used and the classifier in float32, needs only TensorFlow, and stores each
variable once. A bad image does not fail its batch: it is returned with `ok` false.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tlkit.data.decode import (
    attempt_parts,
    decode_and_resize,
    first_frame,
    fit_to_square,
    profile_fault,
    read_header,
    to_attempt,
)
from tlkit.data.limits import FULL_DEPTH
from tlkit.data.preprocessing import preprocessing
from tlkit.deployment.client import write_client
from tlkit.errors import ExportError, SpecError
from tlkit.evaluation.known import NONE_OF_THESE, Known, check_no_class_is_none, with_features
from tlkit.evaluation.prediction_sets import thresholds_of
from tlkit.files import temporary_beside
from tlkit.folders import DESCRIPTION, check_replaceable, write_description
from tlkit.models.files import size_of

if TYPE_CHECKING:
    import keras


LARGE = 13_000_000  # pixels, a little more than a phone's 4032 x 3024; a larger image is decoded alone
PARALLEL = 4  # images that are decoded at the same time
GRAPH_BYTES = 2_500_000  # of saved_model.pb, which holds the decoder, and of the files beside it, about
UNSURE = "unsure"  # served instead of a class
CONVERT = (  # for an export's description: how a client gives other formats to it
    "from pathlib import Path",
    "from tlkit import convert  # TIFF, HEIC and others become PNG; the rest stays as it is",
    "image_bytes = convert(Path(file).read_bytes())",
)


def export(
    model: keras.Model,
    class_names: Sequence[str],
    folder: str | Path,
    *,
    fit: str = "squash",
    unsure_below: float = 0.0,
    refusal: dict[str, Any] | None = None,
    depth: int = FULL_DEPTH,
    for_tensorflow: str | None = None,
) -> Path:
    """Write a classifier as a SavedModel that takes encoded images.

    Args:
        model: float32, raw RGB 0-255 in, probabilities out.
        class_names: In class order.
        folder: Replaced if it holds an earlier export and nothing else. Written under another name first.
        fit: How an image becomes square, as in training.
        unsure_below: Where the highest probability is lower, the class is "unsure" (see
            `tlkit.evaluation.refusal.refusal_threshold`). 0 = never; then `sure` is true wherever `ok` is.
        refusal: What is known of that threshold, as in metrics.json of a run, for the export's description.
        depth: The bits that images of 16 bits use, as in training.
        for_tensorflow: The version of TensorFlow that will run it, such as "2.15". Operations that it does not know are
            left out: WebP is then refused, with `ok` false and the reason. Default: the version that is installed.

    Returns:
        The folder. It also has client.py, check.json and README.md (see `tlkit.deployment.client`). Its SavedModel has
        these signatures:

        - serving_default, serve_bytes: image_bytes string (n,) -> class string (n,), probability float32 (n,),
          probabilities float32 (n, classes), classes string (n, classes), sure bool (n,), ok bool (n,), problem
          string (n,). Where `ok` is false, `problem` says why, the class is "" and the probabilities are 0. Where
          only `sure` is false, the class is "unsure". Every output has a row for each image, as TensorFlow Serving's
          REST interface expects.
        - serve: image uint8 (n, height, width, 3), RGB -> the same without ok and problem.
        - serve_float: the same for float32 0-255.

    Raises:
        RunError: The folder holds anything else (see `tlkit.folders`).
        SpecError: A class is named "unsure", and `unsure_below` is not 0, or `for_tensorflow` is no version.
        ExportError: The model needs a later TensorFlow than `for_tensorflow`.
    """
    serving = Serving(tuple(class_names), fit, unsure_below, refusal, depth, for_tensorflow)
    return export_served(model, folder, serving)


@dataclass(frozen=True)
class Serving:
    """How a SavedModel decodes and answers.

    Attributes:
        class_names, fit, unsure_below, refusal, depth, for_tensorflow: As in `export`.
        known: What tells images of the classes from others. Then there is also an output known, float32 (n,), a p-value
            (see `tlkit.evaluation.known.Known.p_values`). It is 0 where `ok` is false.
        none_below: Where that p-value is lower, the class is "none of these", whether `sure` or not. 0 = never.
        known_measured: What is known of it, as in metrics.json of a run, for the export's description.
        prediction_sets: As in metrics.json of a run. Then there is also an output prediction_set, bool (n, classes).
    """

    class_names: tuple[str, ...]
    fit: str = "squash"
    unsure_below: float = 0.0
    refusal: dict[str, Any] | None = None
    depth: int = FULL_DEPTH
    for_tensorflow: str | None = None
    known: Known | None = None
    none_below: float = 0.0
    known_measured: dict[str, Any] | None = None
    prediction_sets: dict[str, Any] | None = None


def export_served(model: keras.Model, folder: str | Path, serving: Serving) -> Path:
    """Write a classifier as `export` does, with all that it may answer. Raises as `export` does.

    Raises SpecError also if a class is named "none of these", and `none_below` is not 0.
    """
    folder, webp = Path(folder), _knows_webp(serving.for_tensorflow)
    check_replaceable(folder, DESCRIPTION)
    if serving.unsure_below:
        check_no_class_is_unsure(serving.class_names)
    if serving.none_below:
        check_no_class_is_none(serving.class_names)
    size, fit, depth = int(model.input_shape[1]), serving.fit, serving.depth
    square = lambda data: decode_and_resize(data, size, fit, depth, webp=webp)  # noqa: E731
    module = _Served(model, serving, square, webp=webp)
    signatures = {
        # not traced here: `save` traces a function that has an input signature itself, again if need be
        "serving_default": module.serve_bytes,
        "serve_bytes": module.serve_bytes,
        "serve": module.serve.get_concrete_function(tf.TensorSpec((None, None, None, 3), tf.uint8, name="image")),
        "serve_float": module.serve.get_concrete_function(
            tf.TensorSpec((None, None, None, 3), tf.float32, name="image")
        ),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(folder, needed=size_of(model) + GRAPH_BYTES) as temporary:
        tf.saved_model.save(module, str(temporary), signatures=signatures)
        description = {
            "classes": list(serving.class_names),
            "image_size": size,
            "fit": fit,
            "depth": depth,
            "preprocessing": preprocessing(size, fit, depth),
            "unsure_below": serving.unsure_below,
            "refusal": serving.refusal,
            "none_below": serving.none_below,
            "known": serving.known_measured if serving.known is not None else None,
            "prediction_sets": serving.prediction_sets,
            "format": "savedmodel",
            "batch": "any",
            "input": f"image_bytes: encoded {_formats(webp)} files, string (n,); others: see `convert`",
            "convert": list(CONVERT),
            "tensorflow": {"least": _least_tensorflow(temporary, serving.for_tensorflow), "written_by": tf.__version__},
        }
        write_client(temporary, description, lambda images: np.asarray(model(images.astype("float32"), training=False)))
        write_description(temporary, description)
        check_replaceable(folder, DESCRIPTION)  # again, to keep files that came there meanwhile
    return folder


def check_no_class_is_unsure(class_names: Sequence[str]) -> None:
    """Raise SpecError if a class is named "unsure", the reserved answer."""
    if UNSURE in class_names:
        raise SpecError(
            f"A class is named '{UNSURE}', which is reserved for predictions below the threshold. Rename it."
        )


# the version of TensorFlow that first had an operation; all others of the decoder and of Keras' layers are in `OLDEST`,
# in which exports were run (2.8 lacks DisableCopyOnRead). A TF-Hub module may have others, which are not known here
NEWER_OPERATIONS = {"DecodeWebP": "2.20"}
OLDEST = "2.11"


def _knows_webp(for_tensorflow: str | None) -> bool:
    return for_tensorflow is None or _version(for_tensorflow) >= _version(NEWER_OPERATIONS["DecodeWebP"])


def _formats(webp: bool) -> str:
    return "JPEG, PNG, GIF, BMP or WebP" if webp else "JPEG, PNG, GIF or BMP"


def _version(text: str) -> tuple[int, int]:
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts[:2]):
        raise SpecError(f"'{text}' is no version of TensorFlow. Expected two numbers, such as 2.15.")
    return int(parts[0]), int(parts[1])


def _least_tensorflow(folder: Path, asked: str | None) -> str:
    """The first TensorFlow that knows every operation of a SavedModel. Raises ExportError if it is after `asked`."""
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((folder / "saved_model.pb").read_bytes())
    graphs = [one.graph_def for one in proto.meta_graphs]
    used = {node.op for graph in graphs for node in graph.node}
    used |= {node.op for graph in graphs for function in graph.library.function for node in function.node_def}
    needed = {name: NEWER_OPERATIONS[name] for name in used & set(NEWER_OPERATIONS)}
    least = max([OLDEST, *needed.values()], key=_version)
    if asked is not None and _version(asked) < _version(least):
        why = f" for {', '.join(sorted(needed))}" if needed else ""
        raise ExportError(
            f"The SavedModel needs TensorFlow {least}{why}. Expected {asked} to be enough. Ask for {least}."
        )
    return least


class _Served(tf.Module):
    """The module that is saved. Holds the classifier's variables themselves, so each is stored once."""

    def __init__(
        self, model: keras.Model, serving: Serving, square: Callable[[tf.Tensor], tf.Tensor], *, webp: bool = True
    ) -> None:
        super().__init__()
        size = int(model.input_shape[1])
        self._variables = [variable.value for variable in model.variables]
        shape = tf.TensorSpec((None, size, size, 3), tf.float32)
        # traced once: all signatures call it, and `save` would trace anything but a concrete function again
        self._call = tf.function(
            _forward(model, serving.known), input_signature=[shape], autograph=False
        ).get_concrete_function()
        self._names, self._size, self._fit = list(serving.class_names), size, serving.fit
        self._unsure_below, self._none_below = serving.unsure_below, serving.none_below
        self._thresholds = thresholds_of(serving.prediction_sets, serving.class_names)
        self._webp = webp
        self._square = square

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")], autograph=False)
    def serve_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        ok, problem, pixels = self._decode_each(image_bytes)
        answers = self._answers(tf.cast(pixels, tf.float32))
        answers["probabilities"] *= tf.cast(ok, tf.float32)[:, None]
        answers["probability"] *= tf.cast(ok, tf.float32)
        answers["class"] = tf.where(ok, answers["class"], "")
        answers["sure"] &= ok
        if "known" in answers:
            answers["known"] *= tf.cast(ok, tf.float32)
        if "prediction_set" in answers:
            answers["prediction_set"] &= ok[:, None]
        return {**answers, "ok": ok, "problem": problem}

    @tf.function(autograph=False)  # there is nothing to convert, and AutoGraph takes seconds
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
        outputs = {name: values[:count] for name, values in self._call(tf.concat([images, blank], 0)).items()}
        probabilities = outputs["probabilities"]
        names, highest = tf.constant(self._names), tf.reduce_max(probabilities, axis=1)
        sure, best = highest >= self._unsure_below, tf.gather(names, tf.argmax(probabilities, axis=1))
        answer = tf.where(sure, best, UNSURE) if self._unsure_below else best
        if self._none_below and "known" in outputs:
            answer = tf.where(outputs["known"] < self._none_below, NONE_OF_THESE, answer)
        if self._thresholds is not None:
            outputs["prediction_set"] = probabilities >= self._thresholds
        return {
            **outputs,
            "class": answer,
            "sure": sure,
            "probability": highest,
            "classes": tf.repeat(names[None], count, axis=0),
        }

    def _decode_each(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Decode each image: (ok, problem, pixels).

        An image with a faulty header, or that does not decode, is not ok, and its pixels are 0.

        In a graph, an operation that fails would fail the whole batch. Only in a tf.data.Dataset that ignores errors
        can one item fail alone.
        """
        image_bytes = tf.map_fn(first_frame, image_bytes)
        signature = (tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64))
        fault, pixels = tf.map_fn(
            lambda data: read_header(data, self._webp), image_bytes, fn_output_signature=signature
        )
        sound = fault == b""
        # if one is large, decode one at a time, to bound memory
        large = tf.reduce_any(sound & (pixels > LARGE))
        found = tf.cond(
            large, lambda: self._tried(image_bytes, sound, 1), lambda: self._tried(image_bytes, sound, PARALLEL)
        )
        ok = found == b""
        squares = tf.cond(
            large, lambda: self._squares(image_bytes, ok, 1), lambda: self._squares(image_bytes, ok, PARALLEL)
        )
        return ok, tf.where(sound, found, fault), squares

    def _tried(self, image_bytes: tf.Tensor, sound: tf.Tensor, parallel: int) -> tf.Tensor:
        safe = tf.where(sound, image_bytes, b"")
        count = tf.shape(image_bytes, out_type=tf.int64)[0]
        text = tf.TensorSpec((), tf.string)
        faults, images, packed = tf.map_fn(to_attempt, safe, fn_output_signature=(text, text, text))
        items = tf.data.Dataset.from_tensor_slices((tf.range(count), images, packed))
        tried = items.map(self._attempt_item, num_parallel_calls=parallel).ignore_errors()
        options = tf.data.Options()
        options.autotune.enabled = False  # autotuning and graph rewriting would take most of a request's time
        options.experimental_optimization.apply_default_optimizations = False
        start = (tf.fill((count,), "it does not decode"), tf.fill((count,), ""))
        found, profiles = tried.with_options(options).reduce(start, _mark_item)
        found = tf.where(found == b"", tf.map_fn(profile_fault, profiles), found)
        return tf.where(faults == b"", found, faults)

    @tf.autograph.experimental.do_not_convert
    def _attempt_item(self, index: tf.Tensor, image: tf.Tensor, packed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, attempt_parts(image, packed, self._webp)

    def _squares(self, image_bytes: tf.Tensor, ok: tf.Tensor, parallel: int) -> tf.Tensor:
        shape = (self._size, self._size, 3)
        return tf.map_fn(
            lambda one: tf.cond(one[0], lambda: self._square(one[1]), lambda: tf.zeros(shape, tf.uint8)),
            (ok, image_bytes),
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            parallel_iterations=parallel,
        )


def _forward(model: keras.Model, known: Known | None) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """The classifier as a function from images to probabilities, and to p-values if it is known how."""
    if known is None:
        return lambda images: {"probabilities": model(images, training=False)}
    both = with_features(model)

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        features, probabilities = both(images, training=False)
        return {"probabilities": probabilities, "known": known.p_values(features, probabilities)}

    return call


@tf.autograph.experimental.do_not_convert
def _mark_item(state: tuple[tf.Tensor, tf.Tensor], item: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Mark an item that decodes, and keep its profile."""
    (found, profiles), (index, profile) = state, item
    return (
        tf.tensor_scatter_nd_update(found, [[index]], [""]),
        tf.tensor_scatter_nd_update(profiles, [[index]], [profile]),
    )
