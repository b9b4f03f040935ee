"""A run that was stopped goes on where it was, and ends as one that was not stopped."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.conftest import write_folder
from tests.test_stopping import send_when
from tlkit import Augmentation, Job, Recipe, Run, Stage, finetune
from tlkit.checkpoints import Checkpoint
from tlkit.cli.main import main
from tlkit.errors import RunError, SpecError
from tlkit.stopping import Stopped
from tlkit.training.resume import MEASURED

TUNED = Recipe(
    "tuned",
    stages=(Stage(1, 1e-3, solver="logistic"), Stage(3, 1e-3, unfreeze=1, mixup=0.2)),
    augmentation=Augmentation(brightness=(-0.1, 0.1)),
    batch_size=4,
)
NOT_EQUAL = ("seconds", "images_decoded", "images_computed", "parity")  # in metrics.json: they are measured


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function that lets the process end after it has written so many more checkpoints; 0: it does not."""
    monkeypatch.setattr("tlkit.checkpoints.MOST_OF_TIME", float("inf"))
    monkeypatch.setattr("tlkit.checkpoints.EVERY_SECONDS", 0.0)
    save, left = Checkpoint.save, [0]

    def saving(self: Checkpoint, values: dict[str, Any]) -> None:
        self.among.every = 0.0
        save(self, values)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(Checkpoint, "save", saving)
    return lambda count: left.__setitem__(0, count)


def content(run: Run) -> dict[str, Any]:
    """What must be equal: weights, history, predictions, metrics and decisions."""
    rows = pd.read_csv(run.folder / "history.csv").drop(columns=list(MEASURED))
    metrics = {name: value for name, value in run.metrics.items() if name not in NOT_EQUAL}
    return {
        "weights": [one.tobytes() for one in keras.saving.load_model(run.model_file, compile=False).get_weights()],
        "history": rows.to_csv(),
        "predictions": (run.folder / "predictions.csv").read_text(),
        "metrics": json.dumps(metrics),
        "recipe": run.plan.recipe,
    }


def ended(
    start: Callable[[], Run], again: Callable[[], Run], kills: Callable[[int], None], every: int
) -> tuple[Run, int]:
    """Start a run, and go on with it until it ends. The process ends after each `every` checkpoints."""
    ends, step = 0, start
    while True:
        kills(every)
        try:
            return step(), ends
        except Killed:
            ends, step = ends + 1, again
            assert ends < 40


@pytest.mark.slow
@pytest.mark.parametrize("every", [pytest.param(3, marks=pytest.mark.long), 1])
def test_a_run_that_is_stopped_again_and_again_ends_as_one_that_is_not(
    every: int, folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None, kills: Callable[[int], None]
) -> None:
    given: dict[str, Any] = {**tiny, "recipe": TUNED, "refit": True}
    whole = finetune(folder, **given, out=tmp_path / "whole")
    out = tmp_path / "stopped"
    run, ends = ended(lambda: finetune(folder, **given, out=out), lambda: finetune(resume=out), kills, every)
    assert ends >= 4
    assert content(run) == content(whole)
    assert not (out / "checkpoints").exists(), "what only a stopped run needs is removed"
    with pytest.raises(RunError, match="nothing to resume"):
        finetune(resume=out)


