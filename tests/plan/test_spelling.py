"""American spellings are accepted wherever British ones are; the British ones are saved."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from pathlib import Path

import pytest

from tlkit import Augmentation, Recipe, SpecError, Stage
from tlkit.backbones import BACKBONES, Backbone
from tlkit.errors import NameUnknown
from tlkit.plan.augmentation import augmentation_from_dict, check_fields, find_augmentation, scaled, size_of
from tlkit.plan.recipe import recipe_from_dict, to_dict
from tlkit.plan.spelling import OURS

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
    for kind in (Augmentation, Backbone):
        fields = {field.name for field in dataclasses.fields(kind)}
        aliases = set(inspect.signature(kind).parameters) - fields
        assert aliases == {theirs for theirs, ours in OURS.items() if ours in fields} and aliases
