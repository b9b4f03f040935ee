"""What the check measures: a sample of images, versions of it, and what a frozen backbone's probes say of them."""

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
from tlkit.progress import Deadline
from tlkit.safety.evidence import GRID, Evidence, Eyes, Seen
from tlkit.safety.hints import exchanged
from tlkit.safety.rules import Interval, Ruling, rule, skill_with_interval, survives, trusted

JUDGED = 300  # images that are transformed
REFERENCE = 800  # images that probes and distances rest on
FEWEST = 8  # images of a class for it to be judged
STEPS = 4  # of bisection
WIDTHS = (0.25, 0.5, 0.75)  # of the asked rotation, which may be harmless at its widest only
LOSES_PARTS = ("shift_x", "shift_y", "zoom", "crop")


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample of images, and what a frozen backbone's probes say of them as they are: what the check asks.

    examples: the reference, of the eyes' size. names: all classes, as the set numbers them. eyes: what looks. seed:
    of the sample, the folds and what is drawn. why_not: why nothing can be judged, "" where something can.
    classes: the names of those that are judged, as the probes number them. judged: places among the examples of the
    images that are transformed, int (n,). probes: by kind of evidence, those that may be asked. skill: of each kind,
    see `Safety`.
    """

    examples: Examples
    names: tuple[str, ...]
    eyes: Eyes
    seed: int
    why_not: str
    classes: tuple[str, ...] = ()
    judged: np.ndarray = field(default_factory=lambda: np.zeros(0, "int64"))
    probes: Mapping[str, Evidence] = field(default_factory=dict)
    skill: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def able(self) -> bool:
        """Whether anything can be judged."""
        return not self.why_not

    @property
    def best_kind(self) -> str:
        """The kind of evidence whose probe has most skill."""
        return max(self.probes, key=lambda kind: self.skill[kind][0])

    @cached_property
    def images(self) -> np.ndarray:
        """The judged images: uint8, shape (n, size, size, 3)."""
        return self.examples.pixels.gather(self.judged)

    @cached_property
    def seen(self) -> Seen:
        """What the eyes see in the judged images as they are."""
        return self.eyes(self.images)

    @cached_property
    def evidence_map(self) -> np.ndarray | None:
        """Where the layout's evidence lies on average: float (GRID, GRID), sum 1. None without a layout probe."""
        return self.probes["layout"].maps().mean(0) if "layout" in self.probes else None

    def vary(self, augmentation: Augmentation, *draw: int) -> np.ndarray:
        """Versions of the judged images: uint8, shape (n, size, size, 3). draw: numbers that tell drawings apart."""
        return augment_all(self.images, augmentation, [(self.seed, *draw, int(i)) for i in self.judged])


def take_sample(examples: Examples, class_names: Sequence[str], eyes: Eyes, seed: int = 0) -> Sample:
    """Look at up to 800 examples of the eyes' size, of which up to 300 will be transformed."""
    random, names = np.random.default_rng(seed), tuple(class_names)
    examples = examples.take(evenly(examples.labels, REFERENCE, random))
    counts = np.bincount(examples.labels, minlength=len(names))
    enough = np.isin(examples.labels, np.flatnonzero(counts >= FEWEST))
    if len(np.unique(examples.labels[enough])) < 2:
        return Sample(examples, names, eyes, seed, f"fewer than two classes have {FEWEST} pictures")
    examples = examples.take(np.flatnonzero(enough))
    present, labels = np.unique(examples.labels, return_inverse=True)
    judged = evenly(labels, JUDGED, random)
    folds = stratified_folds(labels, examples.groups, seed=seed)
    seen = eyes(examples.pixels.gather(np.arange(len(labels))))
    probes = {kind: Evidence(rows, eyes.weights[kind], labels, folds, judged) for kind, rows in seen.items()}
    skill = {kind: skill_with_interval(probe, seed) for kind, probe in probes.items()}
    why_not = "" if trusted(skill) else "; ".join(_weak(kind, interval) for kind, interval in skill.items())
    classes = tuple(names[number] for number in present)
    asked = {kind: probes[kind] for kind in trusted(skill)}
    return Sample(examples, names, eyes, seed, why_not, classes, judged, asked, skill)


