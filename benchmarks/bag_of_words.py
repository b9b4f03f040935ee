"""What networks gain over hand-made features: pixels, bags of visual words, `nano` and MobileNetV2 0.35.

    python benchmarks/bag_of_words.py [--sets NAME ...] [--backbones NAME ...] [--seeds N ...]
    python benchmarks/bag_of_words.py --report

A logistic head (the recipe `small_similar`) on frozen features, on the five development data sets with their given
splits, which it finds through TLKIT_SHARED (default ../shared). Every backbone has its native size, but MobileNetV2 128
pixels on clothing and chest_xray, as in benchmarks/recipes.py. Of these two, 1,000 training and 250 validation images
are drawn with the seed; all other images are used. The words of `bag_of_words` are
learned from the training images alone; its default settings were chosen by cross-validation on the training and
validation images of cats_dogs and latin_letters, and on no test image. The test split is evaluated once per row.
Weights come from Keras' cache (KERAS_HOME).

Appends a row per finished run to benchmarks/bag_of_words.csv and skips those that are there. `--report` prints the
table of docs/lectures.md.
"""

import argparse
import os
import time
from collections import defaultdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
SETS = ("cats_dogs", "clothing", "blood_cells", "chest_xray", "latin_letters")
BACKBONES = ("pixels", "bag_of_words", "nano", "mobilenetv2_0.35")
LARGE = ("clothing", "chest_xray")
MOST = {"train": 1000, "validation": 250}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--seeds", nargs="+", default=[0], type=int)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        there = {(row["data"], row["backbone"], int(row["seed"])) for row in read_rows(FILE)}
        for data in arguments.sets:
            for backbone in arguments.backbones:
                for seed in arguments.seeds:
                    if (data, backbone, seed) not in there:
                        append_row(FILE, run(data, backbone, seed))
    report(read_rows(FILE))


def run(data: str, name: str, seed: int) -> dict[str, object]:
    from tlkit.recipes import find_recipe

    import tlkit
    from tlkit.backbones import find_backbone
    from tlkit.backbones.learning import learn_weights
    from tlkit.evaluation.predict import predict_from_cache
    from tlkit.models.inference import inference_batch
    from tlkit.stats import wilson_interval

    backbone, recipe = find_backbone(name), find_recipe("small_similar")
    size = 128 if data in LARGE and backbone.size == 224 else backbone.size
    images = tlkit.scan(Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv")
    dataset = tlkit.decode_images(images, size)
    training, validation = (_drawn(dataset.part(part), most, seed) for part, most in MOST.items())
    test = dataset.part("test")
    started = time.monotonic()
    backbone = learn_weights(backbone, training, seed=seed)
    model = tlkit.build_classifier(backbone, len(dataset.class_names), head=recipe.head, image_size=size, seed=seed)
    history = tlkit.train(model, backbone, recipe, training, validation, seed=seed)
    seconds = time.monotonic() - started
    probabilities, _ = predict_from_cache(model, backbone, 0, test, inference_batch(recipe.batch_size))
    correct = probabilities.argmax(1) == test.labels
    low, high = wilson_interval(int(correct.sum()), len(correct))
    return {
        "date": date.today().isoformat(),
        "data": data,
        "backbone": name,
        "seed": seed,
        "accuracy": round(float(correct.mean()), 5),
        "low": round(low, 5),
        "high": round(high, 5),
        "n": len(correct),
        "train": len(training),
        "image_size": size,
        "features": model.get_layer("predictions").kernel.shape[0],
        "c": history.rows[-1]["strength"],
        "seconds": round(seconds, 1),
        "cores": os.cpu_count(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
        "right": np.packbits(correct).tobytes().hex(),
    }


def _drawn(examples, most: int, seed: int):  # type: ignore[no-untyped-def]
    """Draw at most so many examples."""
    chosen = np.random.default_rng((seed, most)).permutation(len(examples))[:most]
    return examples.take(np.sort(chosen))


def report(rows: list[dict[str, str]]) -> None:
    """Print a row of the table for each backbone: the mean over the seeds, and the 95 % interval of the first seed."""
    cells: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["backbone"]][row["data"]].append(row)
    sizes = {row["data"]: row["n"] for row in rows}
    names = [f"{one} (n = {int(sizes[one]):,})" for one in SETS if one in sizes]
    print(f"| backbone | seeds | {' | '.join(names)} |")
    print("| --- " * (2 + len(sizes)) + "|")
    for backbone, of_set in cells.items():
        shown = []
        for data in (one for one in SETS if one in sizes):
            found = sorted(of_set.get(data, []), key=lambda row: int(row["seed"]))
            if not found:
                shown.append("not measured")
                continue
            mean = 100 * np.mean([float(row["accuracy"]) for row in found])
            shown.append(f"{mean:.1f} ({100 * float(found[0]['low']):.1f} to {100 * float(found[0]['high']):.1f})")
        seeds = sorted({int(row["seed"]) for found in of_set.values() for row in found})
        print(f"| `{backbone}` | {', '.join(map(str, seeds))} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
