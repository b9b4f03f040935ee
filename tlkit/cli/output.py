"""What every command prints with --json and --quiet.

With --json, standard output is one JSON value and nothing else, and the log goes to standard error. With --quiet, the
log and the progress bars are left out: results and errors stay.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
JSON, QUIET = "tlkit.json", "tlkit.quiet"


def json_option(command: Command, *, hidden: bool = False) -> Command:
    """Give a command the option --json; the command asks `wants_json`. hidden: leave it out of a help that is full."""
    return click.option(
        "--json",
        "json",
        is_flag=True,
        expose_value=False,
        callback=_noted(JSON),
        hidden=hidden,
        help="print it as JSON; the log goes to stderr",
    )(command)


def quiet_option() -> click.Option:
    """The option that every command has. The help of the group names it once."""
    return click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_noted(QUIET),
        hidden=True,
        help="print results and errors only",
    )


def wants_json() -> bool:
    """Whether the command that runs was given --json."""
    return _given(JSON)


def wants_quiet() -> bool:
    """Whether the command that runs was given --quiet."""
    return _given(QUIET)


def ask_json() -> None:
    """Let the command that runs print JSON, as with --json."""
    click.get_current_context().find_root().meta[JSON] = True


def show_json(values: Any) -> None:
    """Print values as JSON: numbers that are none become null, paths and others become text."""
    click.echo(json.dumps(as_json(values), indent=2, allow_nan=False))


def as_json(value: Any) -> Any:
    """Turn values of Python, NumPy and pandas into those of JSON.

    >>> as_json({"a": float("nan"), "b": (1, "x")})
    {'a': None, 'b': [1, 'x']}
    """
    if hasattr(value, "tolist"):  # of NumPy
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(one) for one in value]
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a table of pandas, as a list of rows
        return as_json(value.to_dict("records"))
    if value != value:  # pandas' NaT and NA
        return None
    return str(value)


def _noted(name: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    """A callback that notes on the command line as a whole that an option was given."""

    def note(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
        if value:
            context.find_root().meta[name] = True
        return value

    return note


def _given(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().meta.get(name))
