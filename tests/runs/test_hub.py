"""Runs on a model hub: uploaded without paths and images of this machine, and downloaded verified, by the loopback."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from tests.conftest import COLOURS, draw, write_folder
from tests.loopback_hub import READS, WRITES, Hub, hub_served
from tlkit import evaluate_run, load_model, open_run, predict, push, verify
from tlkit.backbones.huggingface import without_token
from tlkit.cache import Cache
from tlkit.cli.main import main
from tlkit.errors import DataError, RunError, SpecError
from tlkit.manifest import sealed
from tlkit.reporting.push import OF_DATA, cleaner, staged
from tlkit.runs.hub import at_revision, handle_of, local_folder
from tlkit.runs.serve import make_app

TO = "hf://me/colours"

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub, to httpx


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, and a token that may write."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", WRITES)
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    with hub_served() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


@pytest.fixture
def pushed(hub: Hub, trained: Path) -> Hub:
    push(trained, TO)
    return hub


def files_of(hub: Hub, repo: str = "me/colours", revision: str = "main") -> dict[str, bytes]:
    files = hub.repos[repo].files(revision)
    assert files is not None
    return files


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    for number, colour in enumerate(COLOURS.values()):
        draw(colour, 8100 + number).save(tmp_path / f"{number}.png")
    return sorted(tmp_path.glob("*.png"))


def test_names_of_repositories() -> None:
    assert handle_of("hf://me/birds@v1.0/x") == handle_of(Path("hf://me/birds@v1.0/x"))
    assert handle_of("runs/birds") is None and at_revision("runs/birds", None) == "runs/birds"
    assert at_revision("hf://me/birds", "v2") == "hf://me/birds@v2"
    for wrong in ("hf://me", "hf://me/birds/file", "hf://me/birds@", "hf://../x/y"):
        with pytest.raises(SpecError, match="names no repository"):
            handle_of(wrong)
    with pytest.raises(SpecError, match="Expected hf://USER/NAME"):
        at_revision("runs/birds", "v2")


@pytest.mark.slow
def test_what_is_pushed_answers_as_the_run_does(pushed: Hub, trained: Path, images: list[Path]) -> None:
    pd.testing.assert_frame_equal(predict(TO, images), predict(trained, images))
    assert pushed.repos["me/colours"].private
    place = local_folder(TO, whole=False)
    assert place.name == "colours" and place.is_relative_to(Cache().folder)
    assert not (place / "model.keras").exists(), "only what predicting needs is downloaded"
    pushed.asked.clear()
    assert local_folder(TO, whole=False) == place
    assert {one.rpartition("/")[2] for one in pushed.asked} == {"manifest.json"}, "the rest is here"
    ours, theirs = load_model(TO), load_model(trained)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    assert np.array_equal(ours.predict_on_batch(pixels), theirs.predict_on_batch(pixels))
    found = verify(place)
    assert found.ok and found.files > 8
    with make_app(place).test_client() as client:
        data = {"file": (io.BytesIO(images[0].read_bytes()), "0.png")}
        assert client.post("/predict", data=data).get_json()["predictions"][0]["ok"]


def test_no_path_of_this_machine_and_no_image_is_pushed(pushed: Hub, trained: Path) -> None:
    files = files_of(pushed)
    assert not set(OF_DATA) & set(files) and {"README.md", "manifest.json", "model.keras", "plan.json"} <= set(files)
    texts = {name: data.decode() for name, data in files.items() if name.endswith((".json", ".md", ".csv", ".py"))}
    texts["config"] = zipfile.ZipFile(io.BytesIO(files["model.keras"])).read("config.json").decode()
    names = open_run(trained).read_table("split.csv")["path"]
    for name, text in texts.items():
        assert str(trained.parent) not in text and str(Path.home()) + "/" not in text, name
        assert not [one for one in names if one in text], name
    assert str(trained.parent).encode() not in b"".join(files.values())
    plan = json.loads(texts["plan.json"])
    assert plan["job"]["data"] == "data" and plan["job"]["backbone"] == "tiny.keras"
    assert WRITES not in str(files)


def test_with_data_the_tables_and_the_report_go_along(hub: Hub, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "manifest.json").unlink()
    picture = "data:image/png;base64,iVBORw0/KG/goAAA="
    (run / "report.html").write_text(f'<img src="{picture}"><p>see {run}/plan.json and data/red/1.png</p>')
    files = staged(open_run(run), tmp_path, with_data=True)
    assert "split.csv" in files
    assert files["report.html"].read_text() == f'<img src="{picture}"><p>see run/plan.json and data/red/1.png</p>'


def test_paths_are_taken_out_and_other_slashes_stay(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own files"
    monkeypatch.setenv("HOME", str(own))
    clean = cleaner(open_run(trained))
    data = open_run(trained).plan.job.data
    for given, expected in (
        (f"'{data}' holds 48 images", "'data' holds 48 images"),
        (f"in {own}/photos/birds: 3", "in birds: 3"),
        ("/srv/data/birds, C:\\Users\\me\\birds and ~/birds/new", "birds, birds and new"),
        ("blue/000.png is twice there", "an image is twice there"),
        (
            "and/or, 3/4, /predict, https://a.org/b/c.txt, hf://me/x",
            "and/or, 3/4, /predict, https://a.org/b/c.txt, hf://me/x",
        ),
    ):
        assert clean(given) == expected


@pytest.mark.slow
def test_a_second_push_replaces_the_first_and_keeps_the_hubs_card(pushed: Hub, trained: Path, tmp_path: Path) -> None:
    repo = pushed.repos["me/colours"]
    repo.commit("main", {**files_of(pushed), "README.md": b"filled in", "report.html": b"old", "notes.txt": b"mine"})
    push(trained, TO)
    files = files_of(pushed)
    assert files["README.md"] == b"filled in" and files["notes.txt"] == b"mine" and "report.html" not in files
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "README.md").write_text("---\nlicense: mit\n---\nfrom the run\n")
    push(run, TO, revision="v2")
    assert b"from the run" in files_of(pushed, revision="v2")["README.md"]
    assert files_of(pushed)["README.md"] == b"filled in"
    assert local_folder(f"{TO}@v2", whole=False) != local_folder(TO, whole=False)


@pytest.mark.slow
def test_the_commands(hub: Hub, trained: Path, images: list[Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["push", str(trained), TO, "--revision", "v1"])
    assert done.exit_code == 0 and "uploaded to hf://me/colours as " in done.output and WRITES not in done.output
    assert "with-data" in done.output, "what was left out is said"
    answers = CliRunner().invoke(main, ["predict", TO, "--revision", "v1", *map(str, images)]).output
    assert [line.split()[1] for line in answers.splitlines()] == list(COLOURS)
    data = write_folder(tmp_path / "data", per_class=2, start=7000)
    words = ["evaluate", TO, str(data), "--revision", "v1", "--json"]
    scores = json.loads(CliRunner().invoke(main, words).stdout)
    assert scores["n"] == 6 and scores["gone"], "which images trained it is not known"
    shown = CliRunner().invoke(main, ["cache"]).output
    assert "hf://me/colours at " in shown
    assert "cleared 1 cache" in CliRunner().invoke(main, ["cache", "--clear", "models"]).output
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_a_downloaded_run_does_not_know_its_own_images(pushed: Hub) -> None:
    with pytest.raises(DataError, match=r"has no split\.csv, as one that was downloaded"):
        evaluate_run(TO)


def test_what_is_here_takes_no_network(pushed: Hub, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    before = local_folder(TO, whole=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert local_folder(TO, whole=False) == before
    with pytest.raises(RunError, match=r"not on this machine and cannot be downloaded .* give its folder"):
        open_run("hf://me/other")
    with pytest.raises(RunError, match="Nothing was uploaded"):
        push(trained, TO)


@pytest.mark.parametrize("name", ["saved_model/variables/variables.data-00000-of-00001", "plan.json"])
def test_a_spoiled_file_is_refused_and_named(pushed: Hub, name: str) -> None:
    files = files_of(pushed)
    data = bytearray(files[name])
    data[len(data) // 2] ^= 1
    pushed.repos["me/colours"].commit("main", {**files, name: bytes(data)})
    with pytest.raises(RunError, match=f"'{re.escape(name)}' of 'hf://me/colours@.*' is spoiled: its SHA-256"):
        open_run(TO)
    pushed.repos["me/colours"].commit("main", files)
    assert verify(local_folder(TO)).ok


@pytest.mark.slow
def test_a_file_that_is_damaged_in_the_cache_is_downloaded_again(pushed: Hub, tmp_path: Path) -> None:
    local_folder(TO)
    for file in (tmp_path / "hub").rglob("variables.data*"):
        file.resolve().write_bytes(b"damaged")
    shutil.rmtree(tmp_path / "cache")
    assert verify(local_folder(TO)).ok


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no model of tlkit's: it has no manifest\.json"),
        ({"manifest.json": b"{}"}, "no model of tlkit's, or is spoiled"),
        ({"manifest.json": sealed({"files": {"plan.json": {}}, "exports": []}).encode()}, "no model of tlkit's"),
        (
            {
                "manifest.json": sealed(
                    {
                        "files": {one: {"bytes": 1, "sha256": "0"} for one in ("plan.json", "../../x")},
                        "exports": ["saved_model"],
                    }
                ).encode()
            },
            "no model of tlkit's, or is spoiled",
        ),
    ],
)
def test_a_repository_that_is_no_model_of_tlkits_is_refused(
    pushed: Hub, files: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    pushed.repos["me/colours"].commit("main", files)
    with pytest.raises(RunError, match=message):
        load_model(TO)
    assert not list(tmp_path.rglob("x"))


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "There is no token of Hugging Face on this machine. Log in with `hf auth login`, or set .* HF_TOKEN"),
        ("hf_anotherone", "Hugging Face does not know the token"),
        (READS, "The token may not write to it"),
    ],
)
def test_a_push_without_the_right_token_is_refused(
    hub: Hub, trained: Path, monkeypatch: pytest.MonkeyPatch, token: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(RunError, match=message) as error:
        push(trained, TO)
    assert not hub.repos and (not token or token not in str(error.value))


def test_a_public_repository_is_not_written_to_by_accident(hub: Hub, trained: Path) -> None:
    push(trained, TO, public=True)
    repo = hub.repos["me/colours"]
    assert not repo.private and len(repo.commits) == 2
    with pytest.raises(RunError, match=r"everyone can read it. Nothing was uploaded. Give `public`"):
        push(trained, TO)
    assert len(repo.commits) == 2


def test_a_push_of_what_is_damaged_or_to_nowhere_is_refused(hub: Hub, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    with (run / "model.keras").open("r+b") as stream:
        stream.write(b"x")
    with pytest.raises(RunError, match=r"model\.keras' is not as it was written. Nothing was uploaded"):
        push(run, TO)
    with pytest.raises(SpecError, match=r"no place to upload to. Expected hf://USER/NAME"):
        push(run, "elsewhere")
    shutil.rmtree(run / "saved_model")
    with pytest.raises(RunError, match=r"has no saved_model. Write it with `tlkit export"):
        push(run, TO)
    assert not hub.asked


def test_without_huggingface_hub_it_is_said_what_to_install(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (lambda: push(trained, TO), lambda: load_model(TO)):
        with pytest.raises(RunError, match=r"'huggingface-hub', which is not installed .*pip install 'tlkit\[hf\]'"):
            ask()


def test_a_stored_token_is_taken_out_of_messages(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text("hf_storedsecret")
    assert huggingface_hub.get_token() == "hf_storedsecret"
    assert without_token("401 for hf_storedsecret") == "401 for ..."
