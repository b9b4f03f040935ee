"""Requests as bytes that a server should refuse or answer, and survive: mutations of HTTP, JSON, chunks and forms."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.mutate import mutated

HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\n"
REST = "POST /v1/models/model:predict HTTP/1.1\r\nHost: localhost\r\n"
LENGTHS = (
    "-1",
    "+5",
    "0x10",
    "1e3",
    "5, 5",
    "99999999999999999999",
    " ",
    "5 5",
    "\u00b2",
    "1" * 5000,
    "7\r\nContent-Length: 9",
)
CHUNKS = ("zz", "-1", "ffffffffffffffff", "5;" + "x" * 9000, "0" * 9000, "5\n", " 5", "0x5", "")
PATHS = (
    "/../../etc/passwd",
    "//localhost/predict",
    "/%00",
    "/predict%2f..%2f..",
    "/v1/models/%2e%2e:predict",
    "/v1/models/" + "a" * 9000 + ":predict",
    "http://evil.example/predict",
    "*",
    "/v1/models/model/versions/" + "9" * 5000 + ":predict",
    "/\u00ff\ud800",
    "?" * 3000,
    "/predict?evidence=" + "1" * 3000,
)
VALUES: tuple[Any, ...] = (
    None, True, -1, 1e308, 10**400, "", "\ud800", "\u0000", "a" * 5000, [], {}, [[]], {"b64": None}, {"b64": "="},
    {"b64": "data:"}, {"b64": {"b64": ""}}, {"image_bytes": {"b64": []}}, [[[[1]]]], {"": {"": {}}}, "data:;base64,",
)  # fmt: skip


def answer(port: int, sent: bytes, seconds: float = 30) -> tuple[int, float]:
    """(status, seconds) of a request, after which no more is sent.

    The status is 0 if the server hangs up, and -1 if it does not answer in time.
    """
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as one:
        try:
            one.sendall(sent)
            one.shutdown(socket.SHUT_WR)
            head = one.recv(32)
            while one.recv(65536):
                pass
        except TimeoutError:
            return -1, time.monotonic() - begun
        except OSError:
            head = b""
    words = head.split()
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return status, time.monotonic() - begun


def hostile_requests(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(kind, bytes) of `count` requests; the same seed gives the same requests. Some of them are sound."""
    rng = np.random.default_rng(seed)
    kinds: tuple[Callable[[np.random.Generator, bytes], bytes], ...] = (
        _raw, _length, _chunked, _json, _json_bytes, _deep, _form, _path, _image,
    )  # fmt: skip
    for index, (_, image) in enumerate(mutated(count, seed)):
        kind = kinds[index % len(kinds)]
        yield kind.__name__[1:], kind(rng, image)


def _of(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _with_body(head: str, kind: str, body: bytes) -> bytes:
    return f"{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode("utf-8", "replace") + body


def _rows(image: bytes) -> dict[str, Any]:
    return {"instances": [{"b64": base64.b64encode(image).decode("ascii")}]}


def _head(rng: np.random.Generator) -> str:
    return str(_of(rng, (HEAD, REST)))


def _raw(rng: np.random.Generator, image: bytes) -> bytes:
    """A sound request with bytes changed, left out or repeated, mostly in its head."""
    data = bytearray(_with_body(_head(rng), "application/json", json.dumps(_rows(image[:3000])).encode()))
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(min(len(data), 160)))
        way = int(rng.integers(4))
        if way == 0:
            data[at] = int(rng.integers(256))
        elif way == 1:
            del data[at : at + int(rng.integers(1, 9))]
        elif way == 2:
            data[at:at] = data[at : at + int(rng.integers(1, 60))]
        else:
            data[at:at] = _of(rng, (b"\r\n", b"\n", b"\0", b"\r\n ", b": ", b"\xff", b"HTTP/9.9", b"x" * 20_000))
    return bytes(data)


