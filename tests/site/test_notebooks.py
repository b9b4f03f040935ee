"""The notebooks in examples/notebooks run as they stand, and are kept without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.site.pages import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def test_there_are_four_notebooks_without_outputs() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["class_safe_augmentation", "data_problems", "deploy", "first_run"]
    for file in NOTEBOOKS:
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs") and not cell.get("execution_count"), file.name
    listed = (ROOT / "docs" / "start" / "notebooks.md").read_text(encoding="utf-8")
    assert all(f"notebooks/{file.name})" in listed for file in NOTEBOOKS)


def executed(name: str, folder: Path) -> str:
    """Run a notebook in a folder. Returns the text and the HTML of all outputs."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "examples" / "notebooks" / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    outputs: list[dict[str, Any]] = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    assert not any(one["output_type"] == "error" for one in outputs)
    kinds = [one.get("data", {}) for one in outputs]
    return "\n".join(
        [str(one.get("text", "")) for one in outputs]
        + [str(data.get(kind, "")) for data in kinds for kind in ("text/plain", "text/html")]
    )


@pytest.mark.slow
def test_the_first_run(tmp_path: Path) -> None:
    said = executed("first_run", tmp_path)
    assert "of new images like these are predicted correctly" in said
    assert "Runs compared on" in said and "the best" in said
    assert (tmp_path / "first" / "report.html").is_file()


@pytest.mark.slow
def test_the_faults_that_were_put_into_the_data_are_found(tmp_path: Path) -> None:
    said = executed("data_problems", tmp_path)
    assert "6 of the 6 wrong labels are named" in said and "1 truncated" in said
    assert said.count("copy_00") >= 4 and "Checkup of" in said


@pytest.mark.slow
def test_a_turned_six_is_a_nine(tmp_path: Path) -> None:
    said = executed("class_safe_augmentation", tmp_path)
    assert "rotate: 6 becomes 9" in said and "Safety check on" in said and "safe up to" in said


@pytest.mark.slow
def test_the_forms_that_are_deployed_agree(tmp_path: Path) -> None:
    said = executed("deploy", tmp_path)
    assert "the same class for 1.0" in said and "largest difference of a probability" in said
