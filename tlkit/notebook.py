"""What tlkit's results show of themselves in a notebook: small HTML cards, and progress bars.

A card has no script, no colour of its own and no style sheet: text and lines take the colours around them, so it can
be read on a light and on a dark page. Every text is escaped. Imports IPython only where a notebook already has.
"""

from __future__ import annotations

import html
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tlkit.words import shown

MOST_ROWS = 12  # of a table; how many more there are is said below it
_CELL = "padding:2px 12px 2px 0;border:0;background:none;vertical-align:top"
_LINE = "border-top:1px solid rgba(128,128,128,.5)"


def card(title: str, facts: Mapping[str, object] | None = None, parts: Sequence[str] = ()) -> str:
    """Return a card: a title, facts with their names, and parts that are HTML already, from `rows` or `lines`."""
    named = "".join(
        f'<div style="display:flex"><span style="opacity:.7;flex:0 0 7em">{_text(name)}</span>'
        f"<span>{_text(value)}</span></div>"
        for name, value in (facts or {}).items()
    )
    return (
        '<div style="max-width:60em;overflow-x:auto;padding:4px 0;line-height:1.45">'
        f'<div style="font-weight:600">{_text(title)}</div>{named}{"".join(parts)}</div>'
    )


def rows(header: Sequence[str], cells: Sequence[Sequence[object]]) -> str:
    """Return a table for `card`. Cells that are numbers are aligned to the right; at most MOST_ROWS rows are shown."""
    if not cells:
        return ""
    right = [all(isinstance(row[column], int | float) for row in cells) for column in range(len(header))]
    sides = ["right" if one else "left" for one in right]
    names = "".join(
        f'<th scope="col" style="{_CELL};text-align:{side};opacity:.7;font-weight:400">{_text(name)}</th>'
        for name, side in zip(header, sides, strict=True)
    )
    body = "".join(
        f'<tr style="background:none;{_LINE}">'
        + "".join(
            f'<td style="{_CELL};text-align:{side}">{_text(cell)}</td>' for cell, side in zip(row, sides, strict=True)
        )
        + "</tr>"
        for row in cells[:MOST_ROWS]
    )
    more = f'<div style="opacity:.7">and {len(cells) - MOST_ROWS:,} more</div>' if len(cells) > MOST_ROWS else ""
    table = f'<table style="border-collapse:collapse;margin:6px 0"><thead><tr>{names}</tr></thead>'
    return f"{table}<tbody>{body}</tbody></table>{more}"


def lines(texts: Sequence[str]) -> str:
    """Return a list of sentences for `card`."""
    items = "".join(f"<li>{_text(text)}</li>" for text in texts)
    return f'<ul style="margin:4px 0;padding-left:1.2em">{items}</ul>' if items else ""


def interval(values: Mapping[str, Any] | None) -> str:
    """Format an accuracy of metrics.json with its 95 % interval and n; "not measured" without one.

    >>> interval({"accuracy": 0.975, "accuracy_95": [0.93, 0.99], "n": 120})
    '97.5% (95 % interval 93.0% to 99.0%, n = 120)'
    """
    if not values or values.get("accuracy") is None:
        return "not measured"
    low, high = values["accuracy_95"]
    return f"{values['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, n = {values['n']:,})"


def _text(value: object) -> str:
    """Escape a value for HTML; control characters are shown as in a terminal."""
    return html.escape(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else shown(value))


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def notebook_bar(total: int, unit: str) -> Callable[[int], None]:
    """Show a progress bar below the cell that runs. Returns the function to call with the number of steps done.

    The bar is an HTML `<progress>`, replaced about a hundred times, and removed with the last step.
    """
    from IPython.display import HTML, display

    shown_at, step = 0, max(1, total // 100)
    name = f"tlkit-{uuid.uuid4().hex[:8]}"

    def bar(done: int) -> HTML:
        return HTML(f'<progress value="{done}" max="{total}"></progress> {done:,} of {total:,} {_text(unit)}s')

    display(bar(0), display_id=name)

    def update(done: int) -> None:
        nonlocal shown_at
        if done >= total:
            display(HTML(""), display_id=name, update=True)
        elif done >= shown_at + step:
            shown_at = done
            display(bar(done), display_id=name, update=True)

    return update
