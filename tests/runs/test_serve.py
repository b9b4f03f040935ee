"""`tlkit serve`: page, endpoint and refusals; a real browser, and a thousand broken requests to a real server."""

from __future__ import annotations

import base64
import contextlib
import gc
import http.client
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.broken import encode, png_header
from tests.conftest import draw
from tests.hostile_requests import answer, hostile_requests
from tests.mutate import bomb, good, mutated, peak_bytes
from tests.tiny import tiny_file
from tlkit import RunError, build_classifier, predict
from tlkit.cli.main import main
from tlkit.deployment import work
from tlkit.deployment.formats import write_target
from tlkit.deployment.guard import Access
from tlkit.deployment.requests import MAX_IMAGES, MAX_REQUEST_BYTES
from tlkit.deployment.server import Server
from tlkit.errors import SpecError
from tlkit.evaluation.saliency import ClassActivationMaps
from tlkit.runs.serve import make_app, serve

SCRIPT = "<script>alert(1)</script>"  # the name of a class


@pytest.fixture(scope="module")
def client(trained: Path) -> Any:
    return make_app(trained).test_client()


@pytest.fixture(scope="module")
def files(trained: Path) -> list[Path]:
    return sorted((trained.parent / "data").rglob("*.png"))[::11]


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode("ascii")}


@pytest.mark.slow
def test_every_way_to_send_an_image_gives_what_predict_gives(client: Any, trained: Path, files: list[Path]) -> None:
    expected = predict(trained, files)
    data = [file.read_bytes() for file in files]
    by_json = client.post("/predict", json={"instances": [b64(d) for d in data]}).json["predictions"]
    assert [one["class"] for one in by_json] == list(expected["prediction"])
    assert np.allclose([one["probability"] for one in by_json], expected["probability"], atol=1e-6)
    assert all(sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5) for one in by_json)
    named = client.post("/predict", json={"instances": [{"image_bytes": b64(d)} for d in data]}).json["predictions"]
    form = {"image": [(io.BytesIO(d), f"{i}.png") for i, d in enumerate(data)]}
    by_form = client.post("/predict", data=form, content_type="multipart/form-data").json["predictions"]
    assert named == by_json == by_form
    for kind in ("image/png", "application/octet-stream", "application/x-www-form-urlencoded", None):
        assert client.post("/predict", data=data[0], content_type=kind).json["predictions"] == by_json[:1]


def test_without_a_threshold_no_answer_is_sure_or_unsure(client: Any, files: list[Path]) -> None:
    sent = {"instances": [b64(files[0].read_bytes()), b64(b"junk")]}
    sound, junk = client.post("/predict", json=sent).json["predictions"]
    assert sound["ok"] and sound["sure"] is None and sound["class"] == files[0].parent.name
    assert sound["class"] == max(sound["probabilities"], key=sound["probabilities"].get)
    assert not junk["ok"] and junk["class"] == ""


def test_a_bad_item_does_not_fail_the_others(client: Any, files: list[Path]) -> None:
    sound = files[0].read_bytes()
    bad: list[Any] = [b64(b"junk"), b64(png_header(30_000, 30_000)), {"b64": "###"}, {"b64": 3}, 7, b64(b"")]
    rows = client.post("/predict", json={"instances": [b64(sound), *bad, b64(sound)]}).json["predictions"]
    assert [row["ok"] for row in rows] == [True, *[False] * len(bad), True] and rows[0] == rows[-1]
    assert all(row["problem"] and row["class"] == "" and row["probabilities"] == {} for row in rows[1:-1])
    assert "at most 50 megapixels" in rows[2]["problem"] and "not base64" in rows[3]["problem"]


@pytest.mark.slow
def test_evidence_is_a_picture_of_where_it_lies(client: Any, files: list[Path]) -> None:
    row = client.post("/predict?evidence=1", data=files[0].read_bytes(), content_type="image/png").json["predictions"][
        0
    ]
    kind, encoded = row["evidence"].split(",", 1)
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert kind == "data:image/png;base64" and picture.size == (384, 384)
    spread = np.ptp(np.asarray(picture).astype(int), axis=-1)
    picture.close()
    assert spread.max() > 40, "the map is coloured, the picture under it grey"
    assert "evidence" not in client.post("/predict", data=files[0].read_bytes()).json["predictions"][0]


