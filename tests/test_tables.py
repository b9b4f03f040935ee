"""Tables keep every character: one line per row in a pipe, and within the width of a terminal."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from tlkit import tables
from tlkit.backbones import BACKBONES
from tlkit.cli.main import main
from tlkit.tables import Column, table_text

COLUMNS = [Column("name"), Column("images", right=True), Column("why", wraps=True)]
LONG = "a sentence of many words, none of which may be lost, " * 4
ROWS = [("cat", 1200, LONG), ("[red]dog[/red]", 3, ""), ("two\nlines", 40, "short")]


def test_in_a_pipe_each_row_is_one_line_whose_cells_come_back() -> None:
    lines = table_text(COLUMNS, ROWS).splitlines()
    assert [re.split(" {2,}", line) for line in lines] == [
        ["name", "images", "why"],
        ["cat", "1200", LONG.strip()],
        ["[red]dog[/red]", "3", "-"],
        ["two lines", "40", "short"],
    ]


def test_on_a_terminal_long_cells_take_several_lines_and_keep_every_word() -> None:
    text = table_text(COLUMNS, ROWS, width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.split().count("sentence") == 4 and text.split().count("lost,") == 4
    assert text.isascii() and "\x1b" not in text


def test_a_terminal_too_narrow_for_the_rest_gets_whole_rows() -> None:
    assert table_text(COLUMNS, ROWS, width=20) == table_text(COLUMNS, ROWS)


def test_a_table_without_rows_shows_its_header() -> None:
    assert table_text(COLUMNS, []).split() == ["name", "images", "why"]


def test_backbones_in_a_pipe_are_a_row_of_seven_cells_each() -> None:
    lines = CliRunner().invoke(main, ["backbones"]).output.splitlines()[: 1 + len(BACKBONES)]
    cells = [re.split(" {2,}", line.strip()) for line in lines]
    assert {len(row) for row in cells} == {7} and {row[0] for row in cells[1:]} == set(BACKBONES)
    years = [int(row[1]) for row in cells[1:]]
    assert years == sorted(years) and {tuple(row[1:5]) for row in cells if row[0] == "vgg16"} == {
        ("2014", "14.7 M", "224", "5")
    }


@pytest.mark.parametrize("command", ["backbones", "recipes"])
def test_at_eighty_characters_no_line_of_a_table_is_longer(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = CliRunner().invoke(main, [command]).output
    monkeypatch.setattr(tables, "_terminal_width", lambda: 80)
    shown = CliRunner().invoke(main, [command]).output
    rows = shown.split("\nyear: of")[0].splitlines()
    assert max(len(line) for line in rows) <= 80 and sorted(shown.split()) == sorted(piped.split())
