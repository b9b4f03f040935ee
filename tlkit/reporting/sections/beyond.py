"""What a model answers beyond a class, in a report: "none of these", and sets of classes."""

from __future__ import annotations

from tlkit.evaluation.answers import known_sentence, sets_sentence
from tlkit.reporting.findings import Findings
from tlkit.reporting.page import Section, fill

TEMPLATE = """
{% for line in lines %}<p>{{ line }}.</p>{% endfor %}
{% if rows %}<div class="wide"><table><tr><th class="words">class</th><th>in its set</th><th>test images</th>
<th>95 % interval</th></tr>
{% for row in rows %}<tr><td class="words">{{ row.name }}</td><td>{{ row.covered }}</td><td>{{ row.n }}</td>
<td>{{ row.interval }}</td></tr>
{% endfor %}</table></div>{% endif %}
"""


def render(findings: Findings) -> Section | None:
    known, sets = findings.record.known, findings.record.prediction_sets
    said = [known_sentence(known)] if known else []
    rows = []
    if sets:
        said.append(sets_sentence(sets))
        for name, one in (sets["test"] or {"classes": {}})["classes"].items():
            low, high = one["coverage_95"]
            rows.append(
                {"name": name, "covered": one["covered"], "n": one["n"], "interval": f"{low:.0%} to {high:.0%}"}
            )
    if not said:
        return None
    lines = [line[0].upper() + line[1:] for line in said]
    return Section("beyond", "None of these, or several", fill(TEMPLATE, {"lines": lines, "rows": rows}))
