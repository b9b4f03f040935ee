"""Draw rows of captioned images into one image file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tlkit.files import temporary_beside


def draw_rows(rows: Sequence[Sequence[tuple[np.ndarray, str]]], out: Path, side: int = 224) -> Path:
    """Write an image file with rows of images, each with a line of text below it.

    Args:
        rows: (image, caption) pairs; images uint8, shape (height, width, 3).
        out: the file to write. Its suffix sets the format; PNG if it is unknown.
        side: pixels to which each image is resized, both ways.
    """
    from PIL import Image, ImageDraw, ImageFont

    font, gap, line = ImageFont.load_default(12), 8, 18
    longest = max(len(row) for row in rows)
    sheet = Image.new("RGB", (gap + longest * (side + gap), gap + len(rows) * (side + line + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (image, caption) in enumerate(row):
            left, top = gap + x * (side + gap), gap + y * (side + line + gap)
            enlarge = Image.Resampling.NEAREST if image.shape[0] < 32 else Image.Resampling.BICUBIC
            sheet.paste(Image.fromarray(image).resize((side, side), enlarge), (left, top))
            pen.text((left, top + side + 2), caption, "black", font)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(out) as temporary:
        sheet.save(temporary, format=Image.registered_extensions().get(out.suffix.lower(), "PNG"))
    return out
