"""American spellings are accepted wherever British ones are; the British ones are saved."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tlkit import Augmentation, Job, Recipe, SpecError, Stage, finetune, scan
from tlkit.backbones import BACKBONES, Backbone
from tlkit.cli.main import main
from tlkit.deployment.formats import known_target
from tlkit.errors import DataError, NameUnknown, WeightsError
from tlkit.plan.augmentation import augmentation_from_dict, check_fields, find_augmentation, scaled, size_of
from tlkit.plan.recipe import recipe_from_dict, to_dict
from tlkit.plan.spelling import JOB_ALIASES, OURS

CAST = Augmentation(colour_cast=(-0.1, 0.1), pca_colour=0.2)


def test_a_keyword_may_be_spelled_either_way() -> None:
    theirs = Augmentation(color_cast=(-0.1, 0.1), pca_color=0.2)
    assert theirs == CAST and hash(theirs) == hash(CAST) and repr(theirs) == repr(CAST)
    assert theirs.color_cast == (-0.1, 0.1) and Augmentation().pca_color == 0.0


def test_a_value_out_of_range_is_refused_by_either_name() -> None:
    with pytest.raises(SpecError, match=r"Augmentation\.colour_cast"):
        Augmentation(color_cast=(-2.0, 0.1))


def test_replacing_one_spelling_by_the_other_takes_the_new_value() -> None:
    for name in ("color_cast", "colour_cast"):
        assert dataclasses.replace(CAST, **{name: (0.0, 0.3)}).colour_cast == (0.0, 0.3)
    assert dataclasses.replace(CAST, rotate=(-5, 5)).colour_cast == (-0.1, 0.1)
    assert copy.deepcopy(CAST) == CAST


def test_files_are_read_in_either_spelling_and_written_in_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"color_cast": [-0.1, 0.1], "pca_color": 0.2}))
    read = find_augmentation(str(tmp_path / "mine.json"))
    assert read == CAST and not set(OURS) & set(to_dict(read))
    recipe = Recipe("probe", stages=(Stage(epochs=1, learning_rate=1e-3),), augmentation=CAST)
    values = to_dict(recipe)
    values["augmentation"]["color_cast"] = values["augmentation"].pop("colour_cast")
    assert recipe_from_dict(values) == recipe


def test_both_spellings_in_one_file_are_refused() -> None:
    with pytest.raises(SpecError, match="'color_cast' and 'colour_cast' are one field"):
        augmentation_from_dict({"color_cast": [0, 0.1], "colour_cast": [0, 0.1]})


def test_functions_that_take_a_fields_name_take_either() -> None:
    assert check_fields(["color_cast", "rotate"]) == ["colour_cast", "rotate"]
    assert size_of(CAST, "color_cast") == size_of(CAST, "colour_cast")
    assert scaled(CAST, "color_cast", 0.5) == scaled(CAST, "colour_cast", 0.5) != CAST
    assert CAST.only("color_cast") == CAST.only("colour_cast")
    with pytest.raises(NameUnknown, match="Did you mean 'colour_cast'"):
        check_fields(["color_casts"])


def test_a_backbones_licence_may_be_spelled_either_way() -> None:
    assert dataclasses.replace(BACKBONES["nano"], license="MIT").licence == "MIT"
    assert BACKBONES["nano"].license == "research and education"


def test_every_alias_stands_beside_a_field_and_is_none_itself() -> None:
    for kind in (Augmentation, Backbone, Job):
        fields = {field.name for field in dataclasses.fields(kind)}
        aliases = set(inspect.signature(kind).parameters) - fields
        assert aliases == {theirs for theirs, ours in OURS.items() if ours in fields} and aliases


# -- Keras' names --------------------------------------------------------------------------------------------


def test_a_job_takes_keras_names_and_keeps_ours() -> None:
    job = Job("data", validation_split=0.3, accept_license=True)  # type: ignore[arg-type]
    assert job == Job("data", validation=0.3, accept_licence=True)  # type: ignore[arg-type]
    assert job.validation_split == 0.3 and job.accept_license and not {*JOB_ALIASES} & set(job.to_dict())
    assert dataclasses.replace(job, seed=1).validation == 0.3
    assert dataclasses.replace(job, validation_split=0.4).validation == 0.4


KERAS_SAYS = [
    ({"validation_split": 0.3}, {"validation": 0.3}),
    ({"crop_to_aspect_ratio": True}, {"fit": "crop"}),
    ({"pad_to_aspect_ratio": True}, {"fit": "pad"}),
    ({"crop_to_aspect_ratio": False}, {}),
    ({"color_mode": "rgb"}, {}),
    ({"accept_license": True}, {"accept_licence": True}),
]


@pytest.mark.parametrize(("theirs", "ours"), KERAS_SAYS)
def test_finetune_and_the_command_take_keras_names(
    theirs: dict[str, Any], ours: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr("tlkit.finetuning.finetune.carry_out", lambda job, *a, **k: jobs.append(job))
    monkeypatch.setattr("tlkit.cli.finetune._show_run", lambda run: None)
    finetune(folder, **theirs)
    finetune(folder, **ours)
    given = []
    for name, value in theirs.items():
        option = f"--{name.replace('_', '-')}"
        given += [] if value is False else [option] if value is True else [option, str(value)]
    done = CliRunner().invoke(main, ["finetune", str(folder), *given])
    assert done.exit_code == 0, done.output
    assert jobs[0] == jobs[1] == jobs[2] == Job(folder, **ours)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation_split": 0.3, "validation": 0.4}, "one option under two names"),
        ({"crop_to_aspect_ratio": True, "fit": "pad"}, "one option under two names"),
        ({"crop_to_aspect_ratio": True, "pad_to_aspect_ratio": True}, "one option under two names"),
        ({"color_mode": "grayscale"}, "RGB"),
    ],
)
def test_what_contradicts_itself_or_is_not_offered_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        finetune("data", **options)


def test_class_names_give_the_order_of_the_classes(folder: Path) -> None:
    images = scan(folder, class_names=["red", "blue", "green"])
    assert images.class_names == ("red", "blue", "green")
    assert images.labels()[list(images.table["label"]).index("blue")] == 1
    assert Job(folder, class_names="red, blue,green").class_names == ("red", "blue", "green")
    with pytest.raises(DataError, match="'green'"):
        scan(folder, class_names=["red", "blue"])
    with pytest.raises(DataError, match="'red' twice"):
        scan(folder, class_names=["red", "blue", "green", "red"])


def test_exports_are_known_by_keras_names() -> None:
    assert known_target("tf_saved_model") == "savedmodel" and known_target("tflite") == "litert"
    assert known_target("onnx") == "onnx"
    with pytest.raises(NameUnknown, match="Did you mean 'savedmodel'"):
        known_target("savedmodels")


@pytest.mark.parametrize(
    "handle", ["hf://keras/resnet_18_imagenet", "kaggle://keras/resnetv1/keras/resnet_18_imagenet"]
)
def test_a_handle_of_kerashub_is_given_to_kerashub_as_it_stands(
    handle: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Hub:
        class models:
            class Backbone:
                @staticmethod
                def from_preset(location: str, load_weights: bool) -> None:
                    asked.append(location)
                    raise ConnectionError("offline")

    monkeypatch.setattr("tlkit.backbones.kerashub.import_keras_hub", lambda: Hub)
    with pytest.raises(WeightsError, match="offline"):
        finetune(folder, backbone=handle)
    assert asked == [handle]
