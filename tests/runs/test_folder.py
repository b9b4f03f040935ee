"""What a run's folder may replace, and what happens when that is stopped."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tlkit.checkpoints import Checkpoints
from tlkit.errors import RunError
from tlkit.folders import DESCRIPTION, check_replaceable, write_description
from tlkit.runs.folder import Run, check_out, finish_run, next_free, open_run, start_run

PLAN = {"tlkit": "0.2.0", "job": {}, "recipe": None, "classes": ["a", "b"]}
DESCRIBED = {"classes": ["a", "b"], "image_size": 32, "fit": "squash", "input": "image_bytes"}


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_text(f"words of {name}")


def fill(run: Run) -> Run:
    """All that a run writes, and an export that was added to it."""
    run.write_json("plan.json", PLAN)
    write(run.folder, "split.csv", "model.keras", "exports.csv", f"modules/{'0a' * 8}/variables/variables.index")
    for name, files in {
        "saved_model": ("saved_model.pb", "assets/", "variables/variables.index"),
        "keras": ("model.keras",),
    }.items():
        write(run.folder / name, *files)
        write_description(run.folder / name, DESCRIBED)
    run.write_json("metrics.json", {})
    return run


def finished(folder: Path) -> Path:
    return fill(start_run(folder, force=False)).folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def all_of(folder: Path) -> dict[str, str]:
    """Every file's name and words, and every folder's name."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*")}
    return {name: p.read_text() if p.is_file() else "" for name, p in found.items()}


def test_a_run_that_another_process_works_on_is_not_replaced(tmp_path: Path) -> None:
    for folder in (tmp_path / "run", tmp_path / ".unfinished-1a2b3c4d-run"):  # the second replaces the first
        with (
            Checkpoints(folder / "checkpoints").locked(),
            pytest.raises(RunError, match=f"Another process works on the run '{tmp_path}/run'"),
        ):
            check_out(tmp_path / "run", force=True)
        shutil.rmtree(folder)
    check_out(tmp_path / "run", force=True)


