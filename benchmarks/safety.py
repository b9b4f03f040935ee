"""Does the class-safety check tell safe transformations from unsafe ones?

    TLKIT_SHARED=folder python benchmarks/safety.py [--backbone nano] [--sets latin_letters ...]
    TLKIT_SHARED=folder python benchmarks/safety.py time

The cells in benchmarks/safety_cells.csv were labelled before the check was written. A cell has a data set, a field, a
strength (a fraction, a factor, degrees, or for crop the fraction of the area), a border, "safe" or "unsafe", and the
reason. It is flagged when the check does not call the field safe at that strength. "digits" are scikit-learn's. Far
shifts have a black border, because a reflected border shows a mirror image and the object does not leave the image.
Recall of the unsafe cells and false alarms come with 95 % intervals (Wilson). Writes benchmarks/safety.csv, a row per
cell.

time: the time to check every field at its full range on 300 images, from the files on disk to the verdicts.
"""

import argparse
import csv
import os
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".csv")
CELLS = FILE.with_name("safety_cells.csv")
SETS = ("latin_letters", "digits", "blood_cells", "cats_dogs", "clothing", "chest_xray")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="cells", choices=["cells", "time"])
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    arguments = parser.parse_args()
    (measure_time if arguments.what == "time" else measure_cells)(arguments)


def measure_cells(arguments: argparse.Namespace) -> None:
    from tlkit.safety.check import run_check
    from tlkit.safety.measure import take_sample
    from tlkit.stats import wilson_interval

    with CELLS.open(newline="") as stream:
        cells = [row for row in csv.DictReader(stream) if row["data"] in arguments.sets]
    rows = []
    for data in arguments.sets:
        examples, names, eyes = looked_at(data, arguments.backbone)
        sample = take_sample(examples, names, eyes)
        for augmentation, checked in rounds([cell for cell in cells if cell["data"] == data]):
            safety = run_check(sample, augmentation, thorough=False)
            verdicts = {one.field: one for one in safety.verdicts}
            for cell in checked:
                one = verdicts[cell["field"]]
                flagged = one.verdict != "safe"
                correct = flagged == (cell["label"] == "unsafe")
                pairs = " ".join(f"{a}>{b}:{share}" for a, b, share in one.pairs)
                row = {**cell, "verdict": one.verdict, "limit": one.limit, "n": one.n, "pairs": pairs, "why": one.why}
                rows.append({**row, "backbone": arguments.backbone, "date": date.today().isoformat(), "right": correct})
                print(
                    f"{'' if correct else 'WRONG':<6}{data:<14}{cell['field']:<16}{cell['strength']:>5} "
                    f"{cell['label']:<7} {one.verdict:<8} {one.limit} {one.why}",
                    flush=True,
                )
    for label, said in (("unsafe", "recall of the unsafe"), ("safe", "false alarms")):
        mine = [row for row in rows if row["label"] == label]
        count = sum(row["verdict"] != "safe" for row in mine)
        low, high = wilson_interval(count, len(mine))
        print(f"{said}: {count} of {len(mine)}, {count / len(mine):.3f} ({low:.3f} to {high:.3f})")
    if set(arguments.sets) == set(SETS):
        with FILE.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def measure_time(arguments: argparse.Namespace) -> None:
    from tlkit.safety.check import FULL, run_check
    from tlkit.safety.measure import take_sample

    for data in arguments.sets:
        started = time.monotonic()
        examples, names, eyes = looked_at(data, arguments.backbone)
        chosen = np.sort(np.random.default_rng(0).permutation(len(examples))[:300])
        safety = run_check(take_sample(examples.take(chosen), names, eyes), FULL)
        print(
            f"{data}: {time.monotonic() - started:.1f} s for {safety.n} images and {len(safety.verdicts)} fields",
            flush=True,
        )


def rounds(cells: list[dict[str, str]]):  # type: ignore[no-untyped-def]
    """Yield augmentations that contain every field at most once, each with the cells that it checks."""
    from tlkit import Augmentation

    left: dict[tuple[int, str], list[dict[str, str]]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for cell in cells:
        left[seen[cell["field"]], cell["border"]].append(cell)
        seen[cell["field"]] += 1
    for (_, border), mine in left.items():
        yield (
            Augmentation(border=border, **{cell["field"]: span(cell["field"], cell["strength"]) for cell in mine}),
            mine,
        )


def span(field: str, strength: str):  # type: ignore[no-untyped-def]
    """Return the range of a field for a strength."""
    from tlkit import Augmentation

    if not isinstance(getattr(Augmentation, field), tuple):
        return float(strength or 1)
    size = float(strength)
    if field in ("zoom", "stretch"):
        return (1 / size, size)
    return {"crop": (size, 1.0), "vignette": (0.0, size)}.get(field, (-size, size))


def looked_at(data: str, backbone: str):  # type: ignore[no-untyped-def]
    """The training and validation images at the backbone's size, the class names, and the feature extractor."""
    import tlkit
    from tlkit.backbones import find_backbone
    from tlkit.data.examples import Examples
    from tlkit.safety.evidence import FeatureExtractor

    network = find_backbone(backbone)
    if data == "digits":
        pixels, labels = digits(network.size)
        examples = Examples(Held(pixels), labels, [f"{i:08x}" for i in range(len(labels))], made_by="drawn")
        names = [str(i) for i in range(10)]
    else:
        images = tlkit.scan(Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv")
        dataset = tlkit.decode_images(images, network.size)
        examples, names = dataset.part("train", "validation"), list(dataset.class_names)
    return examples, names, FeatureExtractor(tlkit.build_classifier(network, 2), network)


def digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, 8 x 8 pixels, black on white and enlarged, and their labels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    small = (255 - found.images * 255 / 16).astype("uint8")
    large = [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in small]
    return np.repeat(np.stack(large)[..., None], 3, axis=3), found.target.astype("int64")


class Held:
    """Pixels in memory, with the interface of cached ones."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.row_shape = rows, rows.shape[1:]

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self.rows[indices]

    def take(self, indices: np.ndarray) -> "Held":
        return Held(self.rows[indices])


if __name__ == "__main__":
    main()
