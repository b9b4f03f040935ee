"""Files of runs, exports and caches that are no longer as they were written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tlkit import evaluate_run, export_run, load_model, open_run, predict, verify
from tlkit.cache import Cache, Store, describe
from tlkit.cli.main import main
from tlkit.errors import RunError
from tlkit.folders import check_export, check_replaceable
from tlkit.manifest import read_manifest, sealed, unsealed
from tlkit.plan.job import Job
from tlkit.runs.export import exports_of
from tlkit.runs.lineage import lineage
from tlkit.runs.reading import load_judged
from tlkit.runs.verify import Verified


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def flip(file: Path, at: int | None = None, bit: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if at is None else at] ^= bit
    file.write_bytes(data)


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), encoding="utf-8")


def verdict(found: Verified) -> tuple[list[str], list[str], list[str]]:
    return found.damaged, found.missing, found.foreign


def test_a_finished_run_is_as_it_was_written(run: Path) -> None:
    found = verify(run)
    assert found.ok and found.kind == "run" and not found.notes, found
    inside = [file for file in run.rglob("*") if file.is_file()]
    described = [file for file in inside if file.name in ("manifest.json", "tlkit.json")]  # carry their own checksum
    assert found.files == len(inside) - len(described)
    assert verify(run / "saved_model").kind == "export" and verify(run / "saved_model").ok


@pytest.mark.parametrize("name", ["model.keras", "split.csv", "metrics.json", "predictions.csv", "history.csv"])
def test_a_flipped_byte_in_a_runs_file_is_named_and_refused_by_who_needs_it(name: str, run: Path) -> None:
    flip(run / name)
    assert verdict(verify(run)) == ([name], [], [])
    doors = {
        "model.keras": lambda: load_judged(run),
        "split.csv": lambda: evaluate_run(run),
        "metrics.json": lambda: open_run(run).metrics,
        "predictions.csv": lambda: open_run(run).read_table("predictions.csv"),
        "history.csv": lambda: open_run(run).read("history.csv"),
    }
    with pytest.raises(RunError, match=rf"{name}' (has changed since|is not JSON)"):
        doors[name]()
    if name == "split.csv":
        with pytest.raises(RunError, match=r"split\.csv' has changed"):
            lineage(run)


def test_a_flipped_byte_in_an_export_is_named_and_refused(run: Path, folder: Path) -> None:
    images = [folder / "red" / "000.png"]
    flip(run / "saved_model" / "README.md")
    check_export(run / "saved_model")  # people may edit it
    assert verdict(verify(run)) == (["saved_model/README.md"], [], [])
    flip(run / "saved_model" / "variables" / "variables.data-00000-of-00001")
    for model in (run, run / "saved_model"):
        with pytest.raises(RunError, match=r"variables.data.*is damaged.*Export the run again"):
            predict(model, images)
    (run / "saved_model" / "fingerprint.pb").unlink()
    assert verify(run).missing == ["saved_model/fingerprint.pb"]
    check_replaceable(run / "saved_model", "tlkit.json")
    shutil.rmtree(run / "saved_model")
    assert verdict(verify(run)) == ([], ["saved_model/"], [])


def test_a_changed_threshold_in_an_exports_description_is_refused(run: Path, folder: Path) -> None:
    edit(run / "saved_model" / "tlkit.json", '"unsure_below": 0.0', '"unsure_below": 0.9')
    with pytest.raises(RunError, match=r"no readable tlkit.json: its checksum"):
        predict(run, [folder / "red" / "000.png"])
    assert verify(run / "saved_model").damaged == ["tlkit.json"]


def test_a_model_does_not_go_with_a_plan_of_other_classes(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    for change, said in (({"classes": plan["classes"][::-1]}, "its classes"), ({"image_size": 64}, "its image size")):
        (run / "plan.json").write_text(json.dumps({**plan, **change}))
        with pytest.raises(RunError, match=said + r".*the model was trained with.*tlkit finetune"):
            open_run(run)
    assert Job.read(run / "plan.json").seed == plan["job"]["seed"], "it is a plan for another run"
    assert verify(run).damaged == ["plan.json"]


def test_an_edited_plan_that_fits_the_model_is_used_and_said(run: Path, said: list[str]) -> None:
    before = evaluate_run(run)
    edit(run / "plan.json", '"seed": 0', '"seed": 5')
    assert evaluate_run(run) == before
    assert len(said) == 1 and "plan.json' was changed after the run, by a person or by damage" in said[0]
    assert Job.read(run / "plan.json").seed == 5 and "the new run is the one that it describes now" in said[1]


def test_without_its_manifest_a_run_is_used_as_it_is(run: Path) -> None:
    edit(run / "metrics.json", '"accuracy": 1.0', '"accuracy": 0.5')
    with pytest.raises(RunError, match=r"If you changed it on purpose, remove '.*manifest.json'"):
        open_run(run).metrics  # noqa: B018
    (run / "manifest.json").unlink()
    assert open_run(run).metrics
    found = verify(run)
    assert found.ok and "an earlier version made it" in found.notes[0] and found.files > 3, "its export is verified"


def test_a_damaged_manifest_is_said_and_hides_no_sound_run(run: Path, said: list[str]) -> None:
    before = open_run(run).metrics
    flip(run / "manifest.json", at=60)
    assert open_run(run).metrics == before and load_model(run) is not None
    assert len(said) == 1 and "manifest.json' is damaged" in said[0]
    assert verify(run).damaged == ["manifest.json"]


@pytest.mark.slow
def test_files_that_come_later_are_listed(run: Path, said: list[str]) -> None:
    """An export's table, the threshold in metrics.json and a report."""
    export_run(run, target="keras", max_error=0.3)
    opened = open_run(run)
    opened.write_text("report.html", "<html>")
    found = verify(run)
    assert (
        found.ok and {"savedmodel", "keras"} <= set(exports_of(run)["format"]) and opened.metrics["refusal"] is not None
    )
    manifest = read_manifest(run)
    assert manifest is not None and {"exports.csv", "report.html"} <= set(manifest.files)
    assert {"saved_model", "keras"} <= set(manifest.exports)
    (run / "notes.txt").write_text("mine")
    assert verdict(verify(run)) == ([], [], ["notes.txt"])


