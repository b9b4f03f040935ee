"""A small folder of class folders that the tests of sources pack in many ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw_folder(folder: Path, classes: tuple[str, ...] = ("crow", "wren"), each: int = 4, side: int = 24) -> Path:
    """Write `each` images of noise per class, the last of each class in a sub-folder, PNG and JPEG by turns."""
    noise = np.random.default_rng(0)
    for number, name in enumerate(classes):
        for i in range(each):
            file = folder / name / ("more" if i == each - 1 else "") / f"{i}.{'png' if i % 2 else 'jpg'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = noise.integers(0, 128, (side, side, 3), "uint8") + np.uint8(100 * (number % 2))
            Image.fromarray(pixels).save(file)
    return folder
