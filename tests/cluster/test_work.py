"""Work on a cluster gives what it gives without one, also when a worker is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import draw, write_folder
from tests.strategy.test_tournament import BACKBONE, blind_heads, build, examples, table_of  # noqa: F401  a fixture
from tlkit import Augmentation, Cache, Examples, Head, Recipe, Stage, decode_images, finetune, scan
from tlkit.cluster import Pool, working_on
from tlkit.errors import DataError
from tlkit.evaluation.predict import predict_probabilities
from tlkit.features import table as tables
from tlkit.features.extract import extract_features
from tlkit.models.blocks import cut
from tlkit.plan.job import Job
from tlkit.strategy.tournament import Tournament
from tlkit.training import several
from tlkit.training.restarts import train_best

pytestmark = pytest.mark.slow
LOSS = 1e-5  # how much losses of trainings may differ: workers have one thread, and this process has several


def kill_one(workers: Pool) -> None:
    os.kill(workers.pids()[0], signal.SIGKILL)


def without_times(value: Any) -> Any:
    """JSON values without what differs between two equal runs."""
    if isinstance(value, dict):
        return {k: without_times(one) for k, one in value.items() if k not in ("seconds", "started", "on", "command")}
    return [without_times(one) for one in value] if isinstance(value, list) else value


@pytest.mark.usefixtures("unserved")
def test_a_run_has_the_same_plan_predictions_and_metrics(workers: Pool, tmp_path: Path, tiny: dict[str, Any]) -> None:
    data = write_folder(tmp_path / "data", per_class=24)
    (data / "red" / "cut.png").write_bytes((data / "red" / "000.png").read_bytes()[:60])
    draw((9, 9, 9), 8).save(data / "stray.png")
    (data / "green" / "notes.txt").write_text("not an image")
    draw((9, 9, 9), 7).convert("CMYK").save(data / "red" / "converted.tiff")
    runs = {}
    for on in (None, "ray"):
        cache = tmp_path / f"cache-{on}"
        with pytest.MonkeyPatch.context() as patch, working_on(workers if on else None):
            patch.setenv("TLKIT_CACHE", str(cache))
            patch.setattr(tables, "WORTH_SENDING", 0)
            runs[on] = finetune(data, **tiny, out=tmp_path / f"run-{on}", on=on, report=False)
    here, there = runs[None].folder, runs["ray"].folder
    plans = [without_times(json.loads((one / "plan.json").read_text())) for one in (here, there)]
    assert plans[0] == plans[1] and json.loads((there / "plan.json").read_text())["job"]["on"] == "ray"
    for name in ("split.csv", "problems.csv", "predictions.csv"):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
    metrics = [without_times(json.loads((one / "metrics.json").read_text())) for one in (here, there)]
    assert metrics[0] == metrics[1]
    assert rows_in(tmp_path / "cache-None") == rows_in(tmp_path / "cache-ray") != {}


def rows_in(cache: Path) -> dict[tuple[str, str], bytes]:
    """Every row of pixels and features in a cache, by its entry and key."""
    found = {}
    for file in [*cache.glob("features/*/*.npy"), *cache.glob("pixels/*/*.npy")]:
        keys = json.loads(file.with_suffix(".json").read_text())["keys"]
        found |= {(file.parent.name, key): row.tobytes() for key, row in zip(keys, np.load(file), strict=True)}
    return found


class Killing:
    """Rows of which some kill a worker when they are read."""

    def __init__(self, rows: Any, at: int, workers: Pool) -> None:
        self.rows, self.left, self.workers = rows, at, workers
        self.row_shape = rows.row_shape

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: Any) -> np.ndarray:
        self.left -= 1
        if self.left == 0:
            kill_one(self.workers)
        return self.rows.gather(indices)


def test_a_worker_killed_among_features_changes_none_of_them(workers: Pool, tmp_path: Path, said: list[str]) -> None:
    prefix, _ = cut(build(Head(taps="all")), BACKBONE, 0)
    augmentation = Augmentation(flip_horizontal=0.5, brightness=(-0.2, 0.2))
    settings: dict[str, Any] = {"augmentation": augmentation, "views": 2, "batch_size": 8}
    pool_of = examples(120, 40)
    here = extract_features(prefix, replace(pool_of, cache=Cache(root=tmp_path / "here")), **settings)
    with working_on(workers):
        list(workers.map_ordered(several_pids, range(4)))
        killing = replace(pool_of, pixels=Killing(pool_of.pixels, 9, workers), cache=Cache(root=tmp_path / "there"))
        there = extract_features(prefix, killing, **settings)
    assert here is not None and there is not None and there.computed == 240
    for one, other in zip(here.views, there.views, strict=True):
        for first, second in zip(one, other, strict=True):
            np.testing.assert_array_equal(first.gather(slice(None)), second.gather(slice(None)))
    assert any("done again" in line for line in said)


def several_pids(state: None, item: int) -> int:
    return item


def test_predictions_from_files_are_equal(workers: Pool, tmp_path: Path) -> None:
    data = decode_images(scan(write_folder(tmp_path / "data", per_class=40)), 32, cache=Cache(root=tmp_path / "c"))
    model = build(Head())
    here = predict_probabilities(model, data.examples().pixels, batch_size=8)
    files = replace(data.pixels, store=None).of(data.images)
    with working_on(workers):
        there = predict_probabilities(model, files, batch_size=8)
    np.testing.assert_array_equal(here, there)


def test_files_that_workers_do_not_see_are_named(
    workers: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_folder(tmp_path / "data", per_class=8)
    images = scan(data)
    monkeypatch.setattr("tlkit.data.pixels._decode_some", absent_elsewhere)
    with working_on(workers), pytest.raises(DataError, match="all machines share"):
        decode_images(images, 32, cache=Cache(root=tmp_path / "cache"))


def absent_elsewhere(square: Any, files: Any) -> tuple[np.ndarray, np.ndarray, Path]:
    return np.zeros(0, "int64"), np.zeros((0, 1, 1, 3), "uint8"), files[0][0]


@pytest.mark.usefixtures("blind_heads")
@pytest.mark.long
def test_a_worker_killed_in_the_tournament_changes_nothing(
    workers: Pool, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold(on: Pool | None) -> Any:
        pool_of = replace(examples(100, 1000), cache=Cache(root=tmp_path / str(on is None)))
        job = Job("data", effort="best", epochs=1)
        with working_on(on):
            return Tournament(build, BACKBONE, table_of(pool_of, 60), pool_of, job).run()

    here = hold(None)
    sent, begun = several._sent, []

    def and_kill(one: several.Training) -> Any:
        if not begun:
            begun.append(threading.Timer(1.0, kill_one, [workers]))
            begun[0].start()
        return sent(one)

    monkeypatch.setattr(several, "_sent", and_kill)
    there = hold(workers)
    assert begun and any("done again" in line for line in said)
    assert there.recipe == here.recipe and there.why == here.why
    assert len(here.contenders) > 5
    for one, other in zip(here.contenders, there.contenders, strict=True):
        assert (one["strategy"], one["accuracy"], one["n"]) == (other["strategy"], other["accuracy"], other["n"])
        if one["log_loss"] is not None:
            assert other["log_loss"] == pytest.approx(one["log_loss"], abs=1e-4)  # rounded to four decimals
    assert here.history is not None and there.history is not None
    losses = [pd.DataFrame(one.history.rows)[["loss", "val_loss"]].to_numpy() for one in (here, there)]
    np.testing.assert_allclose(losses[0], losses[1], atol=LOSS)


@pytest.mark.long
def test_seeds_are_trained_with_the_same_losses(workers: Pool, tmp_path: Path) -> None:
    recipe = Recipe("two seeds", (Stage(2, 1e-2), Stage(2, 1e-3, unfreeze=2)), restarts=1)

    def found(on: Pool | None) -> tuple[Any, Any]:
        training, validation = examples(36, 5), examples(12, 700)
        with working_on(on):
            cache = Cache(root=tmp_path / str(on is None))
            given = (replace(training, cache=cache), replace(validation, cache=cache))
            return train_best(lambda seed: build(Head()), BACKBONE, recipe, *given)

    (here, history), (there, other) = found(None), found(workers)
    assert other.restart == history.restart and len(other.others) == len(history.others) == 4
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose([r[name] for r in other.rows], [r[name] for r in history.rows], atol=LOSS)
    for one, two in zip(here.get_weights(), there.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    pixels = examples(12, 700).pixels
    np.testing.assert_allclose(predict_probabilities(here, pixels), predict_probabilities(there, pixels), atol=LOSS)


def test_an_example_set_in_memory_is_sent_as_it_is(workers: Pool) -> None:
    given: Examples = examples(6, 3)
    np.testing.assert_array_equal(
        several._SentExamples.of(given).opened().pixels.gather(slice(None)), given.pixels.gather(slice(None))
    )
