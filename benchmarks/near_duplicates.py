"""How many copies of images the split keeps together, and which other images it takes for copies.

    python benchmarks/near_duplicates.py DATA... --out near_duplicates.csv

Each DATA is a folder with images/ and splits.csv. Of each, 50 images are copied with one change at a time, and looked
for by `tlkit.data.near` among these 100. `pairs_found_as_it_is` and `largest_cluster` are of the whole set without
copies; `cpu_milliseconds_an_image` is of all threads together.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from tlkit.cache import in_memory
from tlkit.data.near import near_duplicates

COPIES = 50
SEED = 6500


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def cropped(image: Image.Image) -> Image.Image:
    x, y = image.width // 40, image.height // 40
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES = {
    "jpeg_30": lambda image: jpeg(image, 30),
    "half_size": half,
    "half_size_jpeg_60": lambda image: jpeg(half(image), 60),
    "mirrored": ImageOps.mirror,
    "brighter": lambda image: image.point(lambda value: min(255, int(1.15 * value + 10))),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "cropped_to_95_percent": cropped,
}


def pixels(images: list[Image.Image], size: int) -> np.ndarray:
    return np.stack([np.asarray(one.resize((size, size), Image.Resampling.BILINEAR)) for one in images])


def largest_cluster(pairs: np.ndarray, n: int) -> int:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(n, n))
    return int(np.bincount(connected_components(graph, directed=False)[1]).max())


def measure(data: Path, size: int) -> dict[str, object]:
    table = pd.read_csv(data / "splits.csv")
    images = [Image.open(data / path).convert("RGB") for path in table["path"]]
    whole = pixels(images, size)
    started = time.process_time()
    pairs = near_duplicates(in_memory(whole))
    seconds = time.process_time() - started
    row: dict[str, object] = {
        "set": data.name,
        "size": size,
        "images": len(images),
        "cpu_milliseconds_an_image": round(1000 * seconds / len(images), 3),
        "pairs_found_as_it_is": len(pairs),
        "largest_cluster": largest_cluster(pairs, len(images)),
        "copies": COPIES,
    }
    chosen = np.random.default_rng(SEED).choice(len(images), COPIES, replace=False)
    for name, change in CHANGES.items():
        copies = pixels([change(images[i]) for i in chosen], size)
        found = {tuple(pair) for pair in near_duplicates(in_memory(np.concatenate([whole[chosen], copies]))).tolist()}
        row[name] = sum((i, i + COPIES) in found for i in range(COPIES))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--size", nargs="+", type=int, default=[96, 224], help="pixels per side of the decoded images")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    rows = [measure(data, size) for data in asked.data for size in asked.size]
    pd.DataFrame(rows).to_csv(asked.out, index=False)


if __name__ == "__main__":
    main()
