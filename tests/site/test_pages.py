"""Every code block and command of the documentation runs, on one shared run of a small network."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from tests.conftest import COLOURS, draw, leave_out_export, write_folder
from tests.reusable import unit_network, write_module
from tests.site.pages import ELSEWHERE, NOT_RUN, OTHER_TOOL, PAGES, ROOT, Block, blocks, reason, toctrees, words_of
from tests.tiny import tiny_file
from tlkit.cli.main import main
from tlkit.runs import reading

COMPARED = ROOT / "docs" / "start" / "coming-from.md"
TUTORIAL = ROOT / "docs" / "start" / "tutorial.md"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: data, new images, a table, and the runs that were made of the data."""
    import keras

    from tlkit import finetune, write_digits

    base = tmp_path_factory.mktemp("scene")
    data = write_folder(base / "data", per_class=16)
    write_folder(base / "other", per_class=4, start=500)
    write_digits(base / "digits", per_class=12)
    table = [(f"data/{file.parent.name}/{file.name}", file.parent.name) for file in sorted(data.glob("*/*.png"))]
    pd.DataFrame(table, columns=["image", "label"]).to_csv(base / "labels.csv", index=False)
    for name in ("new/a.jpg", "new/b.jpg", "new/dog.jpg", "new.jpg", "photo.jpg", "new.tif"):
        (base / name).parent.mkdir(exist_ok=True)
        draw(COLOURS["green"], 900, size=80).save(base / name)
    network = keras.models.load_model(tiny_file())
    write_module(unit_network(network), base / "module", size=32)
    shutil.copy(tiny_file(), base / "mine.keras")
    run = base / "runs" / "data-mobilenetv2-1"
    finetune(data, backbone=tiny_file(), image_size=32, recipe="small_similar", out=run, report=False)
    for other in ("a", "b"):
        shutil.copytree(run, base / "runs" / f"data-{other}-1")
    (base / "examples").symlink_to(ROOT / "examples")
    return base


@pytest.fixture(scope="module")
def loaded() -> dict[bytes, dict[str, Any]]:
    """The signatures of the SavedModels that were loaded, by what their files hold: the pages ask copies of one run."""
    return {}


@pytest.fixture
def place(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: dict[bytes, dict[str, Any]]) -> Path:
    """A folder of one page, where it may write: what is read is linked, the runs are copied."""
    for one in scene.iterdir():
        if one.name == "runs":
            shutil.copytree(one, tmp_path / "runs")
        else:
            (tmp_path / one.name).symlink_to(one)
    monkeypatch.chdir(tmp_path)
    load = reading.load_signatures

    def load_once(model: str | Path) -> dict[str, Any]:
        folder = reading.served_folder(model)
        files = [folder / "saved_model.pb", *sorted((folder / "variables").glob("*"))]
        key = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files if file.is_file())
        if key not in loaded:
            loaded[key] = load(model)
        return loaded[key]

    monkeypatch.setattr(reading, "load_signatures", load_once)
    return tmp_path


REPEATED: set[str] = set()  # commands that pages have in common and whose files none of them reads


def run_block(block: Block, names: dict[str, str], namespace: dict[str, Any]) -> None:
    """Run the block, except what NOT_RUN names, and what a page before had too."""
    if block.language == "python":
        text = block.text
        for name, value in names.items():
            text = text.replace(f'"{name}"', repr(value))
        if reason(text) is None:
            exec(compile(text, f"block at line {block.line}", "exec"), namespace)
    elif block.language == "":
        for command in block.commands():
            if reason(command) is None and command not in REPEATED:
                program, *words = words_of(command, names)
                assert program == "tlkit", f"line {block.line}: what runs {command!r}? A block of output is ```text"
                done = CliRunner().invoke(main, words, catch_exceptions=False)
                assert done.exit_code == 0, f"{command}\n{done.output}"
                if re.match("tlkit (inspect|finetune|predict) ", command) and not re.search("--(out|csv)", command):
                    REPEATED.add(command)
    else:
        assert block.language in ("text", "{toctree}", "{eval-rst}"), block


