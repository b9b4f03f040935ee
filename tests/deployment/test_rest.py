"""TensorFlow Serving's REST interface without a model: paths, bodies, and answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from tlkit.deployment.requests import decoded_base64
from tlkit.deployment.rest import MAX_ROWS, ROWS_AT_ONCE, Refused, Signature, answer, read_question, route

SIZES: list[int] = []


def lengths(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    SIZES.append(len(tensors["image_bytes"]))
    values = np.array([len(one) for one in tensors["image_bytes"]], "float32")
    return {"length": values, "twice": np.stack([values, values * 2], 1), "raw_bytes": tensors["image_bytes"]}


SIGNATURES = {
    "serving_default": Signature({"image_bytes": ("object", (None,))}, lengths),
    "pixels": Signature({"image": ("uint8", (None, 1, 2))}, lambda t: {"sum": t["image"].sum((1, 2)).astype("int64")}),
    "two": Signature({"a": ("float32", (None,)), "b": ("float32", (None,))}, lambda t: {"sum": t["a"] + t["b"]}),
    "total": Signature({"a": ("float32", (None,))}, lambda t: {"total": t["a"].sum()}),
}


def asked(body: Any) -> dict[str, Any]:
    question = read_question(body if isinstance(body, bytes) else json.dumps(body).encode(), SIGNATURES)
    return answer(question, lambda signature, tensors: signature.call(tensors))


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode("ascii")}


def test_rows_and_columns_in_each_documented_form() -> None:
    rows = [b64(b"abc"), b64(b"\xff\0")]
    by_row = [
        {"length": 3.0, "twice": [3.0, 6.0], "raw_bytes": b64(b"abc")},
        {"length": 2.0, "twice": [2.0, 4.0], "raw_bytes": b64(b"\xff\0")},
    ]
    assert asked({"instances": rows}) == asked({"instances": [{"image_bytes": one} for one in rows]})
    assert asked({"instances": rows}) == {"predictions": by_row}
    assert asked({"signature_name": "", "instances": ["abc", rows[1]]}) == {"predictions": by_row}, "text is its bytes"
    columns = asked({"inputs": rows})
    assert columns == asked({"inputs": {"image_bytes": rows}})
    assert columns["outputs"]["twice"] == [[3.0, 6.0], [2.0, 4.0]]
    assert asked({"signature_name": "pixels", "instances": [[[1, 2]], [[3, 255]]]}) == {"predictions": [3, 258]}
    assert asked({"signature_name": "pixels", "inputs": {"image": [[[1, 2]]]}}) == {"outputs": [3]}
    assert asked({"signature_name": "two", "instances": [{"a": 1, "b": 2.5}]}) == {"predictions": [3.5]}
    assert asked({"signature_name": "total", "inputs": [1, 2]}) == {"outputs": 3.0}


def test_floats_have_the_digits_of_their_type() -> None:
    assert asked({"signature_name": "two", "inputs": {"a": [0.1], "b": [0.2]}}) == {"outputs": [0.3]}
    assert json.dumps(asked({"signature_name": "two", "inputs": {"a": [float("nan")], "b": [0]}})) == (
        '{"outputs": [NaN]}'
    ), "as TensorFlow Serving writes it"


def test_many_rows_are_answered_in_pieces_and_in_order() -> None:
    SIZES.clear()
    rows = [b64(bytes(i)) for i in range(3 * ROWS_AT_ONCE + 1)]
    assert [row["length"] for row in asked({"instances": rows})["predictions"]] == list(range(len(rows)))
    assert SIZES == [ROWS_AT_ONCE] * 3 + [1]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "JSON Parse error"),
        (b"{", "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        ([], "not an object"),
        ({}, "one of 'instances' and 'inputs'"),
        ({"instances": ["a"], "inputs": ["a"]}, "one of 'instances' and 'inputs'"),
        ({"instances": []}, "a list of at least one"),
        ({"instances": "abc"}, "a list of at least one"),
        ({"instances": ["a"] * (MAX_ROWS + 1)}, "1,024 at most"),
        ({"inputs": ["a"] * (MAX_ROWS + 1)}, "more than 1,024 rows"),
        ({"signature_name": "none", "instances": ["a"]}, '"none" not found in signature def'),
        ({"signature_name": 3, "instances": ["a"]}, "must be a string"),
        ({"instances": [3]}, "not of expected type: string"),
        ({"instances": [None]}, "not of expected type: string"),
        ({"instances": [{"b64": 3}]}, "keys are: b64. They must be equal to: image_bytes"),
        ({"instances": [{"b64": "###"}]}, "Unable to base64 decode"),
        ({"instances": [b64(b"a"), {"image_bytes": b64(b"a")}]}, "Element 1 of 'instances' is of another form"),
        ({"instances": [{"image": b64(b"a")}]}, "keys are: image."),
        ({"instances": [["a"]]}, "has the shape [1, 1]. Expected [any]"),
        ({"instances": [["a"], ["a", "b"]]}, "differ in length or depth"),
        ({"inputs": "abc"}, "has the shape []"),
        ({"inputs": {"other": ["a"]}}, "Missing named input: image_bytes"),
        ({"signature_name": "two", "instances": [1]}, "must be an object with: a, b"),
        ({"signature_name": "two", "inputs": [1]}, "must be an object with: a, b"),
        ({"signature_name": "pixels", "instances": [[[256, 0]]]}, "outside 0 to 255"),
        ({"signature_name": "pixels", "instances": [[[0.5, 0]]]}, "not of expected type: uint8"),
        ({"signature_name": "pixels", "instances": [[["a", 0]]]}, "not of expected type: uint8"),
        ({"signature_name": "pixels", "instances": [[[1, 2]], [[1]]]}, "differ in length or depth"),
        ({"signature_name": "pixels", "instances": [[[1, 2, 3]]]}, "Expected [any, 1, 2]"),
        ({"signature_name": "total", "instances": [1, 2]}, "inconsistent batch size: [], expecting: 2"),
    ],
)
def test_a_body_that_cannot_be_says_what_was_expected(body: Any, words: str) -> None:
    with pytest.raises(Refused) as refused:
        asked(body)
    assert words in str(refused.value) and refused.value.status == (413 if "1,024" in words else 400)


def test_paths() -> None:
    names = ("run", "model")
    for path in ("/v1/models/run:predict", "/v1/models/model/versions/1:predict", "/v1/MODELS/run:PREDICT"):
        assert route("POST", path, names).action == "predict"
    assert route("GET", "/v1/models/run", names).action == route("GET", "/v1/models/run/versions/1", names).action
    assert route("GET", "/v1/models/model/versions/1/metadata", names).action == "metadata"
    for method, path, status in (
        ("POST", "/v1/models/other:predict", 404),
        ("GET", "/v1/models/other", 404),
        ("POST", "/v1/models/run/versions/2:predict", 404),
        ("POST", "/v1/models/run/versions/11:predict", 404),
        ("POST", "/v1/models/run/labels/stable:predict", 400),
        ("GET", "/v1/models/run:predict", 400),
        ("POST", "/v1/models/run", 400),
        ("PUT", "/v1/models/run:predict", 400),
        ("GET", "/v1/models", 400),
        ("GET", "/v1/models/run/", 400),
        ("POST", "/v1/models/run:predict/x", 400),
    ):
        with pytest.raises(Refused) as refused:
            route(method, path, names)
        assert refused.value.status == status, path


def test_base64_in_each_of_its_forms() -> None:
    data = bytes(range(256))
    plain = base64.b64encode(data).decode("ascii")
    for text in (
        plain,
        plain.rstrip("="),
        plain[:50] + "\r\n" + plain[50:],
        base64.urlsafe_b64encode(data).decode("ascii"),
        "data:image/png;base64," + plain,
        "DATA:;BASE64," + plain,
    ):
        assert decoded_base64(text) == data
    for text in ("###", "data:image/png,abc", "data:image/png;base64", "a", "%41%41", "\u00e9\u00e9"):
        with pytest.raises(ValueError):
            decoded_base64(text)