def test_a_run_without_metrics_is_unfinished_and_can_be_replaced(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", force=False)
    run.write_json("plan.json", PLAN)
    assert not run.finished
    with pytest.raises(RunError, match=r"did not finish.*--force"):
        open_run(run.folder)
    with pytest.raises(RunError, match=r"unfinished run.*`force`"):
        check_out(run.folder, force=False)
    again = finish_run(fill(start_run(run.folder, force=True)), run.folder)
    assert again.folder == run.folder and open_run(run.folder).finished and names_in(tmp_path) == ["run"]


def test_a_finished_run_is_refused_without_force(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    assert json.loads((open_run(folder).folder / "plan.json").read_text()) == PLAN
    with pytest.raises(RunError, match="a finished run"):
        start_run(folder, force=False)
    assert open_run(folder).finished


def test_the_earlier_run_stays_until_the_new_one_is_finished(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    write(folder, "history.csv")
    before = all_of(folder)
    new = start_run(folder, force=True)
    assert new.folder.parent == tmp_path and new.folder.name.startswith(".unfinished-")
    fill(new)
    assert all_of(folder) == before
    assert finish_run(new, folder) == Run(folder)
    assert all_of(folder) == {name: words for name, words in before.items() if name != "history.csv"}
    assert names_in(tmp_path) == ["run"]


FOREIGN = (
    "thesis.docx",
    "notes/",
    "keras/my_model.h5",
    "saved_model/1/other_model.bin",
    "saved_model/variables/mine",
    "onnx/model.onnx",  # without a description of ours
    "modules/a.py",
    "modules/0123456789abcdef/notes.txt",
    ".tmp-notes/x.txt",
    ".tmp-12345678-letters/x.txt",
    "plan.json.bak",
)


@pytest.mark.parametrize("name", FOREIGN)
def test_force_never_removes_what_is_not_a_runs(name: str, tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    write(folder, name)
    before = all_of(folder)
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        start_run(folder, force=True)
    assert all_of(folder) == before and open_run(folder).finished and names_in(tmp_path) == ["run"]


@pytest.mark.parametrize("plan", [None, "{", "[]", '{"x": 1}', '{"classes": []}'])
def test_names_alone_make_no_run(plan: str | None, tmp_path: Path) -> None:
    write(tmp_path / "models", "keras/cat/1.png", "onnx/dog/1.png", "saved_model/", "model.keras")
    if plan is not None:
        (tmp_path / "models" / "plan.json").write_text(plan)
    before = all_of(tmp_path)
    with pytest.raises(RunError, match=r"no plan\.json of tlkit's.*and \d more|no plan\.json of tlkit's.*saved_model/"):
        start_run(tmp_path / "models", force=True)
    assert all_of(tmp_path) == before


def test_links_are_never_followed(tmp_path: Path) -> None:
    run, theirs = finished(tmp_path / "run"), finished(tmp_path / "theirs")
    before = all_of(theirs)
    (tmp_path / "link").symlink_to(theirs, target_is_directory=True)
    with pytest.raises(RunError, match=r"is a link to '.*theirs'"):
        start_run(tmp_path / "link", force=True)
    (run / "litert").symlink_to(theirs / "keras", target_is_directory=True)
    with pytest.raises(RunError, match=r"litert -> .*keras"):
        start_run(run, force=True)
    (run / "litert").unlink()
    (run / "plan.json").unlink()
    (run / "plan.json").symlink_to(theirs / "plan.json")
    with pytest.raises(RunError, match=r"no plan\.json of tlkit's"):
        start_run(run, force=True)
    assert all_of(theirs) == before


def test_what_came_meanwhile_stays_and_so_does_the_new_run(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    new = fill(start_run(folder, force=True))
    write(folder, "thesis.docx")
    with pytest.raises(RunError, match=r"thesis\.docx.*new run is finished, and stays in '.*unfinished"):
        finish_run(new, folder)
    assert (folder / "thesis.docx").exists() and open_run(folder).finished and new.finished
    (folder / "thesis.docx").unlink()
    with pytest.raises(RunError, match=rf"left '{new.folder}'\. Rename"):  # hours of work are not cleaned away
        start_run(folder, force=True)
    assert new.finished


def test_what_stopped_runs_left_beside_is_removed_by_the_next(tmp_path: Path) -> None:
    folder, other = finished(tmp_path / "run"), finished(tmp_path / "my-run")
    stopped, of_other = start_run(folder, force=True), start_run(other, force=True)
    for one in (stopped, of_other):
        one.write_json("plan.json", PLAN)
    write(tmp_path / ".unfinished-0123abcd-run", "thesis.docx")
    new = start_run(folder, force=True)
    assert not stopped.folder.exists() and of_other.folder.exists() and new.folder.exists()
    assert (tmp_path / ".unfinished-0123abcd-run" / "thesis.docx").exists() and open_run(folder).finished


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rename_that_fails_leaves_both_runs(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(tmp_path / "run")
    new, before = fill(start_run(folder, force=True)), all_of(folder)
    (new.folder / "history.csv").write_text("new")
    rename, calls = Path.rename, iter(range(9))

    def fail(self: Path, target: Path) -> Path:
        if next(calls) == failing:
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(RunError, match="stays in"):
        finish_run(new, folder)
    assert all_of(folder) == before and new.finished and len(names_in(tmp_path)) == 2


def test_what_is_left_between_the_two_renames_is_named(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    folder.rename(tmp_path / ".old-0123abcd-run")
    for force in (False, True):
        with pytest.raises(RunError, match=r"left '.*\.old-0123abcd-run'\. Rename"):
            start_run(folder, force)
    assert Run(tmp_path / ".old-0123abcd-run").finished


def test_an_unfinished_run_of_an_earlier_version_can_be_replaced(tmp_path: Path) -> None:
    """Its export has no list of its files, and a killed process left some."""
    folder = tmp_path / "run"
    write(folder, "split.csv", "problems.csv", "model.keras", ".tmp-0123abcd-saved_model/variables/x", ".DS_Store")
    export = folder / "saved_model"
    write(export, "saved_model.pb", "fingerprint.pb", "assets/", "variables/variables.data-00000-of-00001")
    (export / DESCRIPTION).write_text('{"classes": [], "image_size": 9, "fit": "pad", "input": ""}')
    write(folder / "litert", "model.tflite")
    text = '{"classes": [], "image_size": 9, "fit": "pad", "input": "", "file": "model.tflite"}'
    (folder / "litert" / DESCRIPTION).write_text(text)
    Run(folder).write_json("plan.json", PLAN)
    write(export, "labels.txt")
    with pytest.raises(RunError, match=r"saved_model/labels\.txt"):
        start_run(folder, force=True)
    (export / "labels.txt").unlink()
    finish_run(fill(start_run(folder, force=True)), folder)
    assert open_run(folder).finished and names_in(tmp_path) == ["run"]


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write(folder, ".tmp-0123abcd-plan.json")
    assert start_run(folder, force=False).folder == folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", ["", "mine"])
def test_the_lock_alone_of_a_run_that_just_began_is_no_foreign_file(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "lock").write_text(content)
    if content:
        with pytest.raises(RunError, match="not a run's"):
            check_out(folder, force=True)
    else:
        check_out(folder, force=True)


def test_images_and_runs_do_not_lie_in_each_other(tmp_path: Path) -> None:
    write(tmp_path / "data", "cat/1.png", "splits.csv")
    for out in (tmp_path / "data", tmp_path / "data" / "run", tmp_path / "data" / "cat" / "deep" / "run"):
        with pytest.raises(RunError, match="would count as a class"):
            check_out(out, force=True, data=tmp_path / "data")
    for data in (tmp_path / "data", tmp_path / "data" / "splits.csv"):
        with pytest.raises(RunError, match="lies in the run's folder"):
            check_out(tmp_path, force=True, data=data)
    check_out(tmp_path / "data" / "run", force=True, data=tmp_path / "data" / "splits.csv")  # it names its images


def test_a_folder_that_cannot_be_moved_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(tmp_path / "run")
    monkeypatch.chdir(folder / "keras")
    for out in (folder, Path(".."), Path("../../run")):
        with pytest.raises(RunError, match="where this command runs"):
            check_out(out, force=True)
    with pytest.raises(RunError, match="where this command runs"):
        check_replaceable(Path(), DESCRIPTION)
    monkeypatch.chdir(tmp_path)
    check_out(folder, force=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(RunError, match="disk is mounted"):
        check_out(folder, force=True)
    check_out(tmp_path / "empty", force=True)  # nothing is replaced there


def test_messages_for_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such run"):
        open_run(tmp_path / "none")
    with pytest.raises(RunError, match=r"no plan\.json"):
        open_run(tmp_path)
    (tmp_path / "plan.json").write_text('{"job": {}}')
    with pytest.raises(RunError, match="not the plan of a run"):
        _ = Run(tmp_path).plan
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(RunError, match="not JSON"):
        _ = Run(tmp_path).plan


def test_the_next_free_name(tmp_path: Path) -> None:
    (tmp_path / "a-1").mkdir()
    assert next_free(tmp_path, "a") == tmp_path / "a-2"
