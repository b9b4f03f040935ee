"""Fills a template with values. The only file that imports Jinja."""

from __future__ import annotations

from typing import Any

from tlkit.plan.plan import Plan


def _data_name(plan: Plan) -> str:
    """clothing/splits.csv is clothing, and so is clothing/."""
    data = plan.job.data
    return data.parent.name if data.suffix == ".csv" else data.name


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tlkit.reporting", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)
