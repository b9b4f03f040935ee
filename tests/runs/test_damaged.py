"""Damaged files of a run are refused with a RunError that names the file, whatever the libraries below raise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tlkit.errors import RunError
from tlkit.models.files import open_model
from tlkit.reporting.findings import Record
from tlkit.runs.export import exports_of
from tlkit.runs.folder import Run, open_run
from tlkit.runs.reading import is_target, load_judged, load_model, load_signatures, open_exported, own_part

TABLES = ("split.csv", "predictions.csv", "history.csv", "problems.csv")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A copy of the run without its export, and without its manifest, as early versions made it."""
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("saved_model", "manifest.json"))
    return Run(tmp_path / "run")


def cut(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])


def flip(file: Path, share: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(share * len(data))] ^= 0x10
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [lambda f: cut(f, 0.5), lambda f: cut(f, 0), lambda f: flip(f, 0.5)])
def test_a_damaged_model_is_named(run: Run, damage: Callable[[Path], None]) -> None:
    damage(run.model_file)
    with pytest.raises(RunError, match=r"model\.keras' cannot be loaded: it is (cut off|damaged)"):
        load_model(run)


def test_a_missing_model_is_not_called_damaged(run: Run) -> None:
    run.model_file.unlink()
    with pytest.raises(RunError, match="No such file"):
        load_model(run)
    (run.folder / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="not a Keras file"):
        open_model(run.folder / "text.keras")


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04", b"a,b\n"])
def test_a_damaged_head_is_named(run: Run, text: bytes) -> None:
    run.judged_head.write_bytes(text)
    with pytest.raises(RunError, match=r"judged_head\.npz' is damaged"):
        load_judged(run)


@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_table_is_named(run: Run, name: str) -> None:
    file = run.folder / name
    good = file.read_bytes()
    for bad, said in (
        (b"", "is empty or damaged"),
        (bytes(range(256)), "is empty or damaged"),
        (b"a,b\n1,2\n", "has no column"),
        (good[: len(good) - 3], "is cut off|is empty or damaged"),
    ):
        file.write_bytes(bad)
        with pytest.raises(RunError, match=rf"{name}' ({said})"):
            run.read_table(name)
    file.unlink()
    with pytest.raises(RunError, match="does not exist"):
        run.read_table(name)


def test_a_table_of_images_without_images_is_cut_off(run: Run) -> None:
    for name in ("split.csv", "predictions.csv"):
        file = run.folder / name
        file.write_bytes(file.read_bytes().partition(b"\n")[0] + b"\n")
        with pytest.raises(RunError, match="is cut off after 0 rows"):
            run.read_table(name)
    with pytest.raises(RunError, match=r"split\.csv"):
        own_part(run, "validation")


@pytest.mark.parametrize("text", ["", "{", "{}", "5", "null", "[]", '"a"', pytest.param("[" * 100_000, id="deep")])
def test_json_that_is_not_a_runs_is_named(run: Run, text: str) -> None:
    (run.folder / "metrics.json").write_text(text)
    with pytest.raises(RunError, match=r"metrics\.json"):
        _ = run.metrics
    (run.folder / "plan.json").write_text(text)
    with pytest.raises(RunError, match=r"plan\.json"):
        _ = open_run(run.folder).plan
    (run.folder / "report.json").write_text(text)
    assert Record(run).earlier_robustness() is None
    (run.folder / "exports.csv").write_text("format\n" + text.replace("\n", ""))
    with pytest.raises(RunError, match=r"exports\.csv"):
        exports_of(run)
    (run.folder / "tlkit.json").write_text(text)
    assert is_target(run.folder)
    with pytest.raises(RunError, match=r"tlkit\.json"):
        open_exported(run.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("saved_model.pb", lambda file: cut(file, 0)),
        ("saved_model.pb", lambda file: cut(file, 0.5)),
        ("variables/variables.data-00000-of-00001", lambda file: cut(file, 0.5)),
    ],
)
def test_a_damaged_export_is_named(trained: Path, tmp_path: Path, name: str, damage: Callable[[Path], Any]) -> None:
    folder = tmp_path / "export"
    shutil.copytree(trained / "saved_model", folder)
    (folder / "tlkit.json").unlink()  # which has checksums
    damage(folder / name)
    with pytest.raises(RunError, match=r"export'"):
        load_signatures(folder)
