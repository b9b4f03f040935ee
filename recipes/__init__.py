"""The recipes, one file each, and the table of their names.

    from tlkit.recipes import small_similar

A new recipe is one file here (docstring: when, when not, why with its source, the command, the measured result) and one line
in the table.
"""

from tlkit.recipes.large_different import large_different
from tlkit.recipes.large_similar import large_similar
from tlkit.recipes.small_different import small_different
from tlkit.recipes.small_similar import small_similar

from tlkit.spec import Recipe

RECIPES: dict[str, Recipe] = {
    "small_similar": small_similar,
    "small_different": small_different,
    "large_similar": large_similar,
    "large_different": large_different,
}

__all__ = ["RECIPES", "large_different", "large_similar", "small_different", "small_similar"]
