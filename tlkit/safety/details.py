"""Details of a verdict: the reason, example images and, for a thorough check, the effect on each class."""

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
from tlkit.words import counted


def why(sample: Sample, finding: Finding) -> str:
    """Why a transformation is not safe, in one sentence."""
    ruling, n = finding.ruling, len(sample.judged)
    if ruling.pairs:
        a, b, share = ruling.pairs[0]
        became = f"{share:.0%} of {sample.classes[a]} become {sample.classes[b]}"
        count = int((next(iter(sample.probes.values())).truth == a).sum())
        low, high = wilson_interval(round(share * count), count)
        more = f", and {counted(len(ruling.pairs) - 1, 'more pair')}" if len(ruling.pairs) > 1 else ""
        return f"{became} (95 % interval {low:.0%} to {high:.0%}, n = {count}){more}"
    share, low, high = ruling.kept
    interval = f"90 % interval {low:.0%} to {high:.0%}, n = {n}"
    kept = f"the {ruling.kind} probe keeps {share:.0%} of its accuracy above chance ({interval})"
    if finding.in_frame is not None and finding.in_frame < 0.5:
        return f"the object leaves the image: {finding.in_frame:.0%} of the saliency stays in the frame, and {kept}"
    outliers = f", and {ruling.far:.0%} of the images are far from every class" if ruling.far >= 0.005 else ""
    return f"the class information is lost: {kept}{outliers}"


def examples(sample: Sample, finding: Finding, most: int = 3) -> tuple[dict[str, Any], ...]:
    """The most telling images: one per pair of classes, else those furthest from every class. Empty if it is safe."""
    if finding.fine:
        return ()
    ruling, probe = finding.ruling, sample.probes[finding.ruling.kind]
    features = finding.features[ruling.kind]
    predictions = probe.predict(features)
    found = []
    for a, b, _ in ruling.pairs[:most]:
        mine = np.flatnonzero(probe.truth == a)
        found.append((int(mine[predictions.distance[mine, b].argmin()]), b))
    if not found:
        for index in np.argsort(-predictions.distance.min(1))[:most]:
            found.append((int(index), int(predictions.predicted[index])))
    version, keys = finding.version, sample.examples.keys
    return tuple(
        {
            "picture": keys[int(sample.judged[index])],
            "label": sample.classes[int(probe.truth[index])],
            "became": sample.classes[b],
            "nearest": keys[probe.nearest(features[index : index + 1], index, b)],
            "augmentation": {name: getattr(version, name) for name in (*version.fields(), "border")},
            "seed": [sample.seed, int(sample.judged[index])],
        }
        for index, b in found
    )


# -- thorough check ---------------------------------------------------------------------------------------


def thorough(sample: Sample, asked: Augmentation, verdict: Verdict, finding: Finding, limit: float | None) -> Verdict:
    """Add to a verdict how well the transformation is detected, and the effect of training with it on each class.

    limit: the share of the field's range that is safe, at which the effect is measured. None: the full range.
    """
    gains = effect(sample, asked, verdict.field, 1.0 if limit is None else limit)
    worse = [f"{name} ({100 * gain:+.0f} points)" for name, gain in hurt(gains).items()]
    if worse:
        why = f"{verdict.why}; a probe trained with it is less accurate on {', '.join(worse)}"
        verdict = dataclasses.replace(verdict, why=why)
    return dataclasses.replace(verdict, told_apart=told_apart(sample, finding), effect=gains)


def told_apart(sample: Sample, finding: Finding) -> Interval:
    """The out-of-fold ROC AUC of a probe that separates transformed from untouched images, with its 95 % interval."""
    from sklearn.metrics import roc_auc_score

    halves = [
        np.concatenate([probe.project(features[kind]) for kind, probe in sample.probes.items()], axis=1)
        for features in (sample.features, finding.features)
    ]
    rows, n = np.concatenate(halves), len(sample.judged)
    transformed = np.repeat([0, 1], n)
    folds = np.tile(next(iter(sample.probes.values())).folds[sample.judged], 2)
    score = np.zeros(2 * n)
    for fold in np.unique(folds):
        head = solve(rows[folds != fold], transformed[folds != fold], 2, strength=0.01)
        score[folds == fold] = head.probabilities(rows[folds == fold])[:, 1]
    return auc_interval(float(roc_auc_score(transformed, score)), n)


def auc_interval(auc: float, n: int) -> Interval:
    """An AUC with its 95 % interval for n cases per class (Hanley and McNeil 1982).

    >>> auc_interval(1.0, 50)
    (1.0, 1.0, 1.0)
    """
    spread = auc * (1 - auc) + (n - 1) * (auc / (2 - auc) + 2 * auc**2 / (1 + auc) - 2 * auc**2)
    half_width = 1.96 * math.sqrt(max(spread, 0.0)) / n
    return round(auc, 4), round(max(auc - half_width, 0.0), 4), round(min(auc + half_width, 1.0), 4)


def effect(sample: Sample, asked: Augmentation, name: str, share: float) -> dict[str, tuple[float, float]]:
    """By class, the gain in accuracy on untouched images of a probe that also trains on transformed ones.

    Returns: class name -> (gain, its standard error).
    """
    value: Any = 1.0 if name in FLIPS else getattr(scaled(asked, name, share), name)
    version = dataclasses.replace(Augmentation(border=asked.border), **{name: value})
    kind = sample.best_kind
    probe, features = sample.probes[kind], sample.extractor(sample.vary(version, 1))
    correct = probe.learned_with(features[kind]) == probe.truth
    gain = correct.astype(int) - (probe.untouched.predicted == probe.truth).astype(int)
    return {
        sample.classes[c]: (round(float(mine.mean()), 4), round(float(mine.std() / len(mine) ** 0.5), 4))
        for c in np.unique(probe.truth)
        for mine in [gain[probe.truth == c]]
    }
