"""Vary one part of fine-tuning at a time: what does each add to the test accuracy, and what does it cost?

    TLKIT_SHARED=folder python benchmarks/ablation.py [--sets NAME ...] [--seeds N ...] [--ways NAME ...] [--size N]
    python benchmarks/ablation.py --report

MobileNetV2 0.35 with all images of each set, at 128 pixels unless "--size" says otherwise. A way trains the head for
three epochs, or solves it, then trains every block; the ways differ from "base" in one part or two, see `WAYS`. The
last epoch is kept, and validation images decide nothing, so the validation and test accuracies are of the same weights.
Augmentation is the standard preset, narrowed to what is safe for the set. Weights come from Keras' cache (KERAS_HOME).

Appends a row per finished training to benchmarks/ablation.csv and skips those that are there, so it can be stopped and
started again.
"""

import argparse
import functools
import os
import time
from collections import defaultdict
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row, bits, read_rows

import tlkit
from tlkit.backbones import find_backbone
from tlkit.evaluation.predict import predict_probabilities
from tlkit.plan.augmentation import PRESETS
from tlkit.safety.check import check_safety
from tlkit.stats import log_loss, paired_difference

FILE = Path(__file__).with_suffix(".csv")
SETS = ("clothing", "chest_xray", "latin_letters", "cats_dogs", "blood_cells")
BACKBONE = "mobilenetv2_0.35"
HEAD = tlkit.Stage(3, 1e-3, augmented=False)
SOLVED = tlkit.Stage(1, 1e-3, solver="logistic", augmented=False)
TUNED = tlkit.Stage(12, 7e-4, unfreeze="all", schedule="cosine", warmup=1)
BASE = tlkit.Recipe("base", stages=(HEAD, TUNED), augmentation=PRESETS["standard"], batch_size=32, monitor="last")


def varied(*, batch_size: int = 32, head: tuple[tlkit.Stage, ...] = (HEAD,), **settings: object) -> tlkit.Recipe:
    """The base, with these stages before the one that trains every block, and these settings of that one."""
    return replace(BASE, stages=(*head, replace(TUNED, **settings)), batch_size=batch_size)


def small(**settings: object) -> tlkit.Recipe:
    """As `varied`, with the 24 epochs and batches of 16 that suit a small set."""
    return varied(**{"epochs": 24, "batch_size": 16, **settings})


WAYS: dict[str, tlkit.Recipe] = {
    "head": replace(BASE, stages=(SOLVED,), augmentation=PRESETS["none"]),
    "base": BASE,
    "moving": varied(batch_norm="moving"),
    "not augmented": replace(BASE, augmentation=PRESETS["none"]),
    "layer decay 0.8": varied(layer_decay=0.8),
    "rate 2e-4": varied(learning_rate=2e-4),
    "rate 2e-3": varied(learning_rate=2e-3),
    "batch 16": varied(batch_size=16),
    "6 epochs": varied(epochs=6),
    "24 epochs": varied(epochs=24),
    "averaged": varied(ema=0.98),
    "top 4 blocks": varied(unfreeze=4),
    "top 2 blocks": varied(unfreeze=2),
    "expert": varied(batch_norm="moving", epochs=30, head=(replace(HEAD, augmented=True),)),
    "small": small(),
    "small, 12 epochs": small(epochs=12),
    "small, 16 epochs": small(epochs=16),
    "small, 12 epochs, rate 1e-3": small(epochs=12, learning_rate=1e-3),
    "small, top 4 blocks": replace(small(unfreeze=4), views=8),
    "small, top 3 blocks": replace(small(unfreeze=3), views=8),
    "small, 10 epochs of the head": small(head=(replace(HEAD, epochs=10),)),
    "small, augmented head": small(head=(replace(HEAD, augmented=True),)),
    "small, augmented head, moving": small(head=(replace(HEAD, augmented=True),), batch_norm="moving"),
    "small, no head first": small(head=()),
    "solved": varied(head=(SOLVED,)),
    "solved, moving": varied(head=(SOLVED,), batch_norm="moving"),
    "solved, not augmented": replace(varied(head=(SOLVED,)), augmentation=PRESETS["none"]),
    "solved, rate 2e-4": varied(head=(SOLVED,), learning_rate=2e-4),
    "solved, rate 2e-3": varied(head=(SOLVED,), learning_rate=2e-3),
    "solved, small, moving": small(head=(SOLVED,), batch_norm="moving"),
    "solved, small, rate 3e-4": small(head=(SOLVED,), learning_rate=3e-4),
    "solved, small, warmup 4": small(head=(SOLVED,), warmup=4),
    "solved with C = 0.01, small": small(head=(replace(SOLVED, strength=0.01),)),
    "solved with C = 0.01, small, moving": small(head=(replace(SOLVED, strength=0.01),), batch_norm="moving"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS[:3], choices=SETS)
    parser.add_argument("--seeds", nargs="+", default=[0], type=int)
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=WAYS)
    parser.add_argument("--size", default=128, type=int)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        there = {(row["data"], int(row["image_size"]), int(row["seed"]), row["way"]) for row in read_rows(FILE)}
        for seed in arguments.seeds:
            for data in arguments.sets:
                for way in arguments.ways:
                    if (data, arguments.size, seed, way) not in there:
                        append_row(FILE, run(data, arguments.size, seed, way))
    report(read_rows(FILE))


