"""TensorFlow Serving's REST interface: paths, request bodies and answers, by its documentation and its source.

https://www.tensorflow.org/tfx/serving/api_rest; tensorflow_serving/util/json_tensor.cc. Beyond it, data URLs are taken
where base64 is.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.deployment.requests import decoded_base64
from tlkit.deployment.work import ROWS_AT_ONCE, Refused

VERSION = "1"
DEFAULT = "serving_default"
MAX_ROWS = 1024  # of a request
EXPECTED = 'Expected {"instances": [{"b64": "..."}]} or {"inputs": [{"b64": "..."}]}, each an image file in base64.'
Tensors = dict[str, np.ndarray]

_PREDICT = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    r":(?P<action>classify|regress|predict)",
    re.IGNORECASE,
)
_STATUS = re.compile(
    r"/v1/models(?:/(?P<name>[^/:]+))?(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    r"(?:/(?P<action>metadata))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Signature:
    """A function of a SavedModel.

    inputs: of each input its NumPy type ("object" for strings) and its shape, None where any length is taken.
    call: tensors to tensors, strings as bytes in arrays of objects.
    definition: the SignatureDef, as JSON.
    """

    inputs: Mapping[str, tuple[str, tuple[int | None, ...] | None]]
    call: Callable[[Tensors], Tensors]
    definition: Mapping[str, Any] = field(default_factory=dict)


def signatures_of(functions: Mapping[str, Any], folder: Path) -> dict[str, Signature]:
    """The signatures of a SavedModel. functions: its loaded `signatures`; folder: where it lies."""
    import tensorflow as tf

    definitions = _definitions(folder)

    def called(function: Any, kinds: Mapping[str, Any]) -> Callable[[Tensors], Tensors]:
        def call(tensors: Tensors) -> Tensors:
            try:
                outputs = function(**{name: tf.constant(value, kinds[name]) for name, value in tensors.items()})
            except (TypeError, ValueError, tf.errors.OpError) as error:
                raise Refused(f"The model refuses the request: {str(error)[:500]}") from error
            return {name: value.numpy() for name, value in outputs.items()}

        return call

    found = {}
    for name, function in functions.items():
        specs = function.structured_input_signature[1]
        inputs = {
            one: (
                "object" if spec.dtype == tf.string else spec.dtype.as_numpy_dtype.__name__,
                None if spec.shape.rank is None else tuple(spec.shape),
            )
            for one, spec in specs.items()
        }
        kinds = {one: spec.dtype for one, spec in specs.items()}
        found[name] = Signature(inputs, called(function, kinds), definitions.get(name, {}))
    return found


def _definitions(folder: Path) -> dict[str, Any]:
    """The SignatureDefs of a SavedModel as JSON, by TensorFlow's own reader."""
    from google.protobuf.json_format import MessageToDict
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    stored = SavedModel()
    stored.ParseFromString((folder / "saved_model.pb").read_bytes())
    return {
        name: MessageToDict(one, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for name, one in stored.meta_graphs[0].signature_def.items()
    }


@dataclass(frozen=True)
class Asked:
    """What a path asks for. action: "predict", "classify", "regress", "metadata" or "status"."""

    name: str
    action: str


def route(method: str, path: str, names: tuple[str, ...]) -> Asked:
    """What a path under /v1 asks for. names: those that the model has. Raises Refused for any other."""
    found = (_PREDICT if method == "POST" else _STATUS).fullmatch(path) if method in ("GET", "POST") else None
    if found is None:
        raise Refused(
            f"Malformed request: {method} {path[:200]}. Expected POST /v1/models/{names[0]}:predict, "
            f"GET /v1/models/{names[0]} or GET /v1/models/{names[0]}/metadata."
        )
    name, version, label = found["name"], found["version"], found["label"]
    if name is None:
        raise Refused(f"Missing model name in request. Expected /v1/models/{names[0]}.")
    if name not in names:
        raise Refused(f"Servable not found for request: Latest({name[:100]}). Expected: {', '.join(names)}.", 404)
    if version is not None and version.lstrip("0") != VERSION:
        raise Refused(
            f"Servable not found for request: Specific({name}, {version[:20]}). Expected version {VERSION}.", 404
        )
    if label is not None:
        raise Refused(f"Unrecognized servable version label: {label[:100]}. Expected /versions/{VERSION}, or neither.")
    return Asked(name, (found["action"] or "status").lower())


def status() -> dict[str, Any]:
    """The body of GetModelStatus: the one version is available."""
    fine = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": VERSION, "state": "AVAILABLE", "status": fine}]}


def metadata(name: str, signatures: Mapping[str, Signature]) -> dict[str, Any]:
    """The body of GetModelMetadata."""
    definitions = {one: signature.definition for one, signature in signatures.items()}
    return {
        "model_spec": {"name": name, "signature_name": "", "version": VERSION},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


@dataclass(frozen=True)
class Question:
    """A request to predict.

    tensors: by the name of each input. rows: how many instances there are; None in the column form.
    """

    signature: Signature
    tensors: Tensors
    rows: int | None


def read_question(body: bytes, signatures: Mapping[str, Signature]) -> Question:
    """Read the body of :predict. Raises Refused with status 400 if it is none."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"JSON Parse error: {str(error)[:200]}. {EXPECTED}") from error
    if not isinstance(asked, dict):
        raise Refused(f"The JSON is not an object. {EXPECTED}")
    name = asked.get("signature_name", DEFAULT)
    if not isinstance(name, str):
        raise Refused("'signature_name' key must be a string value.")
    signature = signatures.get(name or DEFAULT)
    if signature is None:
        known = ", ".join(sorted(signatures))
        raise Refused(f'Serving signature name: "{name[:100]}" not found in signature def. Expected one of: {known}.')
    if ("instances" in asked) == ("inputs" in asked):
        raise Refused(f"Expected one of 'instances' and 'inputs' in the JSON. {EXPECTED}")
    if "inputs" in asked:
        return Question(signature, _columns(asked["inputs"], signature), None)
    rows = asked["instances"]
    if not isinstance(rows, list) or not rows:
        raise Refused(f"'instances' must be a list of at least one. {EXPECTED}")
    if len(rows) > MAX_ROWS:
        raise Refused(f"The request holds {len(rows):,} instances. Expected {MAX_ROWS:,} at most.", 413)
    return Question(signature, _rows(rows, signature), len(rows))


def _rows(rows: list[Any], signature: Signature) -> Tensors:
    named = [isinstance(row, dict) and not _is_base64(row) for row in rows]
    names = sorted(signature.inputs)
    if any(named) != all(named):
        raise Refused(f"Element {named.index(not named[0])} of 'instances' is of another form than the first.")
    if not named[0]:
        if len(names) > 1:
            raise Refused(f"Each element of 'instances' must be an object with: {', '.join(names)}.")
        return {names[0]: _tensor(rows, *signature.inputs[names[0]], names[0])}
    for index, row in enumerate(rows):
        if sorted(row) != names:
            given = ", ".join(sorted(row))[:200]
            raise Refused(
                f"Failed to process element: {index} of 'instances' list. Its keys are: {given}. They must be equal "
                f"to: {', '.join(names)}."
            )
    return {name: _tensor([row[name] for row in rows], *signature.inputs[name], name) for name in names}


def _columns(columns: Any, signature: Signature) -> Tensors:
    names = sorted(signature.inputs)
    if not isinstance(columns, dict) or _is_base64(columns):
        if len(names) > 1:
            raise Refused(f"'inputs' must be an object with: {', '.join(names)}.")
        columns = {names[0]: columns}
    for name in names:
        if name not in columns:
            raise Refused(f"Missing named input: {name} in 'inputs' object.")
    tensors = {name: _tensor(columns[name], *signature.inputs[name], name) for name in names}
    if any(len(one) > MAX_ROWS for one in tensors.values() if one.ndim):
        raise Refused(f"The request holds more than {MAX_ROWS:,} rows. Send fewer.", 413)
    return tensors


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _tensor(value: Any, kind: str, shape: tuple[int | None, ...] | None, name: str) -> np.ndarray:
    """The tensor of a JSON value. Raises Refused if it has another type or shape."""
    made = _strings(value, name) if kind == "object" else _numbers(value, kind, name)
    if shape is not None and (
        made.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, made.shape, strict=True))
    ):
        wanted = ", ".join("any" if one is None else str(one) for one in shape)
        raise Refused(f"The input '{name}' has the shape {list(made.shape)}. Expected [{wanted}].")
    return made


def _strings(value: Any, name: str) -> np.ndarray:
    lengths: list[int] = []
    leaf = value
    while isinstance(leaf, list):  # the shape is that of the first elements; all others must have it
        lengths.append(len(leaf))
        leaf = leaf[0] if leaf else None
    made = np.empty(lengths, dtype=object)
    if not lengths:
        made[()] = _string(value, name)
        return made
    level = [value]
    for length in lengths:
        if not all(isinstance(one, list) and len(one) == length for one in level):
            raise Refused(f"The lists of the input '{name}' differ in length or depth.")
        level = [inner for one in level for inner in one]
    made.ravel()[:] = [_string(one, name) for one in level]
    return made


def _string(value: Any, name: str) -> bytes:
    if isinstance(value, str) and value[:5].lower() != "data:":
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, str) and not _is_base64(value):
        raise Refused(
            f"JSON Value: {json.dumps(value)[:100]} of the input '{name}' is not of expected type: string. {EXPECTED}"
        )
    try:
        return decoded_base64(value if isinstance(value, str) else value["b64"])
    except ValueError as error:
        raise Refused(f"Unable to base64 decode a value of the input '{name}': {error}. {EXPECTED}") from error


def _numbers(value: Any, kind: str, name: str) -> np.ndarray:
    dtype = np.dtype(kind)
    try:
        made = np.array(value)
    except (ValueError, OverflowError):
        raise Refused(f"The lists of the input '{name}' differ in length or depth.") from None
    allowed = {"f": "fiu", "b": "b"}.get(dtype.kind, "iu")
    if made.size and made.dtype.kind not in allowed:
        raise Refused(f"A value of the input '{name}' is not of expected type: {kind}.")
    if made.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if made.min() < limits.min or made.max() > limits.max:
            raise Refused(f"A value of the input '{name}' is outside {limits.min} to {limits.max}.")
    return made.astype(dtype)


def answer(question: Question, call: Callable[[Signature, Tensors], Tensors]) -> dict[str, Any]:
    """The body of the answer. call: runs a signature on some rows.

    Raises Refused if an output has no row for each instance.
    """
    outputs = _in_pieces(question, call)
    if question.rows is None:
        columns = {name: _plain(value, name) for name, value in outputs.items()}
        return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}
    for name, value in outputs.items():
        if value.ndim == 0 or len(value) != question.rows:
            raise Refused(
                f"Tensor name: {name} has inconsistent batch size: {list(value.shape)}, expecting: {question.rows}."
            )
    lists = {name: _plain(value, name) for name, value in outputs.items()}
    if len(lists) == 1:
        return {"predictions": next(iter(lists.values()))}
    return {"predictions": [{name: one[row] for name, one in lists.items()} for row in range(question.rows)]}


def _in_pieces(question: Question, call: Callable[[Signature, Tensors], Tensors]) -> Tensors:
    signature, tensors = question.signature, question.tensors
    lengths = {len(one) if one.ndim else None for one in tensors.values()}
    any_batch = all(shape and shape[0] is None for _, shape in signature.inputs.values())
    count = lengths.pop() if len(lengths) == 1 else None
    if not any_batch or count is None or count <= ROWS_AT_ONCE:
        return call(signature, tensors)
    pieces = [
        call(signature, {name: one[at : at + ROWS_AT_ONCE] for name, one in tensors.items()})
        for at in range(0, count, ROWS_AT_ONCE)
    ]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _plain(value: np.ndarray, name: str) -> Any:
    """A tensor as JSON: floats with the digits that their type holds, as TensorFlow Serving writes them."""
    if value.dtype == object:
        return _mapped(value, lambda one: _text(one, name))
    if value.dtype.kind == "f":
        return _mapped(value, lambda one: float(str(one)))
    return value.tolist()


def _mapped(value: np.ndarray, work: Callable[[Any], Any]) -> Any:
    if value.ndim == 0:
        return work(value[()])
    return [_mapped(one, work) if isinstance(one, np.ndarray) else work(one) for one in value]


def _text(value: Any, name: str) -> Any:
    data = value if isinstance(value, bytes) else str(value).encode("utf-8")
    if name.endswith("_bytes"):  # so named, it is binary
        return {"b64": base64.b64encode(data).decode("ascii")}
    return data.decode("utf-8", "replace")
