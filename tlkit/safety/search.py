"""Which safe transformations help: greedy selection by what a probe gains on held-out images from learning with them.

A field is added if learning from images varied by it, beside those chosen already, lowers the log loss of untouched
held-out images more than any other would, and by more than the best of so many fields would by chance. Cheap, for only
a frozen backbone's features are used: it says what helps a probe, which is a guide to what helps fine-tuning, not a
proof (the search of Lim et al. 2019, arXiv:1905.00397, is far dearer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlkit.evaluation.estimate import selection_optimism
from tlkit.plan.augmentation import Augmentation
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.safety.measure import Sample
from tlkit.stats import AT_CHANCE, paired_difference

DRAWS = 2  # versions of each judged image
FLIPPED = 2000  # random sign changes of the test


@dataclass(frozen=True)
class Found:
    """augmentation: of the chosen fields. tried: each round's fields with the log loss. loss: with the chosen, as found
    on the images that chose them; without: with none. gain: how far it is lower, corrected for that choice. why: in a
    sentence.
    """

    augmentation: Augmentation
    without: float
    loss: float
    gain: float
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
    all_losses, tried, groups = [without], [], sample.groups
    while not deadline.over:
        round_: dict[str, np.ndarray] = {}
        for name in safe.fields():
            if name not in chosen and not deadline.over:
                round_[name] = held_out_losses(sample, _versions(sample, safe.only(*chosen, name)))
        if not round_:
            break
        all_losses += round_.values()
        tried.append({name: round(float(one.mean()), 4) for name, one in round_.items()})
        best = min(round_, key=lambda name: round_[name].mean())
        gains = losses - np.stack([round_[best], *round_.values()])
        if chance_of_first(gains, groups, sample.seed) >= AT_CHANCE:
            break
        log.info(f"  + {best:<16} log loss {losses.mean():.4f} -> {round_[best].mean():.4f}")
        chosen.append(best)
        losses = round_[best]
    gain, error = paired_difference(without, losses, groups)
    gain -= selection_optimism(np.stack(all_losses), -np.stack(all_losses), groups, seed=sample.seed) if chosen else 0.0
    looked = f"the best of {len(all_losses) - 1} sets of fields that were tried"
    why = (
        f"learning with {', '.join(chosen)} lowers a probe's held-out log loss of {without.mean():.3f} by {gain:.3f} "
        f"(±{1.96 * error:.3f}, n = {len(losses)}, corrected for being {looked})"
        if chosen
        else f"no safe field lowers a probe's held-out log loss ({without.mean():.3f}, n = {len(without)}) by more "
        "than the best of so many would by chance"
    )
    return Found(safe.only(*chosen), float(without.mean()), float(losses.mean()), gain, tuple(tried), why)


def chance_of_first(gains: np.ndarray, groups: np.ndarray | None = None, seed: int = 0) -> float:
    """Return the p-value of the first of several mean gains: how often the largest is as large if none is real.

    If a field changes nothing, an image's gain is as likely to have the other sign. So the signs of random images are
    changed, the same for all fields, and the first mean, in its standard errors, is compared with the largest then
    found. That corrects for the number of fields, and for how alike they are (Westfall and Young 1993, "maxT").

    gains: shape (fields, n). groups: shape (n,); images with equal values change sign together. seed: of the changes.
    """
    if groups is not None:
        _, index = np.unique(groups, return_inverse=True)
        gains = np.stack([np.bincount(index, weights=one) for one in gains])
    scale = np.maximum(np.sqrt(np.square(gains).sum(1)), 1e-12)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (FLIPPED, gains.shape[1]))
    by_chance = (signs @ gains.T / scale).max(1)
    first = gains[0].sum() / scale[0]
    return float((1 + (by_chance >= first - 1e-9).sum()) / (1 + FLIPPED))


def held_out_losses(sample: Sample, versions: Sequence[np.ndarray] = ()) -> np.ndarray:
    """The log loss on each untouched judged image of a probe that learns from all images and these versions."""
    kind = sample.best_kind
    return sample.probes[kind].losses_with([sample.extractor(one)[kind] for one in versions])


def _versions(sample: Sample, augmentation: Augmentation) -> list[np.ndarray]:
    """Random versions of the judged images, as training would draw them."""
    return [sample.vary(augmentation, 2 + draw) for draw in range(DRAWS)]
