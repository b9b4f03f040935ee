"""A contact sheet of augmented training images: one row per class, and the drawn values under each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tlkit.cache import Cache
from tlkit.data.augment import augment_and_tell
from tlkit.data.dataset import decode_images
from tlkit.data.images import ImageSet
from tlkit.files import temporary_beside
from tlkit.plan.augmentation import Augmentation

MOST_CLASSES = 30
SIDE = 160  # pixels per side of an image on the sheet
TEXT, LINE = 11, 14  # pixels: font size and line height
MARGIN = 8  # pixels


def draw_sheet(
    images: ImageSet,
    augmentation: Augmentation,
    out: str | Path,
    *,
    size: int = 224,
    versions: int = 6,
    seed: int = 0,
    cache: Cache | None = None,
) -> Path:
    """Draw one random image per class, for up to 30 classes, with its versions of the first epochs, into an image file.

    Args:
        images: from `tlkit.scan`; test images are left out.
        augmentation: what is drawn.
        out: the file; its extension gives the format, such as .png or .jpg.
        size: pixels per side at which augmentation is applied.
        versions: how many versions of each image are drawn, one per epoch.
        seed: as in training, so that the sheet shows the same versions as a run with this seed.
        cache: default `Cache()`.

    Returns: the path of the file.
    """
    from PIL import Image, ImageDraw, ImageFont

    images = images.take(np.flatnonzero(images.table["split"] != "test").tolist())
    random = np.random.default_rng(seed)
    names = [name for name in images.class_names if (images.table["label"] == name).any()][:MOST_CLASSES]
    chosen = [int(random.choice(np.flatnonzero(images.table["label"] == name))) for name in names]
    dataset = decode_images(images.take(chosen), size, cache=cache)
    examples = dataset.examples()
    font = ImageFont.load_default(TEXT)
    rows = []
    for index, number in enumerate(examples.numbers()):
        image = examples.pixels.gather(np.array([index]))[0]
        row = [(image, [dataset.class_names[examples.labels[index]], "original"])]
        for epoch in range(versions):
            version, drawn = augment_and_tell(image, augmentation, (seed, epoch, number))
            values = [f"{name}{_formatted(name, value)}" for name, value in drawn.items()] or ["unchanged"]
            row.append((version, _wrapped(values, font.getlength)))
        rows.append(row)
    lines = max(len(caption) for row in rows for _, caption in row)
    wide, high = SIDE + MARGIN, SIDE + MARGIN + (lines + 1) * LINE
    sheet = Image.new("RGB", (MARGIN + wide * (versions + 1), MARGIN + high * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        for column, (image, caption) in enumerate(row):
            left, top = MARGIN + column * wide, MARGIN + line * high
            sheet.paste(Image.fromarray(image).resize((SIDE, SIDE)), (left, top))
            pen.multiline_text((left, top + SIDE + 2), "\n".join(caption), "black", font, spacing=LINE - TEXT)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(out) as temporary:
        sheet.save(temporary, format=Image.registered_extensions().get(out.suffix.lower(), "PNG"))
    return out


def _wrapped(values: Sequence[str], length: Callable[[str], float]) -> list[str]:
    """Join values into lines that are no wider than an image on the sheet. length: the width of a text in pixels."""
    lines = [values[0]]
    for value in values[1:]:
        longer = f"{lines[-1]}, {value}"
        if length(longer) <= SIDE:
            lines[-1] = longer
        else:
            lines.append(value)
    return lines


def _formatted(name: str, value: float) -> str:
    if name in ("flip_horizontal", "flip_vertical", "half_turn"):
        return ""
    if name == "rotate":
        return f" {value:+.0f}\N{DEGREE SIGN}"
    if name in ("zoom", "stretch"):
        return f" x{value:.2f}"
    return f" {value:.0%}" if name in ("crop", "vignette") else f" {value:+.0%}"
