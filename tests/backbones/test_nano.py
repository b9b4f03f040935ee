"""`nano`, the backbone that comes with tlkit: its weights, how well they transfer, and the demo without a download."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import COLOURS, draw, write_folder
from tests.tiny import predicted
from tlkit import build_classifier, demo, finetune, write_digits
from tlkit.backbones import BACKBONES, cached_file, find_weights, weights
from tlkit.errors import WeightsError
from tlkit.features.linear import solve
from tlkit.finetuning.resolve import default_backbone
from tlkit.finetuning.words import plan_lines
from tlkit.models.head import FEATURES
from tlkit.models.inference import frozen_call

ROOT = Path(__file__).parent.parent.parent
NANO = BACKBONES["nano"]


def test_nano_is_small_and_its_weights_lie_in_the_package() -> None:
    assert NANO.parameters <= 1_500_000 and NANO.blocks == 5
    with resources.as_file(resources.files("tlkit.backbones") / "nano.npz") as file:
        assert file.stat().st_size <= 3 * 2**20
        assert find_weights(NANO, "imagenet") == file == cached_file(NANO)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the weights that a test may damage."""
    file = Path(shutil.copy(Path(weights.__file__).parent / "nano.npz", tmp_path))
    monkeypatch.setattr(weights, "_SHIPPED", tmp_path)
    return file


def test_a_changed_byte_in_the_weights_is_noticed(copied: Path) -> None:
    data = bytearray(copied.read_bytes())
    data[len(data) // 2] ^= 1
    copied.write_bytes(data)
    with pytest.raises(WeightsError, match="sha256 is"):
        build_classifier("nano", 2)


def test_absent_weights_are_an_error_and_never_a_download(copied: Path) -> None:
    copied.unlink()
    with pytest.raises(WeightsError, match="come with tlkit; install it again"):
        build_classifier("nano", 2)


@pytest.mark.slow
def test_arrays_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    inputs = keras.Input((96, 96, 3))
    other = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="stem")(inputs))
    weights.save_arrays(other, tmp_path / "other.npz")
    with pytest.raises(WeightsError, match=r"names differ, such as"):
        build_classifier("nano", 2, weights=str(tmp_path / "other.npz"))


@pytest.mark.slow
def test_weights_come_back_from_float16_within_its_precision(tmp_path: Path) -> None:
    model = build_classifier("nano", 2, weights="none", seed=1)
    network = keras.Model(model.input, model.get_layer("top_relu").output)
    weights.save_arrays(network, tmp_path / "mine.npz")
    again = build_classifier("nano", 2, weights=str(tmp_path / "mine.npz"), seed=2)
    for mine, other in zip(network.weights, again.weights, strict=False):
        assert np.allclose(np.asarray(mine), np.asarray(other), rtol=1e-3, atol=1e-7), mine.path


@pytest.mark.parametrize(
    ("size", "places"),
    [(64, 4), pytest.param(96, 6, marks=pytest.mark.slow), pytest.param(224, 14, marks=pytest.mark.slow)],
)
def test_nano_takes_64_to_224_pixels(size: int, places: int) -> None:
    model = build_classifier("nano", 2, image_size=size)
    assert model.get_layer("top_relu").output.shape[1:] == (places, places, 640)
    assert np.isfinite(predicted(model, np.full((1, size, size, 3), 255.0))).all()


