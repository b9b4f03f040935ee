"""Every format answers what the model answers, in a folder that `tlkit predict` takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from tests.tiny import tiny_file
from tlkit import ExportError, ParityError, RunError, build_classifier, export_run, find_backbone, open_target, predict
from tlkit.cli.main import main
from tlkit.deployment.formats import FORMATS, TARGETS, check_target, write_target
from tlkit.deployment.parity import prove_target
from tlkit.errors import NameUnknown
from tlkit.folders import BESIDE
from tlkit.runs.export import exports_of
from tlkit.runs.folder import check_out

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    made = build_classifier(find_backbone(tiny_file()), 3, image_size=32, seed=1)
    made.get_layer("predictions").kernel.assign(made.get_layer("predictions").kernel * 8)
    return made


def pictures(count: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype("uint8")


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("litert-float16", "openvino") else ())
        for name in sorted(FORMATS)
    ],
)
def test_a_format_answers_what_the_model_answers(model: keras.Model, target: str, tmp_path: Path) -> None:
    for package, _ in FORMATS[target].runs_with:
        pytest.importorskip(package)
    folder = write_target(
        model, NAMES, tmp_path / "out", target, fit="pad", unsure_below=0.4, representative=pictures()
    )
    description, answer = open_target(folder)
    weights = {"model.bin"} if target == "openvino" else set()
    assert {p.name for p in folder.iterdir()} == {"tlkit.json", *BESIDE, FORMATS[target].file, *weights}
    assert (description["classes"], description["fit"], description["unsure_below"]) == (NAMES, "pad", 0.4)
    expected = np.asarray(model(pictures().astype("float32")))
    found = answer(pictures())
    assert found.shape == (24, 3) and found.dtype == np.float32
    if target in ("litert-int8", "litert-float16"):
        assert np.abs(found - expected).max() < (0.1 if target == "litert-int8" else 0.02)
    else:
        assert np.abs(found - expected).max() < 1e-5


@pytest.mark.slow
def test_the_proof_tells_what_a_format_costs_and_gains_and_that_it_is_of_another_model(
    model: keras.Model, tmp_path: Path
) -> None:
    folder = write_target(model, NAMES, tmp_path / "out", "keras")
    expected = np.asarray(model(pictures().astype("float32")))
    proof = prove_target(folder, pictures(), expected, expected.argmax(1))
    assert proof["top1_agreement"] == proof["accuracy"] == proof["accuracy_before"] == 1.0
    assert proof["within_limit"] and proof["bytes"] > 0 and proof["milliseconds_an_image"] > 0
    other = build_classifier(find_backbone(tiny_file()), 3, image_size=32, seed=2)
    expected = np.asarray(other(pictures().astype("float32")))
    with pytest.raises(ParityError, match="Do not deploy"):
        prove_target(folder, pictures(), expected, expected.argmax(1))


@pytest.mark.slow
def test_integers_that_disagree_are_refused_unless_forced(model: keras.Model, tmp_path: Path) -> None:
    folder = write_target(model, NAMES, tmp_path / "out", "litert-int8", representative=pictures())
    _, answer = open_target(folder)
    wrong, one_wrong = np.roll(answer(pictures()), 1, axis=1), answer(pictures())
    one_wrong[0] = wrong[0]  # 95.8 % agree, and accuracy falls by 4.2 points
    with pytest.raises(ParityError, match=r"at most 1\.5 points"):
        prove_target(folder, pictures(), one_wrong, one_wrong.argmax(1))
    assert prove_target(folder, pictures(), one_wrong, answer(pictures()).argmax(1))["top1_agreement"] == 23 / 24
    with pytest.raises(ParityError, match=r"8-bit integers.*`force`"):
        prove_target(folder, pictures(), wrong, wrong.argmax(1))
    assert prove_target(folder, pictures(), wrong, wrong.argmax(1), force=True)["top1_agreement"] < 0.95


def test_names_folders_and_absent_packages_are_told_before_anything_is_written(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NameUnknown, match="litert"):
        check_target("liter")
    for one in TARGETS:
        if one != "openvino":  # its package is tested where it is installed
            check_target(one)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match=r"not an export's.*letter\.txt"):
        write_target(model, NAMES, tmp_path / "mine", "keras")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install 'tlkit\[onnx\]'"):
        check_target("onnx")


@pytest.mark.slow
def test_only_an_export_and_nothing_beside_it_is_replaced(model: keras.Model, tmp_path: Path) -> None:
    folder = write_target(model, NAMES, tmp_path / "out", "keras")
    write_target(model, NAMES[::-1], folder, "keras")
    assert open_target(folder)[0]["classes"] == NAMES[::-1]
    for name in ("mine.txt", "model.onnx"):
        (folder / name).write_text("mine")
        with pytest.raises(RunError, match=f"not an export's: {name}"):
            write_target(model, NAMES, folder, "keras")
        assert (folder / name).read_text() == "mine" and open_target(folder)[0]["classes"] == NAMES[::-1]
        (folder / name).unlink()
    described = json.loads((folder / "tlkit.json").read_text())
    del described["files"]  # as it was before it named its files
    (folder / "tlkit.json").write_text(json.dumps(described))
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match=r"mine\.txt"):
        write_target(model, NAMES, folder, "keras")
    (folder / "mine.txt").unlink()
    write_target(model, NAMES, folder, "keras")
    assert open_target(folder)[0]["classes"] == NAMES


@pytest.mark.slow
def test_broken_exports_say_which_file_and_what_to_do(model: keras.Model, tmp_path: Path) -> None:
    for target in ("litert", "onnx", "keras"):
        folder = write_target(model, NAMES, tmp_path / target, target)
        (folder / FORMATS[target].file).write_bytes(b"no model")
        with pytest.raises(RunError, match=rf"{FORMATS[target].file}.*Export the run again"):
            open_target(folder)
    (tmp_path / "keras" / "tlkit.json").write_text("{")
    with pytest.raises(RunError, match=r"tlkit\.json"):
        open_target(tmp_path / "keras")
    (tmp_path / "keras" / "tlkit.json").write_text(json.dumps({"format": "savedmodel"}))
    with pytest.raises(RunError, match="does not describe an export"):
        open_target(tmp_path / "keras")


@pytest.mark.slow
def test_a_run_exported_as_litert_predicts_like_its_saved_model(trained: Path, tmp_path: Path) -> None:
    folder, proof = export_run(trained, tmp_path / "mobile", target="litert")
    assert proof is not None and proof["top1_agreement"] == 1.0 and proof["max_difference"] < 1e-4
    files = sorted((trained.parent / "data").rglob("*.png"))[:12]
    shutil.copy(files[0], tmp_path / "junk.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    served, mobile = (predict(one, [*files, tmp_path / "junk.png"]) for one in (trained, folder))
    assert (served["prediction"].fillna("") == mobile["prediction"].fillna("")).all()
    assert np.allclose(served["probability"][:-1].astype(float), mobile["probability"][:-1].astype(float), atol=1e-4)
    assert served["problem"].tolist() == mobile["problem"].tolist() and mobile["problem"].iloc[-1]


@pytest.mark.slow
def test_every_export_is_shown_beside_the_others(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "exports.csv").unlink(missing_ok=True)
    assert list(exports_of(run)["format"]) == ["savedmodel"], "a run's own comes from its metrics"
    for target in ("keras", "litert", "keras"):
        export_run(run, target=target)
    table = exports_of(run)
    assert list(table["format"]) == ["savedmodel", "litert", "keras"]
    assert (
        (table["top1_agreement"] == 1).all()
        and (table["bytes"] > 0).all()
        and (table["milliseconds_an_image"] > 0).all()
    )
    done = CliRunner().invoke(main, ["export", str(run), "--format", "litert"], catch_exceptions=False)
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["savedmodel", "keras", "litert"] and "ms" in lines[-1]
    check_out(run, force=True)  # a run with exports may be replaced as any other
