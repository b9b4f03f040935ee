"""The pool: results in order, errors as they are, workers that die."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tlkit.cli.main import main
from tlkit.cluster import Pool, check_on, current, pool, working_on
from tlkit.errors import DataError, RunError, SpecError


def begun(start: int) -> list[int]:
    return [start]


def added(state: list[int], item: int) -> int:
    state.append(item)
    return state[0] + item


def refuses(state: None, item: int) -> int:
    raise DataError(f"item {item} cannot be used")


def dies_once(state: None, item: Path) -> str:
    if item.suffix == ".dies" and not item.exists():
        item.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item.name


def always_dies(state: None, item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_without_a_cluster_the_function_is_called_in_this_process() -> None:
    with pool(None) as here:
        assert list(here.map_ordered(added, range(5), functools.partial(begun, 10))) == [10, 11, 12, 13, 14]
        with pytest.raises(DataError, match="item 3"):
            list(here.map_ordered(refuses, [3]))


def test_nothing_is_current_unless_it_was_asked_for() -> None:
    with working_on(None):
        assert current() is None


@pytest.mark.parametrize("on", ["spark", "ray:/x:1", "ray://host", "ray://host:port", ""])
def test_another_place_is_refused_with_what_was_expected(on: str) -> None:
    with pytest.raises(SpecError, match="Expected 'ray'"):
        check_on(on)


def test_ray_is_imported_only_where_it_is_asked_for_and_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, tlkit.cluster, tlkit.plan.job; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpecError, match=r"pip install 'tlkit\[ray\]'"), pool("ray"):
        pass


def test_the_command_says_in_one_sentence_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = CliRunner().invoke(main, ["finetune", str(folder), "--on", "ray"])
    assert isinstance(refused.exception, SpecError | SystemExit) and refused.exit_code
    assert "pip install 'tlkit[ray]'" in refused.output + str(refused.exception)
    wrong = CliRunner().invoke(main, ["finetune", str(folder), "--on", "spark"])
    assert wrong.exit_code and "Expected 'ray'" in wrong.output + str(wrong.exception)


def test_a_pool_that_is_in_use_is_used_again() -> None:
    here = Pool(on="ray")
    with working_on(here):
        assert current() is here
        for again in (None, "ray", here):
            with working_on(again):
                assert current() is here
    assert current() is None


@pytest.mark.slow
def test_a_cluster_gives_the_same_results_in_order(workers: Pool) -> None:
    assert workers.workers == 2
    found = list(workers.map_ordered(added, range(50), functools.partial(begun, 100)))
    assert found == list(range(100, 150))
    assert len(workers.pids()) == 2 and os.getpid() not in workers.pids()
    with pytest.raises(DataError, match="item 7 cannot be used"):
        list(workers.map_ordered(refuses, [7]))
    assert list(workers.map_ordered(added, [1], functools.partial(begun, 1))) == [2]


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_items_are_done(workers: Pool, tmp_path: Path, said: list[str]) -> None:
    names = [f"{i:02d}{'.dies' if i == 5 else '.lives'}" for i in range(20)]
    assert list(workers.map_ordered(dies_once, [tmp_path / name for name in names])) == names
    assert any("died; what it was doing is done again" in line for line in said)


@pytest.mark.slow
def test_an_item_that_kills_every_worker_is_given_up(workers: Pool) -> None:
    with pytest.raises(RunError, match="died 4 times"):
        list(workers.map_ordered(always_dies, [1]))
