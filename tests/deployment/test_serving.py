"""The SavedModel behind TensorFlow Serving's interfaces: a server in a process with TensorFlow only."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.broken import jpeg_of_size, png_header
from tests.mutate import good, mutated, peak_bytes
from tlkit import predict

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
LIMIT = 2 * 2**30


class Server:
    """The loopback server's process and ports."""

    def __init__(self, saved_model: Path) -> None:
        program = ROOT / "tests" / "loopback_serving.py"
        self.process = subprocess.Popen(
            [sys.executable, str(program), str(saved_model)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.ports = json.loads(self.process.stdout.readline())

    def rest(self, body: Any) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['rest']}/v1/models/classifier:predict", data=json.dumps(body).encode()
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def grpc(self, images: list[bytes], signature: str = "serving_default") -> dict[str, np.ndarray]:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = "pictures", signature
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images, shape=[len(images)]))
        options = [("grpc.max_send_message_length", 256 * 2**20)]
        with grpc.insecure_channel(f"127.0.0.1:{self.ports['grpc']}", options=options) as channel:
            reply = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=120)
        return {name: tf.make_ndarray(value) for name, value in reply.outputs.items()}


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[Server]:
    made = Server(trained / "saved_model")
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.fixture(scope="module")
def files(trained: Path) -> list[Path]:
    return sorted((trained.parent / "data").rglob("*.png"))[::7]


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode("ascii")}


def test_rest_and_grpc_answer_what_predict_answers(server: Server, trained: Path, files: list[Path]) -> None:
    expected = predict(trained, files)
    data = [file.read_bytes() for file in files]
    status, by_row = server.rest(
        {"signature_name": "serving_default", "instances": [{"image_bytes": b64(d)} for d in data]}
    )
    assert status == 200
    assert [row["class"] for row in by_row["predictions"]] == list(expected["prediction"])
    assert np.allclose([row["probability"] for row in by_row["predictions"]], expected["probability"], atol=1e-6)
    assert server.rest({"instances": [b64(d) for d in data]})[1] == by_row, "one input needs no name"
    by_column = server.rest({"inputs": {"image_bytes": [b64(d) for d in data]}})[1]["outputs"]
    assert by_column["class"] == list(expected["prediction"])
    by_grpc = server.grpc(data)
    assert [name.decode() for name in by_grpc["class"]] == list(expected["prediction"])
    assert np.allclose(by_grpc["probability"], expected["probability"], atol=1e-6)
    assert by_grpc["classes"].shape == by_grpc["probabilities"].shape


def test_junk_in_a_batch_fails_alone_and_says_why(server: Server, files: list[Path]) -> None:
    sound = files[0].read_bytes()
    batch = [
        sound,
        b"no picture",
        sound[: len(sound) // 2],
        png_header(30_000, 30_000),
        jpeg_of_size(60_000, 60_000),
        b"",
        sound,
    ]
    _, reply = server.rest({"instances": [b64(d) for d in batch]})
    rows = reply["predictions"]
    assert [row["ok"] for row in rows] == [True, False, False, False, False, False, True]
    assert rows[0]["class"] == rows[-1]["class"] != "" and all(row["class"] == "" for row in rows[1:-1])
    assert "not a JPEG" in rows[1]["problem"] and "truncated" in rows[2]["problem"]
    assert "30000 x 30000 pixels; at most 50 megapixels" in rows[3]["problem"]
    assert "60000 x 60000 pixels; at most 200 megapixels" in rows[4]["problem"]


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.long)])
def test_mutated_images_neither_crash_it_nor_fill_memory(count: int, server: Server, files: list[Path]) -> None:
    sound, refused, kinds = files[0].read_bytes(), 0, set()
    alone = server.grpc([sound])
    rng, batch, sent = np.random.default_rng(1), [], 0
    everything = [*mutated(count - 1), ("50 MB", b"\x89PNG\r\n\x1a\n" + bytes(50_000_000))]
    for place, (kind, data) in enumerate(everything):
        batch.append(data)
        kinds.add(kind)
        if len(batch) < 15 and place + 1 < len(everything):
            continue
        at = int(rng.integers(0, len(batch) + 1))
        reply = server.grpc([*batch[:at], sound, *batch[at:]])
        assert reply["ok"][at] and reply["class"][at] == alone["class"][0]
        assert np.allclose(reply["probabilities"][at], alone["probabilities"][0], atol=1e-6)
        assert all(bool(problem) != ok for problem, ok in zip(reply["problem"], reply["ok"], strict=True))
        refused += int((~reply["ok"]).sum())
        sent, batch = sent + len(batch), []
    assert sent == count and refused > 0.4 * count and len(kinds) == 9, "most of them are really broken"
    assert server.process.poll() is None
    print(
        f"{sent} images, {refused} refused, most memory {peak_bytes(server.process.pid) / 2**30:.2f} GiB"
    )  # shown by -rP
    assert peak_bytes(server.process.pid) < LIMIT
    for wrong in (
        {"instances": [1, 2]},
        {"instances": [[good(1).hex()]]},
        {"inputs": {"other": 1}},
        {},
        [],
        {"instances": []},
    ):
        assert server.rest(wrong)[0] in (200, 400), "an answer, whatever it is"
    assert server.grpc([sound])["ok"].all()


def test_the_example_and_the_documented_client_get_answers(server: Server, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "junk.png").write_bytes(b"junk")
    url = f"http://127.0.0.1:{server.ports['rest']}/v1/models/classifier:predict"
    names = [str(files[0]), str(tmp_path / "junk.png")]
    example = [sys.executable, str(ROOT / "examples" / "serving_client.py"), url, *names]
    shown = [subprocess.run(example, capture_output=True, text=True, check=True).stdout]
    text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    client = next(c for c in re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S) if "urllib" in c)
    assert len([line for line in client.splitlines() if line]) <= 10
    for written, real in (
        ('["new/a.jpg", "new/b.jpg"]', repr(names)),
        ("http://localhost:8501/v1/models/classifier:predict", url),
    ):
        assert written in client
        client = client.replace(written, real)
    program = [sys.executable, "-W", "ignore::ResourceWarning", "-c", client]
    shown.append(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    for text in shown:
        first, second = text.splitlines()
        assert first.startswith(f"{files[0]} {files[0].parent.name} ") and "junk.png not a JPEG" in second


def test_an_unknown_signature_is_an_error(server: Server) -> None:
    import grpc

    with pytest.raises(grpc.RpcError, match="no signature other"):
        server.grpc([good(1)], signature="other")
