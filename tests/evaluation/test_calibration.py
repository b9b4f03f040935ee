"""Temperatures, the threshold for "unsure", and that both are in what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest

from tests.conftest import write_folder
from tests.tiny import predicted, tiny_file
from tlkit import SpecError
from tlkit.evaluation.calibration import (
    bake,
    bake_without_prior,
    calibration_error_of,
    fit_temperature,
    temper,
    without_prior,
)
from tlkit.evaluation.refusal import class_sentence, coverage_and_risk, refusal_threshold
from tlkit.stats import expected_calibration_error, log_loss


def honest(n: int, classes: int = 4, seed: int = 0, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that mean what they say: labels are drawn from them."""
    random = np.random.default_rng(seed)
    probabilities = softmax(spread * random.normal(size=(n, classes)), axis=-1)
    labels = np.minimum((random.random((n, 1)) > probabilities.cumsum(1)).sum(1), classes - 1)
    return probabilities, labels


@pytest.mark.parametrize("temperature", [0.5, 2.0, 3.0])
def test_the_temperature_by_which_probabilities_were_sharpened_is_found(temperature: float) -> None:
    probabilities, labels = honest(4000)
    spoiled = temper(probabilities, 1 / temperature)
    assert fit_temperature(spoiled, labels) == pytest.approx(temperature, rel=0.08)
    assert np.allclose(temper(spoiled, temperature), probabilities, atol=1e-5)


def test_tempering_lowers_the_error_of_a_classifier_that_is_too_sure_on_images_it_was_not_fitted_on() -> None:
    probabilities, labels = honest(6000)
    sure = temper(probabilities, 0.4)
    temperature = fit_temperature(sure[:3000], labels[:3000])
    after = temper(sure[3000:], temperature)
    assert expected_calibration_error(after, labels[3000:]) < 0.4 * expected_calibration_error(
        sure[3000:], labels[3000:]
    )
    assert log_loss(after, labels[3000:]) < log_loss(sure[3000:], labels[3000:])


def test_a_few_images_that_are_all_right_do_not_drive_the_temperature_to_its_border() -> None:
    probabilities = np.tile([0.9, 0.1], (10, 1))
    assert 0.5 < fit_temperature(probabilities, np.zeros(10, int)) < 1.0
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, int)) == 1.0


def test_tempering_moves_no_answer_and_survives_zeros() -> None:
    probabilities = np.array([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2]])
    for temperature in (0.25, 5.0):
        after = temper(probabilities, temperature)
        assert (after.argmax(1) == probabilities.argmax(1)).all()
        assert np.allclose(after.sum(1), 1) and np.isfinite(after).all()


def test_a_baked_temperature_is_the_tempered_model() -> None:
    from tlkit import build_classifier, find_backbone

    model = build_classifier(find_backbone(tiny_file()), 3, image_size=32)
    model.layers[-1].bias.assign([0.5, -0.2, 0.1])
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype("float32")
    before = np.asarray(model(images))
    bake(model, 1.7)
    assert np.allclose(np.asarray(model(images)), temper(before, 1.7), atol=1e-6)


def test_a_model_without_a_dense_softmax_end_bears_no_temperature() -> None:
    import keras

    image = keras.Input((4,))
    with pytest.raises(SpecError, match="Expected a dense softmax layer"):
        bake(keras.Model(image, keras.layers.Dense(2)(image)), 2.0)


def test_the_threshold_holds_on_new_images_as_often_as_it_promises() -> None:
    """95 % confidence: of 60 draws of 400 images, at most 5 % of assured thresholds, as far as 60 can tell, may let an
    error above 10 % through."""
    over, assured, answered = 0, 0, 0
    new, truth = honest(20000, seed=99, spread=3.0)
    for seed in range(60):
        found = refusal_threshold(*honest(400, seed=seed, spread=3.0), max_error=0.1)
        measured = found.measured(new, truth)
        assured += found.assured
        over += found.assured and measured["error"] > 0.1
        answered += found.assured and measured["answered"]
    assert assured >= 45
    assert binomtest(over, assured, 0.05, alternative="greater").pvalue > 0.05
    assert answered / assured > 0.3 * len(new)  # a threshold above everything would keep any promise


def test_a_rare_class_that_is_always_wrong_does_not_hide_behind_a_common_one() -> None:
    """297 cats and 3 dogs that are called cats: 1 % of all answers are wrong, and 100 % of those for dogs."""
    probabilities = np.stack([np.linspace(0.6, 0.99, 300), np.linspace(0.4, 0.01, 300)], axis=1)
    labels = np.zeros(300, int)
    labels[[20, 150, 280]] = 1
    found = refusal_threshold(probabilities, labels, 0.05, class_names=["cat", "dog"])
    assert found.assured and found.classes["cat"]["limit"] == "held"
    assert found.classes["dog"] == {"n": 3, "answered": 3, "wrong": 3, "limit": "too few images"}
    assert class_sentence(found.classes) == (
        "it holds for 1 of 2 classes alone, not for 'dog' (3 of 3 answers wrong, too few images to tell)"
    )
    assert class_sentence({"cat": found.classes["cat"]}) == "it holds for each class alone, too"


