"""The files of examples/docker, without Docker: what they copy, run, publish and check exists. Builds no image."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_file
from tlkit import build_classifier
from tlkit.deployment.formats import write_target

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "examples" / "docker"
INSTRUCTIONS = {"ARG", "FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "EXPOSE", "HEALTHCHECK", "CMD"}


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, its words) of a Dockerfile, with continued lines joined."""
    text = (DOCKER / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(first, rest.strip()) for first, rest in lines]


def words(name: str, wanted: str) -> list[str]:
    return [rest for first, rest in instructions(name) if first == wanted]


def check_of(name: str) -> list[str]:
    """The command of HEALTHCHECK."""
    (check,) = words(name, "HEALTHCHECK")
    return list(json.loads(check[check.index("CMD") + 3 :]))


def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"])


@pytest.mark.parametrize("name", ["serve.Dockerfile", "tf-serving.Dockerfile"])
def test_a_dockerfile_ends_as_somebody_else_than_root(name: str) -> None:
    found = instructions(name)
    assert {first for first, _ in found} <= INSTRUCTIONS and len(words(name, "FROM")) == 1
    user = words(name, "USER")[-1]
    assert user not in ("root", "0", "0:0") and [first for first, _ in found].index("USER") > 2
    assert not any(first == "COPY" for first, _ in found[[first for first, _ in found].index("USER") :])


def test_what_the_image_of_tlkit_copies_is_all_that_its_build_needs() -> None:
    ignored = (DOCKER / "serve.Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [source for rest in words("serve.Dockerfile", "COPY") for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() and f"!{source}" in ignored for source in copied) and ignored[0] == "*"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for named in (*re.findall(r'^(?:readme|license-files) = \[?"([^"]+)"', project, re.M), "tlkit", "recipes"):
        assert named in copied, f"pyproject.toml needs {named}"


def test_the_ports_are_those_that_are_published_and_checked() -> None:
    services = compose()
    for service, name, ports in (
        ("serve", "serve.Dockerfile", ["8000"]),
        ("tf-serving", "tf-serving.Dockerfile", ["8500", "8501"]),
    ):
        assert words(name, "EXPOSE")[0].split() == ports
        published = [one.split(":") for one in services[service]["ports"]]
        assert [one[2] for one in published] == ports and all(one[0] == "127.0.0.1" for one in published)
        assert f"{ports[-1]}/" in check_of(name)[-1] or f"/{ports[-1]} " in check_of(name)[-1]
    assert services["tf-serving"]["healthcheck"]["test"] == ["CMD", *check_of("tf-serving.Dockerfile")]
    build = services["serve"]["build"]
    assert (DOCKER / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]).is_file()
    command = json.loads(words("serve.Dockerfile", "CMD")[0])
    assert f"{command[2]}:ro" in services["serve"]["volumes"][0] and command[command.index("--port") + 1] == "8000"
    assert "MODEL_NAME=classifier" in words("tf-serving.Dockerfile", "ENV")
    assert "saved_model /models/classifier/1" in words("tf-serving.Dockerfile", "COPY")


@pytest.mark.slow
def test_the_command_and_both_checks_work_on_this_machine(tmp_path: Path) -> None:
    """The container's command with another folder and port. TensorFlow Serving's check asks the same interface."""
    model = write_target(build_classifier(tiny_file(), 2, image_size=32), ["a", "b"], tmp_path / "out", "keras")
    command = json.loads(words("serve.Dockerfile", "CMD")[0])
    command[command.index("/model")] = str(model)
    command[command.index("--port") + 1] = "0"
    command[command.index("--host") + 1] = "127.0.0.1"
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TLKIT_TOKEN": "secret"},
    )
    try:
        assert process.stdout is not None
        port = re.search(r":(\d+)/", process.stdout.readline())[1]  # type: ignore[index]
        check = [sys.executable, *(one.replace(":8000", f":{port}") for one in check_of("serve.Dockerfile")[1:])]
        assert subprocess.run(check).returncode == 0, "without the token"
        url = f"http://127.0.0.1:{port}/v1/models/classifier"
        asked = urllib.request.Request(url, headers={"Authorization": "Bearer secret"})
        with urllib.request.urlopen(asked) as reply:
            assert "AVAILABLE" in reply.read().decode()
        other = [one.replace("/8501 ", f"/{port} ") for one in check_of("tf-serving.Dockerfile")]
        with_token = [
            one.replace("Host: localhost", "Host: localhost\\r\\nAuthorization: Bearer secret") for one in other
        ]
        assert subprocess.run(with_token, timeout=20).returncode == 0
        assert subprocess.run(
            [one.replace("models/classifier", "models/none") for one in with_token], timeout=20
        ).returncode
        process.terminate()
        began = time.monotonic()
        assert process.wait(30) == 0 and time.monotonic() - began < 30
        stopped = [sys.executable, *check[1:]]
        assert subprocess.run(stopped, stderr=subprocess.DEVNULL).returncode, "nothing is healthy once it has ended"
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
