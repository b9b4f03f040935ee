"""Augmentation in a report: the verdict on each transformation, with examples."""

from __future__ import annotations

from typing import Any

from tlkit.data.augment import augment
from tlkit.plan.augmentation import augmentation_from_dict
from tlkit.reporting.findings import FieldCheck, FieldExample, Findings
from tlkit.reporting.page import Section, fill
from tlkit.reporting.thumbnails import SHOWN, Thumbnails, as_data

VERDICTS = ("unsafe", "limited", "not_measurable", "safe")  # in the order of the table

TEMPLATE = """
{% for line in lines %}<p>{{ line }}</p>{% endfor %}
{% if rows %}<div class="wide"><table><tr><th>transformation</th><th>verdict</th><th>used up to</th><th>safe up to</th>
<th class="words">most confused classes</th><th class="words">why</th></tr>
{% for row in rows %}<tr><td>{{ row.field }}</td><td class="{{ row.verdict }}">{{ row.label }}</td>
<td>{{ row.asked }}</td><td>{{ row.limit }}</td><td class="words">{{ row.pair }}</td>
<td class="words">{{ row.why }}</td></tr>
{% endfor %}</table></div>{% endif %}
{% if figures %}<p class="soft">The original, the transformed image, and the nearest image of the class that it was
mistaken for.</p>
{{ gallery(figures, True) }}{% endif %}
"""


def render(findings: Findings) -> Section:
    found = findings.record.decision("augmentation")
    if found is None:
        line = "This recipe uses no augmentation, so nothing was checked. To see which transformations keep the class: "
        line += f"tlkit augment {findings.record.data} --check."
        return Section("safety", "Augmentation", fill(TEMPLATE, {"lines": [line], "rows": [], "figures": []}))
    checks = sorted(findings.record.field_checks, key=lambda one: VERDICTS.index(one.verdict))
    figures = [
        _figure(one.field, example, findings.thumbnails)
        for one in findings.record.field_checks
        if one.verdict in ("unsafe", "limited")
        for example in one.examples
    ]
    values = {"lines": [found.why], "rows": [_row(one) for one in checks], "figures": figures[:SHOWN]}
    return Section("safety", "Augmentation", fill(TEMPLATE, values))


def _row(one: FieldCheck) -> dict[str, str]:
    return {
        "field": one.field,
        "verdict": one.verdict,
        "label": one.verdict.replace("_", " ") + (" (allowed)" if one.allowed else ""),
        "asked": f"{one.asked:g}",
        "limit": "" if one.limit is None else f"{one.limit:g}",
        "pair": f"{one.pair[0]} becomes {one.pair[1]}, {one.pair[2]:.0%}" if one.pair else "",
        "why": f"{one.why} (n = {one.n})",
    }


def _figure(field: str, example: FieldExample, thumbnails: Thumbnails) -> dict[str, Any]:
    image, nearest = thumbnails.of_key(example.image), thumbnails.of_key(example.nearest)
    moved = None if image is None else augment(image, augmentation_from_dict(example.augmentation), example.seed)
    return {
        "images": [
            as_data(image, f"{example.label}, original"),
            as_data(moved, f"the same with {field}"),
            as_data(nearest, f"the nearest {example.became}"),
        ],
        "caption": f"{field}: {example.label}, transformed, is nearest to this {example.became}",
        "path": "",
    }
