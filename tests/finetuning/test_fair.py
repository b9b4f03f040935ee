"""A head that is balanced over a column of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tlkit.recipes import find_recipe

from tests.conftest import write_folder
from tlkit import DataError, NameUnknown, SpecError, finetune, open_run, scan
from tlkit.features.linear import Solver
from tlkit.finetuning.fair import MOST_COST, balanced_heads, compare
from tlkit.finetuning.groups import balancing, check_column, heads_only
from tlkit.plan.job import Job


def table(folder: Path) -> Path:
    """A table of drawn images with a column of sites."""
    data = write_folder(folder / "data", per_class=12)
    files = sorted(data.glob("*/*.png"))
    rows = [(f"{one.parent.name}/{one.name}", one.parent.name, "AB"[i % 3 == 0]) for i, one in enumerate(files)]
    pd.DataFrame(rows, columns=["path", "label", "site"]).to_csv(data / "table.csv", index=False)
    return data / "table.csv"


def test_every_value_counts_alike_in_its_class_and_every_class_as_before() -> None:
    values = np.array(["a"] * 60 + ["b"] * 20 + ["a"] * 15 + ["b"] * 45)
    labels = np.repeat([0, 1], [80, 60])
    weights = balancing(values, labels)
    for label, count in ((0, 80), (1, 60)):
        mine = labels == label
        assert weights[mine].sum() == pytest.approx(count)
        assert weights[mine & (values == "a")].sum() == pytest.approx(weights[mine & (values == "b")].sum())


def test_balancing_undoes_a_shortcut_at_a_small_cost() -> None:
    """The shortcut is a strong feature that goes with the class in 93 of 100 images; two others always do."""
    random = np.random.default_rng(0)
    labels = np.arange(400) % 2
    mark = np.where(random.random(400) < 0.93, labels, 1 - labels)
    features = random.normal(size=(400, 12)).astype("float32")
    features[:, 0] += 6 * mark
    features[:, 1:3] += 2.2 * labels[:, None]
    folds = random.permutation(400) % 5
    before, chosen = balanced_heads(features, labels, mark.astype(str), folds, 2, Solver())
    right = [one.argmax(1) == labels for one in (before, chosen.probabilities)]
    found = compare(mark.astype(str), labels.astype(str), right[0], right[1], "mark")
    assert found.worst[1] > found.worst[0] and found.mean[1] >= found.mean[0] - MOST_COST
    assert "worst group" in found.sentence() and found.table["images"].sum() == 400


def test_a_network_is_not_trained_for_it() -> None:
    job = heads_only(Job("birds", fair_to="site"), None)
    assert (job.effort, job.recipe) == ("quick", "auto")
    with pytest.raises(SpecError, match="trains a network"):
        heads_only(Job("birds", fair_to="site"), find_recipe("large_similar"))
    with pytest.raises(SpecError, match="folds"):
        Job("birds", fair_to="site", folds=3)


def test_a_column_that_is_not_there_or_says_nothing_is_refused(tmp_path: Path) -> None:
    images = scan(table(tmp_path))
    assert list(images.further_columns()) == ["site"] and len(images.further_columns()) == 36
    check_column(images, "site")
    with pytest.raises(NameUnknown, match="Did you mean 'site'"):
        check_column(images, "sites")
    with pytest.raises(DataError, match="no column 'site'"):
        check_column(scan(tmp_path / "data"), "site")


@pytest.mark.slow
def test_a_run_that_is_fair_to_a_column_says_what_it_costs(tmp_path: Path, tiny: dict, unserved: None) -> None:
    run = finetune(table(tmp_path), **tiny, fair_to="site", recipe="small_similar", out=tmp_path / "run", report=False)
    groups = pd.read_csv(run.folder / "fair.csv")
    assert groups["images"].sum() == 36 and set(groups["value"]) == {"A", "B"}
    assert any("balanced over 'site'" in one for one in run.metrics["notes"])
    assert "balanced head" in run.metrics["estimate"]["how"]
    assert list(open_run(run.folder).read_table("split.csv")["site"].unique()) == ["B", "A"]
    assert Job.read(run.folder / "plan.json").fair_to == "site"
