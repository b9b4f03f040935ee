"""Compare `--recipe auto` with every fixed recipe: what does choosing cost?

    TLKIT_SHARED=folder python benchmarks/recipes.py [--sets NAME ...] [--sizes N ...] [--seeds N ...] [--ways NAME ...]
    python benchmarks/recipes.py --report

Five real data sets with 5, 20 and all images per class. 5 and 20 are drawn with the seed from the training and
validation images, a fifth of them for validation (1 and 4); latin_letters has 15 per class, so its 20 are 15. With all
images, the split is the given one. The test split is always the given one, and is evaluated once per row. MobileNetV2
0.35 at 224 pixels; clothing and chest_xray with all images at 128. Weights come from Keras' cache (KERAS_HOME).

Appends a row per finished run to benchmarks/recipes.csv and skips those that are there, so it can be stopped and
started again. A row says which test images were correct (hexadecimal, in the order of the paths), so that any two
recipes can be compared image by image.
"""

import argparse
import dataclasses
import functools
import os
import textwrap
import time
from collections import defaultdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
SETS = ("cats_dogs", "clothing", "blood_cells", "chest_xray", "latin_letters")
DIFFERENT = ("blood_cells", "chest_xray", "latin_letters")
FIXED = ("small_similar", "small_different", "large_similar", "large_different")
SIZES = ("5", "20", "all")
BACKBONE = "mobilenetv2_0.35"
LINEAR, EVERYTHING = "small_similar", "large_different"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--seeds", nargs="+", default=[0, 1, 2], type=int)
    parser.add_argument("--ways", nargs="+", default=("auto", *FIXED))
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        there = {(row["data"], row["size"], int(row["seed"]), row["way"]) for row in read_rows(FILE)}
        for seed in arguments.seeds:
            for data in arguments.sets:
                for size in arguments.sizes:
                    for way in arguments.ways:
                        if (data, size, seed, way) not in there:
                            append_row(FILE, run(data, size, seed, way))
    report(read_rows(FILE))


# -- one run ----------------------------------------------------------------------------------------------


