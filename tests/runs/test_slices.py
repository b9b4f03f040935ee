"""Slices of a run, and the images to label next, from its features and predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.conftest import COLOURS, draw
from tlkit import DataError, NameUnknown, Run, SpecError, label_next, open_run, report, scan, slices
from tlkit.cli.main import main
from tlkit.reporting.findings import ReportInputs, analyse
from tlkit.runs.label_next import add_labels


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A copy of the shared run whose table had a column of cameras, a column of ages and one of one value."""
    shutil.copytree(trained, tmp_path / "run")
    found = open_run(tmp_path / "run")
    split = found.read_table("split.csv")
    camera = np.where(np.arange(len(split)) % 3 == 0, "old", "new")
    found.write_table("split.csv", split.assign(camera=camera, age=np.arange(len(split)), one="same"))
    return found


def test_columns_with_a_few_values_are_looked_at_by_themselves(run: Run) -> None:
    found = slices(run, hidden=False)
    assert found.columns == ("camera",) and set(found.table["value"]) <= {"old", "new", "(none)"}
    assert found.n == len(run.predictions) and 0 <= found.accuracy <= 1
    assert json.loads(json.dumps(found.to_dict()))["columns"] == ["camera"]


def test_a_column_of_numbers_is_cut_at_its_quartiles_and_an_unknown_one_is_refused(run: Run, trained: Path) -> None:
    assert slices(run, "age", hidden=False).columns == ("age",)
    with pytest.raises(NameUnknown, match="Did you mean 'camera'"):
        slices(run, ["cameras"], hidden=False)
    assert "no further column" in " ".join(slices(trained, hidden=False).notes)
    with pytest.raises(DataError, match="no further columns"):
        shutil.copytree(trained, run.folder.parent / "other")
        other = open_run(run.folder.parent / "other")
        other.write_table("split.csv", other.read_table("split.csv").drop(columns="group"))
        slices(other, "site", hidden=False)


def test_a_report_is_written_again_with_the_columns_that_are_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("tlkit.reporting.report.write_report", lambda inputs, **_: asked.append(inputs.columns))
    report([run], slices="age")
    report([run])
    assert asked == ["age", None]
    monkeypatch.setattr("tlkit.reporting.findings.measure_slices", lambda run, columns, *_, **__: asked.append(columns))
    monkeypatch.setattr("tlkit.reporting.findings.ClassActivationMaps", lambda model: None)
    analyse(ReportInputs(run, None, None, "age"))  # type: ignore[arg-type]
    assert asked == ["age", None, "age"]
    with pytest.raises(SpecError, match="of one run's report"):
        report([run, run], slices="age")


def test_hidden_slices_come_from_the_run_s_features(run: Run) -> None:
    done = CliRunner().invoke(main, ["slices", str(run.folder), "--csv", str(run.folder.parent / "rows.csv")])
    assert done.exit_code == 0, done.output
    assert "camera" in done.output and "column" in pd.read_csv(run.folder.parent / "rows.csv")


def test_images_to_label_are_written_and_taken_back(run: Run, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / "new").mkdir(exist_ok=True)
        draw(COLOURS["red"], 900 + number).save(tmp_path / "new" / f"{number}.png")
    own = run.data_root / run.read_table("split.csv")["path"][0]
    shutil.copy(own, tmp_path / "new" / "known.png")
    found = label_next(run, tmp_path / "new", count=4, strategy="margin")
    assert list(found.table) == ["path", "label", "suggested", "probability", "reason"] and len(found.table) == 4
    assert found.known == 1 and "known.png" not in set(found.table["path"])
    assert (found.table["probability"].between(0, 1)).all() and found.table["suggested"].isin(run.class_names).all()
    (tmp_path / "lists").mkdir()
    file = found.write(tmp_path / "lists" / "next.csv")
    answers = pd.read_csv(file, keep_default_na=False)
    answers.loc[:2, "label"] = "red"
    answers.to_csv(file, index=False)
    both = add_labels(run, file, tmp_path / "both.csv")
    count = len(run.read_table("split.csv"))
    assert len(both) == count + 3 and (both["split"][count:] == "train").all()
    again = scan(tmp_path / "both.csv")
    assert len(again) == count + 3 and set(again.table["sha256"]) > set(run.read_table("split.csv")["sha256"])


def test_a_choice_needs_new_images_and_a_strategy_that_exists(run: Run) -> None:
    with pytest.raises(DataError, match="in the run"):
        label_next(run, run.data_root)
    with pytest.raises(NameUnknown, match="Did you mean 'margin'"):
        label_next(run, run.data_root, strategy="margins")
    done = CliRunner().invoke(main, ["label-next", str(run.folder)])
    assert done.exit_code == 2 and "UNLABELLED" in done.output
