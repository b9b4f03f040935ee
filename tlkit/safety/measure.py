"""The measurements of the safety check: a sample of images, transformed versions, and predictions for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tlkit.data.augment import augment_all
from tlkit.data.examples import Examples
from tlkit.features.folds import stratified_folds
from tlkit.plan.augmentation import FACTORS, FLIPS, Augmentation, scaled
from tlkit.progress import Deadline, counted_off
from tlkit.safety.evidence import GRID, FeatureExtractor, Features, ProbeSet
from tlkit.safety.hints import exchanged
from tlkit.safety.rules import Interval, Ruling, rule, skill_with_interval, survives, trusted

JUDGED = 300  # images that are transformed
REFERENCE = 800  # images on which probes are fitted and distances measured
FEWEST = 8  # images per class, below which it is not judged
STEPS = 4  # of bisection
WIDTHS = (0.25, 0.5, 0.75)  # shares of the asked rotation that are checked too: the full range alone may be harmless
CROPPING = ("shift_x", "shift_y", "zoom", "crop")  # fields that move parts of an image out of the frame


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample of images with the probes fitted on it.

    examples: the reference images, at the extractor's image size.
    names: all class names, by class number in the data set.
    extractor: computes features.
    seed: of the sample, the folds and the random values of augmentations.
    why_not: why nothing can be judged; "" if it can.
    classes: the names of the judged classes, by class number in the probes.
    judged: indices among the examples of the images that are transformed, int, shape (n,).
    probes: kind of features -> probes, only those that are good enough.
    skill: of each kind, see `Safety`.
    """

    examples: Examples
    names: tuple[str, ...]
    extractor: FeatureExtractor
    seed: int
    why_not: str
    classes: tuple[str, ...] = ()
    judged: np.ndarray = field(default_factory=lambda: np.zeros(0, "int64"))
    probes: Mapping[str, ProbeSet] = field(default_factory=dict)
    skill: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def able(self) -> bool:
        """Whether anything can be judged."""
        return not self.why_not

    @property
    def best_kind(self) -> str:
        """The kind of features whose probe has the highest skill."""
        return max(self.probes, key=lambda kind: self.skill[kind][0])

    @property
    def groups(self) -> np.ndarray | None:
        """The groups of the judged images, see `Examples`; None if they have none."""
        return None if self.examples.groups is None else self.examples.groups[self.judged]

    @cached_property
    def images(self) -> np.ndarray:
        """The judged images: uint8, shape (n, size, size, 3)."""
        return self.examples.pixels.gather(self.judged)

    @cached_property
    def features(self) -> Features:
        """The features of the untouched judged images."""
        return self.extractor(self.images)

    @cached_property
    def saliency_map(self) -> np.ndarray | None:
        """The layout probe's mean saliency map: float, shape (GRID, GRID), sum 1. None without a layout probe."""
        return self.probes["layout"].maps().mean(0) if "layout" in self.probes else None

    def vary(self, augmentation: Augmentation, *draw: int) -> np.ndarray:
        """Augment the judged images: uint8, shape (n, size, size, 3). draw: integers that seed this draw."""
        return augment_all(self.images, augmentation, [(self.seed, *draw, int(i)) for i in self.judged])


def take_sample(examples: Examples, class_names: Sequence[str], extractor: FeatureExtractor, seed: int = 0) -> Sample:
    """Draw up to 800 examples, of which up to 300 will be transformed, and fit the probes.

    examples: at the extractor's image size.
    """
    random, names = np.random.default_rng(seed), tuple(class_names)
    examples = examples.take(evenly(examples.labels, REFERENCE, random))
    counts = np.bincount(examples.labels, minlength=len(names))
    enough = np.isin(examples.labels, np.flatnonzero(counts >= FEWEST))
    if len(np.unique(examples.labels[enough])) < 2:
        return Sample(examples, names, extractor, seed, f"fewer than two classes have {FEWEST} images")
    examples = examples.take(np.flatnonzero(enough))
    present, labels = np.unique(examples.labels, return_inverse=True)
    judged = evenly(labels, JUDGED, random)
    folds = stratified_folds(labels, examples.groups, seed=seed)
    features = extractor(examples.pixels.gather(np.arange(len(labels))))
    weights = extractor.weights
    probes = {kind: ProbeSet(rows, weights[kind], labels, folds, judged) for kind, rows in features.items()}
    skill = {kind: skill_with_interval(probe, seed) for kind, probe in probes.items()}
    why_not = "" if trusted(skill) else "; ".join(_weak(kind, interval) for kind, interval in skill.items())
    classes = tuple(names[number] for number in present)
    good = {kind: probes[kind] for kind in trusted(skill)}
    return Sample(examples, names, extractor, seed, why_not, classes, judged, good, skill)


