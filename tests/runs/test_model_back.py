"""A run gives its model back, compiled to go on, and plain Keras reads its file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import keras
import numpy as np
import pytest

import tlkit
from tests.data.test_arrays import CLASSES, drawn
from tests.tiny import tiny_file
from tlkit import Recipe, Stage
from tlkit.backbones import BACKBONES
from tlkit.errors import DataError

SOME = ["mobilenet_0.25", "lenet5", "stochastic_depth_20"]
# those that are learned from training images are read in tests/finetuning/test_learned_weights.py
PLAIN = [name for name, one in BACKBONES.items() if not one.own_layers and one.learn is None]


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [one for one in model.layers if isinstance(one, keras.layers.BatchNormalization)]


@pytest.mark.slow
def test_a_run_gives_its_tables_and_predicts_arrays(trained: Path) -> None:
    run, (x, _) = tlkit.open_run(trained), drawn(2)
    assert run.class_names == ("blue", "green", "red") and len(run.history) == 40
    assert set(run.predictions["split"]) == {"validation"} and run.metrics["validation"]["n"] == len(run.predictions)
    answers = run.predict(x)
    assert answers["prediction"].tolist() == ["red", "red", "green", "green", "blue", "blue"]
    assert answers["path"].tolist()[0] == "000000.png" and (answers["problem"] == "").all()
    for same in (x.astype("float32"), list(x), tlkit.from_arrays(x, [0, 0, 1, 1, 2, 2])):
        assert run.predict(same)["probability"].tolist() == answers["probability"].tolist()
    assert run.predict(x[0])["prediction"].tolist() == ["red"]
    file = next((trained.parent / "data" / "red").glob("*.png"))
    assert run.predict(file)["prediction"].tolist() == ["red"] == run.predict([str(file)])["prediction"].tolist()
    with pytest.raises(DataError, match="255"):
        run.predict(x / 255.0)


@pytest.mark.slow
def test_the_model_of_a_run_goes_on_where_it_ended(trained: Path) -> None:
    run = tlkit.open_run(trained)
    assert run.model is run.model and run.model.input_shape == (None, 32, 32, 3)
    images = np.stack([np.asarray(one)[:32, :32] for one in drawn(8)[0]]).astype("float32")
    labels = np.repeat([2, 1, 0], 8)  # red, green and blue, in the run's order
    _, accuracy = run.model.evaluate(images, labels, verbose=0)
    assert accuracy == pytest.approx((run.model.predict(images, verbose=0).argmax(1) == labels).mean())
    norms = [one.get_weights() for one in batch_norms(run.model)]
    found = run.model.fit(images, labels, epochs=3, verbose=0, shuffle=False)
    assert found.history["loss"][-1] < found.history["loss"][0]
    after = [one.get_weights() for one in batch_norms(run.model)]
    assert norms and all(
        (a == b).all() for old, new in zip(norms, after, strict=True) for a, b in zip(old, new, strict=True)
    )
    assert not any(one.trainable for one in batch_norms(run.model))


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", ["frozen", "moving"])
def test_the_blocks_that_the_last_stage_trained_go_on_and_batch_normalization_as_it_had_it(
    batch_norm: str, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "plan.json"
    plan = json.loads(file.read_text())
    plan["recipe"]["stages"][-1].update(unfreeze="all", batch_norm=batch_norm)
    file.write_text(json.dumps(plan))
    model = tlkit.Run(tmp_path / "run").model
    kernels = [one for one in model.trainable_weights if one.path.endswith("kernel")]
    before, norms = [one.numpy() for one in kernels], [one.get_weights() for one in batch_norms(model)]
    model.fit(drawn(8)[0][:, :32, :32].astype("float32"), np.repeat([2, 1, 0], 8), epochs=2, verbose=0)
    assert len(kernels) > 2 and all((old != new).any() for old, new in zip(before, kernels, strict=True))
    moved = [
        any((a != b).any() for a, b in zip(old, one.get_weights(), strict=True))
        for old, one in zip(norms, batch_norms(model), strict=True)
    ]
    assert moved == [batch_norm == "moving"] * len(norms) and norms


ALONE = """
import sys
sys.modules["tlkit"] = None
import keras, numpy as np
for line in sys.stdin:
    file = line.strip()
    model, images = keras.models.load_model(file), np.load(file.replace(".keras", ".npz"))
    found = np.asarray(model(images["images"], training=False))
    same = bool(np.allclose(found, images["answers"], atol=1e-5))
    keras.backend.clear_session()
    print(file if same else f"other answers: {np.abs(found - images['answers']).max()}", flush=True)
