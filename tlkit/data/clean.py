"""Writes a cleaned copy of a data set: the usable images, as tlkit reads them, for whoever wants files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from tlkit.cache import Cache
from tlkit.data.convert import convert
from tlkit.data.dataset import decode_images
from tlkit.data.decode import decode
from tlkit.data.images import LEFT_OUT, ImageSet
from tlkit.data.scan import scan
from tlkit.data.sources.member import Item
from tlkit.disk import check_writable
from tlkit.errors import DataError
from tlkit.files import temporary_beside
from tlkit.plan.address import Address
from tlkit.plan.in_memory import InMemory
from tlkit.progress import counted_off

SUFFIXES = {"jpeg": ".jpg", "png": ".png", "gif": ".gif", "bmp": ".bmp", "webp": ".webp"}
AS_IT_IS = ("duplicate", "grey", "tiny")  # notes and problems of images whose file is copied unchanged
TRIED_SIZE = 32  # pixels per side at which every image is decoded, to see whether it does


def clean_copy(
    data: str | Path | Address | InMemory, folder: str | Path, *, group_by: str | None = None
) -> pd.DataFrame:
    """Write the usable images of a data set into a new folder, by the rules by which tlkit reads them.

    An image that is used as it is (a JPEG, PNG, GIF, BMP or WebP without a note) is copied byte for byte, with the
    extension of its format. Any other becomes an 8-bit RGB PNG with the pixels that a model would see before they are
    resized: upright, over white, in sRGB. What cannot be used is left out.

    The folder has the images in [SPLIT/]LABEL/, labels.csv (path, label, split and group of each, and its source, the
    path in the data) and problems.csv.

    Args:
        data, group_by: as for `tlkit.scan`.
        folder: a new or empty folder.

    Returns: the table of labels.csv, and in the column `copied` whether the file is a copy of its source.

    Raises:
        DataError: there are no usable images, or the folder has files in it.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"'{folder}' is not empty. Expected a new folder for the cleaned copy; give another name.")
    check_writable(folder, makes_folders=True)
    images = decode_images(scan(data, group_by=group_by), TRIED_SIZE, cache=Cache(limit_gb=0)).images
    changed = set(images.problems.loc[~images.problems["problem"].isin(AS_IT_IS), "path"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(folder, durable=False) as temporary:  # copies, which can be made again
        temporary.mkdir()
        table = _write(images, changed, temporary)
        table.drop(columns="copied").to_csv(temporary / "labels.csv", index=False)
        images.problems.to_csv(temporary / "problems.csv", index=False)
    return table


def left_out(folder: str | Path) -> int:
    """The number of files that a cleaned copy leaves out, by its problems.csv."""
    return int((pd.read_csv(Path(folder) / "problems.csv")["action"] == LEFT_OUT).sum())


def _write(images: ImageSet, changed: set[str], folder: Path) -> pd.DataFrame:
    rows, taken = [], set[str]()
    pairs = zip(images.files(), images.table.itertuples(), strict=True)
    for file, row in counted_off(pairs, len(images), "image"):
        copied = row.path not in changed and row.format in SUFFIXES
        name = _free_name(row.split, row.label, Path(row.path).stem, SUFFIXES[row.format] if copied else ".png", taken)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if copied:
            target.write_bytes(file.read_bytes())
        else:
            _draw(file, target, images.depth)
        rows.append((name, row.label, row.split, row.group, row.path, copied))
    return pd.DataFrame(rows, columns=["path", "label", "split", "group", "source", "copied"])


def _draw(file: Item, target: Path, depth: int) -> None:
    """Write an image as the PNG of what the decoder makes of it."""
    from PIL import Image

    pixels = decode(tf.constant(convert(file.read_bytes())), depth).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(target, "PNG")


def _free_name(split: str, label: str, stem: str, suffix: str, taken: set[str]) -> str:
    """A path below the folder that no other image has, whatever the file system's case."""
    label, stem = (re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", one).strip(". ") or "_" for one in (label, stem))
    base = "/".join(part for part in (split, label, stem[:100]) if part)
    name, number = base + suffix, 2
    while name.lower() in taken:
        name, number = f"{base}-{number}{suffix}", number + 1
    taken.add(name.lower())
    return name
