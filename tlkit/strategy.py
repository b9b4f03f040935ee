"""Which recipe, and why. For now by two plain facts: how many training images, and what the person says of similarity."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

from tlkit.errors import NameUnknown, SpecError, nearest, unknown
from tlkit.recipes import RECIPES
from tlkit.spec import Recipe, recipe_from_dict

LARGE = 1000  # training images from which a set counts as large


def choose_recipe(training_images: int, similar: bool | None = None) -> tuple[Recipe, dict[str, Any]]:
    """The recipe for a data set, and the decision with its evidence for the plan.

    training_images: how many. similar: whether the pictures are like ImageNet's (photographs of things, animals,
    scenes); None = not said, taken as similar, and the decision says so.

    >>> choose_recipe(390)[0].name
    'small_similar'
    """
    size = "large" if training_images >= LARGE else "small"
    kind = "different" if similar is False else "similar"
    recipe = RECIPES[f"{size}_{kind}"]
    said = "assumed, because neither --similar nor --different was given" if similar is None else "as you said"
    why = (
        f"{training_images:,} training images are {size} (the border is {LARGE:,}); "
        f"{kind} to ImageNet is {said}; similarity was not measured"
    )
    evidence = {"training_images": training_images, "large_from": LARGE, "similar": similar}
    return recipe, {"what": "recipe", "chosen": recipe.name, "why": why, "evidence": evidence}


def find_recipe(name: str) -> Recipe:
    """A recipe by name, or from one's own file: `.json` (as in plan.json), or a Python script that sets `recipe`.

    The script is run as the person's own code. Raises NameUnknown with the nearest name, SpecError for an unusable file.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix not in (".py", ".json"):
        raise unknown("recipe", name, RECIPES, see="A path to your own .py or .json file works too.")
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, siblings)
        hint = f" Did you mean '{path.parent / close}'?" if close else ""
        raise NameUnknown(f"No such recipe file: '{name}'.{hint}")
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SpecError(f"'{name}' is not JSON: {error}.") from error
        return recipe_from_dict(values.get("recipe", values))
    recipe = runpy.run_path(str(path)).get("recipe")
    if not isinstance(recipe, Recipe):
        raise SpecError(f"'{name}' sets no variable `recipe` that is a tlkit.Recipe. Write recipe = Recipe(...).")
    return recipe
