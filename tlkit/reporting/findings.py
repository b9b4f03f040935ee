"""What a report is made from: what the run wrote, and what is measured for the report.

`Record` is the only class here that knows the keys of a run's files, so a key is renamed in one place.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd

from tlkit.backbones import BACKBONES, named_backbones
from tlkit.data.sources.records import kind_of_table
from tlkit.doctor.checkup import JUDGE, check_data
from tlkit.errors import RunError, SpecError
from tlkit.evaluation.calibration import calibration_error_of
from tlkit.evaluation.estimate import Estimate
from tlkit.evaluation.refusal import class_sentence
from tlkit.evaluation.reliance import reliance
from tlkit.evaluation.robustness import robustness
from tlkit.evaluation.saliency import ClassActivationMaps
from tlkit.models.blocks import cut
from tlkit.plan.address import Address
from tlkit.plan.decision import Decision
from tlkit.plan.in_memory import InMemory
from tlkit.plan.plan import Plan
from tlkit.reporting.thumbnails import SHOWN, Thumbnails
from tlkit.runs.folder import Run
from tlkit.runs.reading import groups_of
from tlkit.runs.similar import Nearest, nearest_of_own
from tlkit.runs.slices import measure_slices
from tlkit.stats import FEWEST_TO_TELL, reliability_bins
from tlkit.strategy.axes import still_climbing

if TYPE_CHECKING:
    from tlkit.backbones import Backbone
    from tlkit.data.dataset import Dataset
    from tlkit.doctor.checkup import Checkup
    from tlkit.evaluation.reliance import Reliance
    from tlkit.runs.slices import Slices


ALIKE = 3  # training images that are shown for each mistake
EXPLAINED = 200  # images at most for masking salient pixels
SECONDS = 1.0  # about how long that may take in `finetune`
CHECKED = 10_000  # images at most for the data doctor; `tlkit inspect` looks at all
ROBUST = 500  # images at most for robustness

SPLITS = {"train": "training", "validation": "validation", "test": "test"}  # in a run's files -> on the page


@dataclass(frozen=True)
class ClassScore:
    """How well one class is predicted. images: of the class; without any, the scores are None."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    images: int


@dataclass(frozen=True)
class Score:
    """How good the classifier is on n images of a split.

    interval: of the accuracy, 95 %. confusion_matrix: int, shape (classes, classes), rows true, columns predicted.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    macro_f1: float
    log_loss: float
    calibration_error: float
    classes: tuple[ClassScore, ...]
    confusion_matrix: np.ndarray


@dataclass(frozen=True)
class Temperature:
    """A temperature, how many images it was fitted on, and the scores on the report's split before it."""

    value: float
    fitted_on: int
    calibration_error_before: float
    log_loss_before: float


@dataclass(frozen=True)
class Refusal:
    """Below which probability the answer is "unsure", and what that does on the report's split.

    assured: errors stay below max_error with 95 % confidence. coverage: share that is answered. error: share of the
    answers that is wrong; None if nothing is answered. alone: for which classes alone the limit holds, in words.
    """

    max_error: float
    threshold: float
    assured: bool
    coverage: float
    error: float | None
    alone: str = ""


@dataclass(frozen=True)
class Parity:
    """The share of n files on which the export predicts the trained model's class, and how far probabilities differ."""

    n: int
    agreement: float
    largest_difference: float


@dataclass(frozen=True)
class FieldCheck:
    """What the safety check found for one field of an augmentation.

    asked, limit: in the field's unit; limit None where none was found. pair: the worst pair of classes and the share of
    images that change from the first to the second. examples: as they are in the plan.
    """

    field: str
    verdict: str
    allowed: bool
    asked: float
    limit: float | None
    pair: tuple[str, str, float] | None
    why: str
    n: int
    examples: tuple[FieldExample, ...]


