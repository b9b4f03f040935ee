"""Says in words what a model's p-values and prediction sets are worth. Imports nothing but the words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tlkit.words import counted

MOST_NAMED = 5


def known_sentence(known: Mapping[str, Any]) -> str:
    """How many known images are taken for others. known: as in metrics.json."""
    if "why_not" in known:
        return f"no p-value for images of none of the classes: {known['why_not']}"
    below, asked = known["measured_below"], known["none_below"] > 0
    text = f"a p-value below {below:g} is answered" if asked else f"of a p-value below {below:g}, not yet answered"
    text += f' "none of these", fitted on {counted(known["held_out"], "held-out image")}'
    if test := known["test"]:
        low, high = test["share_95"]
        text += (
            f"; {test['refused']:,} of {counted(test['n'], 'test image')} of the classes have one, {test['share']:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%})"
        )
    return text + _pooled(known["pooled"])


def sets_sentence(sets: Mapping[str, Any]) -> str:
    """How often the true class is in the set, and how large sets are. sets: as in metrics.json."""
    text = f"sets of classes that hold the true one for {sets['coverage']:.1%} of images"
    if test := sets["test"]:
        low, high = test["coverage_95"]
        text += (
            f"; for {test['coverage']:.1%} of {counted(test['n'], 'test image')} (95 % interval {low:.1%} to "
            f"{high:.1%}), with {test['mean_size']:.2f} classes on average; {test['empty']:,} are empty"
        )
    return text + _pooled(sets["pooled"])


def _pooled(names: list[str]) -> str:
    if not names:
        return ""
    named = ", ".join(f"'{name}'" for name in names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return f". With fewer than 20 held-out images, {named}{more} are taken together"
