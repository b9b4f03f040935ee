"""What a SavedModel answers beyond a class: "none of these", and a set of classes; and the proof of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.broken import encode
from tests.conftest import COLOURS, draw, write_folder
from tests.tiny import predicted, tiny_file
from tlkit import Recipe, Run, Stage, build_classifier, finetune, predict, prove_parity
from tlkit.deployment.saved_model import Serving, export_served
from tlkit.errors import ParityError, SpecError
from tlkit.evaluation.known import (
    NONE_OF_THESE,
    Known,
    features_model,
    fit_known,
    p_values_of,
    room_beside,
    with_features,
)
from tlkit.evaluation.prediction_sets import fit_prediction_sets
from tlkit.runs.export import export_run
from tlkit.runs.predict import opened
from tlkit.runs.reading import load_known

CLASSES = tuple(COLOURS)


def pixels(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Drawn images of three colours, uint8, (n, 32, 32, 3), and their labels."""
    made = [
        (draw(colour, start + 100 * i + j, 32), i) for i, colour in enumerate(COLOURS.values()) for j in range(count)
    ]
    return np.stack([np.asarray(image, "uint8") for image, _ in made]), np.array([label for _, label in made])


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return build_classifier(tiny_file(), 3, seed=1)


@pytest.fixture(scope="module")
def known(model: keras.Model) -> Known:
    images, labels = pixels(30)
    reader = features_model(model)
    assert reader is not None
    features, probabilities = predicted(reader, images), predicted(model, images)
    found = fit_known(features, labels, probabilities, np.arange(90) % 5, room=room_beside(model))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def served(model: keras.Model, known: Known, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, labels = pixels(30)
    sets = fit_prediction_sets(predicted(model, images), labels, 0.8).to_dict(CLASSES)
    serving = Serving(CLASSES, known=known, none_below=0.05, known_measured={"held_out": 90}, prediction_sets=sets)
    return export_served(model, tmp_path_factory.mktemp("served") / "model", serving)


@pytest.mark.slow
def test_a_saved_model_gives_p_values_sets_and_the_answer_none_of_these(
    model: keras.Model, known: Known, served: Path
) -> None:
    images, _ = pixels(4, 7000)
    chequered = (np.indices((32, 32)).sum(0) % 2 * 255)[..., None].repeat(3, 2).astype("uint8")
    images = np.concatenate([images, chequered[None]])
    reply = tf.saved_model.load(str(served)).signatures["serving_default"](
        image_bytes=tf.constant([*[encode(Image.fromarray(one), "PNG") for one in images], b"no image"])
    )
    own = p_values_of(known, model, images)[:, 0]
    np.testing.assert_allclose(reply["known"].numpy()[:-1], own, atol=1e-4)
    answers = [one.decode() for one in reply["class"].numpy()]
    assert answers[-2] == NONE_OF_THESE and own[-1] < 0.05
    assert [one == NONE_OF_THESE for one in answers[:-1]] == (own < 0.05).tolist()
    probabilities = reply["probabilities"].numpy()
    told = json.loads((served / "tlkit.json").read_text())
    at = np.array([told["prediction_sets"]["thresholds"][name] for name in CLASSES], "float32")
    np.testing.assert_array_equal(reply["prediction_set"].numpy()[:-1], (probabilities >= at)[:-1])
    assert reply["known"].numpy()[-1] == 0 and not reply["prediction_set"].numpy()[-1].any() and answers[-1] == ""
    assert told["none_below"] == 0.05 and told["known"] == {"held_out": 90}


def test_p_values_nearby_are_those_of_scores_that_rounding_may_give(model: keras.Model, known: Known) -> None:
    images, _ = pixels(20, 8000)
    found = p_values_of(known, model, images)
    assert (found[:, 1] >= found[:, 0]).all() and (found[:, 2] <= found[:, 0]).all(), "the stranger, the lower"
    both = with_features(model)
    features, probabilities = (np.asarray(one) for one in both.predict_on_batch(images))
    np.testing.assert_allclose(found[:, 0], known.p_values(features, probabilities), atol=1e-6)
    tied = np.full_like(probabilities, 1 / probabilities.shape[1])
    one_class = np.eye(probabilities.shape[1])[1] * 1e-7 + tied  # the second class by less than rounding
    nearby = known.p_values_nearby(features, one_class.astype("float32"))
    np.testing.assert_allclose(nearby[:, 3], known.p_values(features, tied.astype("float32")), atol=1e-3)


@pytest.mark.slow
def test_the_proof_covers_p_values_and_the_answer(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], "float32")
    reply: dict[str, Any] = {
        "probabilities": probabilities,
        "class": np.array(["blue", NONE_OF_THESE]),
        "ok": np.array([True, True]),
        "known": np.array([0.4, 0.01], "float32"),
        "seconds": 1.0,
    }
    monkeypatch.setattr("tlkit.deployment.parity.serve_files", lambda *a: reply)
    files, own = [Path("a.jpg"), Path("b.jpg")], np.array([[0.4], [0.0102]], "float32")
    proof = prove_parity(served, files, probabilities, CLASSES, p_values=own)
    assert proof["known_difference"] == pytest.approx(2e-4, rel=1e-3) and proof["top1_agreement"] == 1
    with pytest.raises(ParityError, match=r"p-value of 'b.jpg', for being like the known images, is 0.0100"):
        prove_parity(served, files, probabilities, CLASSES, p_values=own + np.float32([[0], [0.1]]))
    steep = np.float32([[0.4, 0.3, 0.5], [0.06, 0.005, 0.07]])
    assert prove_parity(served, files, probabilities, CLASSES, p_values=steep)["known_difference"] > 0.04
    reply["class"] = np.array(["blue", "green"])
    with pytest.raises(ParityError, match=r"same class as the trained one on 50\.00%"):
        prove_parity(served, files, probabilities, CLASSES, p_values=own)


