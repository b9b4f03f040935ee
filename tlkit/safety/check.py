"""Which augmentations keep an image's class, measured on the user's own images before training.

Each field is applied at the ends of its range. Probes on a frozen backbone, fitted on untouched images, then classify
the transformed images. A field is unsafe in two cases:

- It changes labels: more images of a than before are classified as b and are inside b's usual distance, while the
  classes remain separable in the transformed images.
- It destroys the class information: even the better of two probes loses more than a quarter of its skill, and the
  upper bound of the 90 % interval also shows a loss of more than a tenth.

A field that fails is narrowed by bisection. See `tlkit.safety.evidence` for features and probes, and
`tlkit.safety.rules` for the rules. Imports Keras, NumPy and scikit-learn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.backbones import find_backbone
from tlkit.backbones.weights import weights_sha256
from tlkit.cache import Cache, describe
from tlkit.data.dataset import Dataset, decode_images
from tlkit.data.images import ImageSet
from tlkit.files import write_atomically
from tlkit.manifest import sealed, unsealed
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
from tlkit.safety.evidence import FeatureExtractor
from tlkit.safety.hints import name_hints
from tlkit.safety.measure import REFERENCE, Finding, Sample, bisect, evenly, measure_fields, take_sample, worst
from tlkit.safety.rules import careful_size, verdict_at
from tlkit.safety.verdict import VERSION, Safety, Verdict, _cache_file, _from_json, line_of
from tlkit.words import counted

PAIRS = (  # fields that are also checked together
    ("flip_horizontal", "flip_vertical"),
    ("flip_horizontal", "rotate"),
    ("flip_vertical", "rotate"),
)

_FULL_RANGES: dict[str, Any] = {
    name: limits if isinstance(getattr(Augmentation, name), tuple) else limits[1]
    for name, limits in AUGMENTATION_LIMITS.items()
}
FULL = Augmentation(**_FULL_RANGES)

Hints = Sequence[tuple[str, tuple[str, ...]]]  # see `tlkit.safety.hints.name_hints`


def check_safety(
    images: ImageSet | Dataset,
    augmentation: Augmentation | None = None,
    *,
    backbone: str = "nano",
    allow: Sequence[str] = (),
    seed: int = 0,
    deadline: Deadline = NO_DEADLINE,
    thorough: bool = True,
    cache: Cache | None = None,
) -> Safety:
    """Check which fields of an augmentation are safe for a data set. Test images are not used.

    Args:
        images: from `tlkit.scan`, split or not, which are squashed to squares; or a data set from
            `tlkit.decode_images`, whose own way to make squares is taken.
        augmentation: the augmentation to check; default every field at its full documented range.
        backbone: the backbone whose features the probes use, at its own image size, pretrained on ImageNet or with the
            weights in its own file.
        seed: of the sample, the folds and the random values of the augmentation.
        allow, deadline, thorough: as in `run_check`.
        cache: where decoded images and results are kept, so that the same check is not repeated; default `Cache()`.

    Returns: a verdict on every field that is on, and the augmentation narrowed to what is safe.

    Raises:
        NameUnknown: if the backbone or a field in `allow` does not exist.
        WeightsError: if the weights are missing.
    """
    network = find_backbone(backbone)
    allow = check_fields(allow)
    asked = FULL if augmentation is None else augmentation
    fit = "squash"
    if isinstance(images, Dataset):
        cache, fit, images = cache or images.cache, images.pixels.fit, images.images
    images, cache = _reference(images, seed), cache or Cache()
    weights = weights_sha256(network, "imagenet")
    settings = [network.name, weights, fit, allow, seed, thorough, dataclasses.asdict(asked), VERSION]
    data = [images.labels().tolist(), images.keys(), images.groups().tolist()]
    file = _cache_file(cache, json.dumps([*settings, *data]))
    found = _cached(file)
    if found is not None:
        return found
    sample = prepare_sample(images, backbone=backbone, seed=seed, cache=cache, fit=fit)
    safety = run_check(sample, asked, allow=allow, deadline=deadline, thorough=thorough)
    text = json.dumps(safety.to_dict())
    if not deadline.over and cache.has_room_for(len(text)):
        describe(file.parent, f"safety check of an augmentation on {counted(len(images), 'image')}, by {network.name}")
        with contextlib.suppress(OSError):  # another process has cleared the entry, or the disk is full
            write_atomically(file, sealed(safety.to_dict()))
    return _from_json(text)


def _reference(images: ImageSet, seed: int) -> ImageSet:
    """At most REFERENCE training images, or images outside the test split where there is no train split."""
    split = images.table["split"]
    pool = np.flatnonzero(split == "train") if (split == "train").any() else np.flatnonzero(split != "test")
    chosen = pool[evenly(images.labels()[pool], REFERENCE, np.random.default_rng(seed))]
    return images.take([int(index) for index in chosen])


def _cached(file: Path) -> Safety | None:
    """Read a cached result and log its verdicts. None if there is none, or if it is damaged or has no checksum."""
    try:
        values = unsealed(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning(f"The cache file '{file}' is not used ({error}): the check is made again.")
        return None
    safety = _from_json(json.dumps(values))
    for verdict in safety.verdicts:
        log.info(line_of(verdict))
    return safety


def prepare_sample(
    images: ImageSet, *, backbone: str = "nano", seed: int = 0, cache: Cache | None = None, fit: str = "squash"
) -> Sample:
    """Decode a sample of the images at the backbone's size and fit the probes, for `run_check` and `search`."""
    network = find_backbone(backbone)
    dataset = decode_images(_reference(images, seed), network.size, fit, cache)
    extractor = FeatureExtractor(build_classifier(network, 2), network)
    return take_sample(dataset.examples(), dataset.class_names, extractor, seed)