def evenly(labels: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Places of at most so many, classes as even as they allow, each class's drawn at random."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = [random.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    rank = np.concatenate([np.arange(len(mine)) for mine in order])
    places = np.concatenate(order)
    return np.sort(places[np.argsort(rank, kind="stable")[:most]])


def _weak(kind: str, skill: Interval) -> str:
    middle, low, high = skill
    return f"the {kind} probe's skill is {middle:.2f} (95 % interval {low:.2f} to {high:.2f}; chance is 0)"


# -- versions of it ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Finding:
    """What one version of the judged images showed.

    names: the fields. share: at which share of their range. version: as it was applied. seen: what the eyes saw in
    it. ruling: what the rules make of that. in_frame: share of the evidence map left in the image, where parts of it
    leave.
    """

    names: tuple[str, ...]
    share: float
    version: Augmentation
    seen: Seen
    ruling: Ruling
    in_frame: float | None

    @property
    def fine(self) -> bool:
        return self.ruling.fine


def look_at(sample: Sample, asked: Augmentation, names: Iterable[str], deadline: Deadline) -> dict[str, Finding]:
    """Each field of an augmentation as far as it goes, what is most telling first, until the time is over."""
    first: dict[str, Finding] = {}
    for name in names if sample.able else ():
        for share in (1.0, *WIDTHS) if name == "rotate" else (1.0,):
            if deadline.over:
                return first
            first[name] = worst(sample, asked, (name,), share)
            if not first[name].fine:
                break
    return first


def bisect(sample: Sample, asked: Augmentation, failing: Finding, deadline: Deadline) -> float | None:
    """The largest share of a field's range known to be fine, below one that is not; None where none is."""
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
    """The worst that the ends of the fields' ranges do; the first that is not fine will do."""
    found: list[Finding] = []
    for version in _extremes(asked, names, share):
        found.append(_look(sample, names, share, version))
        if not found[-1].fine:
            break
    return min(found, key=lambda one: (one.fine, one.ruling.kept[0]))


def _look(sample: Sample, names: tuple[str, ...], share: float, version: Augmentation) -> Finding:
    seen = sample.eyes(sample.vary(version))
    answers = {kind: probe.ask(seen[kind]) for kind, probe in sample.probes.items()}
    ruling = rule(answers, sample.probes, exchanged(sample.classes, names), sample.seed)
    if ruling.pairs and not any(_survives(sample, kind, seen) for kind in sample.probes):
        ruling = dataclasses.replace(ruling, pairs=())
    left = None
    if len(names) == 1 and names[0] in LOSES_PARTS and sample.evidence_map is not None:
        left = in_frame(sample.evidence_map, names[0], getattr(version, names[0]))
    return Finding(names, share, version, seen, ruling, left)


def _survives(sample: Sample, kind: str, seen: Seen) -> bool:
    probe = sample.probes[kind]
    untouched = probe.learned(sample.seen[kind])
    return survives(probe.learned(seen[kind]), untouched)


def _extremes(augmentation: Augmentation, names: Sequence[str], share: float) -> list[Augmentation]:
    """The ends of the fields' ranges, every other field off. Colours are drawn, for their ends are many."""
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


def in_frame(evidence_map: np.ndarray, name: str, value: tuple[float, float]) -> float:
    """Which share of an evidence map stays in the image: pixels of a finer grid, moved as the field moves them.

    evidence_map: float (GRID, GRID), sum 1. name: "shift_x", "shift_y", "zoom" or "crop". value: the field's, whose
    ends are equal.

    >>> in_frame(np.full((4, 4), 1 / 16), "shift_x", (0.25, 0.25))
    0.75
    """
    fine = 16
    mean = np.kron(evidence_map, np.ones((fine, fine))) / fine**2
    side = GRID * fine
    if name == "crop":
        width = max(1, round(side * value[0] ** 0.5))
        sums = np.pad(mean, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        windows = sums[width:, width:] - sums[:-width, width:] - sums[width:, :-width] + sums[:-width, :-width]
        return float(windows.mean())
    if name == "zoom":
        margin = round(side * (1 - 1 / max(value[0], 1)) / 2)
        return float(mean[margin : side - margin, margin : side - margin].sum())
    moved = round(side * min(abs(value[0]), 1))
    rows = mean if name == "shift_y" else mean.T
    return float((rows[: side - moved] if value[0] > 0 else rows[moved:]).sum())
