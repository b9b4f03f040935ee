"""`tlkit check` and `tlkit adapt`: images without labels, on the shared run of a tiny backbone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.conftest import COLOURS, draw, write_folder
from tlkit import Run, adapt, open_run
from tlkit.cli.main import main
from tlkit.data.unlabelled import scan_unlabelled
from tlkit.errors import DataError, SpecError
from tlkit.reporting.checked import page_of
from tlkit.runs import basis as basis_module
from tlkit.runs.adapt import _not_kept, adapted
from tlkit.runs.basis import Basis, basis_of
from tlkit.runs.check import Checked, checked_on, decoded_as


@pytest.fixture(scope="module")
def few_shifts() -> Iterator[None]:
    """Learn from 6 shifts instead of 63."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(basis_module, "FEWEST_SHIFTS", 6)
        patch.setattr(basis_module, "PASSES", (54, 54))
        patch.setattr(basis_module, "PERMUTATIONS", 19)
        yield


@pytest.fixture(scope="module")
def basis(trained: Path, few_shifts: None) -> Basis:
    return basis_of(open_run(trained))


def write_flat(folder: Path, *, factor: float = 1.0, per_class: int = 12) -> Path:
    """Images of all classes side by side in one folder, darkened by a factor."""
    folder.mkdir(parents=True)
    for index, name in enumerate(COLOURS):
        for i in range(per_class):
            pixels = factor * np.asarray(draw(COLOURS[name], 5000 + 100 * index + i), "float32")
            Image.fromarray(pixels.astype("uint8")).save(folder / f"{name}{i}.png")
    return folder


def checked(basis: Basis, folder: Path) -> Checked:
    found = scan_unlabelled(folder, basis.run.plan.classes)
    return checked_on(basis, found, decoded_as(basis, found), str(folder))


