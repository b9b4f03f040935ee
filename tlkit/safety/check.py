"""Which transformations keep an image's class and meaning, measured on the person's own images before anything trains.

A transformation is applied at its largest, and a frozen backbone's probes, which have only seen images as they are,
say what has become of them. Two things forbid it. It moves images into another class: they are called b, lie as near
to b's images as b's own do, more often than untouched ones, and b is still told from the rest (so that it is a change
of class and no mere ruin). Or it takes the meaning away: even the better of two probes has lost a quarter of its
skill, and more than a tenth beyond chance. What fails is narrowed by bisection. See `tlkit.safety.evidence` for what
is looked at and `tlkit.safety.rules` for the rules. Imports Keras, NumPy and scikit-learn.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.backbones import find_backbone
from tlkit.cache import Cache, describe
from tlkit.data.dataset import decode_images
from tlkit.data.images import ImageSet
from tlkit.files import write_atomically
from tlkit.models.classifier import build_classifier
from tlkit.plan.augmentation import (
    AUGMENTATION_LIMITS,
    FLIPS,
    Augmentation,
    check_fields,
    held_to,
    scaled,
    size_of,
)
from tlkit.progress import NO_DEADLINE, Deadline, log
from tlkit.safety import details
from tlkit.safety.evidence import Eyes
from tlkit.safety.hints import name_hints
from tlkit.safety.measure import REFERENCE, Finding, Sample, bisect, evenly, look_at, take_sample, worst
from tlkit.safety.rules import careful_size, verdict_at
from tlkit.safety.verdict import VERSION, Safety, Verdict, _from_json, _kept_file, line_of

WITH = ("flip_horizontal+flip_vertical", "flip_horizontal+rotate", "flip_vertical+rotate")  # pairs of fields

_WHOLE: dict[str, Any] = {
    name: limits if isinstance(getattr(Augmentation, name), tuple) else limits[1]
    for name, limits in AUGMENTATION_LIMITS.items()
}
FULL = Augmentation(**_WHOLE)

Hints = Sequence[tuple[str, tuple[str, ...]]]  # see `tlkit.safety.hints.name_hints`


def check_safety(
    images: ImageSet,
    augmentation: Augmentation | None = None,
    *,
    backbone: str = "nano",
    allow: Sequence[str] = (),
    seed: int = 0,
    deadline: Deadline = NO_DEADLINE,
    thorough: bool = True,
    cache: Cache | None = None,
) -> Safety:
    """Judge an augmentation by images from `tlkit.scan`, seen by a backbone at its own size; test images play no part.

    Args:
        images: from `tlkit.scan`, split or not.
        augmentation: what is judged; default every field at its full documented range.
        backbone: whose features judge, as pretrained on ImageNet or with the weights its own file brings.
        seed: of the sample, the folds and what is drawn.
        allow, deadline, thorough: as in `run_check`.
        cache: where decoded images are kept, and what was found, so that asking the same again costs nothing; default
            `Cache()`.

    Returns:
        A verdict on every field that is on, and the augmentation narrowed to what is safe.

    Raises:
        NameUnknown: for a backbone or a field to allow that does not exist.
        WeightsError: for absent weights.
    """
    network = find_backbone(backbone)
    allow = check_fields(allow)
    asked = FULL if augmentation is None else augmentation
    images, cache = _reference(images, seed), cache or Cache()
    words = [network.name, "imagenet", allow, seed, thorough, dataclasses.asdict(asked), VERSION]
    about = [images.labels().tolist(), images.keys(), images.groups().tolist()]
    file = _kept_file(cache, json.dumps([*words, *about]))
    if file.is_file():
        return _known(file)
    sample = prepare_sample(images, backbone=backbone, seed=seed, cache=cache)
    safety = run_check(sample, asked, allow=allow, deadline=deadline, thorough=thorough)
    text = json.dumps(safety.to_dict())
    if not deadline.over and cache.has_room_for(len(text)):
        describe(file.parent, f"what augmentation does to {len(images):,} pictures, seen by {network.name}")
        write_atomically(file, text)
    return _from_json(text)


def _reference(images: ImageSet, seed: int) -> ImageSet:
    """The training images, or all but test images where they are not split, at most so many as probes rest on."""
    part = images.table["split"]
    pool = np.flatnonzero(part == "train") if (part == "train").any() else np.flatnonzero(part != "test")
    chosen = pool[evenly(images.labels()[pool], REFERENCE, np.random.default_rng(seed))]
    return images.take([int(place) for place in chosen])


def _known(file: Path) -> Safety:
    """What was found before, said again."""
    known = _from_json(file.read_text(encoding="utf-8"))
    for one in known.verdicts:
        log.info(line_of(one))
    return known


def prepare_sample(images: ImageSet, *, backbone: str = "nano", seed: int = 0, cache: Cache | None = None) -> Sample:
    """Decode a sample of the images at the backbone's size, and look at it: what `run_check` and `search` take."""
    network = find_backbone(backbone)
    dataset = decode_images(_reference(images, seed), network.size, cache=cache)
    return take_sample(dataset.examples(), dataset.class_names, Eyes(build_classifier(network, 2), network), seed)


