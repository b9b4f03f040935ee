"""A small selection of damaged inputs for every day, and more of them for a release."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.fuzz.images import KINDS, bombs, disagreements, mutants, seeds
from tests.fuzz.runs import readers, run_mutants, write_run
from tests.fuzz.tables import csv_mutants, folder_tree
from tlkit.data.decode import attempt, decode_and_resize, first_frame, header_fault
from tlkit.data.scan import scan
from tlkit.errors import RunError, TlkitError
from tlkit.plan.job import Job
from tlkit.runs.folder import Run


def count(everyday: int, long: int) -> pytest.MarkDecorator:
    more = pytest.param(long, marks=[pytest.mark.slow, pytest.mark.long])
    return pytest.mark.parametrize("count", [everyday, more])


def is_foretold(data: bytes) -> bool:
    """Whether what the exported graph tests before it decodes says that it will."""
    one = first_frame(tf.constant(data))
    if header_fault(one).numpy():
        return False
    try:
        return not attempt(one).numpy()
    except tf.errors.InvalidArgumentError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.long)])
def test_images_are_decoded_exactly_where_scan_and_the_exported_graph_say_so(count: int) -> None:
    files = [data for kind, data in mutants(count) if kind != "bomb"]
    answered = [is_foretold(data) for data in files]
    assert 0.15 * count < sum(answered) < 0.6 * count, "some are read, and most are not"
    assert list(disagreements(files, answered)) == []
    for data, expected in zip(files, answered, strict=True):
        started = time.process_time()
        try:
            ok = decode_and_resize(tf.constant(data), 32).shape == (32, 32, 3)
        except tf.errors.InvalidArgumentError:
            ok = False
        assert ok == expected
        assert time.process_time() - started < 10


@pytest.mark.slow
def test_the_same_seed_gives_the_same_files_and_every_kind() -> None:
    assert list(mutants(50, 3)) == list(mutants(50, 3)) != list(mutants(50, 4))
    assert {kind for kind, _ in mutants(50)} == set(KINDS)
    assert list(islice(csv_mutants(9, 1), 9)) == list(csv_mutants(9, 1))
    assert all(is_foretold(data) for data in seeds()[:18]) and not is_foretold(bombs()[0])


@count(60, 2000)
def test_tables_are_read_or_refused_with_a_sentence(count: int, tmp_path: Path) -> None:
    for name, data in (("a.png", seeds()[4]), ("b.png", seeds()[5])):
        (tmp_path / name).write_bytes(data)
    for name, data in csv_mutants(count):
        (tmp_path / name).write_bytes(data)
        try:
            scan(tmp_path / name)
        except TlkitError as error:
            assert str(error).endswith((".", "?", "'", ")")) and len(str(error)) < 20_000


@count(20, 1500)
def test_folders_are_read_or_refused_with_a_sentence(count: int, tmp_path: Path) -> None:
    for seed in range(count):
        try:
            images = scan(folder_tree(tmp_path / str(seed), seeds()[4], seed))
        except TlkitError:
            continue
        assert len(images) and np.unique(images.labels()).size == len(images.class_names)


@count(60, 3000)
def test_plans_and_files_of_runs_are_read_or_refused_with_a_sentence(count: int, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    refused = 0
    for name, data in run_mutants(run, count):
        good = (run / name).read_bytes()
        (run / name).write_bytes(data)
        try:
            readers(run, name)
        except TlkitError:
            refused += 1
        (run / name).write_bytes(good)
    assert refused > 0.2 * count


@pytest.mark.parametrize(
    "text", ["", "5", "null", "[]", "{", '"a"', "[" * 100_000, '{"job": 5}', '{"job": {"data": []}}']
)
def test_a_plan_that_is_none_says_so(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    for door in (lambda: Run(tmp_path).plan, lambda: Job.read(tmp_path / "plan.json")):
        with pytest.raises((RunError, TlkitError)):
            door()
