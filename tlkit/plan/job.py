"""The request for a run: a `Job`, with every option and its default."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

from tlkit.cluster import check_on
from tlkit.devices import parse_devices
from tlkit.errors import RunError, SpecError, TlkitError, unknown
from tlkit.manifest import digest, known_manifest
from tlkit.plan.address import Address
from tlkit.plan.augmentation import Augmentation, augmentation_from_dict, check_fields
from tlkit.plan.checks import _between, _from_dict, _whole
from tlkit.plan.columns import named_columns
from tlkit.plan.in_memory import InMemory, as_data, data_from_json
from tlkit.plan.old import renewed
from tlkit.plan.recipe import Recipe, recipe_from_dict
from tlkit.plan.spelling import both_spellings, set_by_alias
from tlkit.progress import log

FITS = ("squash", "crop", "pad")  # ways to make an image square
PARTS = ("train", "validation", "test")
METRICS = ("log_loss", "accuracy", "balanced_accuracy", "macro_f1", "auc")  # what a recipe is chosen by
BALANCES = ("none", "weights", "prior")
EFFORTS = ("quick", "normal", "best")  # how much training the default recipe may take
AUTO = "auto"


@both_spellings
@dataclass(frozen=True)
class Job:
    """The request for a run. Every field is a keyword of `tlkit.finetune` and an option of the command.

    Args:
        data: A folder of class folders, a folder of train/ val/ test/ folders, or a table (see `tlkit.scan`); or data
            in memory, of `tlkit.from_arrays`, `from_dataframe` or `from_dataset`.
        backbone: A name of `tlkit backbones` or a `.keras` file. Several separated by commas, or "auto" for all whose
            weights are on this machine, are compared by linear probes first. None: the one that weights by name are
            of; else mobilenetv2 if its ImageNet weights are on this machine, else nano.
        recipe: A Recipe, a name of `tlkit recipes`, a file, or "auto" for a tournament of strategies on held-out
            images. None: chosen by the number of images and `similar` if `similar` is given, else "auto".
        similar: Whether the images are like ImageNet's. None: unknown.
        effort: "quick" solves linear heads only. "normal" fine-tunes too, where the validation images can show that it
            is better. "best" also trains longer, at a lower rate and with moving BatchNormalization, in about seven
            times the time. It counts only where tlkit chooses the recipe by a tournament.
        metric: What the tournament chooses by, on held-out images: "log_loss", "accuracy", "balanced_accuracy",
            "macro_f1" or "auc". None: log loss; if the largest class has more than three times as many images as the
            smallest, the mean of each class's log loss. It counts only where a tournament chooses the recipe.
        balance: What is done about classes of different sizes: "none"; "weights" weights the images in training;
            "prior" lets the trained model predict as if all classes were equally common. None: "prior" if the largest
            class has more than three times as many images as the smallest and held-out images show that it is better,
            else "none", in a tournament; otherwise as the recipe says.
        seed: Seed of the split, the head's weights, the order of images and their augmentation.
        epochs: Replaces the epochs of every stage.
        learning_rate: Replaces the learning rate of the last stage, above 0, such as `tlkit lr-find` suggests. Earlier
            stages change by the same factor.
        image_size: Pixels of each side. None: the backbone's native size.
        batch_size: Images per step. None: the recipe's.
        weights: "imagenet", "none", a file, or a name such as "timm:resnext50_32x4d.tv_in1k", "hf://USER/REPO" or
            "torchvision:resnext50_32x4d-7cdf4587.pth", which also says what `backbone` is. plan.json keeps a name with
            its commit and SHA-256, so that a repeat takes the same file.
        accept_licence: Whether you accept the licence of weights by name, if it forbids commercial use or has terms of
            its own. `accept_license` is another spelling of it.
        validation: Share of the training images, above 0 and below 1. Not used if the data has validation images.
            `validation_split` is another name of it.
        test: Share of the images that become test images, from 0 to below 1. They are looked at once, at the end. Not
            used if the data has test images. 0: none; then the validation images give the accuracy, and also choose the
            model. None: 0.15 (0.05 of 10,000 images or more) where there are 500 images or more and a network may be
            trained by gradient descent, else none.
        group_by: CSV column. Images with equal values stay in the same split.
        columns: The columns of a table that hold the path, label or split, if they have other names, such as
            "path=photo no,label=species" or a mapping of the same.
        class_names: All classes, in the order of the model's outputs; as text, separated by commas. None: alphabetical,
            or as data in memory has them.
        fit: How an image becomes square: "squash", "crop" or "pad".
        from_run: An earlier run's folder, to start from its weights.
        augment: An Augmentation, a preset, or a JSON file of fields, instead of the recipe's augmentation. It is
            reduced to what keeps the classes (see `tlkit.check_safety`).
        allow: Fields of the augmentation that are not reduced.
        refit: Whether the delivered model is trained on the validation images too, after they have judged one that was
            not. None: a head that is solved is, which takes seconds; a network that is trained by gradient descent is
            not, since that would take as long again.
        folds: k-fold cross-validation, 2 or more: a model is trained for each fold, without it, and the accuracy is
            that over all training and validation images, each predicted by the model that had not learned from it. The
            mean of the models' weights is delivered, so they must begin from pretrained weights or an earlier run, not
            from random ones. Replaces `validation` by 1 / folds and takes about folds times as long. None: no folds.
        fair_to: CSV column, such as the site. The head is solved so that its values count alike in each class, and the
            run says what that costs and gains. No network is trained then. None: all images count alike.
        max_error: Error rate allowed among accepted predictions, above 0 and below 1. Predictions that are not
            confident enough are served as "unsure".
        known: Share of known images that still get a class, above 0 and below 1, such as 0.95. Those less like the
            training images than all but this share of held-out images are served as "none of these". None: none is; the
            SavedModel gives the p-value all the same.
        coverage: Share of new images whose prediction set has the true class, above 0 and below 1, such as 0.9. The
            SavedModel then also answers with the set of classes that an image may show. None: no sets.
        max_minutes: Time limit of the whole run in minutes, above 0.
        cache_gb: Size limit of all caches on disk, in gigabytes. None: a fifth of the space that is free or that they
            use.
        on: Where what falls into independent parts is computed, see docs/scale.md: "ray", the cores of this machine, or
            "ray://HOST:PORT", a Ray cluster. It changes no result. None: this process.
        devices: What frozen layers and gradient steps are computed on: how many devices, "cpu", "gpu" for all GPUs, or
            "gpu:0,1" for these. None: all GPUs, or the processor if there are none. A batch is split over several.
        scale_batch: Whether the batch is as many times as large as there are devices, and the learning rate higher, as
            `tlkit.plan.scaling` says. Else both are those of one device, and so are the losses. It needs a recipe.
        strict: Whether any problem in the data is an error.
        report: Whether to write `report.html`.
        checked: A recipe whose augmentation an earlier run has checked on these images; it is not checked again. It is
            set by `Job.read`, and is not an option of the command.

    Raises:
        SpecError: A number is out of its range, or `devices` is none of these.
        NameUnknown: `fit`, `effort`, `metric` or `balance` is unknown, or a field in `allow` is.

    >>> Job("birds", seed=3).fit
    'squash'
    """

    data: Path | Address | InMemory
    backbone: str | None = None
    recipe: Recipe | str | None = None
    similar: bool | None = None
    effort: str = "normal"
    metric: str | None = None
    balance: str | None = None
    seed: int = 0
    epochs: int | None = None
    learning_rate: float | None = None
    image_size: int | None = None
    batch_size: int | None = None
    weights: str = "imagenet"
    accept_licence: bool = False
    validation: float = 0.2
    test: float | None = None
    group_by: str | None = None
    columns: Mapping[str, str] | str | None = None
    class_names: Sequence[str] | None = None
    fit: str = "squash"
    from_run: Path | None = None
    augment: Augmentation | str | None = None
    allow: tuple[str, ...] = ()
    refit: bool | None = None
    folds: int | None = None
    fair_to: str | None = None
    max_error: float | None = None
    known: float | None = None
    coverage: float | None = None
    max_minutes: float | None = None
    cache_gb: float | None = None
    on: str | None = None
    devices: str | int | None = None
    scale_batch: bool = False
    strict: bool = False
    report: bool = True
    checked: Recipe | None = None
    accept_license: InitVar[bool | None] = None
    validation_split: InitVar[float | None] = None

    def __post_init__(self, accept_license: bool | None, validation_split: float | None) -> None:
        set_by_alias(self, {"accept_license": accept_license, "validation_split": validation_split})
        if isinstance(self.class_names, str):
            object.__setattr__(self, "class_names", tuple(one.strip() for one in self.class_names.split(",")))
        elif self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))
        object.__setattr__(self, "data", as_data(self.data))
        object.__setattr__(self, "from_run", None if self.from_run is None else Path(self.from_run))
        object.__setattr__(self, "columns", named_columns(self.columns) or None)
        object.__setattr__(self, "allow", tuple(check_fields(self.allow)))
        if self.fit not in FITS:
            raise unknown("fit", self.fit, FITS)
        if self.effort not in EFFORTS:
            raise unknown("effort", self.effort, EFFORTS)
        if self.metric is not None and self.metric not in METRICS:
            raise unknown("metric", self.metric, METRICS)
        if self.balance is not None and self.balance not in BALANCES:
            raise unknown("balance", self.balance, BALANCES)
        self._check_folds()
        for name in ("epochs", "batch_size", "image_size"):
            if getattr(self, name) is not None:
                _whole(f"`{name}`", getattr(self, name), 1)
        if self.learning_rate is not None:
            _between("`learning_rate`", self.learning_rate, 0, None, open_start=True)
        _whole("`seed`", self.seed, 0)
        _between("`validation`", self.validation, 0, 1, open_start=True, open_end=True)
        if self.test is not None:
            _between("`test`", self.test, 0, 1, open_end=True)
        check_max_error(self.max_error)
        for name in ("known", "coverage"):
            check_share(name, getattr(self, name))
        if self.max_minutes is not None:
            _between("`max_minutes`", self.max_minutes, 0, None, open_start=True)
        if self.cache_gb is not None:
            _between("`cache_gb`", self.cache_gb, 0, None)
        check_on(self.on)
        parse_devices(self.devices)
        if self.scale_batch and self.by_tournament:
            raise SpecError(
                "`scale_batch` changes the batch size of a recipe, and a tournament compares recipes as they are. "
                "Name a `recipe`, or say by `similar` whether the images are like ImageNet's."
            )

    def _check_folds(self) -> None:
        if self.folds is None:
            return
        _whole("`folds`", self.folds, 2)
        if self.fair_to is not None:
            raise SpecError("`fair_to` solves one head, and `folds` averages several networks. Give one of the two.")
        if self.refit is not None:
            raise SpecError(
                "`refit` trains one model on all images, and `folds` averages several. Give one of the two."
            )
        if self.weights == "none" and self.from_run is None:
            raise SpecError(
                "The models of `folds` are averaged, which needs one starting point, but `weights` is none. Start from "
                "pretrained weights or an earlier run, or leave `folds` out."
            )

    @property
    def by_tournament(self) -> bool:
        """Whether a tournament chooses the recipe."""
        return self.recipe == AUTO or (self.recipe is None and self.similar is None)

    @classmethod
    def given(cls, data: str | Path | Address | InMemory, options: Mapping[str, Any]) -> Job:
        """Create a job from `data` and options.

        `data` may also be the plan.json of an earlier run: then its job is repeated, with these options changed.

        Raises RunError for a run's folder, or for a JSON file that is not a plan.
        """
        path = as_data(data)
        if not isinstance(path, Path):
            return cls(path, **options)
        if path.is_dir() and (path / "plan.json").is_file():
            raise RunError(f"'{path}' is a run, not data. To repeat it, give '{path / 'plan.json'}'.")
        if path.suffix == ".json":
            return dataclasses.replace(cls.read(path), **options)
        return cls(path, **options)

    @classmethod
    def read(cls, file: str | Path) -> Job:
        """Read the job of a run's plan.json, to repeat the run.

        If that run made its decisions, the job has the backbone and the recipe that were chosen.

        Raises RunError for a file that is not the plan of a run.
        """
        path = Path(file)
        if not path.is_file():
            raise RunError(f"No such plan: '{path}'. Expected the plan.json of an earlier run.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            values = None
        _say_if_changed(path)
        values = values if isinstance(values, dict) else {}
        if values.get("ensemble_of"):
            raise RunError(f"'{path}' is the plan of an ensemble. Repeat it with `tlkit ensemble` and its runs.")
        try:
            values = renewed(values)
            job = cls.from_dict(values["job"])
            if not values["decided"]:
                return job
            recipe, backbone = recipe_from_dict(values["recipe"]), values["backbone"]["name"]
            drawn = drawn_share(values["decisions"])
        except TlkitError:  # its message names the field
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RunError(f"'{path}' is not the plan.json of a run.") from error
        job = dataclasses.replace(job, backbone=backbone, recipe=recipe, checked=recipe, test=drawn)
        job = dataclasses.replace(job, augment=None, allow=())  # the recipe has these and the numbers
        job = dataclasses.replace(job, epochs=None, learning_rate=None, batch_size=None, scale_batch=False)
        return dataclasses.replace(job, balance=None)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """Create a Job from the values of `to_dict`.

        Raises NameUnknown for a field that does not exist, and SpecError for an invalid value.
        """
        given = {**values}
        if "data" in given:
            given["data"] = data_from_json(given["data"])
        if isinstance(given.get("recipe"), Mapping):
            given["recipe"] = recipe_from_dict(given["recipe"])
        if isinstance(given.get("augment"), Mapping):
            given["augment"] = augmentation_from_dict(given["augment"])
        given["checked"] = given.get("recipe") if given.pop("checked", False) else None
        return _from_dict(cls, given)

    def to_dict(self) -> dict[str, Any]:
        """Return the job as JSON values, for plan.json."""
        values = dataclasses.asdict(self)
        return {
            **values,
            "data": self.data.to_dict() if isinstance(self.data, InMemory) else str(self.data),
            "from_run": None if self.from_run is None else str(self.from_run),
            "allow": list(self.allow),
            "checked": self.checked is not None and self.checked == self.recipe,
        }


def _say_if_changed(file: Path) -> None:
    """Log that a run's plan.json is not the one that the run was made by. It may be edited, to make another run."""
    manifest = known_manifest(file.parent) if file.name == "plan.json" else None
    if manifest is not None and not manifest.agrees(file.name, digest(file)):
        log.warning(f"'{file}' was changed after its run: the new run is the one that it describes now.")


def check_max_error(max_error: float | None) -> None:
    """Raise SpecError unless 0 < max_error < 1, or it is None."""
    if max_error is not None:
        _between("`max_error`", max_error, 0, 1, open_start=True, open_end=True)


def check_share(name: str, share: float | None) -> None:
    """Raise SpecError unless 0 < share < 1, or it is None. name: of the option."""
    if share is not None:
        _between(f"`{name}`", share, 0, 1, open_start=True, open_end=True)


def drawn_share(decisions: Iterable[Mapping[str, Any]]) -> float:
    """The share of the images that a run drew as test images; 0 if it drew none. decisions: as plan.json has them."""
    return next((float(one["evidence"].get("test_share", 0)) for one in decisions if one["what"] == "split"), 0.0)


OPTIONS = {one.name: one.default for one in dataclasses.fields(Job) if one.name not in ("data", "checked")}
