"""More about a verdict: why, by which images, and for a thorough look what learning from versions does to classes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from tlkit.features.linear import solve
from tlkit.plan.augmentation import FLIPS, Augmentation, scaled
from tlkit.safety.measure import Finding, Sample
from tlkit.safety.rules import Interval, hurt
from tlkit.safety.verdict import Verdict
from tlkit.stats import wilson_interval


def why(sample: Sample, finding: Finding) -> str:
    """What a version that is not fine does, in a sentence."""
    ruling, n = finding.ruling, len(sample.judged)
    if ruling.pairs:
        a, b, share = ruling.pairs[0]
        became = f"{share:.0%} of {sample.classes[a]} become {sample.classes[b]}"
        count = int((next(iter(sample.probes.values())).truth == a).sum())
        low, high = wilson_interval(round(share * count), count)
        more = f", and {len(ruling.pairs) - 1} more pairs" if len(ruling.pairs) > 1 else ""
        return f"{became} ({low:.0%} to {high:.0%}, n = {count}){more}"
    share, low, high = ruling.kept
    kept = f"the {ruling.kind} probe keeps {share:.0%} of its skill ({low:.0%} to {high:.0%}, n = {n})"
    if finding.in_frame is not None and finding.in_frame < 0.5:
        return f"the object leaves the picture: {finding.in_frame:.0%} of the evidence stays, {kept}"
    return f"the meaning is lost: {kept}, {ruling.far:.0%} lie far from every class"


def examples(sample: Sample, finding: Finding, most: int = 3) -> tuple[dict[str, Any], ...]:
    """The images that show it best: of the pairs, or those that lie furthest away. None where the version is fine."""
    if finding.fine:
        return ()
    ruling, probe = finding.ruling, sample.probes[finding.ruling.kind]
    seen = finding.seen[ruling.kind]
    answer = probe.ask(seen)
    found = []
    for a, b, _ in ruling.pairs[:most]:
        mine = np.flatnonzero(probe.truth == a)
        found.append((int(mine[answer.distance[mine, b].argmin()]), b))
    if not found:
        for place in np.argsort(-answer.distance.min(1))[:most]:
            found.append((int(place), int(answer.called[place])))
    version, keys = finding.version, sample.examples.keys
    return tuple(
        {
            "picture": keys[int(sample.judged[place])],
            "label": sample.classes[int(probe.truth[place])],
            "became": sample.classes[b],
            "nearest": keys[probe.nearest(seen[place : place + 1], place, b)],
            "augmentation": {name: getattr(version, name) for name in (*version.fields(), "border")},
            "seed": [sample.seed, int(sample.judged[place])],
        }
        for place, b in found
    )


# -- a thorough look --------------------------------------------------------------------------------------


def thorough(sample: Sample, asked: Augmentation, verdict: Verdict, finding: Finding, limit: float | None) -> Verdict:
    """A verdict with how the version is told from untouched images, and what learning from it does to each class.

    limit: the share of the field's range that is safe, at which it would be learned from; None: all of it is looked at.
    """
    gains = effect(sample, asked, verdict.field, 1.0 if limit is None else limit)
    worse = [f"{name} ({100 * gain:+.0f} points)" for name, gain in hurt(gains).items()]
    if worse:
        said = f"{verdict.why}; a probe that learns with it gets worse on {', '.join(worse)}"
        verdict = dataclasses.replace(verdict, why=said)
    return dataclasses.replace(verdict, told_apart=told_apart(sample, finding), effect=gains)


def told_apart(sample: Sample, finding: Finding) -> Interval:
    """AUC of a probe that tells the versions from the untouched, out of fold, with its interval."""
    from sklearn.metrics import roc_auc_score

    halves = [
        np.concatenate([probe.project(seen[kind]) for kind, probe in sample.probes.items()], axis=1)
        for seen in (sample.seen, finding.seen)
    ]
    together, n = np.concatenate(halves), len(sample.judged)
    made = np.repeat([0, 1], n)
    folds = np.tile(next(iter(sample.probes.values())).folds[sample.judged], 2)
    score = np.zeros(2 * n)
    for fold in np.unique(folds):
        head = solve(together[folds != fold], made[folds != fold], 2, strength=0.01)
        score[folds == fold] = head.probabilities(together[folds == fold])[:, 1]
    return auc_interval(float(roc_auc_score(made, score)), n)


def auc_interval(auc: float, n: int) -> Interval:
    """An AUC with its 95 % interval for n cases of each kind (Hanley and McNeil 1982).

    >>> auc_interval(1.0, 50)
    (1.0, 1.0, 1.0)
    """
    spread = auc * (1 - auc) + (n - 1) * (auc / (2 - auc) + 2 * auc**2 / (1 + auc) - 2 * auc**2)
    half_width = 1.96 * math.sqrt(max(spread, 0.0)) / n
    return round(auc, 4), round(max(auc - half_width, 0.0), 4), round(min(auc + half_width, 1.0), 4)


def effect(sample: Sample, asked: Augmentation, name: str, share: float) -> dict[str, tuple[float, float]]:
    """By class, what a probe gains on untouched images by learning from versions, too, and its standard error."""
    value: Any = 1.0 if name in FLIPS else getattr(scaled(asked, name, share), name)
    version = dataclasses.replace(Augmentation(border=asked.border), **{name: value})
    kind = sample.best_kind
    probe, seen = sample.probes[kind], sample.eyes(sample.vary(version, 1))
    with_it = probe.learned_with(seen[kind]) == probe.truth
    gain = with_it.astype(int) - (probe.untouched.called == probe.truth).astype(int)
    return {
        sample.classes[c]: (round(float(mine.mean()), 4), round(float(mine.std() / len(mine) ** 0.5), 4))
        for c in np.unique(probe.truth)
        for mine in [gain[probe.truth == c]]
    }
