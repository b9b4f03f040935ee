"""The recipes, one file each, the table of their names, and `find_recipe`.

    from tlkit.recipes import small_similar

A new recipe is one file here and one line in the table. Its docstring says when to use it, when not, why (with its
source), the command, and the measured result.
"""

from __future__ import annotations

import json
import runpy
import traceback
from pathlib import Path

from tlkit.recipes.large_different import large_different
from tlkit.recipes.large_similar import large_similar
from tlkit.recipes.scratch import scratch
from tlkit.recipes.small_different import small_different
from tlkit.recipes.small_similar import small_similar

from tlkit.errors import NameUnknown, SpecError, TlkitError, nearest, unknown
from tlkit.plan.job import AUTO
from tlkit.plan.recipe import Recipe, recipe_from_dict

RECIPES: dict[str, Recipe] = {
    "small_similar": small_similar,
    "small_different": small_different,
    "large_similar": large_similar,
    "large_different": large_different,
    "scratch": scratch,
}

__all__ = ["RECIPES", "find_recipe", "large_different", "large_similar", "scratch", "small_different", "small_similar"]


def find_recipe(name: str) -> Recipe:
    """Find a recipe by name, or read it from your own file: `.json` (as in plan.json), or a script that sets `recipe`.

    The Python script is executed: use only scripts that you trust.

    Raises NameUnknown with the nearest name, and SpecError for an invalid file.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix not in (".py", ".json"):
        raise unknown("recipe", name, [AUTO, *RECIPES], see="A path to your own .py or .json file works too.")
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
        if not isinstance(values, dict):
            raise SpecError(f"'{name}' holds {type(values).__name__}. Expected an object with a recipe's fields.")
        return recipe_from_dict(values.get("recipe", values))
    try:
        recipe = runpy.run_path(str(path)).get("recipe")
    except TlkitError as error:
        raise SpecError(f"'{name}': {error}") from error
    except Exception as error:  # whatever the script raises
        line = _line_of(error, path)
        said = next(iter(str(error).splitlines()), "")
        raise SpecError(f"'{name}'{line} cannot be run: {type(error).__name__}: {said}. Correct the script.") from error
    if not isinstance(recipe, Recipe):
        raise SpecError(f"'{name}' sets no variable `recipe` that is a tlkit.Recipe. Add recipe = Recipe(...).")
    return recipe


def _line_of(error: Exception, path: Path) -> str:
    """Where in a script an error was raised: ", line N"; "" if that is not known."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}" if error.lineno else ""
    lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
