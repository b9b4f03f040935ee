"""Does the data doctor find injected faults: flipped labels, and near duplicates across splits?

    TLKIT_SHARED=folder python benchmarks/faults.py [--data clothing] [--seeds 0 1 2] [--backbone mobilenetv2]
    TLKIT_SHARED=folder python benchmarks/faults.py --labels [--seeds 0 1 2] [--backbone nano] [--size 96]

`--labels` asks of five data sets how many labels are named as they are, and with 1, 3, 5 and 10 % of them flipped to
another class at random, whether the stated precision is the true one, and how many are found. At most 1,500 images of
a set are used, drawn at random. "before" is the rule until version 0.2: the suggested class is as probable as it is on
average where it is the label, and ten times as probable as the label. "cleanlab" is `find_label_issues` of cleanlab
(2.9 was used; `pip install cleanlab`, left out where it is missing) on the same probabilities. It appends a row per
data set, share and seed to benchmarks/faults_labels.csv, and prints sums over all sets. Flipped labels are the only
ones that count as wrong, so sets that have wrong labels of their own make the true precision look lower than it is.

Without `--labels`, the faults are injected into a copy of a real data set.

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
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rows import append_row

FILE = Path(__file__).with_suffix(".csv")
LABELS_FILE = FILE.with_name("faults_labels.csv")
SETS = ("blood_cells", "cats_dogs", "latin_letters", "chest_xray", "clothing")
SHARES, MOST = (0.0, 0.01, 0.03, 0.05, 0.1), 1500
SHARE, COPIES = 0.05, 50
# pairs that proved to show one thing in one place twice; prefixes of the file names
REAL: dict[str, list[set[str]]] = {
    "clothing": [{"6075b4a5", "637a56e4"}, {"b59e4d4a", "e6a8b33f"}, {"02341619", "78b7da73"}],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", action="store_true", help="flipped labels alone, on five data sets")
    parser.add_argument("--data", nargs="+")
    parser.add_argument("--backbone")
    parser.add_argument("--size", type=int, default=96, help="pixels, with --labels")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    if arguments.labels:
        rows = [
            row
            for data in arguments.data or SETS
            for row in label_rows(data, arguments.backbone or "nano", arguments.size, arguments.seeds)
        ]
        for share in SHARES:
            print(in_words([row for row in rows if row["flipped_share"] == share]))
        return
    (data,) = arguments.data or ["clothing"]
    for seed in arguments.seeds:
        append_row(FILE, run(data, arguments.backbone or "mobilenetv2", seed))


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


# -- flipped labels alone -----------------------------------------------------------------------------------


def label_rows(data: str, backbone: str, size: int, seeds: list[int]) -> list[dict[str, object]]:
    """Judge the labels of a data set as they are, and with shares of them flipped. Appends and returns the rows."""
    import tlkit
    from tlkit.doctor.labels import label_errors

    images = tlkit.scan(Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv")
    kept = np.sort(np.random.default_rng(0).permutation(len(images.table))[:MOST])
    dataset = tlkit.decode_images(images, size).take(kept.tolist())
    features, labels, groups = features_of(dataset, backbone, size), dataset.images.labels(), dataset.images.groups()
    names, rows = dataset.class_names, []
    for share, seed in [(one, seed) for one in SHARES for seed in (seeds if one else seeds[:1])]:
        given, flipped = with_flipped(labels, len(names), share, seed)
        started = time.monotonic()
        found, noise = label_errors(features, given, names, groups)
        seconds = time.monotonic() - started
        named = set(found["row"][found["probable"]])
        before, cleanlab = others_name(features, given, len(names), groups)
        row = {
            "date": date.today().isoformat(),
            "data": data,
            "backbone": backbone,
            "size": size,
            "n": len(given),
            "seed": seed,
            "flipped_share": share,
            "flipped": len(flipped),
            "probe_accuracy": round(noise.accuracy, 3),
            "share_stated": round(noise.share, 4),
            "share_low": round(noise.low, 4),
            "share_high": round(noise.high, 4),
            "named": len(named),
            "right": len(named & flipped),
            "precision_stated": round(noise.precision, 3) if named else "",
            "recall_stated": round(noise.recall, 3),
            "surprising": int(found["surprising"].sum()),
            "named_before": len(before),
            "right_before": len(before & flipped),
            "named_cleanlab": "" if cleanlab is None else len(cleanlab),
            "right_cleanlab": "" if cleanlab is None else len(cleanlab & flipped),
            "seconds": round(seconds, 1),
            "tlkit": version("tlkit"),
        }
        append_row(LABELS_FILE, row)
        rows.append(row)
    return rows


def features_of(dataset: Any, backbone: str, size: int) -> np.ndarray:
    from tlkit.backbones import find_backbone
    from tlkit.doctor.checkup import _features, _network

    return _features(_network(find_backbone(backbone), size), dataset.examples())


def with_flipped(labels: np.ndarray, classes: int, share: float, seed: int) -> tuple[np.ndarray, set[int]]:
    """Give a share of the images another class at random. Returns the labels and the rows that were flipped."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(labels), round(share * len(labels)), replace=False)
    given = labels.copy()
    given[rows] = (labels[rows] + random.integers(1, classes, len(rows))) % classes
    return given, set(rows.tolist())


def others_name(
    features: np.ndarray, labels: np.ndarray, classes: int, groups: np.ndarray | None
) -> tuple[set[int], set[int] | None]:
    """The rows that the rule until version 0.2 names, and those of cleanlab; None if it is not installed."""
    from tlkit.doctor.labels import STRENGTHS, _principal
    from tlkit.features.folds import stratified_folds
    from tlkit.features.linear import UNSCALED, choose_strength

    folds = stratified_folds(labels, groups)
    tried = choose_strength(_principal(features), labels, folds, classes, strengths=STRENGTHS, solver=UNSCALED)
    probabilities, rows = tried.probabilities, np.arange(len(labels))
    own, best = probabilities[rows, labels], probabilities.argmax(1)
    usual = np.array([own[labels == c].mean() for c in range(classes)])
    named = (best != labels) & (probabilities.max(1) >= usual[best]) & (probabilities.max(1) >= 10 * own)
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return set(np.flatnonzero(named).tolist()), None
    issues = find_label_issues(labels, probabilities, n_jobs=1)
    return set(np.flatnonzero(named).tolist()), set(np.flatnonzero(issues).tolist())


def in_words(rows: list[dict[str, Any]]) -> str:
    """Sums over all data sets and seeds of one share of flipped labels."""

    def total(name: str) -> float:
        return sum(row[name] or 0 for row in rows)

    stated = sum(row["named"] * (row["precision_stated"] or 0) for row in rows) / max(total("named"), 1)
    judged = [
        f"{kind or 'now'} {total(f'named{kind}'):,.0f} named, precision "
        f"{total(f'right{kind}') / max(total(f'named{kind}'), 1):.2f}, recall "
        f"{total(f'right{kind}') / max(total('flipped'), 1):.2f}"
        for kind in ("", "_before", "_cleanlab")
    ]
    return f"{rows[0]['flipped_share']:.0%} flipped, n = {total('n'):,.0f}, stated {stated:.2f}: " + "; ".join(judged)


# -- flipped labels and duplicates in files ------------------------------------------------------------------


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
