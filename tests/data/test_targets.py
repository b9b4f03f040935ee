"""Labels that are quantities are told from names of classes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from tests.conftest import COLOURS, draw
from tlkit.cli.main import main
from tlkit.data.scan import scan
from tlkit.data.split import split
from tlkit.data.targets import about_regression
from tlkit.errors import DataError


@pytest.mark.parametrize(
    ("labels", "quantities"),
    [
        ([f"{number / 7:.3f}" for number in range(40)], True),
        ([str(20 + number // 2) for number in range(40)], True),  # ages, two images each
        ([f"{number % 12}.5" for number in range(240)], True),  # decimals, many images each
        ([f"{number},37" for number in range(40)], True),  # with decimal commas
        ([f"{number},37,1" for number in range(40)], False),
        ([str(number % 100) for number in range(2000)], False),  # classes that are numbered
        ([str(number % 10) for number in range(10)], True),
        ([str(number % 9) for number in range(9)], False),  # grades
        ([f"class {number}" for number in range(40)], False),
        (["nan", "inf", *[str(number) for number in range(20)]], False),
        ([], False),
    ],
)
def test_many_different_numbers_are_quantities(labels: list[str], quantities: bool) -> None:
    assert ("regression is not supported" in about_regression(labels)) == quantities


@pytest.mark.slow
def test_inspect_says_so_instead_of_a_table_of_classes(tmp_path: Path) -> None:
    for number in range(20):
        draw(COLOURS["red"], 26300 + number).save(tmp_path / f"{number}.png")
    rows = {"path": [f"{number}.png" for number in range(20)], "label": [f"{number / 3:.2f}" for number in range(20)]}
    pd.DataFrame(rows).to_csv(tmp_path / "prices.csv", index=False)
    done = CliRunner().invoke(main, ["inspect", str(tmp_path / "prices.csv"), "--fast", "--image-size", "32"])
    assert done.exit_code == 0 and "20 usable images\nthe labels are 20 different numbers, from 0 to" in done.output
    assert "6.33 " not in done.output
    with pytest.raises(DataError, match=r"0 usable classes in .*: the labels are 20 different numbers"):
        split(scan(tmp_path / "prices.csv"))