assert not [name for name in sys.modules if name.startswith("tlkit.")]
"""


@pytest.mark.slow
@pytest.mark.parametrize("names", [SOME, pytest.param(PLAIN, marks=pytest.mark.long)], ids=["some", "all"])
def test_plain_keras_reads_runs_and_every_row_without_layers_of_ours(
    names: list[str], trained: Path, tmp_path: Path
) -> None:
    """In safe mode, in one process without tlkit. Each file is removed before the next: all would take 12 GB."""
    run = tlkit.open_run(trained)
    with subprocess.Popen([sys.executable, "-c", ALONE], stdin=PIPE, stdout=PIPE, text=True) as alone:
        assert alone.stdin is not None and alone.stdout is not None
        for name in ["a_run", *names]:
            keras.backend.clear_session()
            if name == "a_run":
                model = run.model
            else:
                weights = "imagenet" if BACKBONES[name].brings_weights else "none"
                model = tlkit.build_classifier(name, 3, image_size=BACKBONES[name].smallest, weights=weights)
            file = tmp_path / f"{name}.keras"
            model.save(file)
            images = np.random.default_rng(0).integers(0, 256, (1, *model.input_shape[1:])).astype("float32")
            np.savez(tmp_path / f"{name}.npz", images=images, answers=np.asarray(model(images, training=False)))
            del model
            alone.stdin.write(f"{file}\n")
            alone.stdin.flush()
            assert alone.stdout.readline().strip() == str(file), name
            file.unlink()
        alone.stdin.close()
        assert alone.wait() == 0


@pytest.mark.slow
def test_arrays_become_a_proven_run_that_says_they_must_be_given_again(
    tmp_path: Path, monkeypatch: Any, reported: None
) -> None:
    x, y = drawn(10)
    data = tlkit.from_arrays(x, y, CLASSES, name="colours")
    recipe = Recipe("solved", stages=(Stage(1, 1e-3, solver="logistic", strength=1.0),))
    monkeypatch.chdir(tmp_path)
    run = tlkit.finetune(data, backbone=tiny_file(), image_size=32, recipe=recipe)
    assert run.folder.name == "colours-tiny-1" and run.class_names == tuple(CLASSES)
    assert run.metrics["parity"]["top1_agreement"] == 1.0 and run.metrics["parity"]["within_limit"]
    assert "data:image/jpeg;base64" in (run.folder / "report.html").read_text(encoding="utf-8")
    assert tlkit.evaluate_run(run)["n"] == run.metrics["validation"]["n"]
    assert tlkit.evaluate_run(run, data)["trained_on"] > 0
    again = tlkit.open_run(run.folder)
    for repeat in (
        lambda: tlkit.finetune(run.folder / "plan.json"),
        lambda: tlkit.scan(run.folder / "split.csv"),
        lambda: tlkit.evaluate_run(again),
    ):
        with pytest.raises(DataError, match="lay in memory"):
            repeat()
    given = tlkit.open_run(run.folder, tlkit.from_arrays(x, y, CLASSES))
    assert tlkit.evaluate_run(given)["accuracy"] == run.metrics["validation"]["accuracy"]
    with pytest.raises(DataError, match="same order"):
        tlkit.evaluate_run(tlkit.open_run(run.folder, tlkit.from_arrays(x[::-1], y[::-1], CLASSES)))
    assert again.plan.job.data.sha256 == data.sha256 == tlkit.from_arrays(x[::-1], y[::-1], CLASSES).sha256