@functools.cache
def decoded(data: str, size: int):  # type: ignore[no-untyped-def]
    """Return the decoded data set with its given splits, and the standard augmentation narrowed to what is safe."""
    images = tlkit.scan(Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv")
    return tlkit.decode_images(images, size), check_safety(images, PRESETS["standard"], thorough=False).augmentation


def run(data: str, size: int, seed: int, way: str) -> dict[str, object]:
    backbone, (dataset, safe) = find_backbone(BACKBONE), decoded(data, size)
    training, validation, test = (dataset.part(part) for part in ("train", "validation", "test"))
    recipe = WAYS[way]
    if not recipe.augmentation.is_identity():
        recipe = replace(recipe, augmentation=safe)
    model = tlkit.build_classifier(backbone, len(dataset.class_names), head=recipe.head, image_size=size, seed=seed)
    started = time.monotonic()
    history = tlkit.train(model, backbone, recipe, training, validation, seed=seed)
    seconds = time.monotonic() - started
    found = {part: predict_probabilities(model, one.pixels) for part, one in (("val", validation), ("test", test))}
    correct = found["test"].argmax(1) == test.labels
    return {
        "date": date.today().isoformat(),
        "data": data,
        "image_size": size,
        "seed": seed,
        "way": way,
        "test_accuracy": round(float(correct.mean()), 5),
        "test_log_loss": round(log_loss(found["test"], test.labels), 5),
        "n": len(correct),
        "val_accuracy": round(float((found["val"].argmax(1) == validation.labels).mean()), 5),
        "val_log_loss": round(log_loss(found["val"], validation.labels), 5),
        "n_val": len(validation),
        "train": len(training),
        "seconds": round(seconds, 1),
        "seconds_an_epoch": round(float(np.median([row["seconds"] for row in history.rows[1:] or history.rows])), 2),
        "backbone": BACKBONE,
        "cores": os.cpu_count(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
        "right": np.packbits(correct).tobytes().hex(),
    }


def report(rows: list[dict[str, str]]) -> None:
    """Print each way's mean over seeds, and its difference from the base on the same images with a 95 % interval."""
    cells: dict[tuple[str, str], dict[str, dict[int, dict[str, str]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        cells[row["data"], row["image_size"]][row["way"]][int(row["seed"])] = row
    print("| data | pixels | way | seeds | test accuracy | minus base (95 % interval) | log loss | seconds |")
    print("| --- " * 8 + "|")
    for (data, size), ways in cells.items():
        for way, by_seed in ways.items():
            seeds = sorted(set(by_seed) & set(ways.get("base", {}))) or sorted(by_seed)
            chosen = [by_seed[seed] for seed in seeds]
            mean = {name: np.mean([float(row[name]) for row in chosen]) for name in ("test_log_loss", "seconds")}
            accuracy = 100 * np.mean([right(row).mean() for row in chosen])
            beside = ""
            if way != "base" and set(seeds) <= set(ways.get("base", {})):
                first = np.concatenate([right(row) for row in chosen])
                second = np.concatenate([right(ways["base"][seed]) for seed in seeds])
                ahead, error = paired_difference(first, second)
                beside = f"{100 * ahead:+.1f} ({100 * ahead - 196 * error:+.1f} to {100 * ahead + 196 * error:+.1f})"
            print(
                f"| {data} | {size} | {way} | {len(seeds)} | {accuracy:.1f} (n = {chosen[0]['n']}) | {beside} | "
                f"{mean['test_log_loss']:.3f} | {mean['seconds']:.0f} |"
            )


def right(row: dict[str, str]) -> np.ndarray:
    return bits(row["right"], int(row["n"]))


if __name__ == "__main__":
    main()
