"""The terminal: --json and --quiet of every command, bars and colours where they help, and what shells complete."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from tlkit.recipes import RECIPES

from tests.conftest import write_folder
from tests.tiny import tiny_file
from tlkit.backbones import BACKBONES
from tlkit.cli.main import main
from tlkit.cli.output import as_json
from tlkit.progress import bar, counted_off, without_bars
from tlkit.training.learning_rate import LearningRates

COMMANDS = sorted(main.commands)
NO_FACTS = {"serve"}  # it does not end
KEYS: dict[str, set[str]] = {  # documented in docs/terminal.md
    "backbones": {"name", "year", "parameters", "image_size", "blocks", "weights", "here", "licence", "own_layers"},
    "recipes": {"name", "why"},
    "cache": {"folder", "bytes", "entries"},
    "env": {"tlkit", "system", "devices", "packages", "cache", "weights", "backbones", "clashes"},
    "inspect": {"data", "images", "splits", "classes", "attention", "problems", "shorter_side", "formats"},
    "convert": {"written", "images", "copied", "left_out"},
    "lr-find": {"suggestion", "learning_rate", "loss"},
    "evaluate": {"n", "accuracy", "accuracy_95", "log_loss", "per_class", "left_out", "trained_on"},
    "predict": {"path", "prediction", "probability", "top2", "top2_probability", "sure", "problem"},
    "export": {"written", "refusal", "proof", "exports", "other_thresholds"},
    "report": {"written", "images", "rows"},
    "card": {"written"},
    "explain": {"written", "sentences"},
    "ensemble": {"run", "metrics"},
    "verify": {"path", "ok", "kind", "files", "damaged", "missing", "foreign", "notes"},
    "finetune": {"run", "finished", "plan", "metrics"},
    "demo": {"run", "finished", "plan", "metrics"},
    "push": {"repository", "commit"},  # asked in tests/runs/test_hub.py
    "check": {
        "run",
        "n",
        "accuracy",
        "accuracy_95",
        "truth",
        "drifted",
        "drift",
        "changes",
        "classes",
        "none_of_these",
    },
    "adapt": {"run", "adapted", "estimate_before", "estimate_after"},
    "slices": {"n", "accuracy", "columns", "comparisons", "by_column", "hidden", "notes"},
    "label-next": {"written", "images", "sentences"},
    "embed": {"written", "files", "problems"},
    "similar": {"image", "rank", "path", "label", "likeness"},
    "augment": {"verdict"},  # of each field, by --json -
}
SLOW = {"predict", "augment", "explain", "ensemble", "finetune", "evaluate", "report"}
SLOW |= {"slices", "label-next", "embed", "similar"}
ELSEWHERE = {"demo", "push", "check", "adapt"}  # takes a minute; needs a hub; need more held-out images
asked = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in COMMANDS
    if name not in NO_FACTS | ELSEWHERE
]


def words_of(command: str, folder: Path, run: Path, place: Path) -> list[str]:
    small = ["--backbone", tiny_file(), "--image-size", "32"]
    fresh = write_folder(place / "fresh", 2, start=777) if command == "label-next" else place
    given = {
        "inspect": [str(folder), "--fast", "--image-size", "32"],
        "convert": [str(folder), str(place / "clean")],
        "lr-find": [str(folder), *small],
        "evaluate": [str(run)],
        "predict": [str(run), str(folder / "red")],
        "export": [str(run)],
        "report": [str(run), str(shutil.copytree(run, place / "other")), "--out", str(place / "page.html")],
        "card": [str(run), "--out", str(place / "card.md")],
        "explain": [str(run), "--filters", "--out", str(place / "filters.png")],
        "ensemble": [str(run), str(place / "other"), "--out", str(place / "both")],
        "verify": [str(run)],
        "slices": [str(run)],
        "label-next": [str(run), str(fresh), "--out", str(place / "next.csv")],
        "embed": [str(run), str(folder), "--out", str(place / "embedded.parquet")],
        "similar": [str(run), str(next((folder / "red").iterdir())), "--out", str(place / "alike.png")],
        "finetune": [str(folder), *small, "--effort", "quick", "--out", str(place / "new"), "--no-report"],
        "augment": [str(folder), "--check", "--preset", "light", "--backbone", tiny_file()],
    }
    return [command, *given.get(command, [])]


def parsed(text: str) -> Any:
    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refused)


def test_every_command_takes_json_and_quiet_but_those_that_do_not_end() -> None:
    options = {name: {o for one in main.commands[name].params for o in one.opts} for name in COMMANDS}
    assert all({"-q", "--quiet"} <= found for found in options.values())
    assert {name for name, found in options.items() if "--json" not in found} == NO_FACTS
    assert {name for name in COMMANDS if name not in NO_FACTS} <= set(KEYS)


@pytest.mark.parametrize("command", asked)
def test_json_stands_alone_on_stdout_with_its_keys(
    command: str, folder: Path, trained: Path, tmp_path: Path, unserved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work itself of `export` and `lr-find`, which takes seconds, is tested elsewhere."""
    proof = {"n": 8, "top1_agreement": 1.0, "max_difference": float("nan")}
    monkeypatch.setattr("tlkit.runs.export.export_run", lambda run, to, **settings: (run.saved_model, proof))
    rates = LearningRates(np.array([1e-4, 1e-3]), np.array([1.0, 0.5]), 1e-3)
    monkeypatch.setattr("tlkit.training.learning_rate.suggest_learning_rate", lambda images, **settings: rates)
    run = shutil.copytree(trained, tmp_path / "run")
    flag = ["--json", "-"] if command == "augment" else ["--json"]
    done = CliRunner().invoke(main, [*words_of(command, folder, run, tmp_path), *flag])
    assert done.exit_code == 0, done.output
    found = parsed(done.stdout)
    rows = found if isinstance(found, list) else [*found.values()] if command == "augment" else [found]
    row = rows[0]
    assert KEYS[command] <= set(row) and "\x1b" not in done.output
    documented = (Path(__file__).parents[2] / "docs" / "terminal.md").read_text(encoding="utf-8")
    line = next(one for one in documented.splitlines() if one.startswith(f"| `{command}` |"))
    assert KEYS[command] <= set(re.findall(r"`([\w-]+)`", line))