@pytest.mark.slow
def test_its_features_tell_digits_apart_that_random_ones_do_not() -> None:
    """Fit a linear probe on five examples of each digit, and test it on 300 others."""
    digits = load_digits()
    nth = [int((digits.target[:i] == label).sum()) for i, label in enumerate(digits.target[:350])]
    order = np.argsort(np.array(nth) >= 5, kind="stable")  # the first five of each come first
    images = [Image.fromarray((digits.images[i] * 15.9).astype("uint8")).convert("RGB").resize((64, 64)) for i in order]
    pixels, labels = np.stack([np.asarray(image) for image in images]), digits.target[order]
    accuracy = {}
    for kind in ("imagenet", "none"):
        model = build_classifier("nano", 10, image_size=64, weights=kind)
        call = frozen_call(keras.Model(model.input, model.get_layer(FEATURES).output), 100)
        x = np.concatenate([call(pixels[start : start + 100])[0] for start in range(0, 350, 100)])
        head = solve(x[:50], labels[:50], 10, strength=0.01)
        accuracy[kind] = (head.probabilities(x[50:]).argmax(1) == labels[50:]).mean()
    assert accuracy["imagenet"] > accuracy["none"] + 0.08, accuracy


def test_nano_is_the_default_only_while_mobilenetv2_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    name, why = default_backbone()
    assert name == "nano" and "none was named" in why and "mobilenetv2" in why
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / BACKBONES["mobilenetv2"].weights.file).write_bytes(b"x")
    assert default_backbone()[0] == "mobilenetv2"


@pytest.mark.slow
def test_a_run_without_a_name_says_that_it_took_nano_and_on_what_terms(
    folder: Path, tmp_path: Path, unserved: None
) -> None:
    run = finetune(folder, out=tmp_path / "run", image_size=64, epochs=2)
    assert run.plan.backbone.name == "nano" and run.plan.job.backbone is None
    text = "\n".join(plan_lines(run.plan, NANO))
    assert "nano: none was named" in text and "come with tlkit (research and education)" in text


def test_nano_never_stands_in_for_a_backbone_that_was_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.utils, "get_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(WeightsError, match="ImageNet weights of vgg16 are not on this machine"):
        finetune(folder, backbone="vgg16", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_digits_are_written_once_and_are_real(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", per_class=3)
    files = sorted(folder.rglob("*.png"))
    assert len(files) == 30 and {file.parent.name for file in files} == set("0123456789")
    before = files[0].stat().st_mtime_ns
    write_digits(folder, per_class=3)
    assert files[0].stat().st_mtime_ns == before
    small = np.asarray(Image.open(files[0]).resize((8, 8), Image.Resampling.BOX).convert("L")) / 255 * 16
    assert np.abs(small - load_digits().images[int(files[0].stem)]).mean() < 2


@pytest.mark.long
@pytest.mark.slow
def test_the_demonstration_learns_the_digits_and_says_what_is_next(tmp_path: Path, said: list[str]) -> None:
    run = demo(tmp_path / "demo")
    text = "\n".join(said)
    assert run.metrics["validation"]["accuracy"] > 0.95, text
    assert "tlkit finetune FOLDER" in text and f"tlkit predict {run.folder}" in text


@pytest.mark.long
@pytest.mark.real
@pytest.mark.slow
def test_pretraining_runs_goes_on_after_a_stop_and_its_weights_load(imagenet: Path, tmp_path: Path) -> None:
    corpus = write_folder(tmp_path / "corpus", per_class=44)
    for place in range(20):
        draw(COLOURS["red"], 9000 + place, size=70).save(corpus / "red" / f"large{place}.png")
    script = ROOT / "examples" / "pretrain_nano.py"
    command = [sys.executable, str(script), str(corpus), "--work", str(tmp_path / "work"), "--views", "2"]
    command += ["--teacher", "mobilenet_0.25", "--teacher-size", "64"]
    first = subprocess.run([*command, "--epochs", "3", "--stop-after", "1"], capture_output=True, text=True, check=True)
    assert "view 1:" in first.stdout and '"epoch": 0' in first.stdout and '"epoch": 1' not in first.stdout
    second = subprocess.run([*command, "--epochs", "3"], capture_output=True, text=True, check=True)
    assert "view 1:" not in second.stdout and '"epoch": 0' not in second.stdout and '"epoch": 2' in second.stdout
    build_classifier("nano", 2, weights=str(tmp_path / "work" / "nano.npz"))
