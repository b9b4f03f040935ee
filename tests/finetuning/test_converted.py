"""Folders of formats that only Pillow reads, or of 12 bits, from the folder to the served model."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from tests.conftest import COLOURS, draw
from tests.heic import BLUE, RED
from tests.tiny import tiny_file
from tlkit import Recipe, Stage, finetune, predict
from tlkit.cli.main import main
from tlkit.runs.serve import make_app


def tiff(file: Path, name: str, seed: int) -> None:
    draw(COLOURS[name], seed).save(file.with_suffix(".tif"), compression="tiff_lzw")


def deep(name: str, seed: int) -> Image.Image:
    """12 bits of 16; the second class is brighter."""
    grey = np.asarray(draw((60, 60, 60) if name == "blue" else (180, 180, 180), seed).convert("L")).astype("uint16")
    return Image.fromarray(grey * 16 + seed % 16)


def deep_tiff(file: Path, name: str, seed: int) -> None:
    deep(name, seed).save(file.with_suffix(".tif"))


def deep_png(file: Path, name: str, seed: int) -> None:
    deep(name, seed).save(file.with_suffix(".png"))


def heic(file: Path, name: str, seed: int) -> None:
    """The same picture in another file: an empty box behind it."""
    data = BLUE if name == "blue" else RED
    file.with_suffix(".heic").write_bytes(data + b"\x00\x00\x00\x0cfree" + seed.to_bytes(4, "big"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "write", [tiff, *(pytest.param(one, marks=pytest.mark.long) for one in (deep_tiff, deep_png, heic))]
)
def test_a_folder_of_one_format_is_inspected_learnt_and_served(
    write: Callable[[Path, str, int], None], tmp_path: Path
) -> None:
    if write is heic:
        pytest.importorskip("pi_heif")
    data = tmp_path / "data"
    for number, part in enumerate(("train", "validation")):
        for other, name in enumerate(("blue", "red")):
            (data / part / name).mkdir(parents=True)
            for i in range(4):
                write(data / part / name / str(i), name, 26540 + 20 * number + 10 * other + i)
    seen = CliRunner().invoke(main, ["inspect", str(data), "--fast", "--image-size", "32"])
    assert seen.exit_code == 0 and "16 usable images in 2 classes" in seen.output, seen.output
    assert ("scaled by the 12 bits" in seen.output) == (write is deep_png)
    recipe = Recipe("test", stages=(Stage(epochs=40, learning_rate=5e-2),), batch_size=8)
    run = finetune(data, backbone=tiny_file(), image_size=32, recipe=recipe, out=tmp_path / "run", report=False)
    assert run.metrics["parity"]["top1_agreement"] == 1.0 and run.metrics["parity"]["within_limit"]
    assert run.metrics["validation"]["accuracy"] == 1.0
    assert run.plan.depth == (12 if write in (deep_tiff, deep_png) else 16)
    files = sorted((data / "validation").rglob("*.*"))
    answers = predict(run.folder, files)
    assert list(answers["prediction"]) == [file.parent.name for file in files] and answers["problem"].eq("").all()
    client = make_app(run.folder).test_client()
    raw = client.post("/predict", data=files[0].read_bytes()).json["predictions"][0]
    coded = [{"b64": base64.b64encode(file.read_bytes()).decode()} for file in files]
    rows = client.post("/predict", json={"instances": coded}).json["predictions"]
    assert np.allclose([row["probability"] for row in rows], answers["probability"], atol=1e-6)
    assert raw["probability"] == rows[0]["probability"]
    serve = tf.saved_model.load(str(run.saved_model)).signatures["serving_default"]
    alone = serve(image_bytes=tf.constant([files[0].read_bytes()]))
    if write is deep_png:  # the model decodes it by itself, scaled by the same bits
        assert alone["ok"].numpy()[0] and np.isclose(alone["probabilities"].numpy().max(), raw["probability"])
        return
    assert not alone["ok"].numpy()[0] and write.__name__.split("_")[-1].upper() in alone["problem"].numpy()[0].decode()
