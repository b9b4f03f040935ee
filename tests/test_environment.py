"""`tlkit env`: what is installed, and what is known to clash."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tlkit.cli.main import main
from tlkit.environment import clashes, devices_found, requirements, versions_installed

HEALTHY = {"tensorflow": "2.21.0", "keras": "3.15.1", "setuptools": "81.0.0", "tensorflow-hub": "0.16.1"}
REQUIRED = ["keras>=3.12,<3.17", "setuptools<82", 'onnx>=1.16; extra == "onnx"']


def test_nothing_clashes_where_all_is_as_required() -> None:
    assert clashes(HEALTHY, REQUIRED) == []
    assert clashes({**HEALTHY, "opencv-python-headless": "4.13"}, REQUIRED) == []


@pytest.mark.parametrize(
    ("more", "said", "remedy"),
    [
        ({"opencv-python": "4.13", "opencv-python-headless": "5.0"}, "same files", "install opencv-python-headless"),
        ({"opencv-python": "4.13", "opencv-contrib-python": "4.13"}, "same files", "install opencv-python"),
        ({"setuptools": "82.0.1"}, "pkg_resources", 'pip install "setuptools<82"'),
        ({"tensorflow-cpu": "2.21.0"}, "tensorflow-cpu", "uninstall tensorflow tensorflow-cpu"),
        ({"keras": "3.17.0"}, "keras 3.17.0", "keras>=3.12,<3.17"),
        ({"onnx": "1.15"}, "onnx 1.15", "onnx>=1.16"),
    ],
)
def test_each_clash_is_named_once_with_its_remedy(more: dict[str, str], said: str, remedy: str) -> None:
    found = clashes({**HEALTHY, **more}, REQUIRED)
    assert len(found) == 1 and said in found[0].what and remedy in found[0].remedy


def test_setuptools_clashes_only_beside_tensorflow_hub() -> None:
    assert clashes({"setuptools": "82.0.1"}) == []


@pytest.mark.parametrize(("gpus", "driver", "count"), [(0, True, 1), (1, True, 0), (0, False, 0)])
def test_a_gpu_that_tensorflow_does_not_see_is_named(gpus: int, driver: bool, count: int) -> None:
    assert len(clashes(HEALTHY, gpus=gpus, gpu_driver=driver)) == count


def test_a_failing_import_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "keras", None)
    found = devices_found()
    assert found["device"] is None and "ModuleNotFoundError" in found["error"]


def test_env_prints_what_is_here_and_the_same_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.environment.requirements", lambda: ["keras<3"])
    shown = CliRunner().invoke(main, ["env"])
    assert shown.exit_code == 0, shown.output
    told = json.loads(CliRunner().invoke(main, ["env", "--json"]).output)
    assert told["packages"] == versions_installed() and told["packages"]["keras"] in shown.output
    assert "nano" in told["weights"] and told["cache"]["folder"] in shown.output
    assert told["devices"]["device"] in shown.output and told["devices"]["precision"] == "float32"
    assert ["keras" in one["what"] for one in told["clashes"]].count(True) == 1
    assert f"attention: keras {told['packages']['keras']}" in shown.output and "nothing clashes" not in shown.output


def test_what_is_required_is_read_from_the_package_itself() -> None:
    names = [one.split(">")[0] for one in requirements()]
    assert not names or "tensorflow" in names
