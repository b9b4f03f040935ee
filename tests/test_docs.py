"""Every block of the documents that say so is run, in order, in one process."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import keras
import pytest
from click.testing import CliRunner

from tests.conftest import write_folder
from tlkit.cli.main import main

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[tuple[int, str, str]]:
    """Line, language and text of each block of code."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(text[: one.start()].count("\n") + 1, one[1], one[2]) for one in found]


class Session:
    """As much of `wandb` as the page uses, where it is not installed."""

    logged: ClassVar[list[Any]] = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: Any) -> None: ...

    def log_artifact(self, artefact: Any) -> None:
        self.logged.append(artefact)


class Artifact:
    def __init__(self, name: str, type: str) -> None:
        self.files: list[str] = []

    def add_file(self, file: str) -> None:
        assert Path(file).is_file()
        self.files.append(file)


def stand_in_for_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb: Any = types.ModuleType("wandb")
    wandb.init, wandb.Artifact = lambda **settings: Session(), Artifact
    integration, of_keras = types.ModuleType("wandb.integration"), types.ModuleType("wandb.integration.keras")
    of_keras.WandbMetricsLogger = keras.callbacks.Callback  # type: ignore[attr-defined]
    for module in (wandb, integration, of_keras):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.slow
def test_the_page_for_people_who_know_keras_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unserved: None
) -> None:
    write_folder(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    stand_in_for_wandb(monkeypatch)
    # the export is left out in this test to save minutes; a run's answers need one
    monkeypatch.setattr("tlkit.runs.folder.Run.predict", lambda self, images: self.model.predict(images, verbose=0))
    names: dict[str, Any] = {}
    for line, language, text in blocks("keras.md"):
        if language == "python":
            exec(compile("\n" * line + text, "docs/keras.md", "exec"), names)
        else:
            done = CliRunner().invoke(main, shlex.split(text)[1:])
            assert done.exit_code == 0, (line, done.output)
    assert (tmp_path / "best.keras").is_file() and list((tmp_path / "logs").rglob("events.*"))
    assert names["run"].class_names == ("red", "green", "blue") and len(Session.logged) == 1
    assert {language for _, language, _ in blocks("keras.md")} == {"python", "bash"}
