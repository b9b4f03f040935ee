"""Images in memory as data: arrays, data frames and tf.data datasets, keyed by content like files.

An array has no file whose bytes could be its key. Its key is the SHA-256 of its canonical PNG (`png_bytes`): 8 bits,
RGB or grey where all channels are equal, no compression, no metadata. That file follows from the pixels alone, whatever
library wrote it, so the same pixels have the same key in every process, and the same images are in validation. It is
lossless, it is decoded by the decoder of files, and the exported model, which takes files, answers on it.

The PNGs are written to a temporary folder, which is removed with the data or when Python ends.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.data.images import problem
from tlkit.data.sources.item import _Found
from tlkit.data.sources.memory import InMemoryImages
from tlkit.data.sources.names import alike_labels, label_of_name
from tlkit.data.sources.order import ordered_classes
from tlkit.data.sources.places import Places, Wanted
from tlkit.data.sources.records import Record, Records, as_text
from tlkit.data.sources.table import _column, files_of_rows, labelled_rows
from tlkit.data.sources.table_columns import COLUMNS
from tlkit.errors import DataError
from tlkit.plan.columns import named_columns
from tlkit.words import counted

if TYPE_CHECKING:
    import pandas as pd

_STORED = 65_535  # bytes of an uncompressed block at most
_CHANNELS = (1, 3, 4)


# -- from what a script holds --------------------------------------------------------------------------------


def from_arrays(
    x: Any,
    y: Any,
    class_names: Sequence[str] | None = None,
    *,
    validation: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
    groups: Sequence[Any] | None = None,
    name: str = "arrays",
) -> InMemoryImages:
    """Make data of images in memory, for `tlkit.finetune` and every other function that takes a path of data.

    In tables and reports an image is named by its place in `x`: "000012.png", or "validation/000012.png".

    Args:
        x: images, 0-255: uint8, or float, which is rounded. An array of shape (n, height, width),
            (n, height, width, 1), (n, height, width, 3) RGB or (n, height, width, 4) RGBA; or a list of such images of
            any sizes, or of Pillow images.
        y: labels: class numbers, shape (n,) or (n, 1); one-hot, shape (n, classes); or class names.
        class_names: in class order. Default: the numbers, or the names in alphabetical order.
        validation, test: (x, y) of these splits. Default: drawn from `x` as for a folder.
        groups: of the images in `x`, such as a patient: images of one group stay in one split.
        name: for messages and the name of a run's folder.

    Raises:
        DataError: values outside 0 to 255, values of 0 to 1, another shape, or labels that do not fit.

    >>> images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype="uint8")
    >>> len(from_arrays(images, [0, 1, 0, 1], ["cat", "dog"]))
    4
    """
    own_split = "" if validation is None and test is None else "train"
    parts = {own_split: (x, y), "validation": validation, "test": test}
    with _Writer(name) as writer:
        for split, given in parts.items():
            if given is None:
                continue
            images, labels = given
            _check_lengths(split or "x", images, labels)
            own = [""] * len(images) if split != own_split or groups is None else [_text(one) for one in groups]
            if len(own) != len(images):
                raise DataError(f"`groups` has {len(own):,} values, and x {counted(len(images), 'image')}.")
            for image, label, group in zip(images, _labels(labels), own, strict=True):
                writer.add(image, label, split, group)
        return writer.finished(class_names)


def from_dataset(
    dataset: Any,
    class_names: Sequence[str] | None = None,
    *,
    validation: Any = None,
    test: Any = None,
    name: str = "dataset",
) -> InMemoryImages:
    """Make data of a `tf.data.Dataset` of (image, label), such as `keras.utils.image_dataset_from_directory` returns.

    The dataset is read once, image by image. What it resized stays resized: `image_dataset_from_directory` makes all
    images 256 x 256 pixels, so the path of its folder, given to tlkit itself, keeps more of them.

    Args:
        dataset: batched or not. Images as for `from_arrays`, labels as class numbers or one-hot.
        class_names: in class order. Default: the dataset's own `class_names`, else the numbers.
        validation, test: datasets of these splits. Default: drawn from `dataset`.
        name: as in `from_arrays`.

    Raises:
        DataError: the dataset has no end, or its elements are not pairs of images and labels; else as `from_arrays`.
    """
    if class_names is None:
        class_names = getattr(dataset, "class_names", None)
    own_split = "" if validation is None and test is None else "train"
    with _Writer(name) as writer:
        for split, one in {own_split: dataset, "validation": validation, "test": test}.items():
            if one is not None:
                for image, label in _elements(one):
                    writer.add(image, label, split)
        return writer.finished(class_names)


def from_dataframe(
    frame: pd.DataFrame,
    *,
    root: str | Path = ".",
    columns: Mapping[str, str] | str | None = None,
    group_by: str | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "dataframe",
) -> InMemoryImages:
    """Make data of a pandas DataFrame with a row per image: its path or its pixels, its label, and maybe its split.

    Args:
        frame: columns as in a table for `tlkit.scan`: path, label and, optionally, split and group, or names that are
            used for these ("image", "class", ...). A column of arrays or Pillow images may stand for the paths.
        root: the folder that paths are relative to.
        columns: the columns that hold the path (or pixels), label or split, if they have other names.
        group_by: the column whose equal values stay in one split. Default "group", if there is one.
        class_names: in class order. Default: the categories of a categorical column, else alphabetical.
        name: as in `from_arrays`.

    Raises:
        DataError: no column of paths, pixels or labels; else as `from_arrays` or `tlkit.scan`.
        NameUnknown: `group_by` or one of `columns` is not a column.
    """
    names, named = [str(one) for one in frame.columns], named_columns(columns)
    place, label = (
        _column(names, [named[role]] if role in named else [role, *COLUMNS[role]]) for role in ("path", "label")
    )
    if class_names is None and label is not None:
        categories = getattr(getattr(frame.iloc[:, label], "cat", None), "categories", ())
        class_names = [_text(one) for one in categories] or None
    pixels = place is not None and len(frame) > 0 and _is_image(frame.iloc[0, place])
    cells = [
        [str(number) if pixels and at == place else _text(one) for at, one in enumerate(row)]
        for number, row in enumerate(frame.itertuples(index=False, name=None))
    ]
    findings: list[dict[str, str]] = []
    records = Records(names, (Record(number, row) for number, row in enumerate(cells)))
    rows = labelled_rows(_SOURCE, records, group_by, named, findings)
    if pixels:
        with _Writer(name) as writer:
            for one in rows:
                writer.add(frame.iloc[one.number, place], one.label, one.split, one.group, one)
            return writer.finished(class_names, findings)
    folder = Path(root).absolute()
    found = files_of_rows(_SOURCE, rows, Places(folder).find(rows), findings)
    kept, empty = ordered_classes(class_names, {one.label for one in found})
    return InMemoryImages(name, folder, found, findings=[*findings, *empty], class_names=kept)


_SOURCE = Path("DataFrame")  # in messages


# -- labels --------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    """A value of a table as text. Bytes, which tf.data gives for text, are UTF-8."""
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else as_text(value)


def _labels(y: Any) -> list[int | str]:
    """Class numbers or names from labels of any form: shape (n,), (n, 1), or one-hot (n, classes)."""
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind in "OSU" and labels.ndim == 1:
        return [label_of_name(_text(one)) for one in labels]
    expected = "Expected class numbers, shape (n,); one-hot labels, shape (n, classes); or class names."
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "buif":
        raise DataError(f"Labels of shape {labels.shape} and type {labels.dtype}. {expected}")
    if labels.ndim == 2:
        wrong = np.flatnonzero(~(((labels == 0) | (labels == 1)).all(axis=1) & (labels.sum(axis=1) == 1)))
        if len(wrong):
            raise DataError(
                f"The label {labels[wrong[0]].tolist()} of image {wrong[0]} is not one-hot: tlkit trains single-label "
                f"classifiers. {expected}"
            )
        return [int(one) for one in labels.argmax(axis=1)]
    wrong = np.flatnonzero(~(labels == np.floor(labels)) | (labels < 0)) if labels.dtype.kind in "if" else labels[:0]
    if len(wrong):
        raise DataError(f"The label {labels[wrong[0]]} of image {wrong[0]} is no class number. {expected}")
    return [int(one) for one in labels]


def _check_lengths(what: str, images: Any, labels: Any) -> None:
    try:
        counts = len(images), len(labels)
    except TypeError as error:
        raise DataError(f"{what}: {error}. Expected arrays or lists of images and of labels.") from None
    if counts[0] != counts[1]:
        raise DataError(f"{what}: {counted(counts[0], 'image')} and {counted(counts[1], 'label')}. Expected as many.")


# -- elements of a dataset -----------------------------------------------------------------------------------


def _elements(dataset: Any) -> Iterator[tuple[Any, int | str]]:
    """Each image of a tf.data dataset with its label."""
    if not hasattr(dataset, "element_spec"):
        raise DataError(
            f"from_dataset was given a {type(dataset).__name__}. Expected a tf.data.Dataset; of arrays use from_arrays."
        )
    if int(dataset.cardinality()) == -1:
        raise DataError("The dataset has no end. Expected one without `repeat()`.")
    for element in dataset.as_numpy_iterator():
        pair = (element.get("image"), element.get("label")) if isinstance(element, dict) else element
        if not isinstance(pair, tuple) or len(pair) != 2 or pair[1] is None:
            raise DataError(
                f"The dataset has the elements {dataset.element_spec}. Expected pairs of image and label, such as "
                "`image_dataset_from_directory` gives with labels."
            )
        images, labels = np.asarray(pair[0]), np.asarray(pair[1])
        if images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in _CHANNELS):
            yield images, _labels(labels[None])[0]
        else:
            _check_lengths("a batch", images, labels)
            yield from zip(images, _labels(labels), strict=True)


# -- pixels --------------------------------------------------------------------------------------------------


def _is_image(value: Any) -> bool:
    return hasattr(value, "convert") or (hasattr(value, "shape") and len(value.shape) in (2, 3))


def as_pixels(image: Any, where: str) -> np.ndarray:
    """An image as uint8: shape (h, w), (h, w, 3) RGB or (h, w, 4) RGBA, 0-255. Raises DataError for anything else.

    where: which image it is, for messages.
    """
    if hasattr(image, "convert"):  # of Pillow
        image = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in _CHANNELS) or 0 in pixels.shape:
        first = pixels.ndim == 3 and pixels.shape[0] in _CHANNELS
        hint = " Its channels are first: move them last, np.moveaxis(x, 1, -1)." if first else ""
        raise DataError(
            f"{where} has the shape {pixels.shape}. Expected (height, width), or (height, width, channels) with 1, 3 "
            f"or 4 channels.{hint}"
        )
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "iuf":
        raise DataError(f"{where} has the type {pixels.dtype}. Expected uint8, or numbers from 0 to 255.")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low > -0.5 and high < 255.5):  # also for NaN
        raise DataError(f"{where} has values from {low:g} to {high:g}. Expected 0 to 255, as raw RGB.")
    return np.rint(pixels).clip(0, 255).astype("uint8")


def highest_float(image: Any) -> float | None:
    """The highest value of an image of floats; None if its values are whole numbers, or Pillow's."""
    values = None if hasattr(image, "convert") else np.asarray(image)
    return float(values.max()) if values is not None and values.dtype.kind == "f" else None


