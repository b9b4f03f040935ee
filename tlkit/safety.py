"""Which transformations keep a picture's class and meaning, measured on the person's own pictures before anything trains.

A transformation is applied at its largest, and a frozen backbone's probes, which have only seen pictures as they are, say what has
become of them. Two things forbid it. It moves pictures into another class: they are called b, lie as near to b's pictures as b's own
do, more often than untouched ones, and b is still told from the rest (so that it is a change of class and no mere ruin). Or it takes the
meaning away: even the better of two probes has lost a quarter of its skill, and more than a tenth beyond chance. What fails is
narrowed by bisection. See `tlkit.evidence` for what is looked at. Imports Keras, NumPy and scikit-learn.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.augment import augment_all
from tlkit.backbones import find_backbone
from tlkit.batches import Examples
from tlkit.evaluate import wilson_interval
from tlkit.evidence import GRID, Answers, Evidence, Eyes
from tlkit.files import write_atomically
from tlkit.images import ImageSet
from tlkit.linear import solve, stratified_folds
from tlkit.model import build_classifier
from tlkit.pixels import decode_images
from tlkit.spec import AUGMENTATION_LIMITS, Augmentation, augmentation_from_dict, check_fields
from tlkit.store import cache_folder, describe, make_room

VERSION = 2  # of the rules: results of others are not taken from the cache

JUDGED = 300  # pictures that are transformed
REFERENCE = 800  # pictures that probes and distances rest on
FEWEST = 8  # pictures of a class for it to be judged
KEPT = 0.75  # of the better probe's skill: with less, meaning is lost ...
SURELY = 0.9  # ... if 19 of 20 resamplings, too, keep less than this
MOST = 0.5  # of a class: what one kind of evidence alone must surely see become another class
SOME = 0.25  # of a class: what both kinds must surely see become another class
EXPECTED = 0.1  # of a class: what one kind must surely see become the class that the names suggest
FEWEST_CHANGED = 3  # pictures, net
WEAKEST = 0.2  # skill that a probe must surely have to be asked
STEPS = 4  # of bisection
HURTS = 0.02  # share of a class's pictures that a probe loses, beyond two standard errors, for it to be said
WIDTHS = (0.25, 0.5, 0.75)  # of the asked rotation, which may be harmless at its widest only
FLIPS = ("flip_horizontal", "flip_vertical", "half_turn")
FACTORS = ("zoom", "stretch", "crop")  # fields that multiply; the others add
LOSES_PARTS = ("shift_x", "shift_y", "zoom", "crop")
WITH = ("flip_horizontal+flip_vertical", "flip_horizontal+rotate", "flip_vertical+rotate")  # pairs of fields
CAREFUL = {"rotate": 10.0, "shift_x": 0.1, "shift_y": 0.1, "zoom": 1.1, "stretch": 1.1, "crop": 0.8}
CAREFUL |= {"brightness": 0.1, "contrast": 0.1, "colour_cast": 0.05, "pca_colour": 0.1, "vignette": 0.3}

_WHOLE: dict[str, Any] = {
    name: limits if isinstance(getattr(Augmentation, name), tuple) else limits[1]
    for name, limits in AUGMENTATION_LIMITS.items()
}
FULL = Augmentation(**_WHOLE)


@dataclass(frozen=True)
class Verdict:
    """What was found about one field.

    verdict: "safe", "limited", "unsafe" or "not_measurable". asked, limit: its size, see `size_of`; limit is how far it is safe,
        None where it is not.
    pairs: (class, the class it becomes, share of its pictures, net of those that are taken for it untouched), most first.
    kept: share of the better probe's skill that is left at the asked size, with its 95 % interval, and which kind of evidence that is.
    far: share of the pictures further from every class than is usual. in_frame: share of the evidence map left in the picture, where
        parts of it leave. told_apart: AUC of telling the transformed from the untouched, 0.5 = cannot, with its interval.
    effect: by class, what learning from transformed pictures too adds to the share that is right, with its standard error.
    n: pictures judged. why: in a sentence. examples: the most telling pictures, for the report. hinted: the classes' names speak
    against it. allowed: by the person.
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

    skill: of each kind of evidence on untouched pictures, with its 95 % interval: 0 = chance, 1 = always right.
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