@pytest.mark.slow
def test_a_tournament_goes_on_with_the_contender_that_it_was_at(
    tmp_path: Path, tiny: dict[str, Any], unserved: None, kills: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.strategy.tournament.FEWEST_TO_MEND", 0)
    monkeypatch.setattr("tlkit.strategy.tournament.why_not_tuned", lambda job, validation: "")
    data = write_folder(tmp_path / "data", 12)
    whole = finetune(data, **tiny, epochs=2, out=tmp_path / "whole")
    out = tmp_path / "stopped"
    run, ends = ended(lambda: finetune(data, **tiny, epochs=2, out=out), lambda: finetune(resume=out), kills, 4)
    assert ends >= 2
    assert content(run) == content(whole)

    def lines(one: Run) -> list[dict[str, Any]]:
        decision = one.plan.decision("recipe")
        assert decision is not None
        return [{name: row[name] for name in row if name != "seconds"} for row in decision.evidence["contenders"]]

    assert lines(run) == lines(whole)
    assert any(row["fine_tuned"] and row["n"] for row in lines(run)), "one was trained by gradient descent"


@pytest.mark.slow
def test_a_run_that_replaces_another_is_resumed_by_the_name_of_that(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None, kills: Callable[[int], None]
) -> None:
    out, given = tmp_path / "run", {**tiny, "recipe": TUNED}
    first = finetune(folder, **given, out=out)
    before = first.model_file.read_bytes()
    kills(4)
    with pytest.raises(Killed):
        finetune(folder, **given, seed=1, out=out, force=True)
    assert Run(out).finished and Run(out).model_file.read_bytes() == before, "the earlier run is still there"
    kills(0)
    assert finetune(resume=out).plan.job.seed == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["data", "run"]


@pytest.mark.slow
def test_what_has_changed_since_is_named_and_refused(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None, kills: Callable[[int], None]
) -> None:
    out = tmp_path / "run"
    kills(2)
    with pytest.raises(Killed):
        finetune(folder, **tiny, recipe=TUNED, out=out)
    kills(0)
    moved = folder / "red" / "000.png"
    content_before, plan = moved.read_bytes(), (out / "plan.json").read_text()
    moved.write_bytes((folder / "blue" / "000.png").read_bytes())
    with pytest.raises(RunError, match=r"2 images differ, such as 'blue/000\.png'.*`force`"):
        finetune(resume=out)
    moved.write_bytes(content_before)
    values = json.loads(plan)
    values["versions"]["keras"] = "3.0.0"
    (out / "plan.json").write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"keras was 3\.0\.0 and is"):
        finetune(resume=out)
    assert finetune(resume=out, force=True).finished


def test_a_resumed_run_takes_no_other_options(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="`seed`"):
        finetune(resume=tmp_path, seed=1)
    with pytest.raises(SpecError, match="no Job"):
        finetune(Job(folder), resume=tmp_path)
    with pytest.raises(RunError, match="Give the command that began the run again"):
        finetune(resume=tmp_path)
    with pytest.raises(RunError, match="No such run"):
        finetune(resume=tmp_path / "absent")
    with pytest.raises(SpecError, match="`data`"):
        finetune()
    shown = CliRunner().invoke(main, ["finetune"])
    assert shown.exit_code == 2 and "--resume" in shown.output


@pytest.mark.slow
def test_auto_goes_on_with_the_newest_unfinished_run_of_the_same_job(
    folder: Path,
    tmp_path: Path,
    tiny: dict[str, Any],
    unserved: None,
    kills: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {**tiny, "recipe": TUNED}
    for seed in (0, 1):
        kills(2)
        with pytest.raises(Killed):
            finetune(folder, **given, seed=seed)
    kills(0)
    first = finetune(folder, **given, resume="auto")
    assert first.plan.job.seed == 0 and first.folder.name.endswith("-1")
    assert finetune(folder, **given, resume="auto").folder.name.endswith("-3"), "there is none any more: a new one"


@pytest.mark.slow
def test_ctrl_c_delivers_the_best_model_so_far_and_the_training_can_go_on(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None
) -> None:
    given: dict[str, Any] = {**tiny, "recipe": TUNED}
    whole = finetune(folder, **given, out=tmp_path / "whole")
    with send_when(signal.SIGINT, epoch=1):
        run = finetune(folder, **given, out=tmp_path / "run")
    assert run.finished and len(pd.read_csv(run.folder / "history.csv")) < 4
    assert any("interrupted" in note for note in run.metrics["notes"])
    assert content(finetune(resume=run.folder)) == content(whole)


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_ends_with_143(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None
) -> None:
    given: dict[str, Any] = {**tiny, "recipe": dataclasses.replace(TUNED, stages=(Stage(4, 1e-3, unfreeze=1),))}
    whole = finetune(folder, **given, out=tmp_path / "whole")
    with send_when(signal.SIGTERM, epoch=1), pytest.raises(Stopped) as stopped:
        finetune(folder, **given, out=tmp_path / "run")
    assert stopped.value.code == 143 and not Run(tmp_path / "run").finished
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert content(finetune(resume=tmp_path / "run")) == content(whole)
