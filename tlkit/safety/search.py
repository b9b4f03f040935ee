"""Which safe transformations help: greedy selection by what a probe gains on held-out images from learning with them.

A field is added if learning from images varied by it, beside those chosen already, lowers the log loss of untouched
held-out images more than any other would, and by more than its standard error. Cheap, for only a frozen backbone's
features are used: it says what helps a probe, which is a guide to what helps fine-tuning, not a proof (the search of
Lim et al. 2019, arXiv:1905.00397, is far dearer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlkit.plan.augmentation import Augmentation
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.safety.measure import Sample

DRAWS = 2  # versions of each judged image


@dataclass(frozen=True)
class Found:
    """augmentation: of the chosen fields. tried: each round's fields with the log loss. loss: with the chosen; without:
    with none. why: in a sentence.
    """

    augmentation: Augmentation
    without: float
    loss: float
    tried: tuple[dict[str, float], ...]
    why: str


def search(
    sample: Sample,
    safe: Augmentation,
    *,
    deadline: Deadline = NO_DEADLINE,
) -> Found:
    """Choose among the fields of an augmentation that has been narrowed to what is safe.

    sample: its judged images are used; see `prepare_sample`. deadline: what was chosen by then is given.
    """
    chosen: list[str] = []
    losses = without = held_out_losses(sample)
    tried = []
    while not deadline.over:
        round_: dict[str, np.ndarray] = {}
        for name in safe.fields():
            if name not in chosen and not deadline.over:
                round_[name] = held_out_losses(sample, _versions(sample, safe.only(*chosen, name)))
        if not round_:
            break
        tried.append({name: round(float(one.mean()), 4) for name, one in round_.items()})
        best = min(round_, key=lambda name: round_[name].mean())
        gain = losses - round_[best]
        if gain.mean() <= gain.std() / len(gain) ** 0.5:
            break
        log.info(f"  + {best:<16} log loss {losses.mean():.4f} -> {round_[best].mean():.4f}")
        chosen.append(best)
        losses = round_[best]
    gain = without - losses
    why = (
        f"learning with {', '.join(chosen)} lowers a probe's held-out log loss from {without.mean():.3f} to "
        f"{losses.mean():.3f} (±{1.96 * gain.std() / len(gain) ** 0.5:.3f}, n = {len(gain)})"
        if chosen
        else f"no safe field lowers a probe's held-out log loss ({without.mean():.3f}, n = {len(without)}) by more "
        "than its standard error"
    )
    return Found(safe.only(*chosen), float(without.mean()), float(losses.mean()), tuple(tried), why)


def held_out_losses(sample: Sample, versions: Sequence[np.ndarray] = ()) -> np.ndarray:
    """The log loss on each untouched judged image of a probe that learns from all images and these versions."""
    kind = sample.best_kind
    return sample.probes[kind].losses_with([sample.extractor(one)[kind] for one in versions])


def _versions(sample: Sample, augmentation: Augmentation) -> list[np.ndarray]:
    """Random versions of the judged images, as training would draw them."""
    return [sample.vary(augmentation, 2 + draw) for draw in range(DRAWS)]