def evenly(labels: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Indices of at most `most` rows, with classes as balanced as possible, drawn at random within each class."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = [random.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    rank = np.concatenate([np.arange(len(mine)) for mine in order])
    indices = np.concatenate(order)
    return np.sort(indices[np.argsort(rank, kind="stable")[:most]])


def _weak(kind: str, skill: Interval) -> str:
    middle, low, high = skill
    return f"the {kind} probe's skill is {middle:.2f} (95 % interval {low:.2f} to {high:.2f}; chance is 0)"


# -- transformed versions ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Finding:
    """The result for one transformed version of the judged images.

    names: the fields.
    share: the share of their range, above 0 to 1.
    version: the augmentation that was applied.
    features: of the transformed images.
    ruling: the result of the rules.
    in_frame: the share of the saliency map that stays in the frame. None if the field moves nothing out of it.
    """

    names: tuple[str, ...]
    share: float
    version: Augmentation
    features: Features
    ruling: Ruling
    in_frame: float | None

    @property
    def fine(self) -> bool:
        return self.ruling.fine


def measure_fields(sample: Sample, asked: Augmentation, names: Iterable[str], deadline: Deadline) -> dict[str, Finding]:
    """Measure each field at its full range, in the order of `names`, until the deadline."""
    first: dict[str, Finding] = {}
    fields = list(names) if sample.able else []
    for name in counted_off(fields, len(fields), "field"):
        for share in (1.0, *WIDTHS) if name == "rotate" else (1.0,):
            if deadline.over:
                return first
            first[name] = worst(sample, asked, (name,), share)
            if not first[name].fine:
                break
    return first


def bisect(sample: Sample, asked: Augmentation, failing: Finding, deadline: Deadline) -> float | None:
    """Find the largest safe share of a field's range by bisection, below a failing one. None if no share is safe."""
    fine, bad = 0.0, failing.share
    for _ in range(STEPS):
        if deadline.over:
            break
        middle = (fine + bad) / 2
        if worst(sample, asked, failing.names, middle).fine:
            fine = middle
        else:
            bad = middle
    return fine or None


def worst(sample: Sample, asked: Augmentation, names: tuple[str, ...], share: float = 1.0) -> Finding:
    """The worst result over the ends of the fields' ranges. It stops at the first that is not fine."""
    found: list[Finding] = []
    for version in _extremes(asked, names, share):
        found.append(_measure(sample, names, share, version))
        if not found[-1].fine:
            break
    return min(found, key=lambda one: (one.fine, one.ruling.kept[0]))


def _measure(sample: Sample, names: tuple[str, ...], share: float, version: Augmentation) -> Finding:
    features = sample.extractor(sample.vary(version))
    predictions = {kind: probe.predict(features[kind]) for kind, probe in sample.probes.items()}
    ruling = rule(predictions, sample.probes, exchanged(sample.classes, names), sample.seed)
    if ruling.pairs and not any(_survives(sample, kind, features) for kind in sample.probes):
        ruling = dataclasses.replace(ruling, pairs=())
    kept = None
    if len(names) == 1 and names[0] in CROPPING and sample.saliency_map is not None:
        kept = in_frame(sample.saliency_map, names[0], getattr(version, names[0]))
    return Finding(names, share, version, features, ruling, kept)


def _survives(sample: Sample, kind: str, features: Features) -> bool:
    probe = sample.probes[kind]
    untouched = probe.learned(sample.features[kind])
    return survives(probe.learned(features[kind]), untouched)


def _extremes(augmentation: Augmentation, names: Sequence[str], share: float) -> list[Augmentation]:
    """The ends of the fields' ranges, with every other field off. Colour casts are drawn, as they have many ends."""
    found = [Augmentation(border=augmentation.border)]
    for name in names:
        value = getattr(scaled(augmentation, name, share), name)
        if name in FLIPS:
            ends: list[Any] = [1.0]
        elif not isinstance(value, tuple) or name == "colour_cast":
            ends = [value]
        elif name == "rotate" and value[1] - value[0] >= 360:
            ends = [(value[1], value[1])]
        elif name == "crop":
            ends = [(value[0], value[0])]
        else:
            off = 1.0 if name in FACTORS else 0.0
            ends = [(end, end) for end in value if end != off]
        found = [dataclasses.replace(one, **{name: end}) for one in found for end in ends]
    return found


def in_frame(saliency_map: np.ndarray, name: str, value: tuple[float, float]) -> float:
    """The share of a saliency map that stays in the frame, computed by moving pixels on a finer grid.

    Args:
        saliency_map: float, shape (GRID, GRID), sum 1.
        name: "shift_x", "shift_y", "zoom" or "crop".
        value: the field's range, with equal ends.

    >>> in_frame(np.full((4, 4), 1 / 16), "shift_x", (0.25, 0.25))
    0.75
    """
    fine = 16
    saliency = np.kron(saliency_map, np.ones((fine, fine))) / fine**2
    side = GRID * fine
    if name == "crop":
        width = max(1, round(side * value[0] ** 0.5))
        sums = np.pad(saliency, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        windows = sums[width:, width:] - sums[:-width, width:] - sums[width:, :-width] + sums[:-width, :-width]
        return float(windows.mean())
    if name == "zoom":
        margin = round(side * (1 - 1 / max(value[0], 1)) / 2)
        return float(saliency[margin : side - margin, margin : side - margin].sum())
    moved = round(side * min(abs(value[0]), 1))
    rows = saliency if name == "shift_y" else saliency.T
    return float((rows[: side - moved] if value[0] > 0 else rows[moved:]).sum())
