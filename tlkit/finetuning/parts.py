"""What a plan says about the labels and the split: quantities, earlier training images, groups, near duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlkit.data.classes import sentences
from tlkit.data.dataset import Dataset
from tlkit.data.images import ImageSet
from tlkit.data.targets import about_regression
from tlkit.finetuning.held_out import HeldOut
from tlkit.plan.decision import Decision
from tlkit.plan.job import Job
from tlkit.runs.lineage import Lineage
from tlkit.words import counted

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def split_decisions(
    before: Dataset, after: Dataset, pairs: np.ndarray, seen: Lineage, job: Job, drawn: HeldOut
) -> tuple[Decision, ...]:
    """The decision about the split, if there is something to say of it.

    before, after: the data set as it was given, and split. pairs: near duplicates, row numbers of `before`. seen: what
    the initial weights were trained on. drawn: the test images that were drawn.
    """
    given = (before.images.table["split"] == "validation").any()
    told = [*drawn.sentences, *_earlier(after.images.table, seen, job), *_groups(after)]
    near = len(set(pairs.ravel().tolist()))
    if near:
        told.append(f"{counted(near, 'image')} that are near duplicates of others stay together with them")
    if not given and not before.compared:
        told.append(
            f"near duplicates among {counted(len(before), 'image')} were not looked for, so copies that are not equal "
            "files may be in both train and validation"
        )
    if not told:
        return ()
    evidence = {
        "sentences": told,
        **drawn.evidence(),
        "near_duplicates": near,
        "trained_on_before": _count(after.images.table, "train", seen),
        "held_out_but_trained_on_before": sum(
            _count(after.images.table, part, seen) for part in ("validation", "test")
        ),
        "groups": int(after.images.table.loc[after.images.table["group"] != "", "group"].nunique()),
        "groups_across_parts": _across(after),
    }
    why = "accuracy on images like those trained on is too good"
    return (Decision("split", "as given" if given else "by content and seed", why, evidence),)


def label_decisions(dataset: Dataset) -> tuple[Decision, ...]:
    """The decision to take numbers for names of classes, if they may be quantities."""
    about = about_regression(list(dataset.images.table["label"]))
    return (Decision("labels", "classes", about),) if about else ()


def class_decisions(images: ImageSet) -> tuple[Decision, ...]:
    """What is said first of a plan: classes that lost their files, are left out, or are not measured in a part."""
    told = sentences(images)
    why = "half of the files of a class or more are left out, or a part of the data has no images of it"
    return (Decision("classes", f"{len(images.class_names)}", why, {"sentences": told}),) if told else ()


def _count(table: pd.DataFrame, part: str, seen: Lineage) -> int:
    return int((table.loc[table["split"] == part, "sha256"].isin(seen.trained_on)).sum())


def _across(after: Dataset) -> int:
    """How many groups are in several parts that were given."""
    return int((after.images.problems["problem"] == "group-across-parts").sum())


def _earlier(table: pd.DataFrame, seen: Lineage, job: Job) -> list[str]:
    """What is said about images that the initial weights were trained on."""
    told = []
    if job.from_run is not None:
        told.append(
            f"{counted(_count(table, 'train', seen), 'image')} that '{job.from_run}' or a run before it was trained on "
            "are in train"
        )
    for part in ("validation", "test"):
        count, total = _count(table, part, seen), int((table["split"] == part).sum())
        if count:
            told.append(
                f"{count:,} of the {counted(total, f'{part} image')} given were trained on by '{job.from_run}' "
                f"or a run before it: {part} accuracy will look better than it is"
            )
    without = sorted(set(table["label"]) - set(table.loc[table["split"] == "validation", "label"]))
    if without and job.from_run is not None:
        told.append(
            f"no validation image of {', '.join(without[:5])}{' and others' if len(without) > 5 else ''} is left, "
            "because the earlier runs trained on all of them"
        )
    told += [f"which images the earlier run '{one}' trained on is not known: it is gone" for one in seen.missing]
    return told


def _groups(after: Dataset) -> list[str]:
    """What is said about groups."""
    table = after.images.table
    total, across = int(table.loc[table["group"] != "", "group"].nunique()), _across(after)
    if across:
        return [
            f"{across:,} of {counted(total, 'group')} are in several of the given parts: "
            "accuracy will look better than it is on new groups"
        ]
    return [f"{counted(total, 'group')}, none of them in two parts"] if total else []
