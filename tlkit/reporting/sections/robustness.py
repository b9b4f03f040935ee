"""What a report says of corrupted images, and of an attacker who knows the model."""

from __future__ import annotations

from typing import Any

from tlkit.reporting.findings import Findings
from tlkit.reporting.page import Section, fill

BAR = 200  # pixels, of an accuracy of 100 %

TEMPLATE = """
{% for line in lines %}<p>{{ line }}</p>{% endfor %}
<div class="wide"><table><tr><th>corruption</th><th>strength</th><th>accuracy</th><th>95 % interval</th>
<th>points lost</th><th class="words"></th></tr>
{% for row in rows %}<tr><td>{{ row.name }}</td><td>{{ row.strength }}</td><td>{{ row.accuracy }}</td>
<td>{{ row.interval }}</td><td>{{ row.lost }}</td>
<td class="words"><span class="strip" style="width: {{ row.width }}px"></span></td></tr>
{% endfor %}</table></div>
"""


def render(findings: Findings) -> Section | None:
    if not findings.robustness:
        return None
    units = {"blur": "px", "noise": "of 255", "jpeg": "quality", "darker": "x", "brighter": "x", "fgsm": "of 255"}
    table = findings.robustness
    worst = max((one for one in table if one["what"] not in ("untouched", "fgsm")), key=lambda one: one["lost"])
    attack = next(one for one in table if one["what"] == "fgsm")
    lines = [
        f"The most harmful corruption is {worst['what']} ({worst['strength']:g} {units[worst['what']]}): "
        f"{100 * worst['lost']:.0f} points (n = {worst['n']:,}).",
        f"An attacker who knows the model and may change every pixel by {attack['strength']:g} of 255 (FGSM) leaves an "
        f"accuracy of {attack['accuracy']:.0%}. Training here does not defend against that.",
    ]
    rows = [_row(one, units) for one in table]
    return Section("robustness", "Robustness", fill(TEMPLATE, {"lines": lines, "rows": rows}))


def _row(one: dict[str, Any], units: dict[str, str]) -> dict[str, Any]:
    low, high = one["accuracy_95"]
    corrupted = one["what"] in units
    return {
        "name": one["what"],
        "strength": f"{one['strength']:g} {units[one['what']]}" if corrupted else "",
        "accuracy": f"{one['accuracy']:.1%}",
        "interval": f"{low:.1%} to {high:.1%}",
        "lost": f"{100 * one['lost']:.1f} ± {196 * one['lost_error']:.1f}" if corrupted else "",
        "width": round(BAR * one["accuracy"]),
    }