# -- sizes ------------------------------------------------------------------------------------------------


def size_of(augmentation: Augmentation, name: str) -> float:
    """How far a field goes, in its unit: the larger end; a zoom or stretch of 0.5 counts as 2; of a crop the smallest share; 1 for
    a flip.

    >>> size_of(Augmentation(zoom=(0.5, 1.5), rotate=(-10, 20)), "zoom")
    2.0
    """
    if name in FLIPS:
        return 1.0
    value = getattr(augmentation, name)
    if not isinstance(value, tuple):
        return float(value)
    if name == "crop":
        return float(value[0])
    return float(max(value[1], 1 / value[0]) if name in FACTORS else max(abs(value[0]), abs(value[1])))


def scaled(augmentation: Augmentation, name: str, share: float) -> Augmentation:
    """With one field's range narrowed to a share of itself, 0 = off, 1 = as it is. A flip is on or off.

    >>> scaled(Augmentation(rotate=(-90, 90)), "rotate", 0.5).rotate
    (-45.0, 45.0)
    """
    value = getattr(augmentation, name)
    narrowed: Any
    if name in FLIPS:
        narrowed = value if share >= 1 else 0.0
    elif not isinstance(value, tuple):
        narrowed = value * share
    elif name in FACTORS:
        narrowed = tuple(end**share for end in value)
    else:
        narrowed = tuple(end * share for end in value)
    return dataclasses.replace(augmentation, **{name: narrowed})


def _extremes(augmentation: Augmentation, names: Sequence[str], share: float) -> list[Augmentation]:
    """What pictures become at the ends of the fields' ranges, every other field off. Colours are drawn, for their ends are many."""
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


# -- the check --------------------------------------------------------------------------------------------


