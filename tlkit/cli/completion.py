"""What a shell completes: the names of backbones and recipes, and the folders of runs.

click writes the program for the shell; `docs/terminal.md` says how it is turned on. It calls `tlkit` at each key, so
nothing here imports TensorFlow or reads more than the names of a folder or two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

PLAN = "plan.json"  # of `tlkit.folders`, which takes longer to import
RUNS = "runs"


class _Completed(click.types.StringParamType):
    """Text, of which a shell completes what `known` gives for its beginning."""

    def __init__(self, known: Callable[[str], Iterable[str]], otherwise: str) -> None:
        """otherwise: what the shell itself completes if `known` gives nothing: "file", "dir", or "" for nothing."""
        self.known, self.otherwise = known, otherwise

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(one) for one in self.known(incomplete)]
        return found or ([CompletionItem(incomplete, type=self.otherwise)] if self.otherwise else [])


def backbone_names(beginning: str) -> list[str]:
    """The backbones whose names begin like this; of "a,b", like the last of them."""
    from tlkit.backbones import BACKBONES

    before, comma, last = beginning.rpartition(",")
    return [f"{before}{comma}{name}" for name in sorted([*BACKBONES, "auto"]) if name.startswith(last)]


def recipe_names(beginning: str) -> list[str]:
    """The recipes whose names begin like this."""
    from tlkit.recipes import RECIPES

    return [name for name in ("auto", *RECIPES) if name.startswith(beginning)]


def run_folders(beginning: str) -> list[str]:
    """The folders of runs that begin like this: in the folder that was typed, or here and in runs/."""
    typed = Path(beginning).parent if "/" in beginning else None
    folders = [typed] if typed is not None else [Path(), Path(RUNS)]
    found = []
    for folder in folders:
        try:
            names = sorted(one.name for one in folder.iterdir() if (one / PLAN).is_file())
        except OSError:
            continue
        found += [str(folder / name) for name in names]
    return [one for one in found if one.startswith(beginning)]


RUN = _Completed(run_folders, "dir")
FILE = _Completed(lambda beginning: (), "file")
_TYPES = {  # by the name of a parameter, in whichever command it is
    "backbone": _Completed(backbone_names, "file"),
    "recipe": _Completed(recipe_names, "file"),
    **dict.fromkeys(("run", "runs", "model", "path", "from_run", "resume"), RUN),
    **dict.fromkeys(("data", "files", "csv_file", "out", "moved_to"), FILE),
}


def completed(parameter: click.Parameter) -> None:
    """Let a shell complete a parameter, if it is text whose name is known here."""
    if type(parameter.type) is click.types.StringParamType and parameter.name in _TYPES:
        parameter.type = _TYPES[parameter.name]
