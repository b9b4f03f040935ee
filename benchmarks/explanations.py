"""Do saliency maps show what predictions depend on? Masks the top 30 % of each map, and a random 30 %.

    TLKIT_SHARED=folder python benchmarks/explanations.py [--data NAME ...] [--backbone NAME ...] [--head NAME ...]
    python benchmarks/explanations.py --report

For each data set, backbone and kind of head: a classifier is trained on at most 600 training images, and 200 test
images drawn at random are predicted with the most salient 30 % of the pixels masked (the image's mean colour), with a
random 30 % masked (cells of the map's grid), and with the top 30 % by Grad-CAM masked (Selvaraju et al. 2017,
arXiv:1610.02391, on the topmost block that the head reads). Images without a saliency map are counted and left out.
Differences in accuracy are tested on the same images by the exact McNemar test, over all data sets together and in
each; over all backbones, where an image counts once, by an interval. Nothing was tuned on these images.

Appends a row per classifier to benchmarks/explanations.csv and skips those that are there.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from rows import append_row, bits, read_rows

import tlkit
from tlkit.evaluation.reliance import mean_interval, without
from tlkit.stats import paired_p_value

FILE = Path(__file__).with_suffix(".csv")
DATA = ("cats_dogs", "clothing", "blood_cells", "latin_letters", "chest_xray")
BACKBONES = ("nano", "mobilenetv2_0.35", "mobilenet_0.25", "mobilenetv2", "mobilenet_0.5", "mobilenet_0.75")
SOLVED, TRAINED = tlkit.Stage(1, 1e-3, solver="logistic"), tlkit.Stage(20, 1e-3, schedule="cosine")
HEADS = {
    "last block": tlkit.Recipe("last", stages=(SOLVED,)),
    "all blocks": tlkit.Recipe("all", stages=(SOLVED,), head=tlkit.Head(taps="all")),
    "hidden layer": tlkit.Recipe("hidden", stages=(TRAINED,), head=tlkit.Head(hidden=(64,))),
    "fine-tuned": tlkit.Recipe(
        "tuned", stages=(tlkit.Stage(3, 1e-3), tlkit.Stage(4, 3e-4, unfreeze=2, schedule="cosine")), monitor="last"
    ),
}
MOST_TRAINED, MOST_MASKED = 600, 200
SEED = 26100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--backbone", nargs="+", default=BACKBONES)
    parser.add_argument("--head", nargs="+", default=tuple(HEADS))
    parser.add_argument("--image-size", type=int, default=128, help="of all backbones but nano, which has 96")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        there = {(row["data"], row["backbone"], row["head"]) for row in read_rows(FILE)}
        for backbone in arguments.backbone:
            for data in arguments.data:
                heads = [head for head in arguments.head if (data, backbone, head) not in there]
                if heads:
                    size = 96 if backbone == "nano" else arguments.image_size
                    for row in judge(data, backbone, heads, size):
                        append_row(FILE, row)
    report(read_rows(FILE))


def judge(data: str, backbone: str, heads: Sequence[str], size: int):  # type: ignore[no-untyped-def]
    """Yield a row for each kind of head."""
    source = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv"
    dataset = tlkit.decode_images(tlkit.scan(source), size)
    training, validation = (drawn(dataset.part(part), MOST_TRAINED) for part in ("train", "validation"))
    test = drawn(dataset.part("test"), MOST_MASKED)
    images = test.pixels.gather(slice(None))
    for head in heads:
        keras.backend.clear_session()
        recipe = HEADS[head]
        model = tlkit.build_classifier(backbone, len(dataset.class_names), head=recipe.head, image_size=size, seed=SEED)
        tlkit.train(model, backbone, recipe, training, validation, seed=SEED)
        yield {
            "date": date.today().isoformat(),
            "data": data,
            "backbone": backbone,
            "image_size": size,
            "head": head,
            "train": len(training),
            **masked(model, images, test.labels),
            "cores": os.cpu_count(),
            "tensorflow": version("tensorflow"),
            "keras": version("keras"),
        }


def drawn(examples: tlkit.Examples, most: int) -> tlkit.Examples:
    return examples.take(np.random.default_rng(SEED).permutation(len(examples))[:most])


def masked(model, images: np.ndarray, labels: np.ndarray) -> dict[str, object]:  # type: ignore[no-untyped-def]
    """Return accuracy and the mean fall of the predicted class's probability with each mask, and each answer."""
    cam = tlkit.ClassActivationMaps(model)
    maps, before = cam(images)
    rival = grad_cam(cam, images, before.argmax(1))
    random = np.random.default_rng(SEED).random(maps.shape)
    rows, predicted = np.arange(len(images)), before.argmax(1)
    found = {
        name: cam(without(images, one))[1] for name, one in (("map", maps), ("random", random), ("grad_cam", rival))
    }
    right = {name: after.argmax(1) == labels for name, after in found.items()}
    falls = {name: before[rows, predicted] - after[rows, predicted] for name, after in found.items()}
    has = {"map": maps.max((1, 2)) > 0, "grad_cam": rival.max((1, 2)) > 0}
    own, both = has["map"], has["map"] & has["grad_cam"]
    mean, low, high = mean_interval((falls["map"] - falls["random"])[own])
    return {
        "method": cam.method,
        "grid": "x".join(map(str, maps.shape[1:])),
        "n": len(images),
        "empty": int((~own).sum()),
        "empty_grad_cam": int((~has["grad_cam"]).sum()),
        "accuracy": round(float((predicted == labels)[own].mean()), 4),
        "map_masked": round(float(right["map"][own].mean()), 4),
        "random_masked": round(float(right["random"][own].mean()), 4),
        "p": f"{paired_p_value(right['map'][own], right['random'][own]):.2g}",
        "fall_map_less_random": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n_both": int(both.sum()),
        "map_masked_both": round(float(right["map"][both].mean()), 4) if both.any() else "",
        "grad_cam_masked_both": round(float(right["grad_cam"][both].mean()), 4) if both.any() else "",
        "p_grad_cam": f"{paired_p_value(right['map'][both], right['grad_cam'][both]):.2g}",
        **{f"has_{name}": packed(one) for name, one in has.items()},
        **{f"right_{name}": packed(one) for name, one in right.items()},
        "right_unmasked": packed(predicted == labels),
    }


