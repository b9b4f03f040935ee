"""Likeness: a near copy finds the image that it was made from."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from tlkit import Cache, DataError, ExportError, SpecError, load_model, open_run, report, similar
from tlkit.cli.main import main
from tlkit.doctor.checkup import _comparing_network, _features
from tlkit.features import extract, nearest
from tlkit.features.nearest import nearest_rows
from tlkit.models.blocks import feature_extractor
from tlkit.runs.reading import decoded, own_part
from tlkit.runs.similar import nearest_of_own


def pixels_of(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def near_copy(file: Path, to: Path, seed: int = 0) -> Path:
    """The image with other noise, a little brighter, as a JPEG."""
    pixels = pixels_of(file).astype(int)
    noise = np.random.default_rng(seed).integers(-4, 5, pixels.shape)
    Image.fromarray((pixels + noise + 3).clip(0, 255).astype("uint8")).save(to, quality=95)
    return to


def test_planted_near_images_are_found(trained: Path, tmp_path: Path) -> None:
    run = open_run(trained)
    table = run.read_table("split.csv")
    chosen = table[table["split"] == "train"].iloc[::5]
    copies = [
        near_copy(run.data_root / path, tmp_path / f"{number:02d}.jpg", number)
        for number, path in enumerate(chosen["path"])
    ]
    found = run.similar(copies, count=3, out=tmp_path / "sheet.png")
    first = found[found["rank"] == 1]
    assert list(first["path"]) == list(chosen["path"]) and list(first["label"]) == list(chosen["label"])
    assert (first["likeness"] > 0.9).all() and list(first["image"]) == list(map(str, copies))
    assert found.groupby("image")["likeness"].apply(lambda one: one.is_monotonic_decreasing).all()
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[1] > 100 * len(copies)
    itself = similar(run, run.data_root / chosen["path"].iloc[0], count=1)
    assert itself["likeness"].iloc[0] == 1 and itself["path"].iloc[0] == chosen["path"].iloc[0]
    pixels = pixels_of(run.data_root / chosen["path"].iloc[0])
    assert run.similar([pixels], count=1)["path"].iloc[0] == chosen["path"].iloc[0]


def test_the_command_prints_pairs_and_writes_them(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = trained.parent / "data" / "green" / "003.png"
    words = ["similar", str(trained), str(image), "--count", "2", "--csv", "pairs.csv"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0 and re.search(r"1\.000 +green +green/003\.png", done.output)
    assert len(pd.read_csv("pairs.csv")) == 2 and not Path("similar.png").exists()
    (tmp_path / "junk.png").write_bytes(b"junk")
    done = CliRunner().invoke(main, ["similar", str(trained), "junk.png"])
    assert done.exit_code == 1 and "'junk.png' is no image that decodes" in done.output


def test_what_cannot_be_compared_is_refused(trained: Path, tmp_path: Path) -> None:
    run = open_run(trained)
    with pytest.raises(SpecError, match="`count` is 0"):
        run.similar(trained.parent / "data", count=0)
    with pytest.raises(DataError, match="No such file"):
        run.similar(tmp_path / "nothing.png")


def test_usearch_finds_what_scikit_learn_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = np.maximum(rng.normal(size=(600, 20)), 0).astype("float32")
    queries = (rows[:7] + rng.normal(size=(7, 20)) * 0.05).astype("float32")
    expected = nearest_rows(rows, queries, 4)
    standard = (rows - rows.mean(0)) / rows.std(0)
    asked = (queries - rows.mean(0)) / rows.std(0)
    cosine = asked @ standard.T / np.outer(np.linalg.norm(asked, axis=1), np.linalg.norm(standard, axis=1))
    assert (expected[0] == np.argsort(-cosine, axis=1)[:, :4]).all()
    np.testing.assert_allclose(expected[1], -np.sort(-cosine, axis=1)[:, :4], atol=1e-5)
    monkeypatch.setattr(nearest, "MOST_EXACT", 500)
    pytest.importorskip("usearch")
    found = nearest_rows(rows, queries, 4)
    assert (found[0] == expected[0]).all()
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
    assert nearest_rows(rows, queries[:1], 1)[0].shape == (1, 1)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(ExportError, match=r"pip install tlkit\[similar\]"):
        nearest_rows(rows, queries, 4)


def with_mistakes(trained: Path, folder: Path) -> tuple[Path, list[str]]:
    """A copy of the run, in whose predictions two validation images are wrong, and their paths."""
    shutil.copytree(trained, folder)
    (folder / "manifest.json").unlink()
    table = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
    wrong = table.index[table["split"] == "validation"][:2]
    table.loc[wrong, "prediction"] = ["blue" if label == "red" else "red" for label in table.loc[wrong, "label"]]
    table.to_csv(folder / "predictions.csv", index=False, lineterminator="\n")
    return folder, list(table.loc[wrong, "path"])


@pytest.mark.slow
def test_the_report_shows_the_training_images_nearest_to_a_mistake(
    trained: Path, tmp_path: Path, reported: None
) -> None:
    folder, wrong = with_mistakes(trained, tmp_path / "run")
    page = report([folder]).read_text(encoding="utf-8")
    assert "by the features that the head reads" in page and "among all" in page
    for number in (1, 2):
        assert f'href="#nearest-{number}"' in page and f'id="nearest-{number}"' in page
        assert f'alt="{wrong[number - 1]}: the mistake"' in page
    assert len(re.findall(r'alt="(\w+)/\d+\.png: training image of \1, likeness \d\.\d\d"', page)) == 6
    assert "<script" not in page


@pytest.mark.slow
def test_no_forward_pass_is_repeated_for_the_report_and_other_features_are_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(trained)
    dataset = decoded(run, own_part(run, None), Cache(root=tmp_path / "cache"))
    table = dataset.images.table
    asked = list(table["path"][table["split"] == "validation"][:3])
    model, computed = load_model(run), []
    real = extract._compute

    def counting(prefix: Any, examples: Any, missing: Any, *given: Any) -> int:
        computed.append(len(missing.pairs))
        return real(prefix, examples, missing, *given)

    _features(feature_extractor(model), dataset.examples(), fast=True)
    monkeypatch.setattr(extract, "_compute", counting)
    found = nearest_of_own(model, dataset, asked, 3)
    assert found is not None and "the head reads" in found.by and not computed
    labels = dict(zip(table["path"], table["label"], strict=True))
    train = set(table["path"][table["split"] == "train"])
    for path, pairs in found.pairs.items():
        assert len(pairs) == 3 and {other for other, _, _ in pairs} <= train
        assert labels[path] == pairs[0][1]

    for layer in model.layers:  # as after fine-tuning: the cache has nothing of this network
        layer.set_weights([one + 0.01 for one in layer.get_weights()])
    assert nearest_of_own(model, dataset, asked, 3) is None and not computed
    nano = _comparing_network(32)
    some = np.flatnonzero(table["split"] == "train")[:10]
    _features(nano, dataset.take(some.tolist()).examples())
    computed.clear()
    found = nearest_of_own(model, dataset, asked, 3)
    assert found is not None and "pretrained backbone nano" in found.by and "10 of 43 training images" in found.among
    assert sum(computed) <= len(asked)
    assert nearest_of_own(model, dataset, [], 3) is None
