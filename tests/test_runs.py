from __future__ import annotations

from pathlib import Path

import pytest

from tlkit.errors import RunError
from tlkit.runs import Run, check_out, next_free, open_run, start_run


def finished(folder: Path) -> Path:
    run = start_run(folder, force=False)
    run.write_json("plan.json", {"x": 1})
    run.write_json("metrics.json", {})
    return folder


def test_a_run_without_metrics_is_unfinished_and_can_be_replaced(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", force=False)
    run.write_json("plan.json", {})
    assert not run.finished
    with pytest.raises(RunError, match=r"did not finish.*--force"):
        open_run(run.folder)
    with pytest.raises(RunError, match=r"unfinished run.*--force"):
        check_out(run.folder, force=False)
    assert list(start_run(run.folder, force=True).folder.iterdir()) == []


def test_a_finished_run_is_refused_without_force(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    assert open_run(folder).plan == {"x": 1}
    with pytest.raises(RunError, match="a finished run"):
        start_run(folder, force=False)
    assert open_run(folder).finished


def test_force_never_removes_what_is_not_a_runs(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    (folder / "thesis.docx").write_text("years of work")
    with pytest.raises(RunError, match=r"thesis\.docx"):
        start_run(folder, force=True)
    assert (folder / "thesis.docx").exists() and open_run(folder).finished


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".tmp-1234-plan.json").write_text("{")
    start_run(folder, force=False)
    assert list(folder.iterdir()) == []


def test_messages_for_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such run"):
        open_run(tmp_path / "none")
    with pytest.raises(RunError, match=r"no plan\.json"):
        open_run(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(RunError, match="not JSON"):
        _ = Run(tmp_path).plan


def test_the_next_free_name(tmp_path: Path) -> None:
    (tmp_path / "a-1").mkdir()
    assert next_free(tmp_path, "a") == tmp_path / "a-2"
