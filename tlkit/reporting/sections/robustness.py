"""Robustness in a report: accuracy on corrupted images, and against an attacker who knows the model."""

from __future__ import annotations

from typing import Any

from tlkit.reporting.findings import Findings
from tlkit.reporting.page import Section, fill

BAR = 200  # pixels, of an accuracy of 100 %
CLEAN, FGSM = "untouched", "fgsm"  # as the table calls them

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
    table = findings.robustness
    if not table:
        return None
    worst = max((one for one in table if one["what"] not in (CLEAN, FGSM)), key=lambda one: one["lost"])
    attack = next(one for one in table if one["what"] == FGSM)
    harm = (
        f"The most harmful corruption is {_name(worst['what'])} ({_strength(worst)}): it costs "
        f"{100 * worst['lost']:.0f} points of accuracy (n = {worst['n']:,})."
    )
    lines = [
        harm if worst["lost"] > 0 else f"No corruption lowers the accuracy (n = {worst['n']:,}).",
        f"FGSM, an attack that knows the model, leaves an accuracy of {attack['accuracy']:.0%} if it may change "
        f"every pixel by {attack['strength']:g} of 255 (n = {attack['n']:,}). The model was not trained to resist it.",
        "The corruptions are named after ImageNet-C and have five severities, but are not its files: accuracies cannot "
        "be compared with published ones.",
    ]
    return Section("robustness", "Robustness", fill(TEMPLATE, {"lines": lines, "rows": [_row(one) for one in table]}))


def _row(one: dict[str, Any]) -> dict[str, Any]:
    low, high = one["accuracy_95"]
    return {
        "name": _name(one["what"]),
        "strength": _strength(one),
        "accuracy": f"{one['accuracy']:.1%}",
        "interval": f"{low:.1%} to {high:.1%}",
        "lost": "" if one["what"] == CLEAN else f"{100 * one['lost']:.1f} ± {196 * one['lost_error']:.1f}",
        "width": round(BAR * one["accuracy"]),
    }


def _name(what: str) -> str:
    return {CLEAN: "none", FGSM: "FGSM attack"}.get(what, what.replace("_", " "))


def _strength(one: dict[str, Any]) -> str:
    """The severity of a corruption, or how much an attack may change; in an earlier version's table, the strength."""
    if one["what"] == CLEAN:
        return ""
    if one["what"] == FGSM:
        return f"{one['strength']:g} of 255"
    return f"severity {one['severity']}" if "severity" in one else f"strength {one['strength']:g}"
