"""k-fold cross-validation of a run: who predicts which image, and what is delivered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from tests.noise import SOLVED, made, right, rows, write_noise
from tests.training.test_training import examples, recipe
from tlkit import Stage
from tlkit.errors import SpecError
from tlkit.finetuning import folds
from tlkit.finetuning.build import Trained
from tlkit.finetuning.folds import cross_validate
from tlkit.finetuning.words import refit_sentence
from tlkit.plan.job import Job
from tlkit.progress import Clock
from tlkit.training.history import History


def number_of(model: keras.Model) -> float:
    """The number of a model of `Crossed`, its only weight."""
    return float(model.get_weights()[0].item())


class Crossed:
    """18 training and 6 validation images, and models that are right on the images that they learned from alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, cut_short: bool = False, mean_is_bad: bool = False) -> None:
        self.everything, self.built = examples(24, 1), 0
        self.learned: dict[float, set[str]] = {1.0: set(self.everything.keys[:18])}  # by the model's number, its weight

        def build(*rest: Any, restart: int) -> keras.Model:
            self.built += 1
            return model(self.built + 1.0)

        def model(number: float) -> keras.Model:
            inputs = keras.Input((1,))
            found = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
            found.set_weights([np.full((1, 1), number)])
            return found

        def train(one: Any, backbone: Any, plan: Any, training: Any, validation: Any, **settings: Any) -> History:
            assert not set(training.keys) & set(validation.keys) and len(training) + len(validation) == 24
            self.learned[number_of(one)] = set(training.keys)
            return History(cut_short=cut_short, images_computed=5)

        def predict(one: Any, pixels: Any) -> np.ndarray:
            places = self.place_of(pixels)
            known = self.learned.get(number_of(one), set() if mean_is_bad else set(self.everything.keys))
            labels = self.everything.labels[places]
            knows = np.array([self.everything.keys[i] in known for i in places])
            return np.eye(3, dtype="float32")[np.where(knows, labels, (labels + 1) % 3)]

        monkeypatch.setattr(folds, "build", build)
        monkeypatch.setattr(folds, "train", train)
        monkeypatch.setattr(folds, "predict_probabilities", predict)
        monkeypatch.setattr(folds, "as_saved", lambda one, *rest: one)
        monkeypatch.setattr(folds, "training_deadline", lambda *rest: None)
        parts = {("train",): slice(0, 18), ("validation",): slice(18, 24), ("train", "validation"): slice(0, 24)}
        dataset = SimpleNamespace(
            part=lambda *splits: self.everything.take(np.arange(24)[parts[splits]]),
            count=lambda split: 18,
            class_names=["a", "b", "c"],
        )
        self.prepared: Any = SimpleNamespace(dataset=dataset, backbone=None)
        job = Job(Path("data"), folds=4)
        self.plan: Any = SimpleNamespace(recipe=recipe(Stage(1, 1e-2)), job=job, precision="float32")
        self.trained = Trained(model(1.0), History(), 0)

    def place_of(self, pixels: Any) -> np.ndarray:
        whole, some = (one.gather(slice(None)).reshape(len(one), -1) for one in (self.everything.pixels, pixels))
        return np.array([int(np.flatnonzero((whole == row).all(1))[0]) for row in some])

    def found(self) -> Any:
        return cross_validate(self.plan, self.trained, self.prepared, Clock())


def test_each_image_is_predicted_by_the_model_that_had_not_learned_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    crossed = Crossed(monkeypatch)
    found = crossed.found()
    assert (crossed.built, found.folds, found.images_computed) == (3, 4, 15)
    assert (found.out_of_fold.argmax(1) != crossed.everything.labels[:18]).all(), "none had learned from its images"
    assert [len(one) for one in crossed.learned.values()] == [18, 18, 18, 18]
    assert number_of(found.model) == 2.5, "the mean of 1, 2, 3 and 4"
    assert "mean of the weights of 4 models" in refit_sentence({"images": 24, "folds": found.folds})


@pytest.mark.parametrize(
    ("settings", "why"), [({"cut_short": True}, "time was over"), ({"mean_is_bad": True}, "fewer")]
)
def test_without_all_folds_or_with_a_bad_mean_the_first_is_delivered(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, bool], why: str
) -> None:
    crossed = Crossed(monkeypatch, **settings)
    if "mean_is_bad" in settings:  # and the single models are right out of fold
        crossed.learned = {one: set(crossed.everything.keys) for one in (1.0, 2.0, 3.0, 4.0)}
        monkeypatch.setattr(folds, "train", lambda *rest, **settings: History())
    assert crossed.found() is None and why in crossed.trained.history.notes[-1]


def test_what_cannot_be_is_refused() -> None:
    for settings, message in (
        ({"folds": 1}, "`folds` is 1"),
        ({"folds": 5, "refit": True}, "one of the two"),
        ({"folds": 5, "weights": "none"}, "one starting point"),
    ):
        with pytest.raises(SpecError, match=message):
            Job(Path("data"), **settings)  # type: ignore[arg-type]
    job = Job(Path("data"), folds=5)
    assert Job.from_dict(job.to_dict()) == job


@pytest.mark.slow
def test_a_run_is_judged_out_of_fold_and_delivers_the_mean(tmp_path: Path, unserved: None, said: list[str]) -> None:
    run = made(write_noise(tmp_path / "data"), tmp_path / "run", SOLVED, folds=4)
    training, validation = rows(run, "train"), rows(run, "validation")
    assert (len(training), len(validation)) == (60, 20)
    assert 0.3 < right(training) < 0.7 and right(validation, "final") > right(validation) + 0.2
    found = run.metrics["folds"]
    assert found["n"] == 80 and found["accuracy"] == pytest.approx(0.75 * right(training) + 0.25 * right(validation))
    low, high = found["accuracy_95"]
    assert low < found["accuracy"] < high and run.metrics["estimate"] == found
    assert run.metrics["refit"] == {"images": 80, "splits": ["train", "validation"], "folds": 4}
    assert run.plan.job.folds == 4 and any("each predicted by one of 4 models" in line for line in said)
