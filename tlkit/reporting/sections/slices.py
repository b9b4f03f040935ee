"""Slices in a report: the accuracy by the values of columns, and hidden slices with their images."""

from __future__ import annotations

from tlkit.reporting.findings import Findings
from tlkit.reporting.page import Section, fill
from tlkit.runs.slices import Hidden, named

ROWS = 20  # of the table
IMAGES = 6  # of a hidden slice

TEMPLATE = """
<p class="soft">Every image that was predicted by a model which had not learned from it counts, n = {{ n }}. Intervals
are 95 %. p is corrected for {{ comparisons }} comparisons (Holm).</p>
{% for line in lines %}<p>{{ line }}</p>{% endfor %}
{% if rows %}<div class="wide"><table><tr><th class="words">slice</th><th>images</th><th>accuracy</th><th>interval</th>
<th>the others</th><th>p</th></tr>
{% for one in rows %}<tr><td class="words">{{ one.slice }}</td><td>{{ one.n }}</td><td>{{ one.accuracy }}</td>
<td>{{ one.interval }}</td><td>{{ one.others }}</td><td>{{ one.p }}</td></tr>
{% endfor %}</table></div>{% endif %}
{% for one in hidden %}<h3>Hidden slice {{ loop.index }}</h3><p>{{ one.sentence }}.</p>
{{ gallery(one.figures) }}{% endfor %}
"""


def render(findings: Findings) -> Section | None:
    found = findings.analysis.slices
    clear = [] if found is None else [one for one in found.hidden if one.beyond_chance]
    if found is None or not (found.by_column or clear):
        return None
    rows = [
        {
            "slice": named(one),
            "n": f"{one.n:,}",
            "accuracy": f"{one.accuracy:.1%}",
            "interval": f"{one.low:.1%} to {one.high:.1%}",
            "others": f"{one.others:.1%}",
            "p": f"{one.p:.2g}",
        }
        for one in found.by_column[:ROWS]
    ]
    values = {
        "n": f"{found.n:,}",
        "comparisons": found.comparisons,
        "lines": [f"{one[0].upper()}{one[1:]}." for one in found.sentences() if one not in _told(clear)],
        "rows": rows,
        "hidden": [{"sentence": one.sentence(), "figures": _figures(one, findings)} for one in clear],
    }
    return Section("slices", "Slices", fill(TEMPLATE, values))


def _told(clear: list[Hidden]) -> list[str]:
    """The sentences that stand above the images of each slice."""
    return [f"hidden slice {number}: {one.sentence()}" for number, one in enumerate(clear, start=1)]


def _figures(one: Hidden, findings: Findings) -> list[dict[str, object]]:
    shown = findings.record.all_predictions().set_index("path").loc[list(one.paths[:IMAGES])].reset_index()
    return [findings.thumbnails.prediction(row) for row in shown.itertuples()]
