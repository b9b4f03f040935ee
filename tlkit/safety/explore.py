"""The work of `tlkit augment`: checks an augmentation, searches for helpful safe fields, and draws a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tlkit.data.images import ImageSet
from tlkit.data.preview import draw_sheet
from tlkit.data.scan import scan
from tlkit.errors import DataError
from tlkit.files import write_atomically
from tlkit.plan.address import Address
from tlkit.plan.augmentation import PRESETS, Augmentation
from tlkit.plan.in_memory import InMemory
from tlkit.plan.recipe import to_dict
from tlkit.progress import Deadline, log
from tlkit.safety.check import FULL, check_safety, prepare_sample
from tlkit.safety.search import search as choose
from tlkit.safety.verdict import Safety, sentence


@dataclass(frozen=True)
class Files:
    """The files that `explore_augmentation` writes. None: not written.

    verdicts: JSON of the check's verdicts, by field.
    augmentation: JSON of the augmentation, which `tlkit finetune` reads.
    sheet: an image file of augmented training images; its extension gives the format.
    sheet_size: pixels per side at which augmentation is applied for the sheet.
    """

    verdicts: str | Path | None = None
    augmentation: str | Path | None = None
    sheet: str | Path | None = None
    sheet_size: int = 224


NO_FILES = Files()


def explore_augmentation(
    data: str | Path | Address | InMemory | ImageSet,
    asked: Augmentation | None = None,
    *,
    check: bool = False,
    search_minutes: float | None = None,
    files: Files = NO_FILES,
    backbone: str = "nano",
    allow: Sequence[str] = (),
    seed: int = 0,
) -> Augmentation:
    """Check an augmentation on a data set, choose among its safe fields, and draw it, as `tlkit augment` does.

    Args:
        data: see `tlkit.scan`; or what it found.
        asked: the augmentation; default every field at its full range for the check, and the preset "strong" for the
            search and the sheet.
        check: check the safety of each field. The check is also made before a search, for a file of verdicts, and if
            nothing else is requested.
        search_minutes: choose the safe fields that help a probe, for at most this many minutes. None: no search.
        files: the files to write.
        backbone, allow, seed: as in `tlkit.check_safety`. The sheet is drawn with the seed, too.

    Returns: the augmentation, narrowed if it was checked.

    Raises:
        DataError: if there are too few images for a search.
    """
    images, searched = data if isinstance(data, ImageSet) else scan(data), search_minutes is not None
    idle = files.augmentation is None and files.sheet is None
    checked = check or searched or files.verdicts is not None or idle
    augmentation = asked or (PRESETS["strong"] if searched or not checked else FULL)
    if checked:
        log.info(f"checking  {', '.join(augmentation.fields()) or 'nothing'}, by {backbone}")
        safety = check_safety(images, augmentation, backbone=backbone, allow=allow, seed=seed)
        _log(safety)
        augmentation = safety.augmentation
        if files.verdicts is not None:
            _write_verdicts(safety, Path(files.verdicts))
    if search_minutes is not None:
        augmentation = _searched(images, augmentation, backbone, seed, search_minutes)
    if files.augmentation is not None:
        write_atomically(Path(files.augmentation), json.dumps(to_dict(augmentation), indent=2) + "\n")
        log.info(f"written   {files.augmentation}; use it with `tlkit finetune DATA --augment {files.augmentation}`")
    if files.sheet is not None:
        draw_sheet(images, augmentation, files.sheet, size=files.sheet_size, seed=seed)
        log.info(f"drawn     {files.sheet}")
    return augmentation


def _log(safety: Safety) -> None:
    log.info(f"result    {sentence(safety)}")
    for hint in safety.hints:
        log.info(f"hint      {hint}")


def _write_verdicts(safety: Safety, file: Path) -> None:
    write_atomically(file, json.dumps(safety.to_dict()["fields"], indent=2, ensure_ascii=False) + "\n")


def _searched(images: ImageSet, safe: Augmentation, backbone: str, seed: int, minutes: float) -> Augmentation:
    """Choose the fields of a safe augmentation that help a probe. Raises DataError if no probe is good enough."""
    sample = prepare_sample(images, backbone=backbone, seed=seed)
    if not sample.able:
        raise DataError(f"Cannot search for helpful fields: {sample.why_not}.")
    found = choose(sample, safe, deadline=Deadline.after(60 * minutes))
    log.info(f"found     {found.why}")
    return found.augmentation
