"""Which transformations keep a picture's class and meaning, measured on the person's own pictures before anything trains.

A transformation is applied at its largest, and a frozen backbone's probes, which have only seen pictures as they are, say what has
become of them. Two things forbid it. It moves pictures into another class: they are called b, lie as near to b's pictures as b's own
do, more often than untouched ones, and b is still told from the rest (so that it is a change of class and no mere ruin). Or it takes the
meaning away: even the better of two probes has lost a quarter of its skill, and more than a tenth beyond chance. What fails is
narrowed by bisection. See `tlkit.safety.evidence` for what is looked at. Imports Keras, NumPy and scikit-learn.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlkit.backbones import find_backbone
from tlkit.cache import Cache, describe
from tlkit.data.dataset import decode_images
from tlkit.data.images import ImageSet
from tlkit.files import write_atomically
from tlkit.models.classifier import build_classifier
from tlkit.plan.augmentation import AUGMENTATION_LIMITS, FLIPS, Augmentation, check_fields, held_to
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.safety.evidence import Eyes
from tlkit.safety.hints import name_hints
from tlkit.safety.measure import REFERENCE, SafetyCheck, _sample
from tlkit.safety.verdict import VERSION, Safety, Verdict, _from_json, _kept_file, line_of

WITH = ("flip_horizontal+flip_vertical", "flip_horizontal+rotate", "flip_vertical+rotate")  # pairs of fields

_WHOLE: dict[str, Any] = {
    name: limits if isinstance(getattr(Augmentation, name), tuple) else limits[1]
    for name, limits in AUGMENTATION_LIMITS.items()
}
FULL = Augmentation(**_WHOLE)


def run_check(
    check: SafetyCheck,
    asked: Augmentation,
    *,
    allow: Sequence[str] = (),
    deadline: Deadline = NO_DEADLINE,
    thorough: bool = True,
) -> Safety:
    """Judge every field of an augmentation that is on, and narrow it to what is safe.

    allow: fields that stay as asked whatever is found; it is noted. deadline: a field not judged by then is
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
        mine = deadline
        if name in first and not first[name][0].fine and name not in FLIPS:
            mine, to_narrow = deadline.share(1 / to_narrow), to_narrow - 1  # each its share of what is left
        verdict = check.judge(name, first[name], hints, thorough, mine) if name in first else None
        if verdict is None:
            verdict = check.unmeasured(name, hints, "the time for the check was over" if check.able else "")
        if name in allow:
            verdict = dataclasses.replace(verdict, allowed=True)
        else:
            narrowed = _narrowed(narrowed, name, verdict)
        verdicts.append(verdict)
        log.info(line_of(verdict))
    if check.able:
        narrowed, verdicts = _without_bad_pairs(check, narrowed, verdicts, allow, deadline)
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
    deadline: Deadline = NO_DEADLINE,
    thorough: bool = True,
    cache: Cache | None = None,
) -> Safety:
    """Judge an augmentation by images from `tlkit.scan`, seen by a backbone at its own size; test images play no part.

    augmentation: default every field at its full documented range. seed: of the sample, the folds and what is drawn. The rest as in
    `run_check`. What was found is kept in the cache, so that asking the same again costs nothing. Raises NameUnknown for a backbone or a field to
    allow that does not exist, WeightsError for absent weights.
    """
    network = find_backbone(backbone)
    allow = check_fields(allow)
    asked = FULL if augmentation is None else augmentation
    images = _reference(images, seed)
    words = [network.name, weights, allow, seed, thorough, dataclasses.asdict(asked), VERSION]
    about = [images.labels().tolist(), images.keys(), images.groups().tolist()]
    cache = cache or Cache()
    file = _kept_file(cache, json.dumps([*words, *about]))
    if file.is_file():
        known = _from_json(file.read_text(encoding="utf-8"))
        for one in known.verdicts:
            log.info(line_of(one))
        return known
    check = prepare_check(images, asked, backbone=backbone, weights=weights, seed=seed, cache=cache)
    safety = run_check(check, asked, allow=allow, deadline=deadline, thorough=thorough)
    text = json.dumps(safety.to_dict())
    if not deadline.over and cache.has_room_for(len(text)):
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
    cache: Cache | None = None,
) -> SafetyCheck:
    """Decode a sample of the images at the backbone's size, and look at it: what `run_check` and `tlkit.safety.search.search` take."""
    network = find_backbone(backbone)
    dataset = decode_images(_reference(images, seed), network.size, cache=cache)
    eyes = Eyes(build_classifier(network, 2, weights=weights), network)
    return SafetyCheck(dataset.examples(), dataset.class_names, eyes, asked, seed)


def _narrowed(augmentation: Augmentation, name: str, verdict: Verdict) -> Augmentation:
    if verdict.verdict == "safe":
        return augmentation
    if verdict.limit is None:
        return dataclasses.replace(augmentation, **{name: getattr(Augmentation, name)})
    return held_to(augmentation, name, verdict.limit)


def _without_bad_pairs(
    check: SafetyCheck,
    narrowed: Augmentation,
    verdicts: list[Verdict],
    allow: Sequence[str],
    deadline: Deadline,
) -> tuple[Augmentation, list[Verdict]]:
    """Fields that are safe alone may not be so together: the flips are a half turn. The second of such a pair is dropped."""
    for pair in WITH:
        first, second = pair.split("+")
        on = narrowed.fields()
        if first not in on or second not in on or second in allow or deadline.over:
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
        log.info(line_of(verdicts[place]))
    return narrowed, verdicts