@pytest.mark.parametrize("n", [400, 30])
def test_the_limit_is_held_for_each_class_that_has_enough_images(n: int) -> None:
    """Of two classes of n images, only the second is wrong, and only below a probability of 0.8."""
    first, second = np.linspace(0.55, 0.95, n), np.linspace(0.551, 0.951, n)
    labels = np.repeat([0, 1], n)
    right = np.append(np.ones(n, bool), (second > 0.8) | (np.arange(n) % 6 > 0))
    confidence = np.append(first, second)
    probabilities = np.stack([np.where(right == (labels == c), confidence, 1 - confidence) for c in (0, 1)], axis=1)
    found = refusal_threshold(probabilities, labels, 0.05)
    answered = probabilities.max(1) >= found.threshold
    assert found.assured == (n == 400)
    assert [one["limit"] for one in found.classes.values()] == ["held", "held"]
    assert (
        found.threshold > 0.6 and (~right & answered & (labels == 1)).sum() <= 0.05 * (answered & (labels == 1)).sum()
    )


def test_images_of_one_patient_promise_less_than_as_many_of_different_ones() -> None:
    probabilities, labels = np.tile([0.9, 0.1], (100, 1)), np.zeros(100, int)
    assert refusal_threshold(probabilities, labels, 0.05).assured
    assert refusal_threshold(probabilities, labels, 0.05, groups=np.arange(100)).assured
    of_patients = refusal_threshold(probabilities, labels, 0.05, groups=np.arange(100) // 5)
    assert not of_patients.assured and of_patients.threshold < 0.9
    assert refusal_threshold(probabilities, labels, 0.2, groups=np.arange(100) // 5).assured


def test_with_groups_the_threshold_holds_as_often_as_it_promises() -> None:
    """40 draws of 60 patients with 8 images each, who differ: images taken as independent promise too much."""
    over = {"groups": 0, "images": 0}
    for seed in range(26200, 26240):
        random = np.random.default_rng(seed)
        groups = np.repeat(np.arange(60), 8)
        wrong = random.random(480) < random.beta(0.1, 0.9, 60)[groups]  # 10 % on average
        probabilities = np.tile([0.9, 0.1], (480, 1)) + random.uniform(0, 0.01, 60)[groups][:, None] * [1, -1]
        for name, of in (("groups", groups), ("images", None)):
            over[name] += refusal_threshold(probabilities, wrong.astype(int), 0.099, groups=of).assured
    assert over["groups"] <= 5 < over["images"]


def test_a_probability_that_the_export_rounds_down_is_still_answered() -> None:
    found = refusal_threshold(np.tile([0.9, 0.1], (80, 1)), np.zeros(80, int), 0.05)
    assert 0.9 - 2e-5 < found.threshold < 0.9 - 0.9e-5, "the proof allows a difference of 1e-5"


def test_too_few_images_promise_nothing_and_say_so() -> None:
    probabilities = np.array([[0.9, 0.1]] * 8 + [[0.6, 0.4]] * 4)
    labels = np.array([0] * 8 + [1] * 4)
    found = refusal_threshold(probabilities, labels, max_error=0.05)
    assert not found.assured
    assert 0.6 < found.threshold < 0.9
    assert found.measured(probabilities, labels)["answered"] == 8


def test_where_the_surest_are_wrong_everything_is_unsure() -> None:
    found = refusal_threshold(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([1, 1]), max_error=0.05)
    assert found.threshold > 1
    assert found.measured(np.array([[1.0, 0.0]]), np.array([0]))["answered"] == 0


def test_the_interval_of_the_calibration_error_holds_its_value() -> None:
    probabilities, labels = honest(300)
    right = probabilities.argmax(1) == labels
    value, low, high = calibration_error_of(probabilities.max(1), right)
    assert low <= value <= high
    assert value == pytest.approx(expected_calibration_error(probabilities, labels))


@pytest.mark.slow
@pytest.mark.parametrize("too_high", [0.0, 0.03])
def test_the_interval_of_the_calibration_error_holds_estimate_and_truth(too_high: float) -> None:
    """A model that is right, and one that is overconfident by 3 points: 40 draws of 150 images."""
    rng, held = np.random.default_rng(6691), 0
    for _ in range(40):
        confidence = rng.uniform(0.6, 1, 150)
        value, low, high = calibration_error_of(confidence, rng.random(150) < confidence - too_high)
        assert low <= value <= high
        held += low <= too_high <= high
    assert held >= 36


def test_a_calibration_error_beyond_chance_has_an_interval_above_0() -> None:
    confidence = np.full(400, 0.95)
    value, low, high = calibration_error_of(confidence, np.arange(400) % 4 > 0)
    assert 0.1 < low < value < high < 0.3


def test_the_last_point_of_coverage_and_risk_is_the_plain_error() -> None:
    probabilities, labels = honest(500)
    right = probabilities.argmax(1) == labels
    coverage, risk, thresholds = coverage_and_risk(probabilities.max(1), right)
    assert coverage[-1] == 1.0
    assert risk[-1] == pytest.approx(1 - right.mean())
    assert risk[9] < risk[-1]
    assert thresholds == sorted(thresholds, reverse=True)


@pytest.mark.slow
def test_a_run_serves_calibrated_probabilities_and_says_unsure(tmp_path: Path, tiny: dict[str, Any]) -> None:
    from tlkit import Recipe, Stage, export_run, finetune, predict

    data = write_folder(tmp_path / "data", per_class=24)
    recipe = Recipe("short", stages=(Stage(2, 1e-3),))
    run = finetune(data, recipe=recipe, out=tmp_path / "run", max_error=0.2, **tiny)
    metrics = run.metrics
    assert metrics["parity"]["within_limit"]
    assert metrics["calibration"]["temperature"] != 1.0
    before, after = metrics["calibration"]["before"]["validation"], metrics["validation"]
    assert after["log_loss"] <= before["log_loss"]  # that is what the temperature was fitted to
    threshold = metrics["refusal"]["threshold"]
    answers = predict(run.folder, [data])
    assert (answers["sure"] == (answers["probability"] >= threshold)).all()
    folder, proof = export_run(run, tmp_path / "strict", max_error=0.001)
    assert proof is not None and proof["within_limit"]
    assert not predict(folder, [data])["sure"].any()
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    reply = serve(image_bytes=tf.constant([next(data.rglob("*.png")).read_bytes(), b"junk"]))
    assert [name.decode() for name in reply["class"].numpy()] == ["unsure", ""]
    assert reply["ok"].numpy().tolist() == [True, False]


def test_a_class_called_unsure_cannot_be_refused(tmp_path: Path) -> None:
    from tlkit import build_classifier, export, find_backbone

    model = build_classifier(find_backbone(tiny_file()), 2, image_size=32)
    with pytest.raises(SpecError, match="Rename it"):
        export(model, ["sure", "unsure"], tmp_path / "model", unsure_below=0.5)


def test_a_class_called_unsure_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    from tlkit import finetune

    data = write_folder(tmp_path / "data")
    (data / "red").rename(data / "unsure")
    with pytest.raises(SpecError, match="Rename it"):
        finetune(data, backbone="nano", max_error=0.1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_of_errors_outside_0_to_1_is_refused_before_anything_is_read(share: float, tmp_path: Path) -> None:
    from tlkit import finetune

    (tmp_path / "data").mkdir()
    with pytest.raises(SpecError, match="`max_error` is"):
        finetune(tmp_path / "data", backbone="nano", max_error=share)


def test_without_the_classes_shares_a_rare_class_is_found() -> None:
    """Two classes whose probabilities are right for shares of 95 and 5 %: freed from them, recalls become equal."""
    random = np.random.default_rng(6)
    labels = (random.random(20_000) < 0.05).astype(int)
    logit = 4 * (labels + random.normal(0, 0.5, 20_000) - 0.5) + np.log(0.05 / 0.95)
    probabilities = softmax(np.stack([-logit, logit], axis=1) / 2, axis=-1)
    recalls = [
        [(found.argmax(1) == labels)[labels == one].mean() for one in (0, 1)]
        for found in (probabilities, without_prior(probabilities, np.array([0.95, 0.05])))
    ]
    assert recalls[0][1] < 0.5 and recalls[1][1] == pytest.approx(recalls[1][0], abs=0.03)


def test_a_model_is_freed_from_the_classes_shares_as_its_probabilities_are() -> None:
    import keras

    from tlkit import build_classifier

    keras.utils.set_random_seed(0)
    model, shares = build_classifier(tiny_file(), 3), np.array([0.7, 0.3, 0.0])
    pixels = np.random.default_rng(7).integers(0, 256, (4, 32, 32, 3), "uint8")
    before = predicted(model, pixels)
    bake_without_prior(model, shares)
    assert np.allclose(predicted(model, pixels), without_prior(before, shares), atol=1e-6)
    assert not np.allclose(before, without_prior(before, shares), atol=1e-2)
