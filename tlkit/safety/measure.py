"""The measurements of the check: versions of a sample of images, and what a frozen backbone says of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlkit.data.augment import augment_all
from tlkit.data.examples import Examples
from tlkit.features.folds import stratified_folds
from tlkit.features.linear import solve
from tlkit.plan.augmentation import FACTORS, FLIPS, Augmentation, scaled, size_of
from tlkit.progress import Deadline
from tlkit.safety.evidence import GRID, Answers, Evidence, Eyes
from tlkit.safety.hints import _EXCHANGED
from tlkit.safety.rules import CAREFUL, EXPECTED, KEPT, MOST, SOME, SURELY, _Finding, _moved
from tlkit.safety.verdict import Verdict
from tlkit.stats import wilson_interval

JUDGED = 300  # pictures that are transformed
REFERENCE = 800  # pictures that probes and distances rest on
FEWEST = 8  # pictures of a class for it to be judged
WEAKEST = 0.2  # skill that a probe must surely have to be asked
STEPS = 4  # of bisection
HURTS = 0.02  # share of a class's pictures that a probe loses, beyond two standard errors, for it to be said
WIDTHS = (0.25, 0.5, 0.75)  # of the asked rotation, which may be harmless at its widest only
LOSES_PARTS = ("shift_x", "shift_y", "zoom", "crop")


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

    def look_at(self, names: Sequence[str], deadline: Deadline) -> dict[str, tuple[_Finding, float]]:
        """Each field as far as it goes, what is most telling first: what was found, and at which share of its range."""
        first: dict[str, tuple[_Finding, float]] = {}
        for name in names if self.able else ():
            for share in (1.0, *WIDTHS) if name == "rotate" else (1.0,):
                if deadline.over:
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
        deadline: Deadline,
    ) -> Verdict | None:
        """The verdict on a field that was looked at; None if the time was over before it could be narrowed."""
        worst, share = first
        limit: float | None = 1.0
        if not worst.fine:
            limit = None if name in FLIPS else self._bisect(name, share, deadline)
            if limit is None and deadline.over and name not in FLIPS:
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

    def _bisect(self, name: str, failing: float, deadline: Deadline) -> float | None:
        """The largest share known to be fine, below one that is not."""
        fine, bad = 0.0, failing
        for _ in range(STEPS):
            if deadline.over:
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


def _sample(labels: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Places of at most so many, classes as even as they allow, each class's drawn at random."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = [random.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    rank = np.concatenate([np.arange(len(mine)) for mine in order])
    places = np.concatenate(order)
    return np.sort(places[np.argsort(rank, kind="stable")[:most]])