def run_check(
    sample: Sample,
    asked: Augmentation,
    *,
    allow: Sequence[str] = (),
    deadline: Deadline = NO_DEADLINE,
    thorough: bool = True,
) -> Safety:
    """Check every field of an augmentation that is on, and narrow the augmentation to what is safe.

    All classes share the limit of the most sensitive class. A limit per class would reveal the class. If no probe is
    good enough, or classes have too few images, fields are limited to small sizes and flips are dropped. The pairs in
    PAIRS are also checked together.

    Args:
        sample: from `prepare_sample`.
        asked: the augmentation to check.
        allow: fields that stay as asked whatever is found. The verdict notes it.
        deadline: a field that is not checked by then counts as not measurable.
        thorough: also measure how well transformed and untouched images can be separated, and the effect on each class.
    """
    started = time.monotonic()
    hints = name_hints(sample.names)
    narrowed, verdicts = asked, []
    first = measure_fields(sample, asked, sorted(asked.fields(), key=lambda name: name not in FLIPS), deadline)
    to_narrow = sum(not finding.fine for name, finding in first.items() if name not in FLIPS)
    for name in asked.fields():
        mine = deadline
        if name in first and not first[name].fine and name not in FLIPS:
            mine, to_narrow = deadline.share(1 / to_narrow), to_narrow - 1  # equal shares of the remaining time
        verdict = _judge(sample, asked, first[name], hints, thorough, mine) if name in first else None
        if verdict is None:
            reason = sample.why_not or "the time limit of the check was reached"
            verdict = _unmeasured(asked, name, hints, reason, len(sample.judged))
        if name in allow:
            verdict = dataclasses.replace(verdict, allowed=True)
        else:
            narrowed = _narrowed(narrowed, name, verdict)
        verdicts.append(verdict)
        log.info(line_of(verdict))
    if sample.able:
        narrowed, verdicts = _without_bad_pairs(sample, narrowed, verdicts, allow, deadline)
    texts = tuple(text for text, _ in hints)
    seconds = time.monotonic() - started
    return Safety(asked, narrowed, tuple(verdicts), dict(sample.skill), len(sample.judged), texts, seconds)


def _judge(
    sample: Sample, asked: Augmentation, finding: Finding, hints: Hints, thorough: bool, deadline: Deadline
) -> Verdict | None:
    """The verdict on a measured field; None if the deadline was reached before it could be narrowed."""
    (name,), ruling = finding.names, finding.ruling
    limit: float | None = 1.0
    why = f"the {ruling.kind} probe keeps {ruling.kept[0]:.0%} of its accuracy above chance"
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
        why="; ".join([why, *_hints_on(name, hints)]),
        pairs=tuple((sample.classes[a], sample.classes[b], round(share, 3)) for a, b, share in ruling.pairs),
        kept=ruling.kept,
        kind=ruling.kind,
        far=round(ruling.far, 4),
        in_frame=None if finding.in_frame is None else round(finding.in_frame, 4),
        examples=details.examples(sample, finding),
        hinted=bool(_hints_on(name, hints)),
    )
    return details.thorough(sample, asked, verdict, finding, limit) if thorough else verdict


def _unmeasured(asked: Augmentation, name: str, hints: Hints, reason: str, n: int) -> Verdict:
    """The verdict on a field that could not be measured: it is limited to a small size, or dropped."""
    size, mine = size_of(asked, name), _hints_on(name, hints)
    limit = careful_size(name, size, hinted=bool(mine))
    action = "it is dropped" if limit is None else f"it is limited to the small size {limit:g}"
    why = "; ".join([reason, *mine, action])
    return Verdict(name, "not_measurable", round(size, 4), limit, n, why, hinted=bool(mine))


def _hints_on(name: str, hints: Hints) -> list[str]:
    return [text for text, fields in hints if name in fields]


def _narrowed(augmentation: Augmentation, name: str, verdict: Verdict) -> Augmentation:
    """The augmentation with one field limited or dropped, as its verdict says."""
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
    """Drop the second of two fields that are safe alone but not together. For example, both flips make a half turn."""
    for first, second in PAIRS:
        on = narrowed.fields()
        if first not in on or second not in on or second in allow or deadline.over:
            continue
        found = worst(sample, narrowed, (first, second))
        if found.fine:
            continue
        index = next(i for i, one in enumerate(verdicts) if one.field == second)
        why = f"together with {first}: {details.why(sample, found)}"
        verdicts[index] = dataclasses.replace(verdicts[index], verdict="unsafe", limit=None, why=why)
        narrowed = dataclasses.replace(narrowed, **{second: getattr(Augmentation, second)})
        log.info(line_of(verdicts[index]))
    return narrowed, verdicts
