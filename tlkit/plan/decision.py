"""A decision of a run, with its reason and its evidence, as the plan stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Decision:
    """What was decided, and why.

    about: "classes", "backbone", "weights", "labels", "split", "measured", "recipe", "head", "augmentation",
        "precision", "devices" or "pixels".
    chosen: the choice, in a few words. why: one sentence for the user.
    evidence: the JSON values that it is based on. If it has the key "sentences", these are shown instead of it.

    >>> Decision("recipe", "small_similar", "it was asked for").to_dict()
    {'what': 'recipe', 'chosen': 'small_similar', 'why': 'it was asked for', 'evidence': {}}
    """

    about: str
    chosen: str
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the decision as JSON values, for plan.json."""
        return {"what": self.about, "chosen": self.chosen, "why": self.why, "evidence": dict(self.evidence)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decision:
        """Create a Decision from the values of `to_dict`."""
        return cls(values["what"], values["chosen"], values["why"], dict(values["evidence"]))
