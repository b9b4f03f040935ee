"""Batches: every image has one row, whatever it holds and whenever the batch was stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from click.testing import CliRunner

from tests.conftest import COLOURS, draw, write_folder
from tests.tiny import tiny_file
from tlkit import DataError, RunError, SpecError, embed, load_model, predict, predict_to
from tlkit.cli.main import main
from tlkit.data.sources import tree
from tlkit.errors import DiskError
from tlkit.evaluation.known import NONE_OF_THESE
from tlkit.models.blocks import feature_extractor
from tlkit.runs import answering, batch, parts
from tlkit.runs.answering import Answers, Beyond
from tlkit.runs.explain import decoded_files
from tlkit.runs.folder import open_run
from tlkit.runs.items import Item, items_of, read_raw

pytest.importorskip("pyarrow")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 images without labels, in two folders; one is cut, one is a TIFF, one is junk, one is a link to nowhere."""
    root = write_folder(tmp_path / "photos", per_class=11, classes=("red", "green"), start=700)
    whole = (root / "red" / "000.png").read_bytes()
    (root / "red" / "cut.png").write_bytes(whole[:200])
    (root / "junk.jpg").write_bytes(b"junk")
    (root / "notes.txt").write_text("not an image")
    draw(COLOURS["blue"], 3).save(root / "scan.tif")
    (root / "gone.png").symlink_to(root / "nowhere.png")
    return root


class Bright:
    """An engine without a network: the answer is whether a file has an even number of bytes."""

    classes = ("odd", "even")

    def __init__(self) -> None:
        self.asked: list[str] = []

    def prepare(self, item: Item) -> Any:
        if item.name.endswith("strange.png"):
            raise TypeError("no reader thought of this")
        return item

    def answer(self, prepared: Any) -> Answers:
        ok = np.array([not isinstance(one, str) for one in prepared])
        if any(not isinstance(one, str) and one.name.endswith("fatal.png") for one in prepared):
            raise tf.errors.InvalidArgumentError(None, None, "too strange a shape\nmore")
        self.asked += [one.name for one in prepared if not isinstance(one, str)]
        even = np.array([good and one.size % 2 == 0 for one, good in zip(prepared, ok, strict=True)], "float32")
        probabilities = np.stack([1 - even, even], axis=1).astype("float32")
        return Answers(ok, tuple(one if isinstance(one, str) else "" for one in prepared), probabilities)


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bright]:
    """Let every run be answered by `Bright`."""
    engine = Bright()
    monkeypatch.setattr(batch.Predicting, "engine", lambda self: engine)
    monkeypatch.setattr(batch.Predicting, "digest", lambda self: self.model)
    batch._engine.cache_clear()
    yield engine
    batch._engine.cache_clear()