def test_evidence_is_empty_where_no_position_supports_the_answer(
    client: Any, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: ClassActivationMaps, images: np.ndarray, classes: Any) -> Any:
        return np.zeros((len(images), 2, 2), "float32"), None

    monkeypatch.setattr(ClassActivationMaps, "__call__", nothing)
    (row,) = client.post("/predict?evidence=1", data=files[0].read_bytes()).json["predictions"]
    assert row["ok"] and row["evidence"] == ""


@pytest.mark.slow
def test_a_run_without_feature_maps_is_explained_by_occlusion(tmp_path: Path, folder: Path) -> None:
    import keras

    from tlkit import Recipe, Stage, finetune

    network = keras.saving.load_model(tiny_file())
    keras.Model(network.input, keras.layers.GlobalAveragePooling2D()(network.output)).save(tmp_path / "vector.keras")
    head = Recipe("head", stages=(Stage(1, 1e-3, solver="logistic"),))
    run = finetune(folder, backbone=str(tmp_path / "vector.keras"), recipe=head, out=tmp_path / "run")
    row = make_app(run.folder).test_client().post("/predict?evidence=1", data=good(1)).json["predictions"][0]
    assert row["evidence"].startswith("data:image/png;base64,")


@pytest.mark.slow
def test_an_export_is_served_without_evidence_and_says_unsure(small: Path) -> None:
    row = make_app(small).test_client().post("/predict?evidence=1", data=good(1)).json["predictions"][0]
    assert row["ok"] and not row["sure"] and row["class"] == "unsure" and "evidence" not in row
    assert set(row["probabilities"]) == {SCRIPT, "b"} and row["probability"] == max(row["probabilities"].values())


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "image/png", 400, "The request is empty"),
        (b"{", "application/json", 400, "is not JSON"),
        (b"[" * 100_000, "application/json", 400, "is not JSON"),
        (b"[1]", "application/json", 400, "has no instances"),
        (b'{"instances": []}', "application/json", 400, "has no instances"),
        (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x", 400, "holds no file"),
        (b"junk", "multipart/form-data", 400, "holds no file"),
        (b"a=b", "text/html", 415, "holds text/html"),
        (json.dumps({"instances": [1] * (MAX_IMAGES + 1)}).encode(), "application/json", 413, f"Expected {MAX_IMAGES}"),
        (bytes(MAX_REQUEST_BYTES + 1), "image/png", 413, "larger than 32 MiB"),
    ],
)
def test_a_request_that_cannot_be_says_what_was_expected(
    client: Any, body: bytes, kind: str, status: int, words: str
) -> None:
    reply = client.post("/predict", data=body, content_type=kind)
    assert reply.status_code == status and words in reply.json["error"]


def test_other_paths_methods_and_names_are_refused(client: Any, trained: Path) -> None:
    assert client.get("/predict").status_code == 405 and client.get("/etc/passwd").status_code == 404
    assert "POST /predict" in client.put("/predict").json["error"]
    assert client.get("/", headers={"Host": "pictures.example"}).status_code == 403, "DNS rebinding"
    assert client.get("/", headers={"Host": "localhost:8000"}).status_code == 200


def test_the_page_brings_everything_and_asks_nobody_else(client: Any) -> None:
    reply = client.get("/")
    policy, html = reply.headers["Content-Security-Policy"], reply.text
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
    assert nonce and f'<script nonce="{nonce[1]}">' in html and "default-src 'none'" in policy
    assert "blue, green, red" in html and not re.search(r'(src|href)="', html)
    assert client.get("/").headers["Content-Security-Policy"] != policy, "a nonce serves once"


@pytest.mark.slow
def test_a_class_name_is_text_not_markup(small: Path) -> None:
    assert SCRIPT not in make_app(small).test_client().get("/").text