def _canonical(pixels: np.ndarray) -> np.ndarray:
    """The same pixels with as few channels as they need: no alpha if all are opaque, grey if all channels are equal."""
    if pixels.ndim == 3 and pixels.shape[-1] == 4 and (pixels[..., 3] == 255).all():
        pixels = pixels[..., :3]
    if pixels.ndim == 3 and pixels.shape[-1] == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return pixels


def png_bytes(pixels: np.ndarray) -> bytes:
    """The canonical PNG of an image: it follows from the pixels alone. pixels: as `as_pixels` returns them."""
    pixels = _canonical(pixels)
    height, width = pixels.shape[:2]
    colour_type = {1: 0, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[-1]]
    rows = np.zeros((height, 1 + pixels.size // height), "uint8")  # each begins with the filter, 0 = none
    rows[:, 1:] = pixels.reshape(height, -1)
    raw = rows.tobytes()
    blocks = [raw[at : at + _STORED] for at in range(0, len(raw), _STORED)]
    stored = b"".join(
        struct.pack("<BHH", number == len(blocks) - 1, len(one), len(one) ^ 0xFFFF) + one
        for number, one in enumerate(blocks)
    )
    data = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


class _Writer:
    """Writes images as PNGs to a temporary folder, which is removed if the block fails."""

    def __init__(self, name: str) -> None:
        self._name, self._floats, self._highest = name, 0, 0.0
        self._count: Counter[str] = Counter()
        self._found: list[_Found] = []
        self._labels: list[int | str] = []
        self._keys: list[str] = []

    def __enter__(self) -> _Writer:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="tlkit-"))
        except OSError as error:
            raise DataError(f"No temporary folder can be made for the images: {error}. Set TMPDIR.") from error
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, image: Any, label: int | str, split: str = "", group: str = "", row: Wanted | None = None) -> None:
        """Write one image. row: of a table, which gives its number and its further columns; None if there is none."""
        number, more = (None, ()) if row is None else (row.number, row.more)
        place = self._count[split] if number is None else number
        self._count[split] += 1
        inside = split if split in ("validation", "test") and number is None else ""
        path = f"{inside}/{place:06d}.png" if inside else f"{place:06d}.png"
        where = f"Image {place}" + (f" of {inside}" if inside else "")
        pixels, highest = as_pixels(image, where), highest_float(image)
        if highest is not None:
            self._floats, self._highest = self._floats + 1, max(self._highest, highest)
        data = png_bytes(pixels)
        try:
            (self._folder / path).parent.mkdir(exist_ok=True)
            (self._folder / path).write_bytes(data)
        except OSError as error:
            raise DataError(f"'{self._folder / path}' cannot be written: {error.strerror}. Set TMPDIR.") from error
        self._found.append(_Found(path, "", split, group, more))
        self._labels.append(label)
        self._keys.append(hashlib.sha256(data).hexdigest())

    def finished(self, class_names: Sequence[str] | None, findings: Iterable[dict[str, str]] = ()) -> InMemoryImages:
        """The images with the names of their classes."""
        if not self._found:
            raise DataError("There are no images. Expected two classes or more of two images or more.")
        if self._floats and self._highest <= 1:
            raise DataError(
                f"The highest value of {counted(self._floats, 'image')} of floats is {self._highest:g}. Expected "
                "values from 0 to 255: multiply by 255."
            )
        names = class_names if class_names is None else [label_of_name(_text(one)) for one in class_names]
        labels, order = _named(self._labels, names)
        kept, empty = ordered_classes(order, labels)
        found = [one._replace(label=label) for one, label in zip(self._found, labels, strict=True)]
        alike = [problem(path, label, "alike-names", detail) for path, label, detail in alike_labels(set(labels))]
        return InMemoryImages(
            self._name,
            self._folder,
            found,
            findings=[*findings, *empty, *alike],
            class_names=kept,
            keys=self._keys,
            temporary=True,
        )


def _named(labels: Sequence[int | str], names: Sequence[str] | None) -> tuple[list[str], Sequence[str] | None]:
    """Labels as class names, and the classes in order; None for alphabetical order."""
    numbers = [one for one in labels if isinstance(one, int)]
    if numbers and len(numbers) < len(labels):
        raise DataError("Some labels are numbers, and others are names. Expected either throughout.")
    if not numbers:
        return [str(one) for one in labels], names
    if names is None:
        return [str(one) for one in labels], [str(one) for one in sorted(set(numbers))]
    if max(numbers) >= len(names):
        raise DataError(
            f"A label is {max(numbers)}, and there are {len(names)} `class_names`. Expected 0 to {len(names) - 1}."
        )
    return [names[one] for one in numbers], names
