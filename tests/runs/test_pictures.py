"""The pictures of `tlkit explain`: each writes an image and its numbers, from Python and from the command line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.tiny import predicted
from tlkit.cli.main import main
from tlkit.data.decode import square_decoder
from tlkit.errors import NameUnknown, SpecError
from tlkit.runs import pictures
from tlkit.runs.reading import load_model


def some_files(trained: Path) -> list[Path]:
    return [sorted((trained.parent / "data" / name).glob("*.png"))[0] for name in ("blue", "red")]


def numbers_of(out: Path, lines: list[str]) -> dict[str, Any]:
    numbers = out.with_suffix(".json")
    assert lines[-1] == f"drawn to {out}, numbers in {numbers}"
    with Image.open(out) as sheet:
        assert np.asarray(sheet).std() > 5
    return json.loads(numbers.read_text())


def as_decoded(file: Path, size: int = 32) -> np.ndarray:
    return np.asarray(square_decoder(size, "squash")(file.read_bytes()))[None].astype("float32")


@pytest.mark.slow
def test_dense_maps_are_of_the_class_of_the_whole_image(trained: Path, tmp_path: Path) -> None:
    out, files = tmp_path / "dense.png", some_files(trained)
    numbers = numbers_of(out, pictures.dense(trained, files, out, size=50))
    assert (numbers["size"], numbers["window"], numbers["step"]) == (64, 32, 16)
    model = load_model(trained)
    for file, row in zip(files, numbers["images"], strict=True):
        map_ = np.array(row["map"])
        assert map_.shape == (3, 3, 3) and np.allclose(map_.sum(-1), 1, atol=1e-3)
        assert row["class"] == numbers["classes"][predicted(model, as_decoded(file))[0].argmax()]
    assert 0 < numbers["differs_from_crops"]["largest"] <= 1 and numbers["differs_from_crops"]["crops"] == 18
    with pytest.raises(SpecError, match="`size` is 16"):
        pictures.dense(trained, files, out, size=16)


@pytest.mark.slow
def test_units_are_drawn_with_the_validation_images_that_activate_them(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "units.png"
    numbers = numbers_of(out, pictures.units(trained, "2", out, count=3))
    assert numbers["layer"] == "relu_16" and numbers["guided_layers"] == 2
    assert numbers["receptive_field"] == {"size": [7, 7], "step": [4, 4], "start": [0, 0], "whole_image": False}
    assert 0 < len(numbers["units"]) <= 3
    for unit in numbers["units"]:
        assert unit["activations"] == sorted(unit["activations"], reverse=True)
        assert [Path(file).parent.name for file in unit["files"]] == unit["labels"]
    assert numbers_of(out, pictures.units(trained, "", out))["layer"] == "relu_32"
    with pytest.raises(NameUnknown, match="Did you mean 'relu_16'"):
        pictures.units(trained, "relu16", out)
    with pytest.raises(SpecError, match="no block 7"):
        pictures.units(trained, "7", out)


@pytest.mark.slow
def test_fooling_images_are_changed_by_what_is_said(trained: Path, tmp_path: Path) -> None:
    out, files = tmp_path / "fooling.png", some_files(trained)
    numbers = numbers_of(out, pictures.fooling(trained, files, out, of_class="green"))
    assert [row["class"] for row in numbers["noise"]] == ["green"] and numbers["noise"][0]["probability"] >= 0.99
    for file, row in zip(files, numbers["images"], strict=True):
        assert row["class"] == file.parent.name
        for step in (row["sign_step"], row["gradient_step"]):
            assert step["found"] and step["kept"] and step["class"] == "green"
            assert 0 < step["mean"] <= step["largest"] <= step["length"]
        assert row["sign_step"]["length"] >= row["gradient_step"]["length"]
        assert row["feature_step"] > 0
    lines = pictures.fooling(trained, files[:1], out, of_class="blue")
    assert "already that class" in lines[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said", "bars"),
    [
        (["--filters"], "8 filters of the first layer, 3 x 3 pixels", set()),
        (["--typical", "--class", "red"], "synthetic images that maximise the score of red", {"step"}),
        (["--units", "relu_8"], "'relu_8': a receptive field of 3 x 3 pixels, one every 2", {"batch of image", "unit"}),
        (["FILE", "--dense"], "3 x 3 crops of 32 pixels, one every 16", {"batch of image"}),
        (["FILE", "--fooling", "--class", "green"], "noise: green 99", {"noise image", "image"}),
    ],
)
def test_each_picture_is_an_option_of_explain_with_a_bar(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str, bars: set[str]
) -> None:
    counts: dict[str, list[int | None]] = {}

    @contextlib.contextmanager
    def watched(total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        done = counts.setdefault(unit, [total])
        yield done.append

    for module in ("tlkit.progress", "tlkit.runs.pictures"):
        monkeypatch.setattr(f"{module}.bar", watched)
    out = tmp_path / "out.png"
    words = [str(some_files(trained)[0]) if word == "FILE" else word for word in words]
    done = CliRunner().invoke(main, ["explain", str(trained), *words, "--out", str(out)])
    assert done.exit_code == 0 and said in done.output, done.output
    numbers_of(out, done.output.splitlines())
    assert bars <= set(counts) and all(counts[unit][0] == counts[unit][-1] for unit in bars)


def test_two_kinds_of_picture_at_once_are_refused(trained: Path) -> None:
    for words, said in ((["--dense", "--typical"], "Give one of them"), (["--size", "64"], "--size is of --dense")):
        refused = CliRunner().invoke(main, ["explain", str(trained), *words])
        assert refused.exit_code == 2 and said in refused.output
