"""The site is built with warnings as errors, is complete, needs no network, and fits a phone."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

import tlkit
from tests.site.pages import PAGES, ROOT
from tlkit.cli.main import main


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason='needs pip install "tlkit[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        str(ROOT / "docs"),
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def settings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_conf", ROOT / "docs" / "conf.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_public_name_once() -> None:
    listed = [name for names in settings().public_names().values() for name in names]
    assert sorted(listed) == sorted(tlkit.__all__)


def test_short_forms_of_docstrings_become_sections() -> None:
    def function(per_class: int) -> None: ...

    lines = ["Write.", "", "per_class: images", "    of each.", "Returns: the folder.", "", "Note: this stays."]
    settings().with_sections(None, "function", "f", function, None, lines)
    assert [line for line in lines if line] == [
        "Write.",
        *("Args:", "    per_class: images", "        of each."),
        *("Returns:", "    the folder.", "Note: this stays."),
    ]


@pytest.mark.slow
def test_the_site_has_every_page_name_and_option(site: Path) -> None:
    for page in PAGES[1:]:
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for name in tlkit.__all__:
        assert re.search(rf'id="tlkit\.{name}"', api), name
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name, command in main.commands.items():
        for option in command.params:
            if isinstance(option, click.Option):
                assert f'id="cmdoption-tlkit-{name}-{option.opts[0].lstrip("-").lower()}"' in commands, (
                    name,
                    option.opts,
                )


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//[^"]+"', text), page
        assert not re.findall(r'<link[^>]+rel="(?:stylesheet|preload|preconnect)"[^>]+href="(?:https?:)?//', text), page


@pytest.mark.slow
def test_no_page_is_wider_than_a_phone(site: Path) -> None:
    browser = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine (on Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    pages = [one for one in sorted(site.rglob("*.html")) if "_static" not in one.parts]
    with sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = play.chromium.launch(executable_path=browser, args=flags)
        for width in (390, 1280):
            shown = chromium.new_context(viewport={"width": width, "height": 900}).new_page()
            problems: list[str] = []
            shown.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
            for page in pages:
                shown.goto(page.as_uri())
                assert shown.evaluate("document.documentElement.scrollWidth") <= width, (page.name, width)
            assert not problems
        chromium.close()