def run(data: str, size: str, seed: int, way: str) -> dict[str, object]:
    from tlkit.recipes import find_recipe

    import tlkit
    from tlkit.backbones import find_backbone
    from tlkit.evaluation.predict import predict_from_cache
    from tlkit.models.inference import inference_batch
    from tlkit.strategy.recipes import decide_by_tournament

    backbone = find_backbone(BACKBONE)
    dataset = cell(data, size, seed)
    build = functools.partial(build_classifier, backbone, len(dataset.class_names), dataset.pixels.size, seed)
    started, chosen, model = time.monotonic(), way, None
    if way == "auto":
        pool, training = dataset.part("train", "validation"), dataset.count("train")
        outcome, decisions = decide_by_tournament(build, backbone, pool, training, tlkit.Job(data, seed=seed))
        recipe, model, chosen = outcome.recipe, outcome.model, decisions[-1].chosen
    else:
        recipe = find_recipe(way)
    if model is None:
        model = build(recipe.head)
        parts = [dataset.part(part) for part in ("train", "validation")]
        tlkit.train(model, backbone, recipe, *parts, seed=seed)
    seconds = time.monotonic() - started
    test = dataset.part("test")
    batch = inference_batch(recipe.batch_size)
    unfreeze = recipe.stages[-1].unfreeze
    probabilities, _ = predict_from_cache(model, backbone, unfreeze, test, batch)
    correct = probabilities.argmax(1) == test.labels
    return {
        "date": date.today().isoformat(),
        "data": data,
        "size": size,
        "seed": seed,
        "way": way,
        "chosen": chosen,
        "accuracy": round(float(correct.mean()), 5),
        "n": len(correct),
        "train": dataset.count("train"),
        "validation": dataset.count("validation"),
        "image_size": dataset.pixels.size,
        "seconds": round(seconds, 1),
        "backbone": BACKBONE,
        "cores": os.cpu_count(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
        "right": np.packbits(correct).tobytes().hex(),
    }


def build_classifier(backbone, classes: int, size: int, seed: int, head):  # type: ignore[no-untyped-def]
    import tlkit

    return tlkit.build_classifier(backbone, classes, head=head, image_size=size, seed=seed)


def cell(data: str, size: str, seed: int):  # type: ignore[no-untyped-def]
    """Return the decoded data set with its splits."""
    import tlkit

    images = tlkit.scan(Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv")
    side = 128 if size == "all" and data in ("clothing", "chest_xray") else 224
    dataset = tlkit.decode_images(images, side)
    if size == "all":
        return dataset
    table, random = dataset.images.table.copy(), np.random.default_rng((seed, int(size)))
    pool = table["split"] != "test"
    table.loc[pool, "split"] = ""
    for _, of_class in table[pool].groupby("label"):
        drawn = random.permutation(of_class.index.to_numpy())[: int(size)]
        validation = max(1, round(0.2 * len(drawn)))
        table.loc[drawn[:validation], "split"] = "validation"
        table.loc[drawn[validation:], "split"] = "train"
    images = dataclasses.replace(dataset.images, table=table[table["split"] != ""].reset_index(drop=True))
    return dataclasses.replace(dataset, images=images)


# -- the report -------------------------------------------------------------------------------------------


def report(rows: list[dict[str, str]]) -> None:
    """Print each recipe's mean over seeds per cell, and what auto loses; write it into recipes/ too."""
    cells: dict[tuple[str, str], dict[str, dict[int, np.ndarray]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), "uint8"))[: int(row["n"])]
        cells[row["data"], row["size"]][row["way"]][int(row["seed"])] = bits.astype(float)
    lines = [
        "| data | images per class | n | seeds | "
        + " | ".join(("auto", *FIXED))
        + " | best fixed minus auto (95 % interval) |",
        "| --- " * (6 + len(FIXED)) + "|",
    ]
    whole, clear = [], []
    for (data, size), ways in cells.items():
        seeds = sorted(set.intersection(*(set(ways[way]) for way in ("auto", *FIXED))))
        if not seeds:
            continue
        correct = {way: np.stack([ways[way][seed] for seed in seeds]) for way in ("auto", *FIXED)}
        means = {way: 100 * float(bits.mean()) for way, bits in correct.items()}
        best = max(FIXED, key=means.__getitem__)
        difference = 100 * (correct[best] - correct["auto"]).mean(0)  # per image, over the seeds
        half = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
        regret = means[best] - means["auto"]
        if regret > 2 and regret > half:
            clear.append(f"{data} {size}")
        shown = " | ".join(f"**{means[way]:.1f}**" if way == best else f"{means[way]:.1f}" for way in ("auto", *FIXED))
        lines.append(
            f"| {data} | {size} | {len(difference):,} | {', '.join(map(str, seeds))} | {shown} | "
            f"{regret:+.1f} ({regret - half:+.1f} to {regret + half:+.1f}) |"
        )
        whole.append({**means, "regret": regret, "different": data in DIFFERENT})
    if not whole:
        return
    mean = {key: float(np.mean([one[key] for one in whole])) for key in ("auto", *FIXED, "regret")}
    kinds = [one["small_different"] - one["small_similar"] for one in whole if one["different"]]
    lines += [
        "",
        f"Means over these {len(whole)} cells: "
        + ", ".join(f"{way} {mean[way]:.1f}" for way in ("auto", *FIXED))
        + ".",
        f"auto loses {mean['regret']:.2f} points against the best recipe of each cell, which nobody knows beforehand. "
        f"auto minus always {LINEAR}: {mean['auto'] - mean[LINEAR]:+.2f} points. "
        f"auto minus always {EVERYTHING}: {mean['auto'] - mean[EVERYTHING]:+.2f} points.",
        "Cells where the best fixed recipe is ahead of auto by more than 2 points and by more than chance: "
        + (", ".join(clear) or "none")
        + ".",
    ]
    if kinds:
        lines.append(
            f"A head on all blocks minus one on the last block: {np.mean(kinds):+.2f} points, over the {len(kinds)} "
            "cells unlike ImageNet."
        )
    print("\n".join(lines))
    last = max(row["date"] for row in rows)
    versions = f"TensorFlow {rows[-1]['tensorflow']}, Keras {rows[-1]['keras']}, {rows[-1]['cores']} cores"
    (RECIPES / "README.md").write_text(INTRODUCTION.format(last=last, versions=versions) + "\n".join(lines) + "\n")
    for way in FIXED:
        write_measured(way, cells, last)


def write_measured(way: str, cells: dict[tuple[str, str], dict[str, dict[int, np.ndarray]]], last: str) -> None:
    """Replace the paragraph "Measured" in the docstring of a recipe's file."""
    found = []
    for data in SETS:
        shares = []
        for size in SIZES:
            runs = cells[data, size][way]
            if runs:
                accuracy = 100 * np.mean([bits.mean() for bits in runs.values()])
                shares.append(f"{accuracy:.1f} ({size}; {len(runs)} seed{'s' * (len(runs) > 1)})")
                n = len(next(iter(runs.values())))
        if shares:
            found.append(f"{data} {', '.join(shares)}, n = {n:,}")
    text = (
        f"Measured: MobileNetV2 0.35, test accuracy in % by images per class: {'; '.join(found)}. {last}; "
        "benchmarks/recipes.csv has the rows of every seed."
    )
    file = RECIPES / f"{way}.py"
    source = file.read_text()
    start = source.index("Measured:")
    end = source.index('"""', start)
    file.write_text(source[:start] + textwrap.fill(text, 120, subsequent_indent="    ") + "\n" + source[end:])


RECIPES = Path(__file__).parent.parent / "recipes"
INTRODUCTION = """# Recipes

| | images like ImageNet's | images unlike ImageNet's |
| --- | --- | --- |
| under 1,000 training images | `small_similar`: a logistic head on the last block | `small_different`: on every block |
| 1,000 and more | `large_similar`: that head, then the top two blocks | `large_different`: that head, then all blocks |

`--recipe auto`, the default, measures both axes and lets strategies compete on your own held-out images. Choose one of
these four if you know which fits. Each file says when to use the recipe, when not, why, and what was measured. A new
recipe is one file and one line in `__init__.py`.

## What choosing costs

Test accuracy in %, MobileNetV2 0.35 at 224 pixels (clothing and chest_xray with all images: 128), mean over the seeds;
5 and 20 images per class are drawn with the seed, a fifth of them for validation. Best fixed recipe in bold. Some
rules of `auto` were chosen on these sets, so how well it does here is in-sample. Written by
`python benchmarks/recipes.py --report` from benchmarks/recipes.csv, last row of {last}; {versions}.

"""


if __name__ == "__main__":
    main()
