from __future__ import annotations

import json
from pathlib import Path

import pytest
from tlkit.recipes import RECIPES, find_recipe

from tlkit.errors import NameUnknown, SpecError
from tlkit.plan.recipe import to_dict
from tlkit.strategy.recipes import choose_recipe


@pytest.mark.parametrize(
    ("images", "similar", "name"),
    [
        (999, None, "small_similar"),
        (1000, None, "large_similar"),
        (10, False, "small_different"),
        (5000, False, "large_different"),
        (5000, True, "large_similar"),
    ],
)
def test_size_and_similarity_choose(images: int, similar: bool | None, name: str) -> None:
    recipe, decision = choose_recipe(images, similar)
    assert recipe.name == name == decision.chosen and RECIPES[name] is recipe
    assert ("assumed" in decision.why) == (similar is None)
    assert decision.evidence["training_images"] == images


def test_ones_own_recipe_from_a_script_or_json(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tlkit import Recipe, Stage\nrecipe = Recipe('mine', stages=(Stage(1, 1e-3),))\n"
    )
    (tmp_path / "mine.json").write_text(json.dumps(to_dict(RECIPES["large_similar"])))
    assert find_recipe(str(tmp_path / "mine.py")).name == "mine"
    assert find_recipe(str(tmp_path / "mine.json")) == RECIPES["large_similar"]


def test_unusable_recipe_files_say_why(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(SpecError, match="no variable `recipe`"):
        find_recipe(str(tmp_path / "a.py"))
    with pytest.raises(SpecError, match="not JSON"):
        find_recipe(str(tmp_path / "b.json"))
    with pytest.raises(NameUnknown, match=r"Did you mean '.*a\.py'"):
        find_recipe(str(tmp_path / "aa.py"))


def test_recipes_say_when_when_not_why_and_how() -> None:
    import importlib

    for name in RECIPES:
        text = importlib.import_module(f"tlkit.recipes.{name}").__doc__ or ""
        for word in ("When:", "When not:", "Why:", "Command:", "Measured:"):
            assert word in text, (name, word)
