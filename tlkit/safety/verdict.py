"""The result of the safety check: a verdict per field, as numbers, as a sentence and as JSON in the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlkit.cache import Cache
from tlkit.notebook import card, lines, rows
from tlkit.plan.augmentation import FLIPS, Augmentation, augmentation_from_dict

VERSION = 2  # of the rules: cached results of other versions are not used


@dataclass(frozen=True)
class Verdict:
    """The verdict on one field.

    verdict: "safe", "limited", "unsafe" or "not_measurable".
    asked: the size asked for, see `tlkit.plan.augmentation.size_of`.
    limit: the largest safe size; None if no size is safe.
    n: the number of judged images.
    why: the reason, in one sentence.
    pairs: (class, the class it becomes, net share of its images), largest share first. Net: images that are classified
        as that class even untouched are subtracted.
    kept: the share of the better probe's skill that remains at the asked size, with its 90 % interval.
    kind: which probe that is.
    far: the share of images beyond the usual distance from every class.
    in_frame: the share of the saliency map that stays in the frame, for fields that move parts out of it.
    told_apart: ROC AUC of separating transformed from untouched images, with its 95 % interval. 0.5: not separable.
    effect: class -> (gain in accuracy from also training on transformed images, its standard error).
    examples: the most telling images, for the report.
    hinted: whether class names advise against the field.
    allowed: whether the user allowed it.
    """

    field: str
    verdict: str
    asked: float
    limit: float | None
    n: int
    why: str
    pairs: tuple[tuple[str, str, float], ...] = ()
    kept: tuple[float, float, float] | None = None
    kind: str = ""
    far: float | None = None
    in_frame: float | None = None
    told_apart: tuple[float, float, float] | None = None
    effect: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    examples: tuple[dict[str, Any], ...] = ()
    hinted: bool = False
    allowed: bool = False


@dataclass(frozen=True)
class Safety:
    """The verdict on every field that is on, and the augmentation narrowed to what is safe.

    asked: the augmentation that was checked.
    augmentation: the same, narrowed.
    verdicts: one per field.
    skill: kind of features -> skill of its probe on untouched images, with its 95 % interval. Skill is balanced
        accuracy adjusted for chance: 0 is chance, 1 is perfect.
    n: the number of judged images.
    hints: from class names.
    seconds: the time taken.
    """

    asked: Augmentation
    augmentation: Augmentation
    verdicts: tuple[Verdict, ...]
    skill: dict[str, tuple[float, float, float]]
    n: int
    hints: tuple[str, ...] = ()
    seconds: float = 0.0

    def _repr_html_(self) -> str:
        """Show in a notebook the verdict on each field, and why."""
        cells = [
            (
                one.field,
                _words(one) + (" (allowed anyway)" if one.allowed else ""),
                f"{one.asked:g}",
                "none" if one.limit is None else f"{one.limit:.3g}",
                one.why,
            )
            for one in self.verdicts
        ]
        table = rows(["field", "verdict", "asked for", "largest safe size", "why"], cells)
        return card(f"Safety check on {self.n:,} images", None, [table, lines(self.hints)])

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values. The verdicts are under "fields", by field name."""
        return {
            "fields": {one.field: dataclasses.asdict(one) for one in self.verdicts},
            "asked": dataclasses.asdict(self.asked),
            "augmentation": dataclasses.asdict(self.augmentation),
            "skill": self.skill,
            "n": self.n,
            "hints": list(self.hints),
            "seconds": round(self.seconds, 1),
        }


def _cache_file(cache: Cache, settings: str) -> Path:
    """The file that holds the result of a check with these settings and data, as JSON."""
    return cache.at("safety", hashlib.sha256(settings.encode()).hexdigest()[:24]) / "safety.json"


def _from_json(text: str) -> Safety:
    found = json.loads(text)
    verdicts = []
    for values in found["fields"].values():
        values["pairs"] = tuple(tuple(pair) for pair in values["pairs"])
        values["effect"] = {name: tuple(one) for name, one in values["effect"].items()}
        values["examples"] = tuple(values["examples"])
        for name in ("kept", "told_apart"):
            values[name] = values[name] and tuple(values[name])
        verdicts.append(Verdict(**values))
    skill = {kind: tuple(one) for kind, one in found["skill"].items()}
    asked, narrowed = (augmentation_from_dict(found[name]) for name in ("asked", "augmentation"))
    return Safety(asked, narrowed, tuple(verdicts), skill, found["n"], tuple(found["hints"]), found["seconds"])


def _words(verdict: Verdict) -> str:
    """The verdict in words, with the largest safe size."""
    units = {"rotate": "°"}
    size = (
        ""
        if verdict.limit is None or verdict.field in FLIPS
        else f" to {verdict.limit:.3g}{units.get(verdict.field, '')}"
    )
    texts = {"safe": "safe", "limited": f"safe up{size}", "unsafe": "unsafe", "not_measurable": "not measurable"}
    return texts[verdict.verdict]


def line_of(verdict: Verdict) -> str:
    """Format a verdict as one line of the log."""
    shown = _words(verdict)
    allowed = " (allowed anyway)" if verdict.allowed else ""
    return f"  {verdict.field:<16} {shown:<18}{allowed} {verdict.why}"


def sentence(safety: Safety) -> str:
    """The decision on all fields, in one sentence for the plan."""
    clauses = []
    for verdict, words in (
        ("safe", "kept as asked"),
        ("limited", "narrowed"),
        ("unsafe", "dropped"),
        ("not_measurable", "not measurable, so limited to small sizes or dropped"),
    ):
        mine = [one for one in safety.verdicts if one.verdict == verdict and not one.allowed]
        if mine:
            names = [one.field if verdict != "limited" else f"{one.field} to {one.limit:.3g}" for one in mine]
            clauses.append(f"{words}: {', '.join(names)}")
    allowed = [one.field for one in safety.verdicts if one.allowed]
    if allowed:
        clauses.append(f"allowed by you despite the check: {', '.join(allowed)}")
    probes = ", ".join(f"{kind} {middle:.2f}" for kind, (middle, _, _) in safety.skill.items())
    return "; ".join(clauses) + f" (n = {safety.n}; skill of the probes: {probes or 'none'})"