@pytest.fixture(scope="module")
def dark(basis: Basis, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    return checked(basis, write_flat(tmp_path_factory.mktemp("dark") / "new", factor=0.3))


@pytest.mark.slow
def test_darker_images_are_found_and_what_changed_is_named(dark: Checked) -> None:
    assert dark.drifted and dark.n == 36 and dark.truth is None
    assert {one.what for one in dark.drift if one.found} >= {"appearance"}
    assert any("what changed" in line and "brightness lower" in line for line in dark.sentences())
    assert next(one for one in dark.changes if one.name == "brightness").now < 60


def test_images_like_the_held_out_ones_are_not_called_shifted(basis: Basis, tmp_path: Path) -> None:
    found = checked(basis, write_folder(tmp_path / "new", per_class=12, start=7000))
    assert not found.drifted
    value, _, _, n = found.truth or (0, 0, 0, 0)
    assert n == 36 and abs(found.accuracy.value - value) < 0.15
    assert found.accuracy.low <= value <= found.accuracy.high


def test_labels_change_nothing_but_the_truth(basis: Basis, tmp_path: Path) -> None:
    labelled = write_folder(tmp_path / "new", per_class=4, start=7000)
    right = checked(basis, labelled)
    (labelled / "blue").rename(labelled / "other")
    (labelled / "red").rename(labelled / "blue")
    (labelled / "other").rename(labelled / "red")
    wrong = checked(basis, labelled)
    assert right.accuracy.value == pytest.approx(wrong.accuracy.value)
    assert right.truth is not None and wrong.truth is not None and wrong.truth[0] < right.truth[0]


def test_training_images_among_the_new_ones_are_named(basis: Basis, trained: Path, tmp_path: Path) -> None:
    folder = write_flat(tmp_path / "new", per_class=4)
    table = open_run(trained).read_table("split.csv")
    path = table.loc[table["split"] == "train", "path"].iloc[0]
    (folder / "again.png").write_bytes((trained.parent / "data" / path).read_bytes())
    Image.open(trained.parent / "data" / path).save(folder / "near.bmp")
    found = checked(basis, folder)
    assert found.known == ("again.png",) and ("near.bmp", path) in (found.near or ())


def test_the_page_escapes_names_and_needs_nothing_else(basis: Basis, tmp_path: Path) -> None:
    folder = write_flat(tmp_path / "<script>alert(1)<", per_class=4)
    (folder / "blue0.png").rename(folder / "<b>bold.png")
    page = page_of(checked(basis, folder))
    assert "<script" not in page and "<b>bold" not in page and "&lt;script&gt;alert(1)" in page
    assert "prefers-color-scheme: dark" in page and "http" not in page


def test_numbers_are_json_without_nan(dark: Checked) -> None:
    values = json.loads(json.dumps(dark.to_dict(), allow_nan=False))
    assert values["drifted"] is True and values["none_of_these"] is None
    assert set(values["other_estimates"]) >= {"average confidence", "average thresholded confidence"}


def test_what_was_learned_is_kept(basis: Basis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis_module, "_rows", lambda *given: pytest.fail("computed again"))
    again = basis_of(basis.run)
    np.testing.assert_array_equal(again.taught.statistics, basis.taught.statistics)


def test_images_are_found_in_folders_and_tables_with_and_without_labels(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", per_class=2)
    (data / "notes.txt").write_text("no image")
    found = scan_unlabelled(data, ("red", "blue"))
    assert len(found.images) == 6 and set(found.images.table["label"]) == {""}
    assert found.class_numbers(found.images, ("red", "blue")).tolist() == [1, 1, -1, -1, 0, 0]
    (data / "list.csv").write_text("path\nred/000.png\nblue/001.png\ngone.png\n")
    listed = scan_unlabelled(data / "list.csv", ("red", "blue"))
    assert len(listed.images) == 2 and not listed.labels
    assert listed.images.problems["problem"].tolist() == ["missing-file"]
    with pytest.raises(DataError, match="No image in"):
        scan_unlabelled(write_flat(tmp_path / "empty", per_class=0), ("red",))


def test_adapting_is_held_back_without_a_shift_and_with_few_images(basis: Basis, tmp_path: Path) -> None:
    found = scan_unlabelled(write_folder(tmp_path / "new", per_class=12, start=7000), basis.run.plan.classes)
    examples = decoded_as(basis, found).examples()
    model, about = adapted(basis, examples)
    assert not about.helps and about.statistics == 0 and "do not differ" in about.why[0]
    for one, own in zip(model.get_weights(), basis.network.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, own)
    with pytest.raises(DataError, match="15 images cannot be adapted to"):
        adapted(basis, examples.take(np.arange(15)))


def test_the_commands_refuse_what_they_cannot_do_before_they_compute(trained: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(main, ["check", str(trained), str(tmp_path), "--out", str(tmp_path / "page.txt")])
    assert run.exit_code and "ends in .html" in run.output
    with pytest.raises(SpecError, match="is the run that is to be adapted"):
        adapt(trained, tmp_path, trained, force=True)


def test_a_run_with_too_few_held_out_images_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis_module, "FEWEST", 1000)
    with pytest.raises(SpecError, match="Expected a run with 1000 or more"):
        basis_of(open_run(trained))


@pytest.mark.parametrize("had", ["unsure", "`known`", ""])
def test_an_adapted_run_says_what_of_the_old_sites_is_not_kept(had: str, trained: Path, tmp_path: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    refusal = {"threshold": 0.9} if had == "unsure" else None
    (tmp_path / "metrics.json").write_text(json.dumps({**metrics, "refusal": refusal}))
    if had == "`known`":
        (tmp_path / "known.npz").touch()
    notes = _not_kept(Run(tmp_path))
    assert len(notes) == bool(had) and all(had in note for note in notes)


@pytest.mark.slow
def test_an_adapted_run_is_exported_proved_and_right_about_the_new_site(
    basis: Basis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.runs.adapt.basis_of", lambda *given: basis)
    monkeypatch.setattr("tlkit.runs.adapt.LEAST_GAIN", -1.0)  # whether it pays on so few images is a benchmark's matter
    folder = write_flat(tmp_path / "new", factor=0.5, per_class=24)
    run, about = adapt(basis.run, folder, tmp_path / "adapted")
    assert run is not None and about.statistics == 4
    assert run.metrics["parity"]["within_limit"] and run.metrics["validation"]["n"] == len(basis.reference)
    decision = run.plan.decision("adapt")
    assert decision is not None and decision.evidence["adapted_from"] == str(basis.run.folder.absolute())
    answers = run.predict(folder)
    names = answers["path"], answers["prediction"]
    right = [path.rpartition("/")[2].startswith(name) for path, name in zip(*names, strict=True)]
    assert np.mean(right) > 0.8
    verified = CliRunner().invoke(main, ["verify", str(run.folder)])
    assert not verified.exit_code, verified.output
