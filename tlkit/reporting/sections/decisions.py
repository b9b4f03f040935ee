"""The decisions of a run with their reasons, as a report shows them."""

from __future__ import annotations

import json

from tlkit.reporting.findings import Findings
from tlkit.reporting.page import Section, fill

HEADINGS = {"measured": "data set"}  # what a decision is about -> its heading, if not the same

TEMPLATE = """
{% for one in log %}<h3>{{ one.about }}: {{ one.chosen }}</h3>{% if one.sentences %}
<ul>{% for line in one.sentences %}<li>{{ line }}</li>{% endfor %}</ul>{% else %}<p>{{ one.why }}</p>{% endif %}
{% endfor %}
<details><summary>The recipe, the settings and the versions</summary><pre>{{ recipe }}</pre></details>
<p class="soft">Repeat this run: <code>{{ repeat }}</code></p>
"""


def render(findings: Findings) -> Section:
    record = findings.record
    log = [
        {
            "about": HEADINGS.get(one.about, one.about),
            "chosen": one.chosen,
            "why": one.why,
            "sentences": [line for line in one.evidence.get("sentences", ()) if isinstance(line, str)],
        }
        for one in record.decisions
    ]
    recipe = json.dumps(record.recipe_and_versions, indent=2, ensure_ascii=False)
    values = {"log": log, "recipe": recipe, "repeat": f"tlkit finetune {record.run.folder}/plan.json"}
    return Section("decisions", "Decision log", fill(TEMPLATE, values))