def files_in(folder: Path, count: int) -> Path:
    """Files of 1, 2, 3, ... bytes that are no images."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:03d}.png").write_bytes(b"x" * (i + 1))
    return folder


def names(table: pd.DataFrame) -> list[str]:
    return [Path(path).name for path in table["path"]]


@pytest.mark.slow
def test_a_batch_answers_as_predict_does_with_a_row_for_every_file(trained: Path, photos: Path, tmp_path: Path) -> None:
    done = predict_to(trained, photos, tmp_path / "answers.parquet", rows=10)
    table = pd.read_parquet(tmp_path / "answers.parquet").set_index("path")
    expected = predict(trained, photos).set_index("path")
    assert sorted(table.index) == sorted(expected.index) and done.rows == len(expected) == 26 and done.problems == 3
    table = table.loc[expected.index]
    assert (table["problem"] == expected["problem"]).all() and (table["ok"] == (expected["problem"] == "")).all()
    good = table["ok"]
    assert (table["prediction"][good] == expected["prediction"][good]).all()
    np.testing.assert_allclose(table["probability"][good], expected["probability"][good].astype(float), atol=1e-6)
    assert table["probabilities"][~good].isna().all()
    for _, row in table[good].iterrows():
        assert row["probabilities"].dtype == "float32" and abs(row["probabilities"].sum() - 1) < 1e-5
        assert row["probabilities"].max() == row["probability"]
    assert (table["bytes"][good] == [Path(one).stat().st_size for one in table.index[good]]).all()


def test_a_csv_holds_the_same_and_a_column_for_each_class(bright: Bright, tmp_path: Path) -> None:
    folder = files_in(tmp_path / "in", 9)
    (folder / 'a "b",\r.png').write_bytes(b"xx")
    (folder / "strange.png").write_bytes(b"xx")
    done = predict_to("any", folder, tmp_path / "answers.csv", rows=4)
    table = pd.read_csv(tmp_path / "answers.csv", keep_default_na=False)
    assert len(table) == done.rows == 11 and 'a "b",\r.png' in names(table)
    assert table.set_index("path").loc[str(folder / "003.png"), "probability of even"] == "1.0"
    bad = table[~table["ok"]]
    assert names(bad) == ["strange.png"] and "no reader thought of this" in bad["problem"].iloc[0]
    assert list(bad["prediction"]) == [""] and list(bad["probability of odd"]) == [""]
    assert {one.name for one in tmp_path.iterdir()} == {"in", "answers.csv"}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_none_of_the_classes_is_not_named_as_one(bright: Bright, tmp_path: Path, kind: str) -> None:
    answer = bright.answer

    def with_more(prepared: Any) -> Answers:
        found = answer(prepared)
        known = np.where(found.probabilities[:, 1] == 1, 0.01, 0.5).astype("float32")  # type: ignore[index]
        more = {"known": known, "none": known < 0.05, "prediction_set": np.array(found.probabilities) >= 0}
        return dataclasses.replace(found, **more)

    bright.answer = with_more  # type: ignore[method-assign]
    out = tmp_path / f"answers.{kind}"
    predict_to("any", files_in(tmp_path / "in", 4), out, rows=2)
    table = pd.read_csv(out) if kind == "csv" else pd.read_parquet(out)
    assert list(table["prediction"]) == ["odd", NONE_OF_THESE] * 2
    np.testing.assert_allclose(table["known"], [0.5, 0.01] * 2, rtol=1e-6)
    sets = [json.loads(one) if kind == "csv" else list(one) for one in table["prediction_set"]]
    assert sets == [["odd", "even"]] * 4


def test_what_a_run_answers_besides_probabilities_is_that_of_its_savedmodel() -> None:
    beyond = Beyond(unsure_below=0.8, thresholds=np.array([0.3, 0.5], "float32"))
    found = beyond.of(np.zeros((3, 2)), np.array([[0.6, 0.4], [0.1, 0.9], [0.9, 0.1]]), np.array([True, True, False]))
    assert found["sure"].tolist() == [False, True, False]  # type: ignore[union-attr]
    assert found["prediction_set"].tolist() == [[True, False], [False, True], [False, False]]  # type: ignore[union-attr]
    assert found["known"] is None and found["none"] is None


def test_an_image_on_which_the_model_fails_has_the_problem_alone(bright: Bright, tmp_path: Path) -> None:
    folder = files_in(tmp_path / "in", 5)
    (folder / "fatal.png").write_bytes(b"x")
    predict_to("any", folder, tmp_path / "a.parquet")
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert names(table[~table["ok"]]) == ["fatal.png"] and len(table) == 6
    assert table["problem"].iloc[-1] == "the model fails on it: too strange a shape"


def test_a_model_that_fails_on_every_image_ends_the_batch(bright: Bright, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("1-fatal.png", "2-fatal.png"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(tf.errors.InvalidArgumentError):
        predict_to("any", folder, tmp_path / "a.parquet")


def test_the_same_call_goes_on_where_it_was_stopped(
    bright: Bright, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, write = files_in(tmp_path / "in", 23), tmp_path / "a.parquet", parts.Parquet.write

    def full(self: Any, file: Path, columns: Any, classes: Any) -> None:
        if "014.png" in columns["path"][-1]:
            file.write_bytes(b"half of a")
            raise OSError(28, "No space left on device")
        write(self, file, columns, classes)

    monkeypatch.setattr(parts.Parquet, "write", full)
    with pytest.raises(DiskError, match="is full"):
        predict_to("any", folder, out, rows=5)
    assert sorted(names(pd.read_parquet(out))) == [f"{i:03d}.png" for i in range(10)]
    (out / ".tmp-0a1b2c3d-part-000002-0123456789abcdef.parquet").write_bytes(b"left by a kill")
    monkeypatch.setattr(parts.Parquet, "write", write)
    bright.asked.clear()
    done = predict_to("any", folder, out, rows=5)
    assert done.rows == 23 and done.computed == 13 and not done.changed
    assert sorted(Path(one).name for one in bright.asked) == [f"{i:03d}.png" for i in range(10, 23)]
    assert names(pd.read_parquet(out)) == [f"{i:03d}.png" for i in range(23)]
    assert not list(out.glob(".tmp-*")) and len(list(out.glob("part-*"))) == 5
    assert predict_to("any", folder, out, rows=5).computed == 0


def test_changed_new_and_removed_images_are_answered_again_and_named(
    bright: Bright, tmp_path: Path, said: list[str]
) -> None:
    folder, out = files_in(tmp_path / "in", 20), tmp_path / "a.parquet"
    predict_to("any", folder, out, rows=5)
    (folder / "007.png").write_bytes(b"x" * 9)
    (folder / "099.png").write_bytes(b"x")
    done = predict_to("any", folder, out, rows=5)
    assert done.computed == 6 and len(done.changed) == 1 and "1 image changed, such as" in done.changed[0]
    assert "007.png" in done.changed[0] and done.changed[0] in said
    for i in range(12, 20):
        (folder / f"{i:03d}.png").unlink()
    done = predict_to("any", folder, out, rows=5)
    table = pd.read_parquet(out)
    assert names(table) == sorted(one.name for one in folder.iterdir()) and done.rows == 13
    assert "no longer here" in done.changed[0] and "1 image new here, such as" in done.changed[0]
    assert sum("is removed" in line for line in done.changed) == 2
    assert table.set_index("path").loc[str(folder / "007.png"), "prediction"] == "odd"


def test_a_damaged_part_is_made_again(bright: Bright, tmp_path: Path, said: list[str]) -> None:
    folder, out = files_in(tmp_path / "in", 12), tmp_path / "a.parquet"
    predict_to("any", folder, out, rows=5)
    one = sorted(out.glob("part-*"))[1]
    one.write_bytes(one.read_bytes()[:-30])
    assert predict_to("any", folder, out, rows=5).computed == 5
    assert len(pd.read_parquet(out)) == 12 and any("is damaged and made again" in line for line in said)


def test_answers_of_another_model_or_other_images_are_kept(bright: Bright, tmp_path: Path) -> None:
    folder, out = files_in(tmp_path / "in", 3), tmp_path / "a.parquet"
    predict_to("any", folder, out)
    before = sorted(one.name for one in out.iterdir())
    for model, source, rows, word in (
        ("other", folder, 4096, "another model"),
        ("any", files_in(tmp_path / "else", 3), 4096, "other images"),
        ("any", folder, 2, "another number of rows"),
    ):
        with pytest.raises(RunError, match=f"was begun with {word}.*`force`"):
            predict_to(model, source, out, rows=rows)
    assert sorted(one.name for one in out.iterdir()) == before
    assert predict_to("other", folder, out, force=True).computed == 3 and len(pd.read_parquet(out)) == 3


def test_what_others_wrote_is_not_touched(bright: Bright, tmp_path: Path) -> None:
    folder = files_in(tmp_path / "in", 3)
    (tmp_path / "file.parquet").write_bytes(b"mine")
    (tmp_path / "full.parquet").mkdir()
    (tmp_path / "full.parquet" / "mine").write_bytes(b"mine")
    for name, word in (("file.parquet", "is a file"), ("full.parquet", "holds other files, such as 'mine'")):
        with pytest.raises(RunError, match=word):
            predict_to("any", folder, tmp_path / name, force=True)
    assert (tmp_path / "file.parquet").read_bytes() == (tmp_path / "full.parquet" / "mine").read_bytes() == b"mine"
    with pytest.raises(SpecError, match=r"\.parquet or \.csv"):
        predict_to("any", folder, tmp_path / "a.txt")
    with pytest.raises(SpecError, match="holds no embeddings"):
        predict_to("any", folder, tmp_path / "a.csv", embeddings=True)
    with pytest.raises(DataError, match="No such file"):
        predict_to("any", tmp_path / "nothing", tmp_path / "b.parquet")
    assert not (tmp_path / "b.parquet").exists()


def test_without_pyarrow_one_sentence_says_what_to_install(
    bright: Bright, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files_in(tmp_path / "in", 3)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = CliRunner().invoke(main, ["predict", "any", str(folder), "--out", str(tmp_path / "a.parquet")])
    assert done.exit_code == 1 and "pip install tlkit[parquet]" in done.output
    assert predict_to("any", folder, tmp_path / "a.csv").rows == 3


@pytest.mark.skipif(os.name != "posix", reason="locks")
def test_two_processes_do_not_write_one_batch(bright: Bright, tmp_path: Path) -> None:
    import fcntl

    folder, out = files_in(tmp_path / "in", 3), tmp_path / "a.parquet"
    predict_to("any", folder, out)
    lock = os.open(out, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with pytest.raises(RunError, match="Another process writes"):
            predict_to("any", folder, out)
    finally:
        os.close(lock)


def test_lists_tables_files_and_folders_are_sources(tmp_path: Path) -> None:
    folder = files_in(tmp_path / "in", 3)
    (tmp_path / "list.txt").write_text("in/002.png\nin/000.png\nin/none.png\n")
    pd.DataFrame({"id": [1, 2], "file": ["in/001.png", ""]}).to_csv(tmp_path / "table.csv", index=False)
    source = [tmp_path / "list.txt", tmp_path / "table.csv", folder / "000.png", folder]
    found = list(items_of(source))
    assert [Path(one.name).name for one in found] == [
        *("002.png", "000.png", "none.png", "001.png", "table.csv", "000.png"),
        *("000.png", "001.png", "002.png"),
    ]
    assert "no path" in found[4].aside and found[0].size == 3
    assert read_raw(found[2]) == "there is no such file" and read_raw(found[4]) == found[4].aside
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column 'path'"):
        list(items_of(tmp_path / "columns.csv"))


def test_only_one_folder_is_listed_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        files_in(tmp_path / "in" / name, 3)
    listed: list[str] = []
    real = tree._list
    monkeypatch.setattr(tree, "_list", lambda folder: listed.append(folder.name) or real(folder))
    found = items_of(tmp_path / "in")
    monkeypatch.setattr("tlkit.runs.items.AT_ONCE", 1)
    next(found)
    assert listed == ["in", "c"] and len(list(found)) == 8


@pytest.mark.slow
def test_a_killed_batch_has_every_row_once(trained: Path, tmp_path: Path) -> None:
    """SIGKILL, then to the end. 90 images, parts of 7. benchmarks/batch_prediction.py kills more often."""
    photos = write_folder(tmp_path / "photos", per_class=30, start=900)
    out = tmp_path / "a.parquet"
    code = (
        "import sys, time\n"
        "from tlkit.runs import answering, batch\n"
        "real = answering._isolated\n"
        "answering._isolated = lambda *given: time.sleep(0.1) or real(*given)\n"  # so that a kill is in the middle
        "batch.predict_to(*sys.argv[1:], rows=7)\n"
    )
    command = [sys.executable, "-c", code, str(trained), str(photos), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(out.glob("part-*"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(list(out.glob("part-*")))
    assert 2 <= before < 13
    done = predict_to(trained, photos, out, rows=7)
    assert done.computed == 90 - 7 * before and not done.changed
    table = pd.read_parquet(out)
    assert sorted(table["path"]) == sorted(map(str, photos.rglob("*.png"))) and table["ok"].all()
    expected = predict(trained, photos).set_index("path").loc[table["path"]]
    assert (table["prediction"].to_numpy() == expected["prediction"].to_numpy()).all()


def test_another_place_to_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="Expected 'ray'"):
        predict_to("any", tmp_path, tmp_path / "a.parquet", on="spark")


@pytest.mark.slow
def test_embeddings_are_what_the_head_reads(trained: Path, photos: Path, tmp_path: Path) -> None:
    embed(trained, photos / "green", tmp_path / "e.parquet")
    predict_to(trained, photos / "green", tmp_path / "p.parquet", embeddings=True)
    one, other = (pd.read_parquet(tmp_path / name) for name in ("e.parquet", "p.parquet"))
    assert list(one["path"]) == list(other["path"]) and len(one) == 11
    features = feature_extractor(load_model(trained))
    pixels = decoded_files(open_run(trained), [Path(path) for path in one["path"]], 32)
    expected = np.asarray(features(pixels.astype("float32"), training=False))
    np.testing.assert_allclose(np.stack(one["embedding"]), expected, atol=1e-5)
    np.testing.assert_allclose(np.stack(other["embedding"]), expected, atol=1e-5)
    answers = predict(trained, photos / "green").set_index("path").loc[other["path"]]
    np.testing.assert_allclose(other["probability"], answers["probability"].astype(float), atol=1e-5)
    with pytest.raises(SpecError, match="is an export"):
        embed(trained / "saved_model", photos, tmp_path / "x.parquet")
    with pytest.raises(SpecError, match="has its own"):
        embed(trained, photos, tmp_path / "x.parquet", image_size=64)


@pytest.mark.slow
def test_features_that_a_run_left_in_the_cache_are_not_computed_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = trained.parent / "data"
    new = tmp_path / "new"
    shutil.copytree(data / "red", new)
    draw(COLOURS["green"], 5).save(new / "zzz.png")
    counts: list[int] = []
    real = answering.frozen_call

    def counting(model: Any, batch_size: int) -> Any:
        call = real(model, batch_size)
        return lambda images: counts.append(len(images)) or call(images)

    monkeypatch.setattr(answering, "frozen_call", counting)
    batch._engine.cache_clear()
    embed(trained, new, tmp_path / "e.parquet")
    assert counts == [1]
    cached = pd.read_parquet(tmp_path / "e.parquet")
    monkeypatch.setattr(batch, "feature_stores", lambda *given: [])
    batch._engine.cache_clear()
    embed(trained, new, tmp_path / "f.parquet")
    assert sum(counts) == 1 + 17
    fresh = pd.read_parquet(tmp_path / "f.parquet")
    np.testing.assert_allclose(np.stack(cached["embedding"]), np.stack(fresh["embedding"]), atol=1e-5)


@pytest.mark.slow
def test_a_pretrained_backbone_embeds_at_the_size_that_is_asked_for(photos: Path, tmp_path: Path) -> None:
    done = embed(tiny_file(), photos / "red", tmp_path / "e.parquet", image_size=32)
    table = pd.read_parquet(tmp_path / "e.parquet")
    assert done.problems == 1 and len(table["embedding"].iloc[0]) == 32
    assert table["embedding"].isna().sum() == 1
