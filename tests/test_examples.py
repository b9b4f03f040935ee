"""The examples, the commands of the README and the examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import COLOURS, draw, write_folder
from tests.test_walls import modules
from tests.tiny import tiny_file
from tlkit import finetune

ROOT = Path(__file__).parent.parent


def example(name: str, *words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


def the_example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_own_loop_is_finetune_written_out(folder: Path, tmp_path: Path, unserved: None) -> None:
    own_loop = the_example("own_loop")
    mine = own_loop.main(str(folder), str(tmp_path / "own"), "nano", 64)
    run = finetune(folder, backbone="nano", image_size=64, recipe="small_similar", out=tmp_path / "run")
    passing = ["seconds", "at_seconds"]
    histories = [pd.read_csv(one.folder / "history.csv").drop(columns=passing) for one in (mine, run)]
    pd.testing.assert_frame_equal(*histories)
    assert mine.metrics["validation"] == run.metrics["validation"] and mine.plan.decisions == run.plan.decisions


@pytest.mark.slow
def test_one_call_learns_a_folder(folder: Path, tmp_path: Path) -> None:
    assert accuracy_said(example("one_call", folder, tiny_file(), folder=tmp_path)) > 0.7


def a_stand_in_for_optuna() -> ModuleType:
    """As much of Optuna as the example uses, which draws at random."""
    rng, module = np.random.default_rng(0), ModuleType("optuna")

    class Trial:
        def __init__(self, number: int) -> None:
            self.number, self.params, self.user_attrs, self.value = number, {}, {}, 0.0

        def _kept(self, name: str, value: Any) -> Any:
            self.params[name] = value
            return value

        def suggest_int(self, name: str, low: int, high: int) -> int:
            return self._kept(name, int(rng.integers(low, high + 1)))

        def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> float:
            return self._kept(name, float(np.exp(rng.uniform(*np.log([low, high]))) if log else rng.uniform(low, high)))

        def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
            return self._kept(name, choices[int(rng.integers(len(choices)))])

        def set_user_attr(self, name: str, value: Any) -> None:
            self.user_attrs[name] = value

    class Study:
        def optimize(self, objective: Any, n_trials: int) -> None:
            trials = [Trial(number) for number in range(n_trials)]
            for one in trials:
                one.value = objective(one)
            self.best_trial = min(trials, key=lambda one: one.value)
            self.best_params = self.best_trial.params

    module.Trial, module.create_study = Trial, lambda sampler: Study()  # type: ignore[attr-defined]
    module.samplers = SimpleNamespace(TPESampler=lambda seed: None)  # type: ignore[attr-defined]
    return module


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example, with Optuna where it is installed."""
    if importlib.util.find_spec("optuna") is None:
        monkeypatch.setitem(sys.modules, "optuna", a_stand_in_for_optuna())
    return the_example("tune")


def test_tuning_chooses_by_validation_and_compares_on_test_images(
    tune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[dict[str, Any]] = []

    def finetune(data: Path, **given: Any) -> SimpleNamespace:
        runs.append(given)
        loss = {1: 0.2}.get(len(runs) - 1, 0.9)  # the second trial is the best
        test = {"accuracy": len(runs) / 10, "n": 8}
        return SimpleNamespace(metrics={"validation": {"log_loss": loss}, "test": test})

    monkeypatch.setattr(tune.tlkit, "finetune", finetune)
    assert tune.main(tmp_path, 3, "nano") == {"optuna": 0.2, "tournament": 0.4}
    recipes = [one["recipe"] for one in runs]
    assert recipes[-1] == "auto" and len(recipes) == 4
    assert [one.name for one in recipes[:3]] == ["trial_0", "trial_1", "trial_2"] and recipes[0] != recipes[1]
    assert len({str(one["out"]) for one in runs}) == 4 and all(one["test"] == 0.2 for one in runs)
    said = capsys.readouterr().out
    assert "best of 3 trials: {'epochs': " in said and "(n = 8): Optuna 0.200, the tournament 0.400" in said


@pytest.mark.long
@pytest.mark.slow
def test_recipe_fields_are_tuned_with_the_tournament_as_baseline(tune: Any, folder: Path, unserved: None) -> None:
    found = tune.main(folder, 1, "nano")
    assert set(found) == {"optuna", "tournament"} and all(0 <= one <= 1 for one in found.values())


@pytest.mark.long
@pytest.mark.slow
def test_one_call_learns_the_digits_with_no_network(tmp_path: Path) -> None:
    assert accuracy_said(example("one_call", folder=tmp_path)) > 0.7


def accuracy_said(done: subprocess.CompletedProcess[str]) -> float:
    found = re.search(r"validation accuracy (0\.\d+|1\.0+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


@pytest.mark.slow
def test_serving_needs_tensorflow_alone(trained: Path, tmp_path: Path) -> None:
    draw(COLOURS["green"], 4444).save(tmp_path / "new.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    done = example("serve_alone", trained / "saved_model", "new.png", "junk.png", folder=tmp_path)
    assert done.stdout.startswith("new.png: green ") and "junk.png: not a JPEG, PNG" in done.stdout


@pytest.mark.slow
def test_own_recipe_runs_as_a_script(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", per_class=6)
    assert "validation accuracy" in example("own_recipe", data, folder=tmp_path).stdout


@pytest.mark.long
@pytest.mark.real
@pytest.mark.slow
def test_own_recipe_is_taken_by_its_path(imagenet: Path, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", per_class=6)
    command = [
        sys.executable,
        "-m",
        "tlkit",
        "finetune",
        str(data),
        "--recipe",
        str(ROOT / "examples" / "own_recipe.py"),
    ]
    done = subprocess.run(
        [*command, "--epochs", "1", "--out", str(tmp_path / "r")], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0 and "own: it was asked for" in done.stdout, done.stderr


@pytest.mark.parametrize("name", [name for name, _ in modules() if name.split(".")[0] != "cli"])
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    module = importlib.import_module(f"tlkit.{name}")
    names: dict[str, Any] = {}
    assert doctest.testmod(module, extraglobs=names).failed == 0


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("file", DOCUMENTS, ids=[file.name for file in DOCUMENTS])
def test_documents_name_only_commands_options_and_files_that_exist(file: Path) -> None:
    from tlkit.cli.main import main

    text = file.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    for command, rest in re.findall(r"^tlkit ([\w-]+)(.*)$", blocks, flags=re.MULTILINE):
        options = {
            option
            for parameter in main.commands[command].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert set(re.findall(r"--[\w-]+", rest.split("#")[0])) <= options, (command, rest)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (file.parent / target).exists(), target


def test_the_readme_has_the_two_commands_that_ci_runs() -> None:
    text, script = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for ending in ("tlkit demo", 'python -m pytest -m "not slow"'):
        assert len(re.findall(rf"^python3 -m venv .* && {re.escape(ending)}$", text, flags=re.MULTILINE)) == 1
        assert f'readme "{ending}"' in script or f"readme '{ending}'" in script
