"""The site made of these pages: `python -m sphinx -W docs site`, with `pip install "tlkit[docs]"`.

Sphinx with MyST reads the Markdown pages as GitHub shows them, and turns every broken link, missing name and
docstring that cannot be read into a warning, which -W makes an error. The reference of the library is made from
docstrings, that of the command line from click. Nothing is fetched while it builds, and the site needs no network.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import tlkit

project = "tlkit"
copyright = "the authors of tlkit, Apache-2.0"
version = release = tlkit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
highlight_language = "bash"  # of blocks without a language, which are commands
smartquotes = False  # options begin with two hyphens
maximum_signature_line_length = 88
default_role = "code"  # `name` in docstrings is Markdown's

html_theme = "furo"  # light and dark, as the reader's system asks for
html_title = "tlkit"
html_static_path = ["_static"]
html_css_files = ["tlkit.css"]
html_show_sourcelink = False
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
add_module_names = False
napoleon_use_ivar = True  # a dataclass' fields are listed once, with their meaning

ROOMS = {  # room -> its heading, in the order of the page; other rooms follow under their own names
    "finetuning": "Fine-tune",
    "plan": "Plans and recipes",
    "data": "Data",
    "doctor": "Is the data the problem?",
    "safety": "Augmentation that keeps the class",
    "backbones": "Backbones and weights",
    "models": "Models",
    "features": "Features",
    "training": "Training",
    "strategy": "Strategy",
    "evaluation": "Evaluation",
    "runs": "Runs",
    "reporting": "Reports and comparisons",
    "deployment": "Deployment",
    "cache": "The cache",
    "progress": "Deadlines",
    "errors": "Errors",
}
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!start|explanation|reference)([\w./-]+/[\w.-]+\.md)(?:#[\w-]+)?\)")
FIELD = re.compile(r"[a-z_]\w*(, [a-z_]\w*)*: ")


def public_names() -> dict[str, list[str]]:
    """The names of `tlkit.__all__` by room, in the order of ROOMS."""
    found: dict[str, list[str]] = {room: [] for room in ROOMS}
    for name in tlkit.__all__:
        found.setdefault(tlkit._HOME[name].split(".")[0], []).append(name)
    return {room: names for room, names in found.items() if names}


def api_page() -> str:
    """The reference of every public name, as MyST."""
    parts = []
    for room, names in public_names().items():
        parts.append(f"\n## {ROOMS.get(room, room.capitalize())}\n")
        for name in names:
            value = getattr(tlkit, name)
            kind = "function"
            if inspect.isclass(value):
                kind = "exception" if issubclass(value, BaseException) else "class"
            options = "" if kind == "function" else "\n   :members:"
            heading = f"### {name}\n" if kind != "exception" else ""
            parts.append(f"{heading}\n```{{eval-rst}}\n.. auto{kind}:: tlkit.{name}{options}\n```\n")
    return "\n".join(parts)


def fill_in(app: Any, docname: str, source: list[str]) -> None:
    """Put what is generated where a page asks for it, and name pages of the repository that are not of the site."""
    if "<!-- every public name -->" in source[0]:
        source[0] = source[0].replace("<!-- every public name -->", api_page())
    source[0] = OUTSIDE.sub(r"\1 (`\2` of the repository)", source[0])


def with_sections(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn tlkit's short forms into sections that napoleon reads.

    "Returns: text" on one line becomes a section, and lines "name: text" at the margin become the list of a class'
    attributes, or of a function's parameters.
    """
    section = "Attributes:" if what in ("class", "exception") else "Args:"
    new, inside = list[str](), ""
    for line in lines:
        if line.startswith(("Returns: ", "Yields: ")):
            word, _, rest = line.partition(": ")
            new, inside = [*new, "", f"{word}:", f"    {rest}"], "sentence"
        elif FIELD.match(line) and fields_of(obj).issuperset(line.partition(":")[0].split(", ")):
            new, inside = [*new, *(["", section] if inside != "fields" else []), f"    {line}"], "fields"
        elif not line.strip():
            new, inside = [*new, line], ""
        else:
            new.append(f"    {line}" if inside else line)
    lines[:] = new


def fields_of(obj: Any) -> set[str]:
    """The parameters of a function, or the fields of a dataclass."""
    try:
        return set(inspect.signature(obj).parameters) | set(getattr(obj, "__dataclass_fields__", ()))
    except (TypeError, ValueError):
        return set()


def keep_options_whole(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Mark the options in commands, which a browser would break after their hyphens."""

    def marked(block: re.Match[str]) -> str:
        return re.sub(r"(?<![\w;&-])(--?[a-z][\w-]*)", r'<span class="option">\1</span>', block[0])

    if "body" in context:
        pattern = r'(?<=<div class="highlight-bash notranslate"><div class="highlight"><pre>).*?(?=</pre>)'
        context["body"] = re.sub(pattern, marked, context["body"], flags=re.DOTALL)


def setup(app: Any) -> None:
    main = importlib.import_module("tlkit.cli.main").main
    for command in main.commands.values():
        for option in command.params:  # hidden only so that the help fits one screen
            option.hidden = False
    app.connect("source-read", fill_in)
    app.connect("html-page-context", keep_options_whole)
    app.connect("autodoc-process-docstring", with_sections, priority=100)  # before napoleon