def run_check(
    check: SafetyCheck,
    asked: Augmentation,
    *,
    allow: Sequence[str] = (),
    deadline: float = math.inf,
    thorough: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Safety:
    """Judge every field of an augmentation that is on, and narrow it to what is safe.

    allow: fields that stay as asked whatever is found; it is noted. deadline: of `time.monotonic()`; a field not judged by then is
    treated as not measurable. thorough: also measure how a field is told from untouched pictures, its effect on each class, and pairs of
    fields.

    The limit of a field is that of its most sensitive class, and one for all classes: to vary only some of them would give the class
    away. Where no probe is good enough, or classes have too few pictures, fields are held to careful sizes and flips are dropped.
    """
    started = time.monotonic()
    check.asked = asked
    hints = name_hints(check.names)
    narrowed, verdicts = asked, []
    first = check.look_at(sorted(asked.fields(), key=lambda name: name not in FLIPS), deadline)
    to_narrow = sum(not finding.fine for name, (finding, _) in first.items() if name not in FLIPS)
    for name in asked.fields():
        now, mine = time.monotonic(), deadline
        if name in first and not first[name][0].fine and name not in FLIPS:
            mine, to_narrow = now + max(deadline - now, 0) / to_narrow, to_narrow - 1  # each its share of what is left
        verdict = check.judge(name, first[name], hints, thorough, mine) if name in first else None
        if verdict is None:
            verdict = check.unmeasured(name, hints, "the time for the check was over" if check.able else "")
        if name in allow:
            verdict = dataclasses.replace(verdict, allowed=True)
        else:
            narrowed = _narrowed(narrowed, name, verdict)
        verdicts.append(verdict)
        say(line_of(verdict))
    if check.able:
        narrowed, verdicts = _without_bad_pairs(check, narrowed, verdicts, allow, deadline, say)
    said = tuple(hint for hint, _ in hints)
    return Safety(asked, narrowed, tuple(verdicts), check.skill, len(check.judged), said, time.monotonic() - started)


def check_safety(
    images: ImageSet,
    augmentation: Augmentation | None = None,
    *,
    backbone: str = "nano",
    weights: str = "imagenet",
    allow: Sequence[str] = (),
    seed: int = 0,
    deadline: float = math.inf,
    thorough: bool = True,
    cache_gb: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Safety:
    """Judge an augmentation by images from `tlkit.scan`, seen by a backbone at its own size; test images play no part.

    augmentation: default every field at its full documented range. seed: of the sample, the folds and what is drawn. The rest as in
    `run_check`. What was found is kept in the cache, so that asking the same again costs nothing. Raises NameUnknown for a backbone or a field to
    allow that does not exist, WeightsError for absent weights.
    """
    network = find_backbone(backbone)
    check_fields(allow)
    asked = FULL if augmentation is None else augmentation
    images = _reference(images, seed)
    words = [network.name, weights, list(allow), seed, thorough, dataclasses.asdict(asked), VERSION]
    about = [images.labels().tolist(), images.keys(), images.groups().tolist()]
    file = _kept_file(json.dumps([*words, *about]))
    if file.is_file():
        known = _from_json(file.read_text(encoding="utf-8"))
        for one in known.verdicts:
            say(line_of(one))
        return known
    check = prepare_check(images, asked, backbone=backbone, weights=weights, seed=seed, cache_gb=cache_gb)
    safety = run_check(check, asked, allow=allow, deadline=deadline, thorough=thorough, say=say)
    text = json.dumps(safety.to_dict())
    if time.monotonic() < deadline and make_room(len(text), cache_gb):
        describe(file.parent, f"what augmentation does to {len(images):,} pictures, seen by {network.name}")
        write_atomically(file, text)
    return _from_json(text)


def _reference(images: ImageSet, seed: int) -> ImageSet:
    """The training images, or all but test images where they are not split, at most so many as probes rest on."""
    part = images.table["part"]
    pool = np.flatnonzero(part == "train") if (part == "train").any() else np.flatnonzero(part != "test")
    chosen = pool[_sample(images.labels()[pool], REFERENCE, np.random.default_rng(seed))]
    return images.take([int(place) for place in chosen])


def prepare_check(
    images: ImageSet,
    asked: Augmentation,
    *,
    backbone: str = "nano",
    weights: str = "imagenet",
    seed: int = 0,
    cache_gb: float | None = None,
) -> SafetyCheck:
    """Decode a sample of the images at the backbone's size, and look at it: what `run_check` and `tlkit.search.search` take."""
    network = find_backbone(backbone)
    pixels, images = decode_images(_reference(images, seed), network.size, cache_gb=cache_gb)
    examples = Examples(pixels.of(images), images.labels(), images.keys(), images.groups())
    eyes = Eyes(build_classifier(network, 2, weights=weights), network)
    return SafetyCheck(examples, images.class_names, eyes, asked, seed)


def _kept_file(words: str) -> Path:
    return cache_folder() / "safety" / hashlib.sha256(words.encode()).hexdigest()[:24] / "safety.json"


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


class SafetyCheck:
    """A sample of pictures, and what a frozen backbone's two kinds of evidence say of versions of them.

    able: whether anything can be judged. judged: places of the transformed among `pictures`. skill: see `Safety`.
    """

    def __init__(
        self, examples: Examples, class_names: Sequence[str], eyes: Eyes, asked: Augmentation, seed: int = 0
    ) -> None:
        """examples: of the eyes' size; at most 800 are used, and of those 300 transformed. asked: see `judge`."""
        self.names, self.eyes, self.asked, self.seed = class_names, eyes, asked, seed
        self.random = np.random.default_rng(seed)
        reference = _sample(examples.labels, REFERENCE, self.random)
        self.examples = examples.take(reference)
        labels = self.examples.labels
        counts = np.bincount(labels, minlength=len(class_names))
        kept = np.isin(labels, np.flatnonzero(counts >= FEWEST))
        self.able = len(np.unique(labels[kept])) >= 2
        self.why_not = "" if self.able else f"fewer than two classes have {FEWEST} pictures"
        self.judged = np.zeros(0, "int64")
        self.skill: dict[str, tuple[float, float, float]] = {}
        self.evidence: dict[str, Evidence] = {}
        if not self.able:
            return
        self.examples = self.examples.take(np.flatnonzero(kept))
        self.present, labels = np.unique(self.examples.labels, return_inverse=True)
        self.judged = _sample(labels, JUDGED, self.random)
        folds = stratified_folds(labels, self.examples.groups, seed=seed)
        self.pictures = self.examples.pixels.gather(np.arange(len(labels)))
        seen = eyes(self.pictures)
        for kind, features in seen.items():
            one = Evidence(features, eyes.weights[kind], labels, folds, self.judged)
            middle = one.skill(one.untouched.called)
            low, high = np.quantile(self._resampled(one, one.untouched.called)[0], (0.025, 0.975))
            self.skill[kind] = (round(middle, 4), round(float(low), 4), round(float(high), 4))
            self.evidence[kind] = one
        strongest = max(middle for middle, _, _ in self.skill.values())
        for kind, (middle, low, _) in self.skill.items():
            if low < WEAKEST or middle < strongest / 2:
                del self.evidence[kind]
        if not self.evidence:
            self.able = False
            self.why_not = "; ".join(
                f"the {kind} probe's skill is {middle:.2f} (95 % interval {low:.2f} to {high:.2f}; chance is 0)"
                for kind, (middle, low, high) in self.skill.items()
            )

    def judged_pictures(self) -> np.ndarray:
        """uint8, shape (n, size, size, 3)."""
        return self.pictures[self.judged]

    def losses(self, versions: Sequence[np.ndarray]) -> np.ndarray:
        """The log loss on each untouched judged picture of a probe that learns from all pictures and from versions of the judged."""
        kind = max(self.evidence, key=lambda one: self.skill[one][0])
        return self.evidence[kind].losses_with([self.eyes(one)[kind] for one in versions])

    # -- one field ----------------------------------------------------------------------------------------

    def look_at(self, names: Sequence[str], deadline: float) -> dict[str, tuple[_Finding, float]]:
        """Each field as far as it goes, what is most telling first: what was found, and at which share of its range."""
        first: dict[str, tuple[_Finding, float]] = {}
        for name in names if self.able else ():
            for share in (1.0, *WIDTHS) if name == "rotate" else (1.0,):
                if time.monotonic() > deadline:
                    return first
                first[name] = self._finding((name,), share), share
                if not first[name][0].fine:
                    break
        return first

    def judge(
        self,
        name: str,
        first: tuple[_Finding, float],
        hints: Sequence[tuple[str, tuple[str, ...]]],
        thorough: bool,
        deadline: float,
    ) -> Verdict | None:
        """The verdict on a field that was looked at; None if the time was over before it could be narrowed."""
        worst, share = first
        limit: float | None = 1.0
        if not worst.fine:
            limit = None if name in FLIPS else self._bisect(name, share, deadline)
            if limit is None and time.monotonic() > deadline and name not in FLIPS:
                return None
        verdict = "safe" if limit == 1.0 else ("unsafe" if limit is None else "limited")
        size = None if limit is None else round(size_of(scaled(self.asked, name, limit), name), 4)
        why = self._why(worst) if not worst.fine else f"the {worst.kind} probe keeps {worst.kept[0]:.0%} of its skill"
        for hint, fields in hints:
            if name in fields:
                why += f"; {hint}"
        made = Verdict(
            field=name,
            verdict=verdict,
            asked=round(size_of(self.asked, name), 4),
            limit=size,
            n=len(self.judged),
            why=why,
            pairs=tuple((self._name(a), self._name(b), round(share, 3)) for a, b, share in worst.pairs),
            kept=worst.kept,
            kind=worst.kind,
            far=round(worst.far, 4),
            in_frame=None if worst.in_frame is None else round(worst.in_frame, 4),
            examples=self._examples(worst),
            hinted=any(name in fields for _, fields in hints),
        )
        if not thorough:
            return made
        safe_share = 1.0 if limit is None else limit
        effect = self._effect(name, safe_share)
        hurt = [
            f"{name} ({100 * gain:+.0f} points)" for name, (gain, error) in effect.items() if gain < -2 * error - HURTS
        ]
        if hurt:
            made = dataclasses.replace(made, why=f"{why}; a probe that learns with it gets worse on {', '.join(hurt)}")
        return dataclasses.replace(made, told_apart=self._told_apart(worst), effect=effect)

    def unmeasured(self, name: str, hints: Sequence[tuple[str, tuple[str, ...]]], why: str = "") -> Verdict:
        """Held to a careful size; flips are dropped, for nothing speaks for them."""
        asked, careful = size_of(self.asked, name), CAREFUL.get(name)
        limit, hinted = None, any(name in fields for _, fields in hints)
        if careful is not None and not hinted:
            limit = max(asked, careful) if name == "crop" else min(asked, careful)
        said = [why or self.why_not, *[hint for hint, fields in hints if name in fields]]
        said.append("so it is dropped" if limit is None else f"so it is held to {limit:g}, a careful size")
        n = len(self.judged)
        return Verdict(name, "not_measurable", round(asked, 4), limit, n, "; ".join(said), hinted=hinted)

    def _bisect(self, name: str, failing: float, deadline: float) -> float | None:
        """The largest share known to be fine, below one that is not."""
        fine, bad = 0.0, failing
        for _ in range(STEPS):
            if time.monotonic() > deadline:
                break
            middle = (fine + bad) / 2
            if self._finding((name,), middle).fine:
                fine = middle
            else:
                bad = middle
        return fine or None

    def _finding(self, names: Sequence[str], share: float) -> _Finding:
        """The worst that the ends of the fields' ranges do; the first that is not fine will do."""
        found = []
        for end in _extremes(self.asked, names, share):
            found.append(self._at(names, end))
            if not found[-1].fine:
                break
        return min(found, key=lambda one: (one.fine, one.kept[0]))

    def _at(self, names: Sequence[str], version: Augmentation) -> _Finding:
        seeds: list[tuple[int, ...]] = [(self.seed, int(i)) for i in self.judged]
        pictures = augment_all(self.judged_pictures(), version, seeds)
        seen = self.eyes(pictures)
        answers = {kind: one.ask(seen[kind]) for kind, one in self.evidence.items()}
        kept = {kind: self._kept(self.evidence[kind], answer.called) for kind, answer in answers.items()}
        kind = max(kept, key=lambda one: kept[one][0])
        lost = kept[kind][0] < KEPT and kept[kind][2] < SURELY
        pairs = self._pairs(answers, seen, names, lost)
        in_frame = self._in_frame(names[0], version) if len(names) == 1 and names[0] in LOSES_PARTS else None
        far = float(np.mean([answer.far().mean() for answer in answers.values()]))
        return _Finding(tuple(names), version, seen, pairs, kept[kind], kind, lost, far, in_frame)

    def _kept(self, evidence: Evidence, called: np.ndarray) -> tuple[float, float, float]:
        """Which share of a probe's skill is left, and its 90 % interval by resampling pictures within classes."""
        before, after = self._resampled(evidence, evidence.untouched.called, called)
        ratio = after / np.maximum(before, 0.05)
        low, high = np.quantile(ratio, (0.05, 0.95))
        middle = evidence.skill(called) / max(evidence.skill(evidence.untouched.called), 0.05)
        return round(middle, 4), round(float(low), 4), round(float(high), 4)

    def _resampled(self, evidence: Evidence, *calls: np.ndarray, count: int = 200) -> list[np.ndarray]:
        random = np.random.default_rng(self.seed)
        shares = [np.zeros(count) for _ in calls]
        classes = [np.flatnonzero(evidence.truth == c) for c in np.unique(evidence.truth)]
        for mine in classes:
            drawn = random.integers(0, len(mine), (count, len(mine)))
            for place, called in enumerate(calls):
                shares[place] += (called[mine] == evidence.truth[mine])[drawn].mean(1) / len(classes)
        k = evidence.classes
        return [(share - 1 / k) / (1 - 1 / k) for share in shares]

    def _pairs(
        self, answers: dict[str, Answers], seen: dict[str, np.ndarray], names: Sequence[str], lost: bool
    ) -> tuple[tuple[int, int, float], ...]:
        """Classes whose pictures became another's, by the rule of this module's first lines."""
        shares: dict[str, np.ndarray] = {}
        surely: dict[str, np.ndarray] = {}
        for kind, answer in answers.items():
            shares[kind], surely[kind] = _moved(self.evidence[kind], answer)
        if not shares:
            return ()
        by_one = np.maximum.reduce(list(surely.values())) > MOST
        by_all = np.minimum.reduce(list(surely.values())) > SOME
        suspected = by_one | (by_all if len(surely) > 1 else False)
        # where something is wrong, what the names suggest needs less to be believed
        for a, b in self._expected(names) if lost or suspected.any() else ():
            suspected[a, b] |= any(one[a, b] > EXPECTED for one in surely.values())
        if not suspected.any() or not any(self._survives(kind, seen[kind]) for kind in shares):
            return ()
        share = np.maximum.reduce(list(shares.values()))
        found = [(int(a), int(b), float(share[a, b])) for a, b in np.argwhere(suspected)]
        return tuple(sorted(found, key=lambda one: -one[2]))

    def _expected(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Pairs of classes, both ways, that their names say a field exchanges."""
        place = {self._name(number).casefold(): number for number in range(len(self.present))}
        pairs = [pair for pair, fields in _EXCHANGED if set(fields) & set(names) and set(pair) <= set(place)]
        return [(place[a], place[b]) for pair in pairs for a, b in (pair, pair[::-1])]

    def _survives(self, kind: str, features: np.ndarray) -> bool:
        """Whether classes can still be learned from the versions: a blank picture resembles some class, too, and has become none."""
        evidence = self.evidence[kind]
        untouched = evidence.learned(self._untouched_features(kind))
        return evidence.learned(features) >= KEPT * untouched

    def _untouched_features(self, kind: str) -> np.ndarray:
        if not hasattr(self, "_own"):
            self._own = self.eyes(self.judged_pictures())
        return self._own[kind]

    # -- more about it ------------------------------------------------------------------------------------

    def _in_frame(self, name: str, version: Augmentation) -> float | None:
        """Which share of the evidence map stays in the picture: pixels of a finer grid, moved as the field moves them."""
        if "layout" not in self.evidence:
            return None
        if not hasattr(self, "_maps"):
            self._maps = self.evidence["layout"].maps().mean(0)
        fine = 16
        mean = np.kron(self._maps, np.ones((fine, fine))) / fine**2
        side = GRID * fine
        value = getattr(version, name)
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

    def _told_apart(self, finding: _Finding) -> tuple[float, float, float]:
        """AUC of a probe that tells the versions from the untouched, out of fold, with its interval (Hanley and McNeil 1982)."""
        from sklearn.metrics import roc_auc_score

        rows = []
        for kind, evidence in self.evidence.items():
            for features in (self._untouched_features(kind), finding.seen[kind]):
                rows.append(evidence.project(features))
        half = [np.concatenate(rows[place::2], axis=1) for place in (0, 1)]
        together, n = np.concatenate(half), len(self.judged)
        made = np.repeat([0, 1], n)
        folds = np.tile(next(iter(self.evidence.values())).folds[self.judged], 2)
        score = np.zeros(2 * n)
        for fold in np.unique(folds):
            head = solve(together[folds != fold], made[folds != fold], 2, strength=0.01)
            score[folds == fold] = head.probabilities(together[folds == fold])[:, 1]
        auc = float(roc_auc_score(made, score))
        spread = auc * (1 - auc) + (n - 1) * (auc / (2 - auc) + 2 * auc**2 / (1 + auc) - 2 * auc**2)
        half_width = 1.96 * math.sqrt(max(spread, 0.0)) / n
        return round(auc, 4), round(max(auc - half_width, 0.0), 4), round(min(auc + half_width, 1.0), 4)

    def _effect(self, name: str, share: float) -> dict[str, tuple[float, float]]:
        """By class, what a probe gains on untouched held-out pictures by learning from versions, too, and its standard error."""
        value: Any = 1.0 if name in FLIPS else getattr(scaled(self.asked, name, share), name)
        version = dataclasses.replace(Augmentation(border=self.asked.border), **{name: value})
        seeds: list[tuple[int, ...]] = [(self.seed, 1, int(i)) for i in self.judged]
        seen = self.eyes(augment_all(self.judged_pictures(), version, seeds))
        kind = max(self.evidence, key=lambda one: self.skill[one][0])
        evidence = self.evidence[kind]
        with_it = evidence.learned_with(seen[kind]) == evidence.truth
        gain = with_it.astype(int) - (evidence.untouched.called == evidence.truth).astype(int)
        return {
            self._name(c): (round(float(mine.mean()), 4), round(float(mine.std() / len(mine) ** 0.5), 4))
            for c in np.unique(evidence.truth)
            for mine in [gain[evidence.truth == c]]
        }

    def _examples(self, finding: _Finding, most: int = 3) -> tuple[dict[str, Any], ...]:
        """The pictures that show it best: of the pairs, or those that lie furthest away."""
        if finding.fine:
            return ()
        evidence = self.evidence[finding.kind]
        answer = evidence.ask(finding.seen[finding.kind])
        found = []
        for a, b, _ in finding.pairs[:most]:
            mine = np.flatnonzero(evidence.truth == a)
            place = int(mine[answer.distance[mine, b].argmin()])
            found.append((place, b))
        if not found:
            for place in np.argsort(-answer.distance.min(1))[:most]:
                found.append((int(place), int(answer.called[place])))
        rows = []
        for place, b in found:
            near = evidence.nearest(finding.seen[finding.kind][place : place + 1], place, b)
            rows.append(
                {
                    "picture": self.examples.keys[int(self.judged[place])],
                    "label": self._name(int(evidence.truth[place])),
                    "became": self._name(b),
                    "nearest": self.examples.keys[near],
                    "augmentation": {
                        name: getattr(finding.version, name) for name in (*finding.version.fields(), "border")
                    },
                    "seed": [self.seed, int(self.judged[place])],
                }
            )
        return tuple(rows)

    def _why(self, finding: _Finding) -> str:
        n = len(self.judged)
        if finding.pairs:
            first = finding.pairs[0]
            count = int((next(iter(self.evidence.values())).truth == first[0]).sum())
            low, high = wilson_interval(round(first[2] * count), count)
            more = f", and {len(finding.pairs) - 1} more pairs" if len(finding.pairs) > 1 else ""
            return (
                f"{first[2]:.0%} of {self._name(first[0])} become {self._name(first[1])} "
                f"({low:.0%} to {high:.0%}, n = {count}){more}"
            )
        kept = f"the {finding.kind} probe keeps {finding.kept[0]:.0%} of its skill ({finding.kept[1]:.0%} to {finding.kept[2]:.0%}, n = {n})"
        if finding.in_frame is not None and finding.in_frame < 0.5:
            return f"the object leaves the picture: {finding.in_frame:.0%} of the evidence stays, {kept}"
        return f"the meaning is lost: {kept}, {finding.far:.0%} lie far from every class"

    def _name(self, number: int) -> str:
        return self.names[int(self.present[number])]


@dataclass(frozen=True)
class _Finding:
    """What one version of the judged pictures showed."""

    names: tuple[str, ...]
    version: Augmentation
    seen: dict[str, np.ndarray]
    pairs: tuple[tuple[int, int, float], ...]
    kept: tuple[float, float, float]
    kind: str
    lost: bool
    far: float
    in_frame: float | None

    @property
    def fine(self) -> bool:
        return not self.pairs and not self.lost


def _moved(evidence: Evidence, answer: Answers) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of classes, the share of a's pictures that went over to b, net of those that did so untouched, and what it surely
    is (19 of 20, normal approximation of the paired difference); -1 where too few pictures moved. Each float, shape (k, k).
    """
    k, before = evidence.classes, evidence.untouched
    share, surely = np.zeros((k, k)), np.full((k, k), -1.0)
    over = [(one.called[:, None] == np.arange(k)) & (one.distance <= 1) for one in (answer, before)]
    for a in range(k):
        mine = evidence.truth == a
        n = int(mine.sum())
        came = (over[0][mine] & ~over[1][mine]).sum(0)
        left = (over[1][mine] & ~over[0][mine]).sum(0)
        net = (came - left) / n
        error = np.sqrt(np.maximum(came + left - (came - left) ** 2 / n, 0.5)) / n
        enough = (came - left >= FEWEST_CHANGED) & (np.arange(k) != a)
        share[a], surely[a] = net, np.where(enough, net - 1.645 * error, -1.0)
    return share, surely


def _sample(labels: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Places of at most so many, classes as even as they allow, each class's drawn at random."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = [random.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    rank = np.concatenate([np.arange(len(mine)) for mine in order])
    places = np.concatenate(order)
    return np.sort(places[np.argsort(rank, kind="stable")[:most]])


def _narrowed(augmentation: Augmentation, name: str, verdict: Verdict) -> Augmentation:
    if verdict.verdict == "safe":
        return augmentation
    if verdict.limit is None:
        return dataclasses.replace(augmentation, **{name: getattr(Augmentation, name)})
    return held_to(augmentation, name, verdict.limit)


def held_to(augmentation: Augmentation, name: str, limit: float) -> Augmentation:
    """With a field cut down to a size (see `size_of`).

    >>> held_to(Augmentation(rotate=(-90, 20)), "rotate", 30).rotate
    (-30, 20)
    """
    value = getattr(augmentation, name)
    held: Any
    if not isinstance(value, tuple):
        held = min(value, limit)
    elif name == "crop":
        held = (max(value[0], limit), max(value[1], limit))
    elif name in FACTORS:
        held = (min(max(value[0], 1 / limit), limit), max(min(value[1], limit), 1 / limit))
    else:
        held = (min(max(value[0], -limit), limit), max(min(value[1], limit), -limit))
    return dataclasses.replace(augmentation, **{name: held})


def _without_bad_pairs(
    check: SafetyCheck,
    narrowed: Augmentation,
    verdicts: list[Verdict],
    allow: Sequence[str],
    deadline: float,
    say: Callable[[str], None],
) -> tuple[Augmentation, list[Verdict]]:
    """Fields that are safe alone may not be so together: the flips are a half turn. The second of such a pair is dropped."""
    for pair in WITH:
        first, second = pair.split("+")
        on = narrowed.fields()
        if first not in on or second not in on or second in allow or time.monotonic() > deadline:
            continue
        check.asked = narrowed
        found = check._finding((first, second), 1.0)
        check.asked = narrowed
        if found.fine:
            continue
        place = next(i for i, one in enumerate(verdicts) if one.field == second)
        why = f"together with {first}: {check._why(found)}"
        verdicts[place] = dataclasses.replace(verdicts[place], verdict="unsafe", limit=None, why=why)
        narrowed = dataclasses.replace(narrowed, **{second: getattr(Augmentation, second)})
        say(line_of(verdicts[place]))
    return narrowed, verdicts


# -- words ------------------------------------------------------------------------------------------------

_MIRRORED = ("flip_horizontal", "half_turn")
_TURNED = ("flip_vertical", "half_turn", "rotate")

_OPPOSITES: list[tuple[tuple[str, str], tuple[str, ...]]] = [
    (("left", "right"), _MIRRORED),
    (("east", "west"), _MIRRORED),
    (("clockwise", "counterclockwise"), ("flip_horizontal", "flip_vertical")),
    (("up", "down"), _TURNED),
    (("top", "bottom"), _TURNED),
    (("north", "south"), _TURNED),
]
_EXCHANGED: list[tuple[tuple[str, str], tuple[str, ...]]] = [
    (("6", "9"), ("half_turn", "rotate", "flip_vertical")),
    (("six", "nine"), ("half_turn", "rotate", "flip_vertical")),
    (("2", "5"), ("flip_vertical", "flip_horizontal")),
    (("b", "d"), _MIRRORED[:1]),
    (("p", "q"), _MIRRORED[:1]),
    (("b", "p"), _TURNED[:1]),
    (("d", "q"), _TURNED[:1]),
    (("n", "u"), _TURNED),
    (("m", "w"), _TURNED),
    (("b", "q"), ("half_turn", "rotate")),
    (("d", "p"), ("half_turn", "rotate")),
]


def name_hints(class_names: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """What the names of classes suggest, and about which fields: a hint, never a proof.

    >>> name_hints(["turn_left", "turn_right"])[0][1]
    ('flip_horizontal', 'half_turn')
    """
    names = {name.casefold() for name in class_names}
    words = {word for name in names for word in _words(name)}
    hints: list[tuple[str, tuple[str, ...]]] = []
    for pair, fields in _OPPOSITES:
        if words >= set(pair):
            hints.append((f"class names hold '{pair[0]}' and '{pair[1]}'", fields))
    for pair, fields in _EXCHANGED:
        if names >= set(pair):
            hints.append((f"classes are called '{pair[0]}' and '{pair[1]}'", fields))
    return hints


def _words(name: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in name).split()


def line_of(verdict: Verdict) -> str:
    """A verdict in one line for a person."""
    units = {"rotate": "°"}
    size = (
        ""
        if verdict.limit is None or verdict.field in FLIPS
        else f" to {verdict.limit:.3g}{units.get(verdict.field, '')}"
    )
    said = {"safe": "safe", "limited": "safe up to", "unsafe": "unsafe", "not_measurable": "not measurable"}
    shown = said[verdict.verdict].removesuffix(" to") + (size if verdict.verdict == "limited" else "")
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
