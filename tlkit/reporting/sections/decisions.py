"""The decisions of a run and their evidence, as a report shows them."""

from __future__ import annotations

import json
from typing import Any

from tlkit.plan.plan import Plan
from tlkit.runs.folder import Run


def _decisions(run: Run, plan: Plan) -> dict[str, Any]:
    log = [
        {
            "what": one.about,
            "chosen": one.chosen,
            "why": one.why,
            "sentences": [line for line in one.evidence.get("sentences", ()) if isinstance(line, str)],
        }
        for one in plan.decisions
    ]
    values = plan.to_dict()
    shown = {name: values[name] for name in ("recipe", "job", "versions", "device", "precision")}
    return {
        "log": log,
        "recipe": json.dumps(shown, indent=2, ensure_ascii=False),
        "repeat": f"tlkit finetune {run.folder}/plan.json",
    }