def grad_cam(cam: tlkit.ClassActivationMaps, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return Grad-CAM's maps: each channel of the topmost block weighted by the mean of its gradient."""
    import tensorflow as tf

    maps = []
    for start in range(0, len(images), 16):
        ends = [tf.constant(one) for one in cam._prefix(images[start : start + 16])]
        with tf.GradientTape() as tape:
            tape.watch(ends)
            logits = cam._suffix(ends, training=False) @ cam._logits.kernel + cam._logits.bias
            picked = tf.gather(logits, classes[start : start + 16], batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(picked, ends[-1]), axis=(1, 2), keepdims=True)
        maps.append(np.maximum(tf.reduce_sum(ends[-1] * weights, axis=-1).numpy(), 0))
    return np.concatenate(maps)


def packed(right: np.ndarray) -> str:
    return np.packbits(right).tobytes().hex()


def report(rows: list[dict[str, str]]) -> None:
    """Print a line for each backbone and kind of head, over all data sets, and the classifiers where maps fail."""
    cells = defaultdict(list)
    for row in rows:
        cells[row["backbone"], row["head"]].append(row)
    columns = ("backbone", "head", "sets", "n", "no map", "unmasked", "map masked", "random masked", "p")
    columns += ("n with Grad-CAM", "map masked", "Grad-CAM masked", "p")
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for (backbone, head), some in cells.items():
        print("| " + " | ".join([backbone, head, *pooled(some)]) + " |")
    for head in HEADS:
        some = [row for row in rows if row["head"] == head]
        if some:
            print(f"{head}, masking the map instead: {behind(some, 'random')}, {behind(some, 'grad_cam')}")
    worse = [row for row in rows if float(row["map_masked"]) >= float(row["random_masked"])]
    print(f"Of {len(rows)} classifiers, masking the map did not lower accuracy more than at random in {len(worse)}:")
    for row in worse:
        print(f"  {row['data']}, {row['backbone']}, {row['head']}: {row['map_masked']} and {row['random_masked']}")
    shown = sum(float(row["low"]) > 0 for row in rows)
    print(f"The interval of the fall in probability, map less random, lies above 0 in {shown} of {len(rows)}.")


def pooled(rows: list[dict[str, str]]) -> list[str]:
    def column(name: str) -> np.ndarray:
        return np.concatenate([bits(row[name], int(row["n"])) for row in rows])

    has = column("has_map")
    both = has & column("has_grad_cam")
    unmasked, own, random, rival = (column(f"right_{name}") for name in ("unmasked", "map", "random", "grad_cam"))
    return [
        f"{len(rows)}",
        f"{has.sum():,}",
        f"{(~has).sum()}",
        f"{unmasked[has].mean():.1%}",
        f"{own[has].mean():.1%}",
        f"{random[has].mean():.1%}",
        f"{paired_p_value(own[has], random[has]):.1g}",
        f"{both.sum():,}",
        f"{own[both].mean():.1%}",
        f"{rival[both].mean():.1%}",
        f"{paired_p_value(own[both], rival[both]):.1g}",
    ]


def behind(rows: list[dict[str, str]], rival: str) -> str:
    """How far accuracy is lower than with the rival's mask, over images, each the mean of its classifiers."""
    differences = defaultdict(list)
    for row in rows:
        n = int(row["n"])
        has = bits(row["has_map"], n) & (bits(row["has_grad_cam"], n) if rival == "grad_cam" else True)
        lower = bits(row[f"right_{rival}"], n).astype(float) - bits(row["right_map"], n)
        for index in np.flatnonzero(has):
            differences[row["data"], index].append(lower[index])
    mean, low, high = mean_interval(np.array([np.mean(one) for one in differences.values()]))
    name = "random pixels" if rival == "random" else "Grad-CAM"
    return f"{100 * mean:.1f} points lower than {name} ({100 * low:.1f} to {100 * high:.1f}, n = {len(differences)})"


if __name__ == "__main__":
    main()