@dataclass(frozen=True)
class FieldExample:
    """An image, by its key, that a transformation moved to another class, and that class's nearest image."""

    image: str
    nearest: str
    label: str
    became: str
    augmentation: Mapping[str, Any]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Record:
    """What a run wrote, under the names that a report uses. Files are read on access."""

    run: Run

    @functools.cached_property
    def _plan(self) -> Plan:
        return self.run.plan

    @functools.cached_property
    def _metrics(self) -> dict[str, Any]:
        return self.run.metrics

    # -- what was asked --------------------------------------------------------------------------------

    @property
    def data(self) -> Path | Address | InMemory:
        return self._plan.job.data

    @property
    def data_name(self) -> str:
        """clothing/splits.csv is clothing, and so is clothing/."""
        if not isinstance(self.data, Path):
            return self.data.name
        return self.data.parent.name if kind_of_table(self.data) and not self.data.is_dir() else self.data.name

    @property
    def seed(self) -> int:
        return self._plan.job.seed

    @property
    def classes(self) -> tuple[str, ...]:
        return self._plan.classes

    @property
    def backbone(self) -> str:
        return self._plan.backbone.name

    @property
    def label_judge(self) -> str:
        """The backbone that judges the labels: the run's own if it started from ImageNet weights, else `nano`."""
        job, row = self._plan.job, BACKBONES.get(self.backbone)
        is_pretrained = job.weights == "imagenet" and not job.from_run and (row is None or row.weights is not None)
        return self.backbone if is_pretrained else JUDGE

    @property
    def backbone_is_unchanged(self) -> bool:
        """Whether the backbone has the weights it started with. False for an ensemble, which has several."""
        recipe = self._plan.recipe
        return recipe is not None and all(stage.unfreeze == 0 for stage in recipe.stages) and not self._plan.ensemble_of

    @property
    def image_size(self) -> int:
        return self._plan.image_size

    @property
    def recipe(self) -> str:
        return self._plan.recipe.name if self._plan.recipe else ""

    @property
    def image_counts(self) -> dict[str, int]:
        """Split, as the page calls it -> images."""
        return {SPLITS[name]: count for name, count in self._plan.images.items()}

    # -- what was decided ------------------------------------------------------------------------------

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self._plan.decisions

    def decision(self, about: str) -> Decision | None:
        return self._plan.decision(about)

    @property
    def field_checks(self) -> list[FieldCheck]:
        """The results of the safety check, by field; empty if nothing was checked."""
        found = self.decision("augmentation")
        return [] if found is None else [_field_check(*item) for item in found.evidence["fields"].items()]

    @property
    def still_climbing(self) -> bool:
        """Whether accuracy still rose with the last doubling of the training images."""
        return any(still_climbing(dict(one.evidence)) for one in self.decisions if one.about == "measured")

    @property
    def device(self) -> str:
        return self._plan.device

    @property
    def version(self) -> str:
        return self._plan.tlkit

    @property
    def started(self) -> str:
        return self._plan.started

    @property
    def recipe_and_versions(self) -> dict[str, Any]:
        """Everything that repeating the run needs, as JSON values."""
        values = self._plan.to_dict()
        return {name: values[name] for name in ("recipe", "job", "versions", "device", "precision")}

    # -- how good it is --------------------------------------------------------------------------------

    @property
    def split(self) -> str:
        """The split that a report is measured on: "test" if there are test images, else "validation"."""
        return "test" if self._metrics["test"] else "validation"

    @functools.cached_property
    def score(self) -> Score:
        """On the report's split."""
        found = self._metrics[self.split]
        low, high = found["accuracy_95"]
        classes = tuple(_class_score(name, one) for name, one in found["per_class"].items())
        return Score(
            n=found["n"],
            accuracy=found["accuracy"],
            interval=(low, high),
            macro_f1=found["macro_f1"],
            log_loss=found["log_loss"],
            calibration_error=found["ece"],
            classes=classes,
            confusion_matrix=np.array(found["confusion_matrix"]),
        )

    @property
    def estimate(self) -> str:
        """The estimate of the accuracy on new images, as a sentence; "" for an ensemble and for an adapted run.

        An earlier version wrote none: it is made here.
        """
        found, score, split = self._metrics.get("estimate"), self.score, self.split
        if found:
            return str(found["sentence"])
        if self._plan.ensemble_of or self.decision("adapt") is not None:
            return ""
        chose = () if split == "test" else tuple(self._plan.also_chose)
        one = Estimate(score.accuracy, *score.interval, score.n, f"the {split} images", chose)
        return one.sentence(self._plan.classes)

    @property
    def transfer(self) -> str:
        """What transfer would have gained, as a sentence; "" for a run that did not begin from random weights."""
        found = self._metrics.get("transfer")
        return found["sentence"] if found else ""

    @property
    def doubts(self) -> list[str]:
        """Why accuracy on new images is probably lower, as sentences."""
        return self._plan.doubts

    @property
    def temperature(self) -> Temperature | None:
        """None where none was fitted, as for an ensemble."""
        found = self._metrics.get("calibration")
        if not found:
            return None
        before = found["before"][self.split]
        return Temperature(found["temperature"], found["fitted_on"], before["ece"], before["log_loss"])

    @property
    def known(self) -> dict[str, Any] | None:
        """What is known of images of none of the classes, as in metrics.json; None in an earlier version's run."""
        return self._metrics.get("known")

    @property
    def prediction_sets(self) -> dict[str, Any] | None:
        """As in metrics.json; None if the run has none."""
        return self._metrics.get("prediction_sets")

    @property
    def refusal(self) -> Refusal | None:
        """None where the model always answers."""
        found = self._metrics.get("refusal")
        if not found or not found.get(self.split):
            return None
        here = found[self.split]
        alone = class_sentence(found.get("classes") or {})
        return Refusal(found["max_error"], found["threshold"], found["assured"], here["coverage"], here["error"], alone)

    @property
    def parity(self) -> Parity:
        found = self._metrics["parity"]
        return Parity(found["n"], found["top1_agreement"], found["max_difference"])

    @property
    def seconds(self) -> float:
        """How long the whole command took."""
        return self._metrics["seconds"]["total"]

    @property
    def model_bytes(self) -> int:
        """The size of the SavedModel."""
        return sum(file.stat().st_size for file in self.run.saved_model.rglob("*") if file.is_file())

    # -- tables ----------------------------------------------------------------------------------------

    def predictions(self, split: str | None = None) -> pd.DataFrame:
        """path, label, prediction, probability, top2, top2_probability of each image of a split.

        split: "test" or "validation"; default test if there are test images.
        """
        table = self.run.read_table("predictions.csv")
        if split is None:
            split = "test" if (table["split"] == "test").any() else "validation"
        return table[table["split"] == split].drop(columns="split").reset_index(drop=True)

    def all_predictions(self) -> pd.DataFrame:
        """Those of all splits: every image that was predicted by a model which had not learned from it."""
        return self.run.read_table("predictions.csv")

    def history(self) -> pd.DataFrame:
        """stage, accuracy, loss, validation_accuracy, validation_loss, c, seconds of each epoch; empty for an ensemble.

        Of several trainings (see `tlkit.Recipe.restarts`), that of the one that was kept.
        c: the inverse L2 penalty of a solved head, NaN for a stage that was trained by epochs.
        """
        file = self.run.folder / "history.csv"
        if not file.is_file():
            return pd.DataFrame()
        names = {"val_accuracy": "validation_accuracy", "val_loss": "validation_loss", "strength": "c"}
        table = self.run.read_csv(file.name, text=False).rename(columns=names)
        try:
            return table[table["kept"]].reset_index(drop=True) if "kept" in table else table
        except KeyError as error:
            raise RunError(f"'{file}' is no history of a run: {error}. Repeat the run.") from None

    def problems(self) -> pd.DataFrame:
        """path, problem, action of each file with a problem."""
        return self.run.read_csv("problems.csv")

    def earlier_robustness(self) -> list[dict[str, Any]] | None:
        """What an earlier report of the run measured, or None."""
        try:
            values = json.loads((self.run.folder / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # absent or damaged: it is written anew
            return None
        return values.get("robustness") if isinstance(values, dict) else None


def _class_score(name: str, found: Mapping[str, Any]) -> ClassScore:
    """Before version 0.3 a class without images had scores of 0."""
    if not found["support"]:
        return ClassScore(name, None, None, None, 0)
    return ClassScore(name, found["precision"], found["recall"], found["f1"], found["support"])


def _field_check(field: str, found: Mapping[str, Any]) -> FieldCheck:
    examples = tuple(
        FieldExample(
            image=one["picture"],
            nearest=one["nearest"],
            label=one["label"],
            became=one["became"],
            augmentation={k: tuple(v) if isinstance(v, list) else v for k, v in one["augmentation"].items()},
            seed=tuple(one["seed"]),
        )
        for one in found["examples"]
    )
    pair = tuple(found["pairs"][0]) if found["pairs"] else None
    facts = {name: found[name] for name in ("verdict", "allowed", "asked", "limit", "why", "n")}
    return FieldCheck(field=field, pair=pair, examples=examples, **facts)


@dataclass(frozen=True)
class Duplicate:
    """Two images that are the same or nearly so. kind: "exact" or "near". splits: as the page calls them."""

    kind: str
    paths: tuple[str, str]
    labels: tuple[str, str]
    splits: tuple[str, str]


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made from. dataset: all splits; None if the images are no longer there.

    columns: whose values are compared, as in `tlkit.runs.slices.measure_slices`.
    """

    run: Run
    model: keras.Model
    dataset: Dataset | None
    columns: Sequence[str] | str | None = None


@dataclass(frozen=True)
class Analysis:
    """The slow measurements of a report; each is None if it cannot be made.

    checkup: of the data. cam: class activation maps of the model. reliance: how much predictions depend on the most
    salient pixels. nearest: the training images that are most like the most confident mistakes. slices: on which images
    the run is worse.
    """

    checkup: Checkup | None = None
    cam: ClassActivationMaps | None = None
    reliance: Reliance | None = None
    nearest: Nearest | None = None
    slices: Slices | None = None


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy differ on average, with its 95 % interval, and by bins.

    bins: (confidence, accuracy, images) of each bin that has images.
    """

    error: float
    interval: tuple[float, float]
    bins: list[tuple[float, float, int]]


@dataclass(frozen=True)
class Findings:
    """Everything that the sections of a report show.

    predictions: of the report's split, see `Record.predictions`. milliseconds: of the network per image, None if it was
    not measured. robustness: as `tlkit.robustness` returns it, None if it was not measured.
    """

    record: Record
    predictions: pd.DataFrame
    thumbnails: Thumbnails
    analysis: Analysis
    calibration: Calibration
    milliseconds: float | None
    robustness: list[dict[str, Any]] | None

    @property
    def split(self) -> str:
        return self.record.split

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is correct: bool."""
        return (self.predictions["prediction"] == self.predictions["label"]).to_numpy()

    @property
    def mistakes(self) -> pd.DataFrame:
        """The wrong predictions, the most confident first."""
        return mistakes_among(self.predictions)

    @property
    def duplicates(self) -> list[Duplicate]:
        """The pairs that the data doctor found, worst first."""
        if self.analysis.checkup is None:
            return []
        return [
            Duplicate(
                kind=row.kind,
                paths=(row.path, row.other),
                labels=(row.label, row.other_label),
                splits=(SPLITS.get(row.split, row.split), SPLITS.get(row.other_split, row.other_split)),
            )
            for row in self.analysis.checkup.duplicates.itertuples()
        ]

    def numbers(self) -> dict[str, Any]:
        """The numbers for `report.json`: JSON values."""
        found: dict[str, Any] = {"split": self.split, "milliseconds_an_image": self.milliseconds}
        if self.analysis.checkup is not None:
            found["data"] = self.analysis.checkup.to_dict()
        if self.analysis.reliance is not None:
            found["explain"] = self.analysis.reliance.to_dict()
        if self.analysis.slices is not None:
            found["slices"] = self.analysis.slices.to_dict()
        if self.robustness is not None:
            found["robustness"] = self.robustness
        calibration = self.calibration
        bins = [list(one) for one in calibration.bins]
        return found | {"reliability": {"ece": calibration.error, "ece_95": list(calibration.interval), "bins": bins}}


def mistakes_among(predictions: pd.DataFrame) -> pd.DataFrame:
    """The wrong predictions, the most confident first."""
    wrong = predictions[predictions["prediction"] != predictions["label"]]
    return wrong.sort_values("probability", ascending=False)


def analyse(inputs: ReportInputs, *, seconds: float = SECONDS) -> Analysis:
    """Check the data, measure how much predictions depend on the most salient pixels, and look up the mistakes.

    Needs the run's plan and predictions. seconds: about how long the measurement of predictions may take.
    """
    checkup, cam, found, nearest = None, None, None, None
    record = Record(inputs.run)
    if inputs.dataset is not None:
        checkup = _checkup(inputs.model, inputs.dataset, record)
        shown = mistakes_among(record.predictions()).head(SHOWN)
        nearest = nearest_of_own(inputs.model, inputs.dataset, list(shown["path"]), ALIKE)
    with contextlib.suppress(SpecError):  # an ensemble has no feature maps
        cam = ClassActivationMaps(inputs.model)
    if cam is not None and inputs.dataset is not None:
        found = _reliance(inputs, record, cam, seconds)
    by_slice = measure_slices(inputs.run, inputs.columns, inputs.model, inputs.dataset, compute=seconds > SECONDS)
    return Analysis(checkup, cam, found, nearest, by_slice)


def collect(inputs: ReportInputs, analysis: Analysis, *, robust: bool = False) -> Findings:
    """Collect what the run wrote and what was measured. The run must be finished.

    robust: also measure robustness. Otherwise that of an earlier report is taken, if there is one.
    """
    record = Record(inputs.run)
    predictions = record.predictions()
    confidence = predictions["probability"].to_numpy(float)
    correct = (predictions["prediction"] == predictions["label"]).to_numpy()
    error, low, high = calibration_error_of(confidence, correct)
    measured = _robustness(inputs, record) if robust and inputs.dataset is not None else None
    return Findings(
        record=record,
        predictions=predictions,
        thumbnails=Thumbnails(inputs.dataset),
        analysis=analysis,
        calibration=Calibration(error, (low, high), reliability_bins(confidence, correct)),
        milliseconds=round(analysis.cam.milliseconds(), 2) if analysis.cam else None,
        robustness=measured or record.earlier_robustness(),
    )


def _checkup(model: keras.Model, dataset: Dataset, record: Record) -> Checkup:
    """Check the data. The run's own pretrained backbone judges the labels if its features are cached, else `nano`."""
    (backbone,) = named_backbones(record.label_judge)
    prefix = _pretrained_prefix(model, backbone, record)
    return check_data(dataset, backbone=backbone, prefix=prefix, compute=False, most=CHECKED)  # as `tlkit inspect`


def _pretrained_prefix(model: keras.Model, backbone: Backbone, record: Record) -> keras.Model | None:
    """The model's own backbone up to its features, if training left it as it was and it is not `nano`."""
    if record.label_judge == JUDGE or not record.backbone_is_unchanged:
        return None
    prefix = cut(model, backbone, 0)[0]
    if prefix is not None and len(prefix.outputs) > 1:
        return keras.Model(prefix.input, prefix.outputs[-1])  # of a head on several blocks, the last
    return prefix


def _reliance(inputs: ReportInputs, record: Record, cam: ClassActivationMaps, seconds: float) -> Reliance:
    """Mask salient pixels of as many of the predicted images as the time allows, at least as many as can tell."""
    count = int(np.clip(seconds * 1000 / (3 * cam.milliseconds()), FEWEST_TO_TELL, EXPLAINED))
    images, labels, _ = _sample(inputs, record, count)
    return reliance(inputs.model, images, labels, cam=cam)


def _robustness(inputs: ReportInputs, record: Record) -> list[dict[str, Any]]:
    images, labels, paths = _sample(inputs, record, ROBUST)
    return robustness(inputs.model, images, labels, groups=groups_of(record.run, paths))


def _sample(inputs: ReportInputs, record: Record, count: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """At most `count` of the predicted images, drawn at random, their class indices and their paths."""
    predictions = record.predictions()
    order = np.random.default_rng(0).permutation(len(predictions))[:count]
    chosen = predictions.iloc[np.sort(order)]
    labels = np.array([record.classes.index(one) for one in chosen["label"]])
    return _pixels(inputs, list(chosen["path"])), labels, list(chosen["path"])


def _pixels(inputs: ReportInputs, paths: Sequence[str]) -> np.ndarray:
    assert inputs.dataset is not None
    index = {path: i for i, path in enumerate(inputs.dataset.images.table["path"])}
    return inputs.dataset.examples().pixels.gather(np.array([index[path] for path in paths]))
