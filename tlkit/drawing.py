"""Draws rows of captioned images into one image file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tlkit.files import temporary_beside


def draw_rows(rows: Sequence[Sequence[tuple[np.ndarray, str]]], out: Path, side: int = 224) -> Path:
    """A picture file with rows of pictures, a line of text below each. out: its ending says the format."""
    from PIL import Image, ImageDraw, ImageFont

    font, gap, line = ImageFont.load_default(12), 8, 18
    wide = max(len(row) for row in rows)
    sheet = Image.new("RGB", (gap + wide * (side + gap), gap + len(rows) * (side + line + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (picture, said) in enumerate(row):
            left, top = gap + x * (side + gap), gap + y * (side + line + gap)
            enlarge = Image.Resampling.NEAREST if picture.shape[0] < 32 else Image.Resampling.BICUBIC
            sheet.paste(Image.fromarray(picture).resize((side, side), enlarge), (left, top))
            pen.text((left, top + side + 2), said, "black", font)
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(out) as temporary:
        sheet.save(temporary, format=Image.registered_extensions().get(out.suffix.lower(), "PNG"))
    return out
