"""What `tlkit augment` does: checks an augmentation, searches for a safe one that helps, and draws it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tlkit.data.preview import draw_sheet
from tlkit.data.scan import scan
from tlkit.errors import DataError
from tlkit.files import write_atomically
from tlkit.plan.augmentation import PRESETS, Augmentation
from tlkit.plan.recipe import to_dict
from tlkit.progress import Deadline, log
from tlkit.safety.check import FULL, check_safety, prepare_check
from tlkit.safety.search import search as choose
from tlkit.safety.verdict import sentence


def explore_augmentation(
    data: str | Path,
    asked: Augmentation | None = None,
    *,
    out: str | Path | None = None,
    check: bool = False,
    search: bool = False,
    backbone: str = "nano",
    allow: Sequence[str] = (),
    json_file: str | Path | None = None,
    write: str | Path | None = None,
    image_size: int = 224,
    max_minutes: float = 5.0,
    seed: int = 0,
) -> Augmentation:
    """Check an augmentation on a person's pictures, choose among its safe fields, and draw it: what `tlkit augment` does.

    data: see `tlkit.scan`. asked: default every field at its full range for the check, and the preset "strong" for the search and the
    picture. out: a picture file of what training will see. check: measure what each field does (also where nothing else is asked).
    search: choose the safe fields that help a probe. json_file: the verdicts, by field. write: the augmentation that comes of it.
    max_minutes: of the search. Returns the augmentation, narrowed if it was checked.
    """

    images = scan(data)
    check = check or search or json_file is not None or (out is None and write is None)
    augmentation = asked or (PRESETS["strong"] if search or not check else FULL)
    if check:
        log.info(f"checking  {', '.join(augmentation.fields()) or 'nothing'}, by {backbone}")
        safety = check_safety(images, augmentation, backbone=backbone, allow=allow, seed=seed)
        log.info(f"so        {sentence(safety)}")
        for hint in safety.hints:
            log.info(f"hint      {hint}")
        augmentation = safety.augmentation
        if json_file is not None:
            fields = safety.to_dict()["fields"]
            write_atomically(Path(json_file), json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    if search:
        able = prepare_check(images, augmentation, backbone=backbone, seed=seed)
        if not able.able:
            raise DataError(f"Nothing can be searched for: {able.why_not}.")
        found = choose(able, augmentation, deadline=Deadline.after(60 * max_minutes))
        log.info(f"found     {found.why}")
        augmentation = found.augmentation
    if write is not None:
        write_atomically(Path(write), json.dumps(to_dict(augmentation), indent=2) + "\n")
        log.info(f"written   {write}; use it with `tlkit finetune {data} --augment {write}`")
    if out is not None:
        draw_sheet(images, augmentation, out, size=image_size, seed=seed)
        log.info(f"drawn     {out}")
    return augmentation
