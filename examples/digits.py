"""Writes scikit-learn's handwritten digits (1,797 real scans of 8 x 8 pixels, no download) as an image folder.

python examples/digits.py FOLDER [IMAGES_PER_CLASS]
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write_digits(folder: Path, per_class: int = 200) -> Path:
    """One sub-folder per digit, PNG files of 32 x 32 pixels; files that are there already are left alone."""
    digits, written = load_digits(), Counter()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if written[label] >= per_class:
            continue
        written[label] += 1
        file = folder / str(label) / f"{number:04d}.png"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray((pixels * 255 / 16).astype(np.uint8)).convert("RGB")
            picture.resize((32, 32), Image.Resampling.BICUBIC).save(file)
    return folder


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200)
