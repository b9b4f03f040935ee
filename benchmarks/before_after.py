"""Is `--recipe auto` as accurate as it was before the estimates were mended and solved heads refitted?

    TLKIT_SHARED=folder python benchmarks/before_after.py [--sets NAME ...] [--sizes N ...] [--seeds N ...]
    python benchmarks/before_after.py --report

The cells, draws and test images of `recipes.py`, whose rows of `auto` (recipes.csv, 2026-11-21) are the accuracy
before. Here `auto` runs again on the same images, and a head that was solved is refitted on training and validation
images, as `finetune` delivers it. Both are compared image by image: the mean over the seeds of each test image, and
the 95 % interval of the mean over the test images. The default recipe's rules were chosen on these sets.

Appends a row per finished run to benchmarks/before_after.csv and skips those that are there.
"""

import argparse
import functools
import time
from collections import defaultdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row, bits, read_rows

from recipes import BACKBONE, SETS, SIZES, build_classifier, cell
from recipes import FILE as BEFORE

FILE = Path(__file__).with_suffix(".csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--seeds", nargs="+", default=[0, 1, 2], type=int)
    parser.add_argument("--effort", default="normal", choices=("quick", "normal", "best"))
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        there = {(row["data"], row["size"], int(row["seed"])) for row in read_rows(FILE)}
        for seed in arguments.seeds:
            for size in arguments.sizes:
                for data in arguments.sets:
                    if (data, size, seed) not in there:
                        append_row(FILE, run(data, size, seed, arguments.effort))
    report(read_rows(FILE))


def run(data: str, size: str, seed: int, effort: str) -> dict[str, object]:
    import tlkit
    from tlkit.backbones import find_backbone
    from tlkit.evaluation.calibration import bake_without_prior
    from tlkit.evaluation.predict import predict_from_cache
    from tlkit.models.classifier import with_head
    from tlkit.models.inference import inference_batch
    from tlkit.strategy.recipes import decide_by_tournament
    from tlkit.training.train import refit_head

    backbone = find_backbone(BACKBONE)
    dataset = cell(data, size, seed)
    build = functools.partial(build_classifier, backbone, len(dataset.class_names), dataset.pixels.size, seed)
    started = time.process_time()
    pool, training = dataset.part("train", "validation"), dataset.count("train")
    job = tlkit.Job(data, seed=seed, effort=effort)
    outcome, decisions = decide_by_tournament(build, backbone, pool, training, job)
    recipe, model, history = outcome.recipe, outcome.model, outcome.history
    parts = dataset.part("train"), dataset.part("validation")
    if model is None:
        model = build(recipe.head)
        history = tlkit.train(model, backbone, recipe, *parts, seed=seed)
    delivered, refitted = model, False
    strength = history.rows[-1]["strength"]
    if len(recipe.stages) == 1 and recipe.stages[0].solver != "gradient" and strength is not None:
        again = refit_head(model, backbone, recipe, *parts, strength=strength, seed=seed)
        if again is not None:
            delivered, refitted = with_head(model, again.head.kernel, again.head.bias), True
    if recipe.prior_shift:
        learned = pool if refitted else parts[0]
        bake_without_prior(delivered, np.bincount(learned.labels, minlength=len(dataset.class_names)) / len(learned))
    seconds = time.process_time() - started
    test = dataset.part("test")
    settings = recipe.stages[-1].unfreeze, test, inference_batch(recipe.batch_size)
    right = predict_from_cache(delivered, backbone, *settings)[0].argmax(1) == test.labels
    return {
        "date": date.today().isoformat(),
        "data": data,
        "size": size,
        "seed": seed,
        "effort": effort,
        "chosen": decisions[-1].chosen,
        "prior_shift": recipe.prior_shift,
        "refitted": refitted,
        "accuracy": round(float(right.mean()), 5),
        "n": len(right),
        "train": dataset.count("train"),
        "validation": dataset.count("validation"),
        "image_size": dataset.pixels.size,
        "processor_seconds": round(seconds, 1),
        "backbone": BACKBONE,
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
        "right": np.packbits(right).tobytes().hex(),
    }


def report(rows: list[dict[str, str]]) -> None:
    """Print for each cell the accuracy before and now, and the interval of their difference."""
    before = {
        (row["data"], row["size"], row["seed"]): bits(row["right"], int(row["n"]))
        for row in read_rows(BEFORE)
        if row["way"] == "auto"
    }
    cells: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for row in rows:
        earlier = before.get((row["data"], row["size"], row["seed"]))
        if earlier is not None and len(earlier) == int(row["n"]):
            cells[row["data"], row["size"]].append((earlier, bits(row["right"], int(row["n"]))))
    print("| data | images per class | n | seeds | before | now | now minus before (95 % interval) |")
    print("| --- " * 7 + "|")
    by_size: dict[str, list[float]] = defaultdict(list)
    for (data, size), pairs in sorted(cells.items(), key=lambda one: (SETS.index(one[0][0]), SIZES.index(one[0][1]))):
        old, new = (np.stack(side).astype(float) for side in zip(*pairs, strict=True))
        difference = 100 * (new - old).mean(0)  # per image, over the seeds
        half = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
        gained = float(difference.mean())
        by_size[size].append(gained)
        print(
            f"| {data} | {size} | {len(difference):,} | {len(pairs)} | {100 * old.mean():.1f} | "
            f"{100 * new.mean():.1f} | {gained:+.1f} ({gained - half:+.1f} to {gained + half:+.1f}) |"
        )
    for size, gains in by_size.items():
        print(f"mean over {len(gains)} sets, {size} images per class: {np.mean(gains):+.2f} points")


if __name__ == "__main__":
    main()
