"""Class and file names that mean something to a terminal, a spreadsheet, a page or a file system stay names."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

import pytest
from PIL import Image

from tests.fuzz.images import seeds
from tlkit.data.clean import clean_copy
from tlkit.data.scan import scan
from tlkit.data.split import split
from tlkit.files import csv_text
from tlkit.reporting.page import _environment
from tlkit.runs.folder import Run
from tlkit.tables import Column, table_text

ROOT = Path(__file__).parents[2]
FORMULAS = ("=cmd|'calc'!A0", "@SUM(1)", "+1+1", "-rf", "\tx", '=HYPERLINK("http://a")')
ESCAPES = "a\x1b[2J\x9b31m\x07\r\nb"
PATHS = ("..", "../../out", "C:", "a/b", "a\\b", "/tmp/x", ".")


def table_of(folder: Path, labels: tuple[str, ...]) -> Path:
    """A CSV of two images for each label."""
    rows = []
    for index, label in enumerate(labels):
        for number in range(2):
            name = f"{index}-{number}.png"
            Image.new("RGB", (20, 20), (40 * index, 90 * number, 9)).save(folder / name)
            rows.append((name, label))
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "label"), *rows])
    return folder / "table.csv"


def test_names_that_begin_as_formulas_stay_as_they_are_in_every_csv(tmp_path: Path) -> None:
    """They must be read back, so no sign is put before them; docs/runs.md says how to open them in a spreadsheet."""
    (tmp_path / "=1+1.png").write_bytes(seeds()[4])
    images = split(scan(table_of(tmp_path, FORMULAS)), validation=0.5)
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run")
    run.write_table("split.csv", images.table)
    again = run.read_table("split.csv")
    assert list(again["label"]) == list(images.table["label"])
    assert {one.strip() for one in FORMULAS} == set(again["label"])
    assert csv_text(again) == csv_text(run.read_table("split.csv"))


def test_tables_of_the_terminal_show_control_characters_escaped() -> None:
    text = table_text([Column("class"), Column("n")], [(ESCAPES, 1), ("plain", 2)])
    assert not set(text) & set("\x1b\x9b\x07\r") and "a\\x1b[2J\\x9b31m\\x07 b" in text
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize("file", sorted((ROOT / "tlkit" / "cli").glob("*.py")), ids=lambda file: file.stem)
def test_commands_print_names_and_labels_through_shown(file: Path) -> None:
    """An attribute or item called path, label, prediction ... in printed text is inside of a call of `shown`."""
    names = {"path", "label", "suggested", "prediction", "other", "problem", "detail"}
    for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "click.echo"):
            continue
        for part in ast.walk(call):
            if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Attribute | ast.Subscript):
                last = part.value.attr if isinstance(part.value, ast.Attribute) else ast.unparse(part.value.slice)
                assert last.strip("'\"") not in names, f"{file.name}:{call.lineno}: {ast.unparse(part)}"


def test_pages_escape_what_they_show() -> None:
    template = _environment().from_string("{{ name }}<b title='{{ name }}'>")
    shown = template.render(name="<script>alert(1)</script>' onload='x")
    assert "<script" not in shown and "' onload" not in shown


@pytest.mark.slow
def test_labels_that_are_paths_write_nothing_outside_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if inside not in path.parents}
    table = clean_copy(table_of(inside, PATHS), inside / "clean")
    assert len(table) == 2 * len(PATHS)
    assert all((inside / "clean" / name).resolve().is_relative_to(inside / "clean") for name in table["path"])
    assert {path for path in tmp_path.rglob("*") if inside not in path.parents} == before
