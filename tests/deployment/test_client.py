"""What lies beside an export reproduces it elsewhere: client.py, check.json and the lines of README.md."""

from __future__ import annotations

import ast
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tests.broken import encode
from tests.conftest import draw
from tests.tiny import tiny_file
from tlkit import ExportError, SpecError, build_classifier, export, find_backbone, open_target, preprocess, write_target
from tlkit.data.preprocessing import preprocessing
from tlkit.deployment import saved_model
from tlkit.deployment.client import check_images, client_program
from tlkit.deployment.exported import _opened_target
from tlkit.deployment.formats import FORMATS
from tlkit.deployment.parity import differs_beyond
from tlkit.errors import NameUnknown
from tlkit.folders import BESIDE

NAMES = ["a", "b <<file>> ${x}", "ü c"]
RUNTIMES = {target: [package for package, _ in one.runs_with] for target, one in FORMATS.items()}


@pytest.fixture(scope="module")
def model() -> keras.Model:
    made = build_classifier(find_backbone(tiny_file()), 3, image_size=32, seed=1)
    made.get_layer("predictions").kernel.assign(made.get_layer("predictions").kernel * 8)
    return made


@pytest.fixture(scope="module")
def written(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model in a format, which is written once."""

    @functools.cache
    def write(target: str) -> Path:
        for package in RUNTIMES[target]:
            pytest.importorskip(package)
        return write_target(model, NAMES, tmp_path_factory.mktemp(target) / "out", target, fit="pad", unsure_below=0.36)

    return write


@pytest.fixture(scope="module")
def onnx_folder(written: Callable[[str], Path]) -> Path:
    return written("onnx")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, exif = tmp_path_factory.mktemp("files"), Image.Exif()
    exif[0x0112] = 6
    glass = draw((200, 40, 30), 3, 90)
    glass.putalpha(Image.linear_gradient("L").resize((90, 90)))
    made = {
        "turned.jpg": encode(draw((30, 90, 200), 1, 200).resize((201, 77)), "JPEG", exif=exif),
        "large.jpg": encode(draw((30, 190, 20), 2, 400).resize((700, 555)), "JPEG"),
        "glass.png": encode(glass, "PNG"),
        "grey.jpg": encode(draw((90, 90, 90), 4, 64).convert("L"), "JPEG"),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in made]


def run(folder: Path, *words: str, program: str = "client.py", code: int = 0) -> list[str]:
    """The lines that a program beside an export prints."""
    done = subprocess.run([sys.executable, program, *words], cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout.splitlines()


def wanted(folder: Path, files: list[Path]) -> tuple[np.ndarray, list[str]]:
    """Probabilities and classes as `tlkit predict` gives them."""
    names, answer = _opened_target(folder)
    _, sure, values = answer([file.read_bytes() for file in files])
    return values, [names[row.argmax()] if one else "unsure" for one, row in zip(sure, values, strict=True)]


def compare(folder: Path, lines: list[str], files: list[Path], tolerance: float = 0.01) -> None:
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    values, classes = wanted(folder, files)
    found = np.array([[one["probabilities"][name] for name in NAMES] for one in answers])
    assert [Path(one["file"]).name for one in answers] == [file.name for file in files]
    assert np.abs(found - values).max() < tolerance
    if "unsure" in classes:
        assert [one["class"] for one in answers] == classes


def code_of(folder: Path, kind: str) -> str:
    found = re.search(f"```{kind}\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_client_imports_nothing_but_pillow_numpy_and_the_runtime() -> None:
    tree = ast.parse(client_program())
    top = {a.name.split(".")[0] for one in tree.body if isinstance(one, ast.Import) for a in one.names}
    top |= {(one.module or "").split(".")[0] for one in tree.body if isinstance(one, ast.ImportFrom)}
    assert {"numpy", "PIL"} <= top and top - {"numpy", "PIL"} <= sys.stdlib_module_names
    everywhere = {a.name for one in ast.walk(tree) if isinstance(one, ast.Import) for a in one.names}
    everywhere |= {one.module or "" for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)}
    assert not [name for name in everywhere if name.split(".")[0] == "tlkit"]


def test_the_images_of_a_check_differ_by_more_than_a_careless_client_hides() -> None:
    rule = preprocessing(32, "squash")
    images = check_images(32)
    first, *others = images.values()
    assert (preprocess(first, rule) == np.asarray(Image.open(io.BytesIO(first)))).all(), "nothing to get wrong"
    for data in others:
        careless = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32), Image.Resampling.NEAREST))
        assert np.abs(preprocess(data, rule).astype(int) - careless).max() > 20


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "litert", "litert-float16", "openvino", "keras"])
def test_a_client_answers_as_tlkit_does(written: Callable[[str], Path], target: str, files: list[Path]) -> None:
    folder = written(target)
    assert {*BESIDE, "tlkit.json", FORMATS[target].file} <= {one.name for one in folder.iterdir()}
    assert "<<" not in (folder / "README.md").read_text(encoding="utf-8")
    lines = run(folder, *map(str, files), "--check")
    compare(folder, lines, files)
    assert lines[-1].startswith("This installation reproduces the model")


@pytest.mark.slow
def test_a_client_names_a_file_that_it_cannot_read_and_goes_on(
    onnx_folder: Path, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "junk.jpg").write_bytes(b"junk")
    lines = run(onnx_folder, str(tmp_path / "junk.jpg"), str(tmp_path / "none.jpg"), str(files[0]), code=1)
    bad, none, good = map(json.loads, lines)
    assert bad["class"] is None and bad["problem"] and none["problem"] and "problem" not in good


@pytest.mark.parametrize(("place", "words"), [(0, "the model itself"), (3, "images become other pixels")])
@pytest.mark.slow
def test_a_check_fails_where_answers_differ_and_says_where(
    onnx_folder: Path, tmp_path: Path, place: int, words: str
) -> None:
    folder = shutil.copytree(onnx_folder, tmp_path / "out")
    told = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    told["images"][place]["probabilities"]["a"] += 0.02
    (folder / "check.json").write_text(json.dumps(told))
    assert words in run(folder, "--check", code=1)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [pytest.param("nhwc", marks=pytest.mark.slow), "nchw"])
def test_an_onnx_file_describes_itself_and_takes_any_batch(model: keras.Model, tmp_path: Path, layout: str) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    rule = preprocessing(32, "crop", layout=layout.upper())
    folder = write_target(model, NAMES, tmp_path / "out", "onnx", fit=rule)
    written = onnx.load(str(folder / "model.onnx"))
    onnx.checker.check_model(written, full_check=True)
    props = {one.key: one.value for one in written.metadata_props}
    assert json.loads(props["classes"]) == NAMES and json.loads(props["preprocessing"]) == rule
    assert props["layout"] == layout.upper() and props["image_size"] == "32"
    session = runtime.InferenceSession(str(folder / "model.onnx"))
    given, answer = session.get_inputs()[0], session.get_outputs()[0]
    assert given.name == "images" and given.shape == ["batch", *((3, 32, 32) if layout == "nchw" else (32, 32, 3))]
    assert answer.name == "probabilities" and answer.shape == ["batch", 3]
    for count in (1, 7, 64):
        images = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3)).astype("float32")
        turned = images.transpose(0, 3, 1, 2) if layout == "nchw" else images
        found = session.run(["probabilities"], {"images": turned})[0]
        assert np.abs(found - np.asarray(model(images))).max() < 1e-5
        assert np.abs(open_target(folder)[1](images.astype("uint8")) - found).max() < 1e-5


@pytest.mark.slow
def test_a_litert_file_holds_its_labels_and_names(written: Callable[[str], Path]) -> None:
    pytest.importorskip("ai_edge_litert")
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter

    folder = written("litert")
    file = folder / "model.tflite"
    with zipfile.ZipFile(file) as archive:
        assert archive.read("labels.txt").decode().splitlines() == NAMES
    written = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    buffer = next(one.buffer for one in written.metadata if one.name == b"TFLITE_METADATA")
    data = bytes(written.buffers[buffer].data)
    assert data[4:8] == b"M001" and b"labels.txt" in data and b"images" in data
    names = Interpreter(model_path=str(file)).get_signature_list()
    assert names == {"serving_default": {"inputs": ["images"], "outputs": ["probabilities"]}}
    assert json.loads((folder / "tlkit.json").read_text(encoding="utf-8"))["batch"] == 1


def test_a_layout_is_known_and_of_onnx() -> None:
    from tlkit.deployment.formats import check_layout

    check_layout("onnx", "nchw")
    with pytest.raises(NameUnknown, match="nhwc"):
        check_layout("onnx", "nhcw")
    with pytest.raises(SpecError, match="keras has no layout NCHW"):
        check_layout("keras", "nchw")


def test_an_export_of_an_earlier_version_still_answers(onnx_folder: Path, files: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(onnx_folder, tmp_path / "out")
    described = json.loads((folder / "tlkit.json").read_text(encoding="utf-8"))
    for name in ("preprocessing", "batch", "depth", "checksums", "checksum"):
        del described[name]
    (folder / "tlkit.json").write_text(json.dumps(described))
    for name in BESIDE:
        (folder / name).unlink()
    assert (wanted(folder, files)[0] == wanted(onnx_folder, files)[0]).all()


def test_float16_may_change_a_class_only_where_two_are_as_probable() -> None:
    expected = np.array([[0.505, 0.495, 0.0], [0.9, 0.1, 0.0]])
    near = np.array([[0.499, 0.501, 0.0], [0.9, 0.1, 0.0]])
    assert not differs_beyond(near, expected, 2e-2) and differs_beyond(near, expected, 1e-3)
    assert differs_beyond(expected[:, ::-1], expected, 2e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "package"), [("python opencv", "cv2"), ("python openvino", "openvino")])
def test_the_lines_for_other_runtimes_answer_as_tlkit_does(
    model: keras.Model, files: list[Path], tmp_path: Path, kind: str, package: str
) -> None:
    pytest.importorskip(package)
    for layout, fit in (("NHWC", "crop"), ("NCHW", "pad"), ("NHWC", "squash")):
        rule = preprocessing(32, fit, layout=layout)
        folder = write_target(model, NAMES, tmp_path / f"{layout}-{fit}", "onnx", fit=rule)
        (folder / "lines.py").write_text(code_of(folder, kind), encoding="utf-8")
        compare(folder, run(folder, *map(str, files), program="lines.py"), files)


@pytest.mark.long
@pytest.mark.slow
def test_the_lines_for_node_answer_as_tlkit_does(model: keras.Model, files: list[Path], tmp_path: Path) -> None:
    """Downloads onnxruntime-web and sharp."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    subprocess.run(["npm", "install", "--prefix", str(tmp_path), "onnxruntime-web", "sharp"], check=True)
    for layout, fit in (("NHWC", "crop"), ("NCHW", "pad"), ("NHWC", "squash")):
        folder = write_target(model, NAMES, tmp_path / fit, "onnx", fit=preprocessing(32, fit, layout=layout))
        (folder / "classify.mjs").write_text(code_of(folder, "js"), encoding="utf-8")
        command = ["node", "classify.mjs", *map(str, files)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=True)
        compare(folder, done.stdout.splitlines(), files)


@pytest.mark.slow
def test_a_saved_model_for_an_earlier_tensorflow_leaves_webp_out_and_says_so(
    model: keras.Model, files: list[Path], tmp_path: Path
) -> None:
    import tensorflow as tf

    folder = export(model, NAMES, tmp_path / "out", fit="pad", for_tensorflow="2.15")
    told = json.loads((folder / "tlkit.json").read_text(encoding="utf-8"))
    assert told["tensorflow"]["least"] == saved_model.OLDEST and "WebP" not in told["input"]
    assert b"DecodeWebP" not in (folder / "saved_model.pb").read_bytes()
    webp = tmp_path / "one.webp"
    webp.write_bytes(encode(draw((30, 90, 200), 1, 90), "WEBP", lossless=True))
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    reply = serve(image_bytes=tf.constant([webp.read_bytes(), files[0].read_bytes()]))
    assert reply["ok"].numpy().tolist() == [False, True]
    assert b"WebP" in reply["problem"].numpy()[0] and reply["problem"].numpy()[1] == b""
    lines = [json.loads(one) for one in run(folder, str(webp), str(files[0])) if one.startswith("{")]
    png = encode(Image.open(webp), "PNG")
    expected = serve(image_bytes=tf.constant([png, files[0].read_bytes()]))["probabilities"].numpy()
    found = np.array([[one["probabilities"][name] for name in NAMES] for one in lines])
    assert np.abs(found - expected).max() < 1e-6, "the client converts what the model refuses"


@pytest.mark.slow
def test_a_saved_model_knows_the_least_tensorflow_that_loads_it(model: keras.Model, tmp_path: Path) -> None:
    folder = export(model, NAMES, tmp_path / "out")
    assert json.loads((folder / "tlkit.json").read_text(encoding="utf-8"))["tensorflow"]["least"] == "2.20"
    assert b"DecodeWebP" in (folder / "saved_model.pb").read_bytes()
    assert saved_model._least_tensorflow(folder, "2.20") == "2.20"
    with pytest.raises(ExportError, match=r"needs TensorFlow 2\.20 for DecodeWebP.*2\.15"):
        saved_model._least_tensorflow(folder, "2.15")
    lines = run(folder, "--check")
    assert lines[-1].startswith("This installation reproduces the model")


def test_a_version_of_tensorflow_is_two_numbers(model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"'two' is no version.*2\.15"):
        export(model, NAMES, tmp_path / "out", for_tensorflow="two")


@pytest.mark.long
@pytest.mark.slow
def test_the_shell_lines_of_a_saved_model_work(model: keras.Model, files: list[Path], tmp_path: Path) -> None:
    folder = export(model, NAMES, tmp_path / "out")
    shutil.copy(files[0], folder / "photo.jpg")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    lines = code_of(folder, "sh")
    done = subprocess.run(
        ["bash", "-euc", lines], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "image_bytes" in done.stdout and done.stdout.count("Result for output key probabilities") == 2