def _length(rng: np.random.Generator, image: bytes) -> bytes:
    more = _of(
        rng, ("", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked, gzip\r\n", "Expect: 100-continue\r\n")
    )
    return f"{_head(rng)}{more}Content-Length: {_of(rng, LENGTHS)}\r\n\r\n".encode("utf-8", "replace") + image[:3000]


def _chunked(rng: np.random.Generator, image: bytes) -> bytes:
    body, rest = bytearray(), image[:3000]
    while rest:
        size = int(rng.integers(1, 900))
        said = _of(rng, CHUNKS) if rng.random() < 0.15 else f"{len(rest[:size]):x}"
        body += said.encode() + b"\r\n" + rest[:size] + _of(rng, (b"\r\n", b"\r\n", b"\r\n", b"\n", b""))
        rest = rest[size:]
    body += _of(rng, (b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"0"))
    return f"{_head(rng)}Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + bytes(body)


def _json(rng: np.random.Generator, image: bytes) -> bytes:
    """JSON of another form: values of other types in any place."""
    asked: dict[str, Any] = _rows(image[:3000])
    for _ in range(int(rng.integers(1, 4))):
        way, value = int(rng.integers(6)), _of(rng, VALUES)
        if way == 0:
            asked["instances"] = value
        elif way == 1:
            asked.setdefault("instances", [])
            asked["instances"] = [*(asked["instances"] if isinstance(asked["instances"], list) else []), value]
        elif way == 2:
            asked["inputs"] = asked.pop("instances", value)
        elif way == 3:
            asked["signature_name"] = _of(rng, ("serve", "serve_float", "serving_default", "", value))
        elif way == 4:
            asked["instances"] = [value] * int(rng.integers(1, 3000))
        else:
            asked[str(value)[:50]] = value
    return _with_body(_head(rng), "application/json", json.dumps(asked).encode())


def _json_bytes(rng: np.random.Generator, image: bytes) -> bytes:
    body = bytearray(json.dumps(_rows(image[:300])).encode())
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(body)))
        body[at : at + int(rng.integers(3))] = _of(
            rng, (b"[", b"{", b'"', b"\\u", b"\xff", b"\0", b"NaN", b"1e999", b",", b"]")
        )
    return _with_body(_head(rng), "application/json", bytes(body))


def _deep(rng: np.random.Generator, image: bytes) -> bytes:
    depth, open_ = int(rng.integers(10, 200_000)), _of(rng, ("[", '{"instances":', '[{"b64":'))
    inner = open_ * (depth // len(open_))
    whole = inner + "1" + "]" * depth if open_ == "[" and rng.random() < 0.5 else inner
    return _with_body(_head(rng), "application/json", f'{{"instances": {whole}}}'.encode())


def _form(rng: np.random.Generator, image: bytes) -> bytes:
    edge = _of(rng, ("x", "x" * 300, '"x"', "", "x y", "\u00e9"))
    body = bytearray()
    for _ in range(int(_of(rng, (1, 2, 80, 2000)))):
        name = _of(
            rng, ('name="a"; filename="a.png"', 'filename="../../a"', "", 'name="a"', 'name="\0"; filename="\r\n"')
        )
        body += f"--{edge}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + image[:200] + b"\r\n"
    body += _of(rng, (f"--{edge}--\r\n", "", f"--{edge}", "\r\n" * 3000)).encode()
    return _with_body(HEAD, f"multipart/form-data; boundary={edge}", bytes(body))


def _path(rng: np.random.Generator, image: bytes) -> bytes:
    method = _of(rng, ("GET", "POST", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT", "get", "\u00e9", "A" * 2000))
    host = _of(rng, ("localhost", "localhost", "evil.example", "", "a" * 3000, "localhost\r\nHost: evil.example"))
    head = f"{method} {_of(rng, PATHS)} HTTP/{_of(rng, ('1.1', '1.0', '2', '0.9'))}\r\nHost: {host}\r\n"
    return _with_body(head, "image/png", image[:500])


def _image(rng: np.random.Generator, image: bytes) -> bytes:
    return _with_body(HEAD, "image/png", image)
