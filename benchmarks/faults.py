"""Does the data doctor find injected faults: flipped labels, and near duplicates across splits?

    TLKIT_SHARED=folder python benchmarks/faults.py [--data clothing] [--seeds 0 1 2] [--backbone mobilenetv2]

The faults are injected into a copy of a real data set.

- Labels: 5 % of all images get another class. If k labels were flipped, precision is the share of flipped labels among
  the k most suspicious ones.
- Duplicates: 50 test or validation images are cropped by up to 5 % at each side, resized by 0.5 to 1.2, encoded again
  as JPEG at quality 40 to 90, and added to the training images. Recall, and precision over all pairs that are named.
  Pairs that were not injected are printed for a person to look at; those that proved to be real duplicates are listed
  in REAL and do not count as errors.
- Speed: images per second of the whole check, with cached features.

Appends a row per seed to benchmarks/faults.csv.
"""

import argparse
import csv
import io
import os
import shutil
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from rows import append_row

FILE = Path(__file__).with_suffix(".csv")
SHARE, COPIES = 0.05, 50
# pairs that proved to show one thing in one place twice; prefixes of the file names
REAL: dict[str, list[set[str]]] = {
    "clothing": [{"6075b4a5", "637a56e4"}, {"b59e4d4a", "e6a8b33f"}, {"02341619", "78b7da73"}],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="clothing")
    parser.add_argument("--backbone", default="mobilenetv2")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        append_row(FILE, run(arguments.data, arguments.backbone, seed))


def run(data: str, backbone: str, seed: int) -> dict[str, object]:
    import tlkit
    from tlkit.backbones import find_backbone
    from tlkit.doctor.checkup import check_data

    source = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        flipped, copies = write_with_faults(source, folder, seed)
        dataset = tlkit.decode_images(tlkit.scan(folder / "splits.csv"), find_backbone(backbone).size)
        check_data(dataset, backbone=backbone)  # caches the features
        found = check_data(dataset, backbone=backbone, seed=seed)
    suspects = list(found.label_errors["path"])[: len(flipped)]
    pairs = {frozenset((row.path, row.other)) for row in found.duplicates.itertuples()}
    source_of = {name: next(iter(pair - {name})) for name, pair in by_copy(copies).items()}
    real = {
        pair
        for pair in pairs - copies
        if {Path(source_of.get(name, name)).stem[:8] for name in pair} in REAL.get(data, [])
    }
    not_injected = sorted(sorted(pair) for pair in pairs - copies - real)
    for one in not_injected:
        print("not injected:", *one)
    return {
        "date": date.today().isoformat(),
        "data": data,
        "backbone": backbone,
        "seed": seed,
        "n": len(dataset),
        "flipped": len(flipped),
        "label_precision": round(len(flipped.intersection(suspects)) / len(flipped), 3),
        "named_probable": int(found.label_errors["probable"].sum()),
        "copies": len(copies),
        "copies_found": len(copies & pairs),
        "pairs_not_put_in": len(not_injected),
        "real_pairs": len(real),
        "seconds": round(found.seconds, 1),
        "images_per_second": round(len(dataset) / found.seconds),
        "tlkit": version("tlkit"),
    }


def by_copy(pairs: set[frozenset[str]]) -> dict[str, frozenset[str]]:
    return {name: pair for pair in pairs for name in pair if name.startswith("copies")}


def write_with_faults(source: Path, folder: Path, seed: int) -> tuple[set[str], set[frozenset[str]]]:
    """Write a data set with wrong labels and copies of images. Returns the flipped paths and the pairs of copies."""
    random = np.random.default_rng(seed)
    with (source / "splits.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = sorted({row["label"] for row in rows})
    flipped = set()
    for index in random.choice(len(rows), round(SHARE * len(rows)), replace=False):
        others = [name for name in names if name != rows[index]["label"]]
        rows[index]["label"] = str(random.choice(others))
        flipped.add(rows[index]["path"])
    judged = [row for row in rows if row["split"] in ("val", "test")]
    copies = set()
    (folder / "copies").mkdir(parents=True)
    for number, index in enumerate(random.choice(len(judged), COPIES, replace=False)):
        row = judged[index]
        path = f"copies/{number:02d}.jpg"
        (folder / path).write_bytes(varied(Image.open(source / row["path"]).convert("RGB"), random))
        rows.append({**row, "path": path, "split": "train"})
        copies.add(frozenset((row["path"], path)))
    for row in rows:
        if not (folder / row["path"]).exists():
            (folder / row["path"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / row["path"], folder / row["path"])
    with (folder / "splits.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return flipped, copies


def varied(image: Image.Image, random: np.random.Generator) -> bytes:
    left, top, right, bottom = random.uniform(0, 0.05, 4)
    wide, high = image.size
    image = image.crop((int(left * wide), int(top * high), int(wide - right * wide), int(high - bottom * high)))
    factor = random.uniform(0.5, 1.2)
    image = image.resize((max(8, int(factor * image.width)), max(8, int(factor * image.height))))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=int(random.integers(40, 91)))
    return stream.getvalue()


if __name__ == "__main__":
    main()
