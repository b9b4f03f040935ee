"""A decision that a run took, with its reason and evidence, as the plan keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Decision:
    """What was decided, and why.

    about: "backbone", "measured", "recipe", "augmentation", "precision" or "pixels". chosen: what, in a few words. why: one sentence for
    a person. evidence: JSON values that it rests on; "sentences" among them are shown in its place.

    >>> Decision("recipe", "small_similar", "it was asked for").to_dict()
    {'what': 'recipe', 'chosen': 'small_similar', 'why': 'it was asked for', 'evidence': {}}
    """

    about: str
    chosen: str
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for plan.json."""
        return {"what": self.about, "chosen": self.chosen, "why": self.why, "evidence": dict(self.evidence)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decision:
        """A Decision from `to_dict`'s values."""
        return cls(values["what"], values["chosen"], values["why"], values["evidence"])
