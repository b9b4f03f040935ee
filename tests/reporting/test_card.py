"""The model card: every number in it is one of the run's, and its header is what a hub reads."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tlkit import model_card, open_run, verify
from tlkit.cli.main import main
from tlkit.errors import DiskError
from tlkit.reporting.card import _plain, card_text


def test_the_card_of_a_run_says_what_the_run_measured(trained: Path, tmp_path: Path) -> None:
    run = open_run(shutil.copytree(trained, tmp_path / "run"))
    done = CliRunner().invoke(main, ["card", str(run.folder)])
    assert done.exit_code == 0 and "README.md" in done.output
    text = (run.folder / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    values = yaml.safe_load(header)
    scores = run.metrics["test"] or run.metrics["validation"]
    (result,) = values["model-index"][0]["results"]
    assert values["pipeline_tag"] == "image-classification" and run.plan.backbone.name in values["tags"]
    assert {one["type"]: one["value"] for one in result["metrics"]}["accuracy"] == round(scores["accuracy"], 4)
    assert run.metrics["estimate"]["sentence"] in body
    assert run.plan.backbone.licence_of_weights in body and str(run.plan.backbone.sha256) in body
    for name, one in scores["per_class"].items():
        assert f"| {name} | {one['support']} |" in body
    for decision in run.plan.decisions:
        assert f"- {decision.about}: " in body
    assert body.count("_Fill in: ") == 4, "what only a person knows"
    assert verify(run.folder).ok, "the card belongs to the run"


def test_names_are_no_markup(trained: Path) -> None:
    assert _plain("<b>|`x`&\n") == "&lt;b>\\|'x'&amp; "
    run = open_run(trained)
    assert "<script" not in card_text(dataclasses.replace(run))


def test_a_card_that_cannot_be_written_is_said(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        model_card(trained, tmp_path / "absent" / "card.md")
