"""Count and time the networks of the lectures: parameters, multiply-adds, and images a second.

    python benchmarks/lecture_networks.py [NAME ...]
    python benchmarks/lecture_networks.py --report      # the table as Markdown

Each network has random weights, its native size, and its own top where it has one, with 1,000 classes (LeNet-5 and the
networks of small images: 10). Multiply-adds are those of convolutions and dense layers for one image. Images a second
are the median of five batches of 16 on this machine, as `tlkit` runs frozen layers (`frozen_call`), after one batch to
warm up. Each network is measured in a process of its own.

Appends a row per network to benchmarks/lecture_networks.csv and skips those that are there.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
NETWORKS = (
    *("lenet5", "alexnet", "zfnet", "nin", "maxout"),
    *("vgg11", "vgg11_lrn", "vgg13", "vgg16c", "vgg16", "vgg19", "googlenet", "bn_inception"),
    *("spatial_transformer", "fractional_pooling", "inception_v3", "inception_resnet_v2"),
    *("resnet18", "resnet34", "resnet50v1.5", "resnet101v1.5", "resnet152v1.5", "stochastic_depth_110"),
    *("resnext50_32x4d", "resnext101_32x8d", "densenet121", "densenet161"),
    *("seresnet50", "seresnext50_32x4d", "legacy_senet154"),
)
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NETWORKS, metavar="NAME")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        append_row(FILE, measured(arguments.one))
        return
    there = {row["network"] for row in read_rows(FILE)}
    for name in [] if arguments.report else arguments.names:
        if name not in there:
            subprocess.run([sys.executable, __file__, "--one", name], check=True)
    report()


def measured(name: str) -> dict[str, object]:
    import keras

    import tlkit
    from tlkit.models.inference import frozen_call

    row = tlkit.find_backbone(name)
    classes = 1000 if row.size >= 224 else 10
    if row.checkpoint is not None:
        model = tlkit.pretrained(name, weights="none")
    else:
        model = tlkit.build_classifier(name, classes, weights="none")
    own = row.checkpoint is not None or row.own_head is not None
    images = np.random.default_rng(0).integers(0, 256, (BATCH, row.size, row.size, 3)).astype("float32")
    call = frozen_call(model, BATCH)
    call(images)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        call(images)
        seconds.append(time.perf_counter() - began)
    return {
        "date": date.today().isoformat(),
        "network": name,
        "year": row.year,
        "size": row.size,
        "classes": classes,
        "own_top": "yes" if own else "no",
        "parameters": sum(math.prod(weight.shape) for weight in model.trainable_weights),
        "multiply_adds": sum(multiply_adds(layer) for layer in model.layers),
        "images_a_second": round(BATCH / sorted(seconds)[2], 2),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 1),
        "keras": keras.__version__,
        "tensorflow": version("tensorflow"),
    }


def multiply_adds(layer: object) -> int:
    """Of one image: a product for each output value and each input value that it reads."""
    import keras

    kernel = getattr(layer, "kernel", None)
    if isinstance(layer, keras.layers.DepthwiseConv2D) or kernel is None:
        assert kernel is None or not isinstance(layer, keras.layers.DepthwiseConv2D), "count depthwise layers first"
        return 0
    positions = math.prod(layer.output.shape[1:-1])
    return positions * math.prod(kernel.shape)


def report() -> None:
    print(
        "| network | year | size | parameters | multiply-adds | images a second |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for row in sorted(read_rows(FILE), key=lambda one: (int(one["year"]), one["network"])):
        top = "" if row["own_top"] == "yes" else ", linear top"
        work, rate = int(row["multiply_adds"]), float(row["images_a_second"])
        speed = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        amount = f"{work / 1e9:.2f} G" if work >= 1e8 else f"{work / 1e6:.2f} M"
        print(
            f"| `{row['network']}`{top} | {row['year']} | {row['size']} | {int(row['parameters']):,} | {amount} "
            f"| {speed} |"
        )


if __name__ == "__main__":
    main()
