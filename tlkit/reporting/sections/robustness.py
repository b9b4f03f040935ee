"""What a report says of worsened images."""

from __future__ import annotations

from typing import Any


def _robust_section(table: list[dict[str, Any]]) -> dict[str, Any]:
    units = {"blur": "px", "noise": "of 255", "jpeg": "quality", "darker": "x", "brighter": "x", "fgsm": "of 255"}
    names = {"fgsm": "opponent (FGSM)", "jpeg": "JPEG"}
    rows = []
    for one in table:
        low, high = one["accuracy_95"]
        rows.append(
            {
                "what": names.get(one["what"], one["what"]),
                "strength": f"{one['strength']:g} {units[one['what']]}" if one["what"] in units else "",
                "accuracy": f"{one['accuracy']:.1%}",
                "interval": f"{low:.1%} to {high:.1%}",
                "lost": f"{100 * one['lost']:.1f} ± {196 * one['lost_error']:.1f}" if one["what"] in units else "",
                "width": round(200 * one["accuracy"]),
            }
        )
    worst = max((one for one in table if one["what"] not in ("untouched", "fgsm")), key=lambda one: one["lost"])
    opponent = next(one for one in table if one["what"] == "fgsm")
    lines = [
        f"Of what cameras and networks do, {worst['what']} ({worst['strength']:g} {units[worst['what']]}) costs most: {100 * worst['lost']:.0f} points (n = {worst['n']:,}).",
        f"An opponent who knows the model and may change every pixel by {opponent['strength']:g} of 255 leaves {opponent['accuracy']:.0%} accuracy. No training here defends against that.",
    ]
    return {"rows": rows, "lines": lines}