def test_a_run_killed_between_a_manifest_and_its_file_is_sound(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*a: object) -> None:
        raise KeyboardInterrupt

    before = open_run(run).metrics
    monkeypatch.setattr("tlkit.runs.folder.write_atomically", stop)
    with pytest.raises(KeyboardInterrupt):
        open_run(run).write_json("metrics.json", {**before, "notes": ["later"]})
    assert open_run(run).metrics == before and verify(run).ok


def test_a_seal_sees_every_changed_value_and_no_changed_order() -> None:
    values = {"a": [1, 2.5, None], "b": {"é": "\udce9"}}
    text = sealed(values).encode("utf-8", "backslashreplace")
    assert unsealed(text) == values == unsealed(json.dumps(dict(reversed(json.loads(text).items()))))
    rng = np.random.default_rng(21)
    for at, bit in zip(rng.integers(0, len(text), 200), rng.integers(0, 8, 200), strict=True):
        changed = bytearray(text)
        changed[at] ^= 1 << bit
        try:
            assert unsealed(bytes(changed)) == values
        except ValueError:
            continue


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    folder = tmp_path / "pixels" / "8-squash"
    with Store(folder).writer(3, (4, 4, 3), "uint8") as writer:
        writer.add(["a", "b", "c"], np.arange(144, dtype="uint8").reshape(3, 4, 4, 3))
    describe(folder, "decoded images")
    (tmp_path / "safety" / "x").mkdir(parents=True)
    (tmp_path / "safety" / "x" / "safety.json").write_text(sealed({"n": 1}))
    return tmp_path


def test_damaged_rows_of_caches_are_struck_off(cache: Path) -> None:
    found = verify("cache")
    assert found.ok and found.rows == 3 and found.files == 2
    (shard,) = cache.rglob("*.npy")
    flip(shard, at=shard.stat().st_size - 1)
    found = verify("cache")
    assert not found.ok and found.damaged == [f"pixels/8-squash/{shard.stem}: 1 row of 3"]
    assert verify("cache").ok and Store(shard.parent).known(["a", "b", "c"]).tolist() == [True, True, False]
    flip(shard, at=20)
    edit(cache / "safety" / "x" / "safety.json", '"n": 1', '"n": 2')
    found = verify("cache")
    assert found.damaged == [f"pixels/8-squash/{shard.stem}: all of it", "safety/x/safety.json"]
    assert verify("cache").ok and not shard.exists() and len(Cache().entries()) == 1


def test_the_command_says_what_is_wrong_and_ends_with_1(run: Path, cache: Path) -> None:
    def ask(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["verify", *words])
        return done.exit_code, done.output

    code, output = ask(str(run))
    assert code == 0 and "verified: as they were written" in output
    assert ask("cache")[0] == 0
    flip(run / "model.keras")
    (run / "problems.csv").unlink()
    code, output = ask(str(run))
    assert code == 1 and "damaged  model.keras\nmissing  problems.csv\n" in output
    code, output = ask(str(run), "--json")
    assert code == 1 and json.loads(output)["damaged"] == ["model.keras"]
    code, output = ask(str(cache))
    assert code == 1 and "neither a run nor an export" in output


def test_the_command_line_passes_warnings_on(run: Path) -> None:
    edit(run / "plan.json", '"seed": 0', '"seed": 5')
    done = CliRunner().invoke(main, ["evaluate", str(run), "--json"])
    assert done.exit_code == 0 and "attention: " in done.stderr and json.loads(done.stdout)["n"]