# examples for a reader open a file in one line, and leave its closing to Python
unclosed = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@unclosed
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in (TUTORIAL, ELSEWHERE)], ids=name_of)
def test_every_block_of_a_page_runs(
    page: Path, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a small network in place of MobileNetV2. Further runs are neither exported nor reported."""
    leave_out_export(monkeypatch)
    found = [block for block in blocks(page) if not block.skipped]
    if any("--clear" in block.text for block in found):
        monkeypatch.setenv("TLKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    run = "runs/data-mobilenetv2-1"
    names = {"mobilenetv2": tiny_file(), "RUN": run, f"{run}/onnx/tlkit.json": f"{run}/saved_model/tlkit.json"}
    namespace: dict[str, Any] = {}
    for block in found:
        run_block(block, names, namespace)


@unclosed
@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(place: Path, reported: None) -> None:
    """With `nano`, its own digits, the export, its proof and the report."""
    (place / "digits").unlink()
    namespace: dict[str, Any] = {}
    for block in blocks(TUTORIAL):
        run_block(block, {}, namespace)
    assert namespace["run"].metrics["parity"]["top1_agreement"] == 1.0
    assert (place / "first" / "report.html").is_file() and namespace["answer"]["class"].numpy()[0] == b"7"


def test_each_reason_not_to_run_something_is_still_needed() -> None:
    every = [
        code
        for page in PAGES
        for block in blocks(page)
        if not block.skipped
        for code in ([block.text] if block.language == "python" else block.commands())
    ]
    assert {reason(code) for code in every} - {None} == set(NOT_RUN)
    skipped = [(page, block.skipped) for page in PAGES for block in blocks(page) if block.skipped]
    assert set(skipped) == {(COMPARED, OTHER_TOOL)}


def test_the_other_tools_have_twelve_jobs_and_the_lines_are_counted() -> None:
    text = COMPARED.read_text(encoding="utf-8")
    found = blocks(COMPARED)
    jobs = re.split(r"^### \d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(jobs) == 12 and len(found) == 24
    for job, ours, theirs in zip(jobs, found[::2], found[1::2], strict=True):
        said = re.search(r"^tlkit: (\d+) lines?\. [\w ]+: (\d+) lines?", job, flags=re.MULTILINE)
        assert said, job[:40]
        assert (ours.skipped, theirs.skipped) == ("", OTHER_TOOL)
        assert [int(said[1]), int(said[2])] == [ours.lines_of_code(), theirs.lines_of_code()], job[:40]
    sections = re.findall(r"^## From [^\n]+\n(.*?)^### (?=\d)", text, flags=re.MULTILINE | re.DOTALL)
    assert len(sections) == len(re.findall(r"^## From ", text, flags=re.MULTILINE)) == 5
    for section in sections:
        assert re.search(r"\]\(https://[^)\s]+\)", section) and re.search(r"read on \d{4}-\d\d-\d\d\.", section), (
            section
        )


def test_every_page_is_in_the_navigation_once() -> None:
    docs = {page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in PAGES[1:]} - {"index"}
    lists = toctrees()
    assert len(lists) == 4
    for page in docs:
        inside = [
            one
            for one in lists
            if any(fnmatch.fnmatchcase(page, entry) and page.count("/") == entry.count("/") for entry in one)
        ]
        assert len(inside) == 1, page
    named = {entry for one in lists for entry in one if "*" not in entry}
    assert named <= docs


def test_every_option_says_what_it_does() -> None:
    for command in main.commands.values():
        for option in command.params:
            if option.param_type_name == "option":
                assert getattr(option, "help", None), (command.name, option.name)


def test_no_page_names_this_machine() -> None:
    for page in PAGES:
        assert os.environ.get("HOME", "/root") + "/" not in page.read_text(encoding="utf-8")