def test_the_reserved_answer_is_refused_as_a_class_only_where_it_is_given(model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'none of these', which is reserved"):
        export_served(model, tmp_path / "model", Serving(("a", "b", NONE_OF_THESE), none_below=0.05))


SOLVED = Recipe("solved", stages=(Stage(1, 1.0, solver="logistic", strength=0.1),))
TRAINED = Recipe("trained", stages=(Stage(unfreeze=1, epochs=3, learning_rate=1e-3),), batch_size=24)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("known"), per_class=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "refit"),
    [
        pytest.param(SOLVED, None, marks=pytest.mark.long),
        pytest.param(TRAINED, None, marks=pytest.mark.long),
        (TRAINED, True),
    ],
)
def test_a_run_answers_none_of_these_and_sets_and_proves_them(
    recipe: Recipe, refit: bool | None, data: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"known": 0.95, "coverage": 0.8, "refit": refit, "test": 0.2, "report": False}
    run = finetune(data, backbone=tiny_file(), image_size=32, recipe=recipe, out=tmp_path / "run", **settings)
    metrics = run.metrics
    assert metrics["known"]["none_below"] == 0.05 and metrics["known"]["test"]["n"] == run.plan.images["test"]
    images = run.plan.images
    held_out = images["validation"] + (images["train"] if recipe is SOLVED else 0)
    assert metrics["known"]["held_out"] == held_out
    assert metrics["parity"]["known_difference"] < 1e-3
    assert metrics["prediction_sets"]["test"]["n"] == run.plan.images["test"]
    answers = run.predict(data / "blue")
    assert set(answers["prediction"]) <= {*run.class_names, NONE_OF_THESE} and answers["known"].between(0, 1).all()
    assert (answers["prediction"] == "blue").mean() > 0.7
    folder, proof = export_run(Run(run.folder), tmp_path / "again")
    assert proof is not None and proof["known_difference"] < 1e-3
    assert predict(folder, data / "red")["known"].notna().all()
    assert load_known(run) is not None and (run.folder / "known.npz").stat().st_size < 100_000
    folder, _ = export_run(run, target="keras")
    found = predict(opened(folder), data / "red")
    assert "known" not in found and "prediction_set" in found
