"""Does the data doctor find what was put in? Flipped labels, and near duplicates across the parts, in a copy of a real data set.

    TLKIT_SHARED=folder python benchmarks/faults.py [--data clothing] [--seeds 0 1 2] [--backbone mobilenetv2]

Labels: 5 % of all images get another class; precision is the share of the flipped among as many most suspicious. Duplicates: 50 test or
validation images are cropped by up to 5 % at each side, resized by 0.5 to 1.2, encoded again as JPEG at quality 40 to 90, and put among the
training images; recall, and precision over all pairs that are named, with the pairs that were not put in listed for a person to look at
(pairs that were found to be one picture are kept in REAL and do not count). Speed: pictures a second of the whole check, features cached.
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
# looked at, and found to be one picture, or one thing in one place, twice: the beginnings of the file names
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
        check_data(dataset, backbone=backbone)  # so that features are cached
        found = check_data(dataset, backbone=backbone, seed=seed)
    suspects = list(found.label_errors["path"])[: len(flipped)]
    pairs = {frozenset((row.path, row.other)) for row in found.duplicates.itertuples()}
    source_of = {name: next(iter(pair - {name})) for name, pair in of_copy(copies).items()}
    real = {
        pair
        for pair in pairs - copies
        if {Path(source_of.get(name, name)).stem[:8] for name in pair} in REAL.get(data, [])
    }
    strange = sorted(sorted(pair) for pair in pairs - copies - real)
    for one in strange:
        print("not put in:", *one)
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
        "pairs_not_put_in": len(strange),
        "real_pairs": len(real),
        "seconds": round(found.seconds, 1),
        "images_per_second": round(len(dataset) / found.seconds),
        "tlkit": version("tlkit"),
    }


def of_copy(pairs: set[frozenset[str]]) -> dict[str, frozenset[str]]:
    return {name: pair for pair in pairs for name in pair if name.startswith("copies")}


def write_with_faults(source: Path, folder: Path, seed: int) -> tuple[set[str], set[frozenset[str]]]:
    """A data set's CSV with wrong labels, and copies beside the pictures; returns the flipped paths and the pairs."""
    random = np.random.default_rng(seed)
    with (source / "splits.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = sorted({row["label"] for row in rows})
    flipped = set()
    for place in random.choice(len(rows), round(SHARE * len(rows)), replace=False):
        others = [name for name in names if name != rows[place]["label"]]
        rows[place]["label"] = str(random.choice(others))
        flipped.add(rows[place]["path"])
    judged = [row for row in rows if row["split"] in ("val", "test")]
    copies = set()
    (folder / "copies").mkdir(parents=True)
    for number, place in enumerate(random.choice(len(judged), COPIES, replace=False)):
        row = judged[place]
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
