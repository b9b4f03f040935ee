"""Fills templates with values, and escapes what the values hold. The only file that imports Jinja."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True)
class Section:
    """A section of a report.

    id: its anchor, to which links lead; it stays when the title changes. title: its heading, and its link in the
    navigation. html: its body, escaped already, as `fill` makes it.
    """

    id: str
    title: str
    html: str


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Fill the text of a template. `gallery(figures, pair=False)` is there to show images.

    >>> fill("<p>{{ name }}</p>", {"name": "<a>"})
    '<p>&lt;a&gt;</p>'
    """
    return _environment().from_string(template).render(values)


def fill_file(name: str, values: Mapping[str, Any]) -> str:
    """Fill a template of this folder."""
    return _environment().get_template(name).render(values)


def report_page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """A whole page: its navigation and its sections, in their order."""
    values = {"title": title, "subtitle": subtitle, "sections": sections, "footer": footer}
    return fill_file("report.html.jinja", values)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tlkit.reporting", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    macros: Any = environment.get_template("gallery.html.jinja").module
    environment.globals["gallery"] = macros.gallery
    return environment