@pytest.mark.slow
def test_what_cannot_be_served_says_so(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such run"):
        serve(tmp_path / "nothing")
    with pytest.raises(SpecError, match="`port` is 99999"):
        serve(trained, port=99_999)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RunError, match=r"Cannot listen at 127.0.0.1, port \d+: .* another `port`"):
            serve(trained, port=taken.getsockname()[1])


@contextlib.contextmanager
def running(model: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`tlkit serve` as a person starts it, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tlkit", "serve", str(model), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
        # a shell's background job ignores Ctrl-C, and so would everything that it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
        assert found
        yield process, int(found[1])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ask(port: int, body: bytes, kind: str, length: int | None = None) -> tuple[int, Any]:
    """A POST; length: what the header claims. (0, None) where the server hangs up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": kind, "Content-Length": str(len(body) if length is None else length)}
    try:
        connection.request("POST", "/predict", body, headers)
        if length is not None:
            connection.sock.shutdown(socket.SHUT_WR)
        reply = connection.getresponse()
        text = reply.read()
        return reply.status, json.loads(text) if reply.getheader("Content-Type", "").startswith(
            "application/json"
        ) else text
    except (http.client.HTTPException, ConnectionError):
        return 0, None
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("count", [160, pytest.param(1000, marks=pytest.mark.long)])
def test_broken_requests_leave_it_answering(count: int, trained: Path, files: list[Path]) -> None:
    sound = files[0].read_bytes()
    expected = predict(trained, files[:1])["prediction"][0]
    rng = np.random.default_rng(2)
    with running(trained) as (process, port):
        statuses: dict[int, int] = {}
        for place, (kind, data) in enumerate(mutated(count, seed=7)):
            way = place % 8
            if way == 0:  # beside a good one in a form's place: as JSON
                status, reply = ask(
                    port, json.dumps({"instances": [b64(data), b64(sound)]}).encode(), "application/json"
                )
                assert status == 200 and reply["predictions"][1]["class"] == expected, kind
            elif way == 1:
                whole = json.dumps({"instances": [b64(data)]}).encode()
                status, _ = ask(port, whole[: int(rng.integers(len(whole)))], "application/json")
            elif way == 2:
                status, _ = ask(
                    port,
                    json.dumps([{"b64": 1}, {"instances": {"b64": kind}}, place, None][place // 8 % 4]).encode(),
                    "application/json",
                )
            elif way == 3:
                body = (
                    b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'
                    + data
                    + b"\r\n--x--\r\n"
                )
                status, _ = ask(port, body[: int(rng.integers(1, len(body) + 1))], "multipart/form-data; boundary=x")
            elif way == 4:
                status, _ = ask(
                    port,
                    data,
                    ("text/plain", "video/mp4", "x" * 500, "image/\u00e9".encode().decode("latin-1"))[place // 8 % 4],
                )
            elif way == 5 and data:
                status, _ = ask(port, data, "image/png", length=len(data) + 10)  # cut off on the way
            else:
                status, _ = ask(port, data, "application/octet-stream")
            statuses[status] = statuses.get(status, 0) + 1
            if place % 50 == 49:
                status, reply = ask(port, sound, "image/png")
                assert status == 200 and reply["predictions"][0]["class"] == expected
        huge = bytes(50_000_000)
        assert ask(port, huge, "image/png")[0] in (413, 0)
        assert ask(port, b"", "image/png", length=10**12)[0] in (413, 0)
        status, reply = ask(port, sound, "image/png")
        assert status == 200 and reply["predictions"][0]["class"] == expected
        print(f"{statuses}, most memory {peak_bytes(process.pid) / 2**30:.2f} GiB")  # shown by -rP
        assert process.poll() is None and peak_bytes(process.pid) < 2 * 2**30
        assert (
            set(statuses) <= {0, 200, 400, 413, 415, 422}
            and statuses[200] + statuses[422] > 0.3 * count
            and statuses[400] > 0.1 * count
        ), statuses
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 1, 130, -signal.SIGINT)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")
@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.long)])
def test_the_page_in_a_browser(trained: Path, files: list[Path], tmp_path: Path, width: int) -> None:
    from playwright.sync_api import sync_playwright

    (tmp_path / "words.jpg").write_bytes(b"just some words")
    expected = predict(trained, files[:1])["prediction"][0]
    words, requests = [], []
    with running(trained) as (_, port), sync_playwright() as tool:
        browser = tool.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if width > 500 else "light"
        )
        page.on("console", lambda message: words.append(message.text))
        page.on("pageerror", lambda error: words.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/")
        page.set_input_files("#file", [str(files[0]), str(tmp_path / "words.jpg")])
        page.wait_for_selector("article ol")
        page.wait_for_selector("article .problem")
        assert page.locator("article h2").inner_text() == expected
        assert page.locator("article progress").count() == 3
        assert page.locator("article .problem").inner_text().startswith("not-an-image")
        assert all(
            page.evaluate("Promise.all([...document.images].map(one => one.decode().then(() => one.naturalWidth)))")
        )
        assert page.locator("article img").count() == 2, "the picture and its evidence; what is no picture is not shown"
        assert page.evaluate("[...document.images].every(one => one.alt)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.uncheck("#evidence")
        page.dispatch_event("#drop", "dragover", {"dataTransfer": page.evaluate_handle("new DataTransfer()")})
        page.set_input_files("#file", str(files[0]))
        page.locator("article ol").nth(
            1
        ).wait_for()  # a function to wait for would be evaluated, which the page forbids
        assert page.locator("article img").count() == 3
        page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
        browser.close()
    # the browser itself notes the status of the answer about words.jpg
    assert not [line for line in words if "blob:" not in line and "422" not in line], words
    ours = f"http://127.0.0.1:{port}/"
    assert all(url.startswith((ours, "blob:" + ours, "data:")) for url in requests), requests


# -- TensorFlow Serving's REST interface ------------------------------------------------------------------------


class Over:
    """`requests` as a client uses it, but to an application in this process."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def post(self, url: str, data: str | bytes, headers: dict[str, str] | None = None) -> Any:
        reply = self.client.post(url.removeprefix("http://localhost:8501"), data=data, headers=headers)
        return type(
            "Reply", (), {"text": reply.text, "status_code": reply.status_code, "json": lambda self: reply.json}
        )()


@pytest.mark.slow
def test_clients_written_for_tensorflow_serving_pass_unchanged(client: Any, trained: Path, files: list[Path]) -> None:
    expected, requests = predict(trained, files), Over(client)
    # as in https://www.tensorflow.org/tfx/tutorials/serving/rest_simple
    data = json.dumps({"signature_name": "serving_default", "instances": [b64(file.read_bytes()) for file in files]})
    headers = {"content-type": "application/json"}
    json_response = requests.post("http://localhost:8501/v1/models/classifier:predict", data=data, headers=headers)
    predictions = json.loads(json_response.text)["predictions"]
    assert [row["class"] for row in predictions] == list(expected["prediction"])
    assert np.allclose([max(row["probabilities"]) for row in predictions], expected["probability"], atol=1e-6)
    # as tensorflow_serving/example/resnet_client.py
    jpeg_bytes = base64.b64encode(files[0].read_bytes()).decode("utf-8")
    predict_request = f'{{"instances" : [{{"b64": "{jpeg_bytes}"}}]}}'
    response = requests.post("http://localhost:8501/v1/models/classifier/versions/1:predict", data=predict_request)
    (prediction,) = response.json()["predictions"]
    assert prediction == predictions[0] or np.allclose(
        prediction["probabilities"], predictions[0]["probabilities"], atol=1e-6
    )
    assert prediction["classes"][int(np.argmax(prediction["probabilities"]))] == prediction["class"]


@pytest.mark.slow
def test_it_answers_what_the_savedmodel_answers(client: Any, trained: Path, files: list[Path]) -> None:
    import tensorflow as tf

    data = [*(file.read_bytes() for file in files), b"no picture", png_header(30_000, 30_000), b""]
    direct = tf.saved_model.load(str(trained / "saved_model")).signatures["serving_default"]
    outputs = {name: value.numpy() for name, value in direct(image_bytes=tf.constant(data)).items()}
    reply = client.post("/v1/models/classifier:predict", data=json.dumps({"inputs": [b64(one) for one in data]}))
    assert reply.status_code == 200 and set(reply.json["outputs"]) == set(outputs)
    for name, value in outputs.items():
        found = np.array(reply.json["outputs"][name])
        if value.dtype.kind == "f":
            assert np.allclose(found, value, atol=1e-6), name
        else:
            text = np.vectorize(lambda one: one.decode("utf-8") if isinstance(one, bytes) else one)(value)
            assert (found == text).all() and found.shape == value.shape, name
    pixels = np.random.default_rng(1).integers(0, 256, (2, 40, 50, 3), dtype="uint8")
    by_pixels = client.post(
        "/v1/models/model:predict", data=json.dumps({"signature_name": "serve", "instances": pixels.tolist()})
    )
    direct = tf.saved_model.load(str(trained / "saved_model")).signatures["serve"](image=tf.constant(pixels))
    found = [row["probabilities"] for row in by_pixels.json["predictions"]]
    assert np.allclose(found, direct["probabilities"].numpy(), atol=1e-6)


def test_status_and_metadata_are_those_of_the_protocol(client: Any, trained: Path) -> None:
    from google.protobuf import json_format
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

    status = json_format.Parse(
        client.get(f"/v1/models/{trained.name}").text, get_model_status_pb2.GetModelStatusResponse()
    )
    (version,) = status.model_version_status
    assert version.version == 1 and version.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    body = client.get("/v1/models/classifier/metadata").json
    assert body["model_spec"] == {"name": "classifier", "signature_name": "", "version": "1"}
    read = json_format.ParseDict(body["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap())
    stored = SavedModel()
    stored.ParseFromString((trained / "saved_model" / "saved_model.pb").read_bytes())
    assert "serving_default" in read.signature_def
    for name, one in read.signature_def.items():
        assert one == stored.meta_graphs[0].signature_def[name]


@pytest.mark.slow
def test_what_the_savedmodel_does_not_decode_is_converted(client: Any, files: list[Path]) -> None:
    with Image.open(files[0]) as image:
        stream = io.BytesIO()
        image.save(stream, "TIFF")
    rows = [b64(stream.getvalue()), b64(files[0].read_bytes())]
    tiff, png = client.post("/v1/models/model:predict", data=json.dumps({"instances": rows})).json["predictions"]
    assert tiff["ok"] and np.allclose(tiff["probabilities"], png["probabilities"], atol=1e-6)


@pytest.mark.slow
def test_an_export_that_takes_pixels_has_the_same_interface(tmp_path: Path) -> None:
    model = build_classifier(tiny_file(), 3, image_size=32)
    folder = write_target(model, ["a", "b", "c"], tmp_path / "out", "keras", unsure_below=0.99)
    over = make_app(folder, name="mine").test_client()
    body = json.dumps({"instances": [b64(good(1)), b64(b"junk")]})
    sound, junk = over.post("/v1/models/mine:predict", data=body).json["predictions"]
    assert sound["ok"] and not sound["sure"] and sound["class"] == "unsure" and sound["classes"] == ["a", "b", "c"]
    assert sum(sound["probabilities"]) == pytest.approx(1, abs=1e-5) and sound["problem"] == ""
    assert not junk["ok"] and junk["class"] == "" and junk["probabilities"] == [0, 0, 0] and junk["problem"]
    assert over.post("/v1/models/mine:predict", data='{"inputs": []}').json["outputs"]["classes"] == []
    assert "image_bytes" in str(over.get("/v1/models/mine/metadata").json)
    unknown = over.post("/v1/models/model:predict", data=body)
    assert unknown.status_code == 404 and "mine" in unknown.json["error"], "a given name is the only one"
    with pytest.raises(SpecError, match="`name` is 'a/b'"):
        make_app(folder, name="a/b")


def test_junk_alone_is_422_and_its_row_is_there(client: Any) -> None:
    one = client.post("/predict", data=b"junk", content_type="image/png")
    assert one.status_code == 422 and one.json["error"] == one.json["predictions"][0]["problem"]
    both = client.post("/predict", json={"instances": [b64(b"junk"), b64(b"")]})
    assert (
        both.status_code == 422 and "None of the 2 images" in both.json["error"] and len(both.json["predictions"]) == 2
    )


def test_json_and_data_urls_are_known_without_a_header(client: Any, files: list[Path]) -> None:
    data = files[0].read_bytes()
    url = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    expected = client.post("/predict", data=data, content_type="image/png").json
    for rows in ([b64(data)], [{"b64": url}], [url], [{"image_bytes": url}]):
        for kind in ("application/x-www-form-urlencoded", "text/plain", None):
            sent = json.dumps({"instances": rows})
            assert client.post("/predict", data=sent, content_type=kind).json == expected
    assert client.post("/predict", data=json.dumps({"inputs": {"image_bytes": [b64(data)]}})).json == expected
    assert client.post("/predict", data=url, content_type="text/plain").json == expected


def test_health_and_metrics(client: Any, files: list[Path]) -> None:
    health = client.get("/health")
    assert health.status_code == 200 and health.json["status"] == "ok"
    before = client.get("/metrics").text
    client.post("/predict", data=files[0].read_bytes())
    client.post("/predict", data=b"junk")

    def count(text: str, name: str) -> int:
        return int(next((line.split()[1] for line in text.splitlines() if line.startswith(name)), "0"))

    after = client.get("/metrics").text
    for name in ('tlkit_images_total{outcome="answered"}', 'tlkit_images_total{outcome="unreadable"}'):
        assert count(after, name) == count(before, name) + 1
    name = 'tlkit_requests_total{endpoint="predict",status="422"}'
    assert count(after, name) == count(before, name) + 1


# -- who may ask --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that opens quickly."""
    model = build_classifier(tiny_file(), 2, image_size=32)
    return write_target(model, [SCRIPT, "b"], tmp_path_factory.mktemp("small") / "out", "keras", unsure_below=0.99)


def test_other_sites_may_not_ask_unless_allowed(small: Path) -> None:
    closed = make_app(small).test_client()
    body = json.dumps({"instances": [b64(good(1))]})
    for path in ("/predict", "/v1/models/model:predict"):
        assert closed.post(path, data=body, headers={"Origin": "http://evil.example"}).status_code == 403
        assert closed.post(path, data=body, headers={"Origin": "null"}).status_code == 403
        assert closed.post(path, data=body, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        own = closed.post(path, data=body, headers={"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"})
        assert own.status_code == 200 and "Access-Control-Allow-Origin" not in own.headers
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert closed.options("/predict", headers=asked).status_code == 403
    opened = make_app(small, access=Access(origins=("https://page.example",))).test_client()
    first = opened.options("/predict", headers=asked)
    assert first.status_code == 204 and first.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert "Content-Type" in first.headers["Access-Control-Allow-Headers"]
    reply = opened.post("/predict", data=body, headers=asked)
    assert reply.status_code == 200 and reply.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert opened.post("/predict", data=body, headers={"Origin": "https://other.example"}).status_code == 403
    anyone = make_app(small, access=Access(origins=("*",))).test_client()
    assert anyone.post("/predict", data=body, headers={"Origin": "https://other.example"}).status_code == 200


def test_a_token_is_asked_for_everywhere_but_at_health(small: Path) -> None:
    over = make_app(small, access=Access(host="0.0.0.0", token="secret")).test_client()
    body = json.dumps({"instances": [b64(good(1))]})
    for path in ("/predict", "/v1/models/model:predict"):
        assert over.post(path, data=body).status_code == 401
        assert over.post(path, data=body, headers={"Authorization": "Bearer other"}).status_code == 401
        assert over.post(path, data=body, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert (
        over.get("/").status_code == over.get("/metrics").status_code == over.get("/v1/models/model").status_code == 401
    )
    assert over.get("/?token=secret").status_code == 200 and over.get("/?token=s\u00e9cret").status_code == 401
    assert over.get("/metrics?token=secret").status_code == 401, "an address is written to logs"
    assert over.get("/health").status_code == 200
    assert "token" in over.get("/").json["error"] and over.get("/").headers["WWW-Authenticate"] == "Bearer"


def test_an_origin_a_name_or_a_token_that_is_none_is_an_error(small: Path) -> None:
    for origin in ("page.example", "https://page.example/path", ""):
        with pytest.raises(SpecError, match="`allow_origin` is"):
            serve(small, allow_origin=[origin])
    for name in ("a.example:80", "https://a.example", ""):
        with pytest.raises(SpecError, match="`allow_host` is"):
            serve(small, allow_host=[name])
    for token in ("two words", "s\u00e9cret", "a\n"):
        with pytest.raises(SpecError, match="`token` has"):
            serve(small, token=token)


@pytest.mark.parametrize(
    ("access", "allowed", "refused"),
    [
        (Access(), "localhost 127.0.0.1:8000 [::1]:8000 LOCALHOST", "evil.example 127.0.0.1.evil.example 192.0.2.1"),
        (Access(names=("a.example",)), "a.example A.Example:443 localhost", "b.example evil.a.example"),
        (
            Access(host="0.0.0.0"),
            f"192.0.2.1 [2001:db8::1]:8000 [2001:db8::1] localhost {socket.gethostname()}:8000",
            "evil.example 192.0.2.1.evil.example",
        ),
        (Access(host="0.0.0.0", names=("a.example",)), "a.example 192.0.2.1", "evil.example"),
        (Access(host="0.0.0.0", names=("*",)), "anything.example", ""),
        (Access(host="0.0.0.0", token="secret"), "anything.example", ""),
    ],
    ids=("loopback", "loopback with a name", "all", "all with a name", "any name", "with a token"),
)
def test_a_foreign_name_is_refused_against_dns_rebinding(
    small: Path, access: Access, allowed: str, refused: str
) -> None:
    client = make_app(small, access=access).test_client()
    headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
    for name in allowed.split():
        assert client.get("/metrics", headers={"Host": name, **headers}).status_code == 200, name
    for name in refused.split():
        reply = client.get("/metrics", headers={"Host": name})
        assert reply.status_code == 403 and "`allow_host`" in reply.json["error"], name


@pytest.fixture(scope="module")
def port(small: Path) -> Iterator[int]:
    """A server in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(
        make_app(small), listening, 2 * MAX_REQUEST_BYTES, dropped=lambda: None, refused=lambda status: None
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield int(listening.getsockname()[1])
    server.stop()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.Spooled:ResourceWarning")  # Werkzeug's, of broken forms
@pytest.mark.parametrize(
    "count",
    [9, pytest.param(90, marks=pytest.mark.slow), pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.long])],
)
def test_hostile_requests_are_refused_or_answered(count: int, port: int) -> None:
    statuses: dict[int, int] = {}
    for kind, sent in hostile_requests(count, seed=3):
        status, seconds = answer(port, sent)
        assert status not in (-1, 500) and seconds < 10, (kind, status, seconds, sent[:300])
        statuses[status] = statuses.get(status, 0) + 1
    assert statuses[400] > 0.3 * count and statuses[422] > 0.03 * count, statuses
    assert ask(port, good(1), "image/png")[0] == 200
    gc.collect()


def test_a_token_may_come_from_a_file(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr("tlkit.runs.serve.serve", lambda model, *, token, **others: given.append(token))
    file = tmp_path / "token"
    file.write_text("secret\n")
    assert CliRunner().invoke(main, ["serve", str(small), "--token-file", str(file)]).exit_code == 0
    assert given == ["secret"]
    file.write_text("\n")
    for one in (file, tmp_path / "none", tmp_path):
        result = CliRunner().invoke(main, ["serve", str(small), "--token-file", str(one)])
        assert result.exit_code == 1 and str(one) in result.output and "Expected a file of one line" in result.output
    assert given == ["secret"], "an empty token would ask for none"


# -- what a request may cost ----------------------------------------------------------------------------------------


def test_images_of_too_many_pixels_together_are_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_PIXELS_OF_REQUEST", 10_000)
    client = make_app(small).test_client()
    image = encode(draw((9, 9, 9), 1, 70), "PNG")
    for path in ("/predict", "/v1/models/model:predict"):
        for count, status in ((2, 200), (3, 413)):
            reply = client.post(path, json={"instances": [b64(image)] * count})
            assert reply.status_code == status, reply.json
        assert "Send fewer" in reply.json["error"]


@pytest.mark.slow
def test_conversions_have_an_end_and_few_wait_for_them(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_app(small).test_client()
    image = encode(draw((9, 9, 9), 1, 70), "TIFF")
    bodies = {"/predict": image, "/v1/models/model:predict": json.dumps({"instances": [b64(image)]})}
    for path, body in bodies.items():
        assert client.post(path, data=body).status_code == 200
    monkeypatch.setattr(work, "CONVERTING_SECONDS", -1)
    for path, body in bodies.items():
        reply = client.post(path, data=body)
        assert reply.status_code == 413 and "Converting" in reply.json["error"]
    monkeypatch.setattr(work, "CONVERTING_SECONDS", 60)
    monkeypatch.setattr(work, "CONVERTING", 0)
    client = make_app(small).test_client()
    for path, body in bodies.items():
        reply = client.post(path, data=body)
        assert reply.status_code == 503 and int(reply.headers["Retry-After"]) > 0
    assert client.post("/predict", data=good(1)).status_code == 200, "what needs none is answered"


def test_a_slow_conversion_does_not_keep_others_waiting(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, begun, go_on = make_app(small), threading.Event(), threading.Event()

    def slow(data: bytes) -> bytes:
        begun.set()
        assert go_on.wait(20)
        return good(1)

    monkeypatch.setattr(work, "convert", slow)
    statuses: list[int] = []
    image = encode(draw((9, 9, 9), 1, 70), "TIFF")
    one = threading.Thread(target=lambda: statuses.append(app.test_client().post("/predict", data=image).status_code))
    one.start()
    assert begun.wait(20)
    assert app.test_client().post("/predict", data=good(1)).status_code == 200 and not statuses
    go_on.set()
    one.join(20)
    assert statuses == [200]


def test_junk_of_jpeg_padding_takes_no_time(small: Path) -> None:
    """64 such files once took 141 seconds, in which nothing else was answered."""
    rows = [b64(b"\xff\xd8" + b"\xff" * 1100)] * MAX_IMAGES
    begun = time.process_time()
    reply = make_app(small).test_client().post("/predict", json={"instances": rows})
    assert reply.status_code == 422 and len(reply.json["predictions"]) == MAX_IMAGES
    assert time.process_time() - begun < 5


def test_pieces_are_small_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PIXELS_AT_ONCE", 10_000)
    sizes = [50, 50, 50, 200, 50] + [30] * 12
    files = [encode(draw((9, 9, 9), 1, size), "PNG") for size in sizes] + [b"junk"]
    pieces = list(work.Allowance(work.Converter()).pieces(files))
    assert [one.index for piece in pieces for one in piece] == list(range(len(files)))
    assert [len(piece) for piece in pieces] == [3, 1, 8, 6] and pieces[-1][-1].problem.startswith("not-an-image")


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "left"), [([signal.SIGTERM], 0), ([signal.SIGINT], 0), ([signal.SIGTERM] * 2, 1)])
def test_a_signal_ends_it_once_what_is_in_hand_is_answered(
    small: Path, signals: list[signal.Signals], left: int
) -> None:
    with running(small) as (process, port):
        assert ask(port, good(1), "image/png")[0] == 200
        rows = [b64(bomb(2_000, 6_500))] * 20  # some seconds
        statuses: list[int] = []
        body = json.dumps({"instances": rows}).encode()
        waiting = threading.Thread(target=lambda: statuses.append(ask(port, body, "application/json")[0]))
        waiting.start()
        time.sleep(1)
        for one in signals:
            process.send_signal(one)
            time.sleep(0.2)
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=2)
        assert process.wait(30) == left
        waiting.join(30)
        assert statuses == [0 if left else 200]
