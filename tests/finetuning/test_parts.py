"""What a job says about its split, and what `evaluate` says about images that the run was trained on."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.conftest import draw, write_folder
from tlkit import evaluate_run, open_run
from tlkit.cli.main import main
from tlkit.data.dataset import Dataset
from tlkit.data.images import ImageSet
from tlkit.data.scan import scan
from tlkit.errors import DataError
from tlkit.finetuning.prepare import Prepared, prepare
from tlkit.finetuning.resolve import resolve
from tlkit.plan.job import Job
from tlkit.runs.evaluate import _scores
from tlkit.runs.folder import Run
from tlkit.runs.lineage import Lineage, depth_of_run, lineage
from tlkit.runs.reading import decoded


def prepared(data: Path, tiny: dict[str, Any], **settings: Any) -> Prepared:
    return prepare(resolve(Job(data, **tiny, **settings)))


def files_of(job: Run | Prepared, part: str) -> set[str]:
    table = job.read_table("split.csv") if isinstance(job, Run) else job.dataset.images.table
    return set(table.loc[table["split"] == part, "sha256"])


def sentences(job: Prepared) -> str:
    return " ".join(one for d in job.decisions if d.about == "split" for one in d.evidence["sentences"])


def grown(trained: Path, folder: Path) -> Path:
    """The data of the trained run, with four more images of each class."""
    shutil.copytree(trained.parent / "data", folder)
    for name in ("red", "green", "blue"):
        write_folder(folder / "more", 4, classes=(name,), start=6530)
        shutil.copytree(folder / "more" / name, folder / name / "more")
    shutil.rmtree(folder / "more")
    return folder


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_what_earlier_runs_trained_on_stays_in_train(
    trained: Path, tmp_path: Path, tiny: dict[str, Any], seed: int
) -> None:
    data, first = grown(trained, tmp_path / "data"), open_run(trained)
    job = prepared(data, tiny, from_run=trained, seed=seed)
    assert files_of(job, "validation") and not files_of(job, "validation") & files_of(first, "train")
    count = len(files_of(first, "train"))
    assert f"{count} images that '{trained}' or a run before it was trained on are in train" in sentences(job)
    plain = prepared(data, tiny, seed=seed)
    assert seed == 0 or files_of(plain, "validation") & files_of(first, "train")


def test_a_run_trained_on_what_its_ancestors_trained_on(trained: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    job = prepared(grown(trained, tmp_path / "data"), tiny, from_run=trained, seed=1)
    (tmp_path / "second").mkdir()
    second = Run(tmp_path / "second")
    job.write(second)
    second.write_plan(dataclasses.replace(open_run(trained).plan, job=job.job))
    assert lineage(second).trained_on == files_of(open_run(trained), "train") | files_of(second, "train")
    assert not lineage(second).chosen_by & lineage(second).trained_on
    gone = dataclasses.replace(job.job, from_run=tmp_path / "gone")
    second.write_plan(dataclasses.replace(open_run(trained).plan, job=gone))
    assert lineage(second).trained_on == files_of(second, "train")
    assert lineage(second).missing == (tmp_path / "gone",)


def test_a_given_split_that_holds_out_earlier_training_images_is_said(
    trained: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    shutil.copytree(trained.parent / "data", tmp_path / "data")
    table = open_run(trained).read_table("split.csv")
    turned = table["split"].map({"train": "validation", "validation": "train"})
    table.assign(split=turned)[["path", "label", "split"]].to_csv(tmp_path / "data" / "turned.csv", index=False)
    job = prepared(tmp_path / "data" / "turned.csv", tiny, from_run=trained)
    assert files_of(job, "validation") == files_of(open_run(trained), "train")
    n = len(files_of(job, "validation"))
    assert f"{n} of the {n} validation images given were trained on by '{trained}'" in sentences(job)


def deep_folder(root: Path, bits: int) -> Path:
    """Grey images of 16 bits of which so many are used."""
    for number, name in enumerate(("a", "b") * 3):
        values = np.asarray(draw((60, 60, 60) if name == "a" else (160, 160, 160), 18300 + number).convert("L"))
        values = values.astype("uint16") << (bits - 8)
        values[0, 0] = 2**bits - 1
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / name / f"{number}.png")
    return root


@pytest.mark.slow
def test_a_run_scales_16_bits_as_the_run_that_it_started_from(
    trained: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    first, twelve, sixteen = Run(tmp_path / "first"), deep_folder(tmp_path / "t", 12), deep_folder(tmp_path / "s", 16)
    first.folder.mkdir()
    plan = open_run(trained).plan

    def after(depth: int, kind: str, data: Path) -> tuple[int, str]:
        """The depth of a run on these data after one of this depth, with this problem, and what is said of it."""
        first.write_plan(dataclasses.replace(plan, depth=depth))
        first.write_table("problems.csv", pd.DataFrame({"path": ["a"], "problem": [kind], "action": ["used"]}))
        first.write_table("split.csv", open_run(trained).read_table("split.csv"))
        first.write_metrics({})
        images = prepared(data, tiny, from_run=first.folder).dataset.images
        return images.depth, images.problems.set_index("problem").loc["16-bit", "detail"].iloc[0]

    assert after(16, "grey", twelve) == (12, "scaled by the 12 bits that the data set uses")
    assert after(16, "16-bit", twelve) == (16, "scaled by 16 bits, as the images that the model was trained on before")
    depth, said = after(12, "16-bit", sixteen)
    assert depth == 12 and "this data set uses 16, so what is brighter is white" in said
    assert after(12, "16-bit", twelve)[0] == 12
    later = Run(tmp_path / "later")  # on images of 8 bits, from the first
    later.folder.mkdir()
    later.write_plan(dataclasses.replace(plan, job=dataclasses.replace(plan.job, from_run=first.folder)))
    later.write_table("problems.csv", pd.DataFrame({"path": ["a"], "problem": ["grey"], "action": ["used"]}))
    assert depth_of_run(later) == 12
    assert dataset_of(first, twelve).pixels.depth == 12 and dataset_of(first, sixteen).pixels.depth == 12


def dataset_of(run: Run, data: Path) -> Dataset:
    """Images as `evaluate` decodes them for a run."""
    return decoded(run, scan(data))


def test_no_validation_image_is_left_where_earlier_runs_trained_on_all(
    trained: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    table = open_run(trained).read_table("split.csv")
    for path in table.loc[table["split"] == "train", "path"]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(trained.parent / "data" / path, tmp_path / path)
    with pytest.raises(DataError, match="no validation image can be drawn"):
        prepared(tmp_path, tiny, from_run=trained)


def test_evaluate_says_how_many_images_the_run_was_trained_on(trained: Path, tmp_path: Path) -> None:
    run, other = open_run(trained), grown(trained, tmp_path / "data")
    train, held = len(files_of(run, "train")), len(files_of(run, "validation"))
    done = CliRunner().invoke(main, ["evaluate", str(trained), str(other)])
    assert f"the run was trained on {train} of these {train + held + 12} images" in done.output
    assert f"chosen by {held} of these {train + held + 12} images" in done.output
    own = evaluate_run(run)
    assert (own["trained_on"], own["chosen_by"]) == (0, held) and "without_trained_on" not in own
    assert own["accuracy_95"] == run.metrics["validation"]["accuracy_95"]
    assert re.search(rf"without them: accuracy 100.0% .*, n = {held + 12}\)", done.output)


def test_the_numbers_without_training_images_are_those_of_the_others() -> None:
    table = pd.DataFrame({"path": list("abcdef"), "label": list("xyxyxy"), "sha256": list("123456"), "group": ""})
    images = ImageSet(Path(), table, ("x", "y", "z"), pd.DataFrame())
    answers = np.eye(3)[[0, 1, 0, 1, 1, 1]]
    scores = _scores(answers, images, Lineage(frozenset("1234"), frozenset("5")))
    assert (scores["trained_on"], scores["chosen_by"], scores["n"]) == (4, 1, 6)
    assert scores["accuracy"] == pytest.approx(5 / 6)
    assert (scores["without_trained_on"]["accuracy"], scores["without_trained_on"]["n"]) == (0.5, 2)
    assert _scores(answers, images, Lineage(frozenset("123456")))["without_trained_on"] is None


def test_groups_are_said_at_the_top(tmp_path: Path, tiny: dict[str, Any]) -> None:
    data = write_folder(tmp_path / "data", 12, start=6560)
    files = sorted(data.rglob("*.png"))
    table = pd.DataFrame({"path": [str(f.relative_to(data)) for f in files], "label": [f.parent.name for f in files]})
    table["group"] = [f"camera {i % 6}" for i in range(len(files))]
    table.to_csv(data / "drawn.csv", index=False)
    table["split"] = ["train" if i % 12 < 8 else "validation" for i in range(len(files))]
    table.to_csv(data / "given.csv", index=False)
    assert "6 groups, none of them in two parts" in sentences(prepared(data / "drawn.csv", tiny))
    given = prepared(data / "given.csv", tiny)
    assert "4 of 6 groups are in several of the given parts" in sentences(given)
    assert given.dataset.images.table["split"].value_counts().to_dict() == {"train": 24, "validation": 12}


def test_near_duplicates_are_said(tmp_path: Path, tiny: dict[str, Any]) -> None:
    from PIL import Image

    data = write_folder(tmp_path / "data", 8, start=6590)
    Image.open(data / "red" / "000.png").resize((60, 60)).save(data / "red" / "copy.png")
    assert "2 images that are near duplicates of others stay together with them" in sentences(prepared(data, tiny))
