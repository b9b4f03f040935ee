"""Does narrowing an augmentation to what is safe help?

    TLKIT_SHARED=folder python benchmarks/augmentation.py [--backbone nano] [--seeds 0 1 2 3 4]
    python benchmarks/augmentation.py --report

Fine-tuning on `latin_letters` with `strong` augmentation unchecked, with `strong` narrowed by the class-safety check,
and without augmentation: a fitted head, then the top two blocks for 30 epochs, the last epoch's weights. The start,
order and number of steps are the same in each. Appends a row per finished run to benchmarks/augmentation.csv and skips
those that are there. A row says which test images were correct (hexadecimal). Differences are paired: over the seeds (t
interval of the means) and over the test images (mean over seeds).
"""

import argparse
import dataclasses
import os
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
WAYS = ("none", "strong", "strong, narrowed")
EPOCHS, BLOCKS = 30, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        there = {(row["backbone"], int(row["seed"]), row["way"]) for row in read_rows(FILE)}
        for seed in arguments.seeds:
            for way in WAYS:
                if (arguments.backbone, seed, way) not in there:
                    append_row(FILE, run(arguments.backbone, seed, way))
    report([row for row in read_rows(FILE) if row["backbone"] == arguments.backbone])


def run(backbone: str, seed: int, way: str) -> dict[str, object]:
    import tlkit
    from tlkit import Recipe, Stage
    from tlkit.backbones import find_backbone
    from tlkit.evaluation.predict import predict_probabilities
    from tlkit.plan.augmentation import PRESETS

    network = find_backbone(backbone)
    data = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / "latin_letters" / "splits.csv"
    dataset = tlkit.decode_images(tlkit.scan(data), network.size)
    started = time.monotonic()
    augmentation = PRESETS[way.split(",")[0]]
    if way.endswith("narrowed"):
        augmentation = tlkit.check_safety(dataset.images, augmentation, seed=seed, thorough=False).augmentation
    recipe = Recipe(
        way,
        stages=(
            Stage(1, 1e-3, solver="logistic"),
            Stage(EPOCHS, 5e-4, unfreeze=BLOCKS, schedule="cosine", warmup=2, layer_decay=0.8),
        ),
        augmentation=augmentation,
        views=EPOCHS,
        batch_size=16,
        monitor="last",
    )
    model = tlkit.build_classifier(network, len(dataset.class_names), seed=seed)
    train, validation, test = (dataset.part(split) for split in ("train", "validation", "test"))
    solved = dataclasses.replace(recipe, stages=recipe.stages[:1], augmentation=PRESETS["none"])
    tuned = dataclasses.replace(recipe, stages=recipe.stages[1:])
    for one in (solved, tuned):  # the head is always fitted on images without augmentation
        tlkit.train(model, network, one, train, validation, seed=seed)
    correct = predict_probabilities(model, test.pixels).argmax(1) == test.labels
    return {
        "date": date.today().isoformat(),
        "backbone": backbone,
        "seed": seed,
        "way": way,
        "accuracy": round(float(correct.mean()), 5),
        "n": len(correct),
        "seconds": round(time.monotonic() - started, 1),
        "fields": " ".join(augmentation.fields()),
        "cores": os.cpu_count(),
        "keras": version("keras"),
        "right": np.packbits(correct).tobytes().hex(),
    }


def report(rows: list[dict[str, str]]) -> None:
    from scipy.stats import t

    correct: dict[str, dict[int, np.ndarray]] = {way: {} for way in WAYS}
    for row in rows:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), "uint8"))[: int(row["n"])]
        correct[row["way"]][int(row["seed"])] = bits.astype(float)
    seeds = sorted(set.intersection(*(set(one) for one in correct.values())))
    found = {way: np.stack([one[seed] for seed in seeds]) for way, one in correct.items()}
    for way, bits in found.items():
        print(f"{way:<18} {100 * bits.mean():.2f} % of {bits.shape[1]} test images, seeds {seeds}")
    for other in ("strong", "none"):
        difference = 100 * (found["strong, narrowed"] - found[other])
        mean, k, n = difference.mean(), len(seeds), difference.shape[1]
        over_seeds = t.ppf(0.975, k - 1) * difference.mean(1).std(ddof=1) / k**0.5
        over_images = 1.96 * difference.mean(0).std(ddof=1) / n**0.5
        print(
            f"narrowed minus {other}: {mean:+.2f} points; 95 % interval over {k} seeds {mean - over_seeds:+.2f} to "
            f"{mean + over_seeds:+.2f}, over {n} images {mean - over_images:+.2f} to {mean + over_images:+.2f}"
        )


if __name__ == "__main__":
    main()