def run_check(
    sample: Sample,
    asked: Augmentation,
    *,
    allow: Sequence[str] = (),
    deadline: Deadline = NO_DEADLINE,
    thorough: bool = True,
) -> Safety:
    """Judge every field of an augmentation that is on, and narrow it to what is safe.

    allow: fields that stay as asked whatever is found; it is noted. deadline: a field not judged by then is
    treated as not measurable. thorough: also measure how a field is told from untouched images, its effect on each
    class, and pairs of fields.

    The limit of a field is that of its most sensitive class, and one for all classes: to vary only some of them would
    give the class away. Where no probe is good enough, or classes have too few images, fields are held to careful
    sizes and flips are dropped.
    """
    started = time.monotonic()
    hints = name_hints(sample.names)
    narrowed, verdicts = asked, []
    first = look_at(sample, asked, sorted(asked.fields(), key=lambda name: name not in FLIPS), deadline)
    to_narrow = sum(not finding.fine for name, finding in first.items() if name not in FLIPS)
    for name in asked.fields():
        mine = deadline
        if name in first and not first[name].fine and name not in FLIPS:
            mine, to_narrow = deadline.share(1 / to_narrow), to_narrow - 1  # each its share of what is left
        verdict = _judge(sample, asked, first[name], hints, thorough, mine) if name in first else None
        if verdict is None:
            why_not = sample.why_not or "the time for the check was over"
            verdict = _unmeasured(asked, name, hints, why_not, len(sample.judged))
        if name in allow:
            verdict = dataclasses.replace(verdict, allowed=True)
        else:
            narrowed = _narrowed(narrowed, name, verdict)
        verdicts.append(verdict)
        log.info(line_of(verdict))
    if sample.able:
        narrowed, verdicts = _without_bad_pairs(sample, narrowed, verdicts, allow, deadline)
    said = tuple(hint for hint, _ in hints)
    seconds = time.monotonic() - started
    return Safety(asked, narrowed, tuple(verdicts), dict(sample.skill), len(sample.judged), said, seconds)


def _judge(
    sample: Sample, asked: Augmentation, finding: Finding, hints: Hints, thorough: bool, deadline: Deadline
) -> Verdict | None:
    """The verdict on a field that was looked at; None if the time was over before it could be narrowed."""
    (name,), ruling = finding.names, finding.ruling
    limit: float | None = 1.0
    why = f"the {ruling.kind} probe keeps {ruling.kept[0]:.0%} of its skill"
    if not finding.fine:
        limit = None if name in FLIPS else bisect(sample, asked, finding, deadline)
        if limit is None and deadline.over and name not in FLIPS:
            return None
        why = details.why(sample, finding)
    verdict = Verdict(
        field=name,
        verdict=verdict_at(limit),
        asked=round(size_of(asked, name), 4),
        limit=None if limit is None else round(size_of(scaled(asked, name, limit), name), 4),
        n=len(sample.judged),
        why="; ".join([why, *_said_of(name, hints)]),
        pairs=tuple((sample.classes[a], sample.classes[b], round(share, 3)) for a, b, share in ruling.pairs),
        kept=ruling.kept,
        kind=ruling.kind,
        far=round(ruling.far, 4),
        in_frame=None if finding.in_frame is None else round(finding.in_frame, 4),
        examples=details.examples(sample, finding),
        hinted=bool(_said_of(name, hints)),
    )
    return details.thorough(sample, asked, verdict, finding, limit) if thorough else verdict


def _unmeasured(asked: Augmentation, name: str, hints: Hints, why_not: str, n: int) -> Verdict:
    """Held to a careful size, or dropped."""
    size, said = size_of(asked, name), _said_of(name, hints)
    limit = careful_size(name, size, hinted=bool(said))
    so = "so it is dropped" if limit is None else f"so it is held to {limit:g}, a careful size"
    why = "; ".join([why_not, *said, so])
    return Verdict(name, "not_measurable", round(size, 4), limit, n, why, hinted=bool(said))


def _said_of(name: str, hints: Hints) -> list[str]:
    return [hint for hint, fields in hints if name in fields]


def _narrowed(augmentation: Augmentation, name: str, verdict: Verdict) -> Augmentation:
    if verdict.verdict == "safe":
        return augmentation
    if verdict.limit is None:
        return dataclasses.replace(augmentation, **{name: getattr(Augmentation, name)})
    return held_to(augmentation, name, verdict.limit)


def _without_bad_pairs(
    sample: Sample,
    narrowed: Augmentation,
    verdicts: list[Verdict],
    allow: Sequence[str],
    deadline: Deadline,
) -> tuple[Augmentation, list[Verdict]]:
    """Drop the second of two fields that are safe alone but not together: both flips are a half turn."""
    for pair in WITH:
        first, second = pair.split("+")
        on = narrowed.fields()
        if first not in on or second not in on or second in allow or deadline.over:
            continue
        found = worst(sample, narrowed, (first, second))
        if found.fine:
            continue
        place = next(i for i, one in enumerate(verdicts) if one.field == second)
        why = f"together with {first}: {details.why(sample, found)}"
        verdicts[place] = dataclasses.replace(verdicts[place], verdict="unsafe", limit=None, why=why)
        narrowed = dataclasses.replace(narrowed, **{second: getattr(Augmentation, second)})
        log.info(line_of(verdicts[place]))
    return narrowed, verdicts