def test_an_error_of_a_command_with_json_is_on_stderr(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["evaluate", str(tmp_path / "absent"), "--json"])
    assert done.exit_code == 1 and done.stdout == "" and done.stderr.startswith("Error: No such run")
    for file in (folder / "red").iterdir():
        file.write_bytes(b"")
    lost = CliRunner().invoke(main, ["inspect", str(folder), "--fast", "--image-size", "32", "--json"])
    assert lost.exit_code == 1 and "nothing is left of it" in lost.stderr
    assert {one["problem"] for one in parsed(lost.stdout)["problems"]} == {"empty-file"}


@pytest.mark.slow
def test_a_quiet_run_says_its_result_and_no_more(folder: Path, tmp_path: Path, unserved: None) -> None:
    words = words_of("finetune", folder, tmp_path, tmp_path)
    done = CliRunner().invoke(main, [*words, "-q"])
    assert done.exit_code == 0 and len(done.output.splitlines()) == 1
    assert done.output.startswith(f"{tmp_path / 'new'}: ") and "of new images like these" in done.output
    refused = CliRunner().invoke(main, ["--quiet", *words])
    assert refused.exit_code == 1 and refused.stdout == "" and "--force" in refused.stderr


def test_values_that_json_does_not_know() -> None:
    table = pd.DataFrame({"n": [1], "share": [float("nan")], "name": ["a"]})
    values = {"table": table, "array": np.eye(2), "one": np.float32(0.5), "path": Path("x"), "none": float("inf")}
    assert as_json(values) == {
        "table": [{"n": 1, "share": None, "name": "a"}],
        "array": [[1.0, 0.0], [0.0, 1.0]],
        "one": 0.5,
        "path": "x",
        "none": None,
    }


# -- bars -----------------------------------------------------------------------------------------------------


def become_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Called in a test: its standard output is another one than that of its fixtures."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_a_loop_inside_a_loop_adds_its_bar(
    said: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    become_a_terminal(monkeypatch)
    for _ in counted_off(range(2), 2, "fold"):
        with bar(3, "image") as update:
            update(3)
    shown = capsys.readouterr().out
    assert "folds" in shown and "2/2" in shown


def test_no_color_and_no_bars_are_respected(
    said: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    become_a_terminal(monkeypatch)
    coloured = r"\x1b\[[\d;]*[1-9]\d*m"
    monkeypatch.delenv("NO_COLOR", raising=False)
    for value, expected in ((None, True), ("1", False)):
        if value is not None:
            monkeypatch.setenv("NO_COLOR", value)
        with bar(2, "image") as update:
            update(2)
        shown = capsys.readouterr().out
        assert "2/2" in shown and bool(re.search(coloured, shown)) == expected
    with without_bars(), bar(2, "image") as update:
        update(2)
    assert capsys.readouterr().out == ""


# -- completion ----------------------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    env = {"_TLKIT_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["tlkit", *words]), "COMP_CWORD": str(len(words))}
    done = CliRunner(env=env).invoke(main, prog_name="tlkit")
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_shells_complete_backbones_recipes_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("birds-nano-1", "birds-nano-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "plan.json").write_text("{}")
    (tmp_path / "runs" / "notes").mkdir()
    expected = [f"plain,{name}" for name in sorted(BACKBONES) if name.startswith("vgg1")]
    assert completed("finetune", "--backbone", "vgg1") == expected
    assert completed("finetune", "--backbone", "nano,vgg16c") == ["plain,nano,vgg16c"]
    assert completed("finetune", "--recipe", "sm") == [f"plain,{one}" for one in RECIPES if one.startswith("sm")]
    runs = ["plain,runs/birds-nano-1", "plain,runs/birds-nano-2"]
    assert completed("predict", "runs/b") == runs == completed("evaluate", "r") == completed("finetune", "--from", "ru")
    assert completed("predict", "elsewhere/") == ["dir,elsewhere/"], "the shell completes folders"
    assert completed("fin") == ["plain,finetune"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_program(shell: str) -> None:
    done = CliRunner(env={"_TLKIT_COMPLETE": f"{shell}_source"}).invoke(main, prog_name="tlkit")
    assert done.exit_code == 0 and f"{shell}_complete" in done.output and "_TLKIT_COMPLETE" in done.output


def test_completion_takes_less_than_half_a_second_and_no_tensorflow() -> None:
    code = (
        "import sys, time\n"
        "from tlkit.cli.main import main\n"
        "try: main(prog_name='tlkit')\n"
        "except SystemExit: pass\n"
        "heavy = [m for m in ('keras', 'tensorflow', 'pandas', 'scipy') if m in sys.modules]\n"
        "print(time.process_time(), heavy, file=sys.stderr)"
    )
    env = {**os.environ, "_TLKIT_COMPLETE": "bash_complete", "COMP_WORDS": "tlkit finetune --backbone res"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**env, "COMP_CWORD": "3"})
    seconds, heavy = done.stderr.split(maxsplit=1)
    assert "plain,resnet50" in done.stdout and heavy.strip() == "[]" and float(seconds) < 0.5
