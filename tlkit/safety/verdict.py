"""What the check found: a verdict per field, in numbers and in a sentence, and as it is kept in the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlkit.cache import Cache
from tlkit.plan.augmentation import FLIPS, Augmentation, augmentation_from_dict

VERSION = 2  # of the rules: results of others are not taken from the cache


@dataclass(frozen=True)
class Verdict:
    """What was found about one field.

    verdict: "safe", "limited", "unsafe" or "not_measurable".
    asked, limit: its size, see `size_of`; limit is how far it is safe, None where it is not.
    n: images judged. why: in a sentence.
    pairs: (class, the class it becomes, share of its images, net of those that are taken for it untouched), most first.
    kept: share of the better probe's skill that is left at the asked size, with its 90 % interval. kind: which probe.
    far: share of the images further from every class than is usual.
    in_frame: share of the evidence map left in the image, where parts of it leave.
    told_apart: AUC of telling the transformed from the untouched, 0.5 = cannot, with its 95 % interval.
    effect: by class, what learning from transformed images too adds to the share that is right, and its standard error.
    examples: the most telling images, for the report.
    hinted: the classes' names speak against it. allowed: by the person.
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

    skill: of each kind of evidence on untouched images, with its 95 % interval: 0 = chance, 1 = always right.
    hints: what the classes' names suggest.
    """

    asked: Augmentation
    augmentation: Augmentation
    verdicts: tuple[Verdict, ...]
    skill: dict[str, tuple[float, float, float]]
    n: int
    hints: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: for each field its verdict, and the rest under other names."""
        return {
            "fields": {one.field: dataclasses.asdict(one) for one in self.verdicts},
            "asked": dataclasses.asdict(self.asked),
            "augmentation": dataclasses.asdict(self.augmentation),
            "skill": self.skill,
            "n": self.n,
            "hints": list(self.hints),
            "seconds": round(self.seconds, 1),
        }


def _kept_file(cache: Cache, words: str) -> Path:
    return cache.at("safety", hashlib.sha256(words.encode()).hexdigest()[:24]) / "safety.json"


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


def line_of(verdict: Verdict) -> str:
    """A verdict in one line for a person."""
    units = {"rotate": "°"}
    size = (
        ""
        if verdict.limit is None or verdict.field in FLIPS
        else f" to {verdict.limit:.3g}{units.get(verdict.field, '')}"
    )
    said = {"safe": "safe", "limited": f"safe up{size}", "unsafe": "unsafe", "not_measurable": "not measurable"}
    shown = said[verdict.verdict]
    allowed = " (allowed all the same)" if verdict.allowed else ""
    return f"  {verdict.field:<16} {shown:<18}{allowed} {verdict.why}"


def sentence(safety: Safety) -> str:
    """What was decided, in a sentence for the plan."""
    said = []
    for verdict, words in (
        ("safe", "as asked"),
        ("limited", "narrowed"),
        ("unsafe", "dropped"),
        ("not_measurable", "held to careful sizes, not measurable"),
    ):
        mine = [one for one in safety.verdicts if one.verdict == verdict and not one.allowed]
        if mine:
            names = [one.field if verdict != "limited" else f"{one.field} to {one.limit:.3g}" for one in mine]
            said.append(f"{words}: {', '.join(names)}")
    allowed = [one.field for one in safety.verdicts if one.allowed]
    if allowed:
        said.append(f"allowed by you whatever was found: {', '.join(allowed)}")
    probes = ", ".join(f"{kind} {middle:.2f}" for kind, (middle, _, _) in safety.skill.items())
    return "; ".join(said) + f" (n = {safety.n}; skill of the probes: {probes or 'none'})"
