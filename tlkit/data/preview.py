"""A sheet of images as training will really see them: a row per class, and under each image what was drawn."""

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
SIDE = 160  # pixels of a picture on the sheet
TEXT, LINE = 11, 14
MARGIN = 8


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
    """Write a picture file: for up to 30 classes one image, drawn with the seed, and its versions of the first epochs.

    images: from `tlkit.scan`; test images are left out. size: pixels at which augmentation happens. seed: as in training, so that these are
    the very versions a run with it makes. out: its ending says the format, such as .png or .jpg.
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
    for place, number in enumerate(examples.numbers()):
        picture = examples.pixels.gather(np.array([place]))[0]
        row = [(picture, [dataset.class_names[examples.labels[place]], "as it is"])]
        for epoch in range(versions):
            version, drawn = augment_and_tell(picture, augmentation, (seed, epoch, number))
            said = [f"{name}{_value(name, value)}" for name, value in drawn.items()] or ["as it is"]
            row.append((version, _wrapped(said, font.getlength)))
        rows.append(row)
    lines = max(len(said) for row in rows for _, said in row)
    wide, high = SIDE + MARGIN, SIDE + MARGIN + (lines + 1) * LINE
    sheet = Image.new("RGB", (MARGIN + wide * (versions + 1), MARGIN + high * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        for column, (picture, said) in enumerate(row):
            left, top = MARGIN + column * wide, MARGIN + place * high
            sheet.paste(Image.fromarray(picture).resize((SIDE, SIDE)), (left, top))
            pen.multiline_text((left, top + SIDE + 2), "\n".join(said), "black", font, spacing=LINE - TEXT)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(out) as temporary:
        sheet.save(temporary, format=Image.registered_extensions().get(out.suffix.lower(), "PNG"))
    return out


def _wrapped(said: Sequence[str], length: Callable[[str], float]) -> list[str]:
    """As many on a line as a picture is wide."""
    lines = [said[0]]
    for one in said[1:]:
        longer = f"{lines[-1]}, {one}"
        if length(longer) <= SIDE:
            lines[-1] = longer
        else:
            lines.append(one)
    return lines


def _value(name: str, value: float) -> str:
    if name in ("flip_horizontal", "flip_vertical", "half_turn"):
        return ""
    if name == "rotate":
        return f" {value:+.0f}\N{DEGREE SIGN}"
    if name in ("zoom", "stretch"):
        return f" x{value:.2f}"
    return f" {value:.0%}" if name in ("crop", "vignette") else f" {value:+.0%}"
