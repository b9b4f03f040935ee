"""The served model: what it answers, what it refuses, and that it equals the trained one."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.broken import bmp_of_endless_header, encode, left_out, used_with_a_note
from tests.conftest import draw
from tests.tiny import predicted, tiny_file
from tlkit import build_classifier, export, prove_parity
from tlkit.data.decode import decode_and_resize
from tlkit.deployment.parity import serve_files
from tlkit.errors import ParityError, RunError

CLASSES = ["apple", "pear", "qu\u00ednce"]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return build_classifier(tiny_file(), 3, seed=1)


@pytest.fixture(scope="module")
def served(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(model, CLASSES, tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def signatures(served: Path) -> dict[str, Any]:
    return tf.saved_model.load(str(served)).signatures


def good_files(folder: Path) -> list[Path]:
    """JPEG, PNG, grey, EXIF-rotated, odd-sized, GIF, BMP, WebP."""
    exif = Image.Exif()
    exif[0x0112] = 8
    image = draw((180, 90, 40), 3, 70)
    made: dict[str, bytes] = {
        "a.jpg": encode(image, "JPEG"),
        "b.png": encode(image, "PNG"),
        "grey.jpg": encode(image.convert("L"), "JPEG"),
        "turned.jpg": encode(image.resize((91, 37)), "JPEG", exif=exif),
        "odd.png": encode(image.resize((333, 17)), "PNG"),
        "dot.png": encode(image.resize((1, 1)), "PNG"),
        "photo.jpg": encode(image.resize((1600, 1100)), "JPEG"),
        "c.gif": encode(image, "GIF"),
        "d.bmp": encode(image, "BMP"),
        "e.webp": encode(image, "WEBP"),
        **{name: data for name, data, _ in used_with_a_note(3)},
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in made]


@pytest.mark.slow
def test_a_process_without_keras_answers_what_the_model_answers(
    model: keras.Model, served: Path, tmp_path: Path
) -> None:
    files = good_files(tmp_path)
    pixels = np.stack([decode_and_resize(tf.constant(f.read_bytes()), 32).numpy() for f in files])
    probabilities = predicted(model, pixels)
    assert np.ptp(probabilities, axis=0).max() > 1e-3, "the answers differ from file to file"
    proof = prove_parity(served, files, probabilities, CLASSES)
    assert proof["top1_agreement"] == 1.0 and proof["max_difference"] < 1e-5 and proof["n"] == len(files)


@pytest.mark.parametrize(
    ("served_as", "ok", "message"),
    [
        ([0.5, 0.4, 0.1], True, None),
        ([0.4, 0.5, 0.1], True, r"same class as the trained one on 50.00% of 2 files.*Do not deploy"),
        ([0.502, 0.398, 0.1], True, "differ by up to 0.002"),
        ([0.5, 0.4, 0.1], False, "refuses 1 file that"),
    ],
)
def test_a_model_that_disagrees_fails_the_proof(
    served_as: list[float], ok: bool, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = np.array([[0.5, 0.4, 0.1], [0.1, 0.1, 0.8]], "float32")
    answer = np.array([served_as, [0.1, 0.1, 0.8]], "float32")
    reply = {
        "probabilities": answer,
        "class": np.array(CLASSES)[answer.argmax(1)],
        "ok": np.array([ok, True]),
        "seconds": 1.0,
    }
    monkeypatch.setattr("tlkit.deployment.parity.serve_files", lambda *a: reply)
    files = [Path("a.jpg"), Path("b.jpg")]
    if message is None:
        assert prove_parity("m", files, trained, CLASSES)["top1_agreement"] == 1.0
        return
    with pytest.raises(ParityError, match=message):
        prove_parity("m", files, trained, CLASSES)
    with pytest.raises(ParityError, match=message):  # also where the model is asked again and says the same
        prove_parity("m", files, trained, CLASSES, ask_again=lambda places: trained[places])


def test_where_the_evaluation_rounds_otherwise_the_model_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    own = np.array([[0.5, 0.4, 0.1], [0.1, 0.1, 0.8]], "float32")
    reply = {
        "probabilities": own,
        "class": np.array(CLASSES)[own.argmax(1)],
        "ok": np.array([True, True]),
        "seconds": 1.0,
    }
    monkeypatch.setattr("tlkit.deployment.parity.serve_files", lambda *a: reply)
    evaluated = own + np.array([[2e-4, -2e-4, 0], [0, 0, 0]], "float32")
    asked: list[int] = []

    def again(places: Sequence[int]) -> np.ndarray:
        asked.extend(places)
        return own[places]

    files = [Path("a.jpg"), Path("b.jpg")]
    assert prove_parity("m", files, evaluated, CLASSES)["max_difference"] > 1e-4
    proof = prove_parity("m", files, evaluated, CLASSES, ask_again=again)
    assert asked == [0] and proof["asked_again"] == 1, "only where it matters"
    assert proof["max_difference"] == 0 and proof["evaluated_difference"] == pytest.approx(2e-4, rel=1e-3)


def test_an_evaluation_that_is_not_the_models_fails_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    own = np.array([[0.5, 0.4, 0.1], [0.1, 0.1, 0.8]], "float32")
    served = {
        "probabilities": own,
        "class": np.array(CLASSES)[own.argmax(1)],
        "ok": np.array([True, True]),
        "seconds": 1.0,
    }
    monkeypatch.setattr("tlkit.deployment.parity.serve_files", lambda *a: served)
    files = [Path("a.jpg"), Path("b.jpg")]
    for difference, passes in ((9e-3, True), (2e-2, False), (0.5, False)):
        evaluated = own + np.array([[0, 0, 0], [difference, 0, -difference]], "float32")
        if passes:
            prove_parity("m", files, evaluated, CLASSES, ask_again=lambda places: own[places])
            continue
        with pytest.raises(ParityError, match=r"differ from the model's own on 1 of 1 .* 'b\.jpg'.*not this model's"):
            prove_parity("m", files, evaluated, CLASSES, ask_again=lambda places: own[places])


@pytest.mark.slow
def test_one_bad_item_does_not_fail_its_batch(signatures: dict[str, Any]) -> None:
    serve = signatures["serving_default"]
    good = encode(draw((180, 90, 40), 3, 70), "JPEG")
    alone = serve(image_bytes=tf.constant([good]))
    bad = [*(data for _, data, _ in left_out(7)), bmp_of_endless_header()]
    answer = serve(image_bytes=tf.constant([good, *bad, good]))
    assert answer["ok"].numpy().tolist() == [True, *[False] * len(bad), True]
    assert np.allclose(answer["probabilities"][0], alone["probabilities"][0], atol=1e-6)
    assert np.allclose(answer["probabilities"][-1], alone["probabilities"][0], atol=1e-6)
    assert answer["class"].numpy()[1] == b"" and answer["probability"].numpy()[1] == 0
    assert not answer["probabilities"].numpy()[1:-1].any()
    assert [[c.decode() for c in row] for row in answer["classes"].numpy()] == [CLASSES] * (len(bad) + 2)
    problems = [p.decode() for p in answer["problem"].numpy()]
    assert problems[0] == problems[-1] == "" and all(problems[1:-1])


@pytest.mark.slow
def test_shapes_and_types_of_the_answers(signatures: dict[str, Any]) -> None:
    assert {"serving_default", "serve_bytes", "serve", "serve_float"} <= set(signatures)
    answer = signatures["serve_bytes"](image_bytes=tf.constant([encode(draw((1, 2, 3), 1), "PNG")] * 2))
    assert {k: (v.dtype.name, v.shape.as_list()) for k, v in answer.items()} == {
        "class": ("string", [2]),
        "probability": ("float32", [2]),
        "probabilities": ("float32", [2, 3]),
        "classes": ("string", [2, 3]),
        "ok": ("bool", [2]),
        "problem": ("string", [2]),
        "sure": ("bool", [2]),
    }
    assert signatures["serve_bytes"](image_bytes=tf.constant([], tf.string))["probabilities"].shape == (0, 3)


@pytest.mark.slow
def test_pixels_are_answered_as_bytes_are(signatures: dict[str, Any]) -> None:
    image = draw((180, 90, 40), 9, 50)
    by_bytes = signatures["serve_bytes"](image_bytes=tf.constant([encode(image, "PNG")]))["probabilities"].numpy()
    pixels = np.asarray(image)[None]
    assert np.allclose(signatures["serve"](image=tf.constant(pixels))["probabilities"], by_bytes, atol=1e-6)
    square = np.asarray(draw((180, 90, 40), 9, 32))[None]
    floats = signatures["serve_float"](image=tf.constant(square, tf.float32))["probabilities"]
    assert np.allclose(floats, signatures["serve"](image=tf.constant(square))["probabilities"], atol=1e-6)


@pytest.mark.slow
def test_each_variable_is_held_once(model: keras.Model, served: Path) -> None:
    stored = sum(f.stat().st_size for f in (served / "variables").iterdir())
    assert stored < 1.3 * 4 * model.count_params()


def test_the_folder_describes_itself(served: Path) -> None:
    described = json.loads((served / "tlkit.json").read_text(encoding="utf-8"))
    assert described["classes"] == CLASSES and described["image_size"] == 32 and described["fit"] == "squash"


@pytest.mark.parametrize(
    "name",
    [
        "precious_notes.txt",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("1/other_model.bin", "assets/labels.txt", "variables/more/")
        ),
    ],
)
def test_an_export_with_other_files_in_it_is_not_replaced(
    model: keras.Model, served: Path, name: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(served, tmp_path / "model")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("mine")
    with pytest.raises(RunError, match=rf"not an export's: {name}\. Nothing was changed"):
        export(model, CLASSES, folder)
    (folder / name).rmdir() if name.endswith("/") else (folder / name).unlink()
    assert contents(folder) == contents(served)


def test_a_saved_model_of_others_is_not_replaced_nor_one_behind_a_link(
    model: keras.Model, served: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name, words in (("saved_model.pb", "theirs"), ("tlkit.json", '{"classes": []}')):
        (theirs / name).write_text(words)
        with pytest.raises(RunError, match=r"no tlkit\.json of tlkit's"):
            export(model, CLASSES, theirs)
    before = contents(served)
    (tmp_path / "link").symlink_to(served, target_is_directory=True)
    with pytest.raises(RunError, match="is a link to"):
        export(model, CLASSES, tmp_path / "link")
    assert (theirs / "saved_model.pb").read_text() == "theirs" and contents(served) == before


@pytest.mark.slow
def test_an_export_is_replaced_whole_and_what_came_meanwhile_stays(
    model: keras.Model, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(served, tmp_path / "model")
    described = json.loads((folder / "tlkit.json").read_text(encoding="utf-8"))
    assert set(described.pop("files")) == {
        p.relative_to(folder).as_posix() + ("/" if p.is_dir() else "")
        for p in folder.rglob("*")
        if p.name not in ("tlkit.json", "variables")
    }
    (folder / "tlkit.json").write_text(json.dumps(described))  # as it was before it named its files
    export(model, CLASSES[::-1], folder)
    assert json.loads((folder / "tlkit.json").read_text(encoding="utf-8"))["classes"] == CLASSES[::-1]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]

    def save(*a: Any, **k: Any) -> None:
        shutil.copytree(served, a[1], dirs_exist_ok=True)
        (folder / "notes.txt").write_text("mine")

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(RunError, match=r"notes\.txt"):
        export(model, CLASSES, folder)
    assert (folder / "notes.txt").exists() and serve_works(folder) and [p.name for p in tmp_path.iterdir()] == ["model"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def serve_works(folder: Path) -> bool:
    return "serving_default" in tf.saved_model.load(str(folder)).signatures


@pytest.mark.slow
def test_a_model_that_does_not_load_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="fresh process"):
        serve_files(tmp_path, [tmp_path / "x"])


@pytest.mark.slow
def test_the_fit_is_part_of_the_export(model: keras.Model, tmp_path: Path) -> None:
    wide = Image.new("RGB", (200, 40), (250, 10, 10))
    wide.paste((10, 10, 250), (80, 0, 120, 40))
    data = io.BytesIO()
    wide.save(data, "PNG")
    folder = export(model, CLASSES, tmp_path / "m", fit="crop")
    (tmp_path / "w.png").write_bytes(data.getvalue())
    blue = np.full((1, 32, 32, 3), (10, 10, 250), "uint8")
    prove_parity(folder, [tmp_path / "w.png"], predicted(model, blue), CLASSES)
