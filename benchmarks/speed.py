"""Compare the speed of tlkit and of Keras' own guide: same images, split, weights, epochs and machine.

    TLKIT_SHARED=folder python benchmarks/speed.py [head] [augmented] [large] [floor] [kerashub] [startup] [--repeats 3]

- head: `cats_dogs`, MobileNetV2 at 224 pixels, a linear head, 10 epochs.
- augmented: the same with flips and rotations (tlkit: 4 views).
- large: `clothing`, MobileNetV2 0.35 at 224 pixels: the guide's 10 epochs of the head and 10 epochs of everything at
  1e-5, against `large_similar`; the time each takes to reach the validation accuracy with which the guide ends.
- floor: features computed once and scikit-learn's logistic regression, the least work that gives a linear head.
- kerashub: `ImageClassifier.fit` with a frozen backbone, 10 epochs, ResNet50 at 128 pixels with random weights on both
  sides, so its accuracy means nothing (needs keras-hub).
- startup: from the command `tlkit finetune` with `nano` to the end of the first epoch of a head, an upper bound of the
  time to the first step.

tlkit's caches are empty each time. Weights come from Keras' cache (KERAS_HOME). The methods alternate, and medians are
reported. Appends dated rows to benchmarks/speed.csv.
"""

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from rows import append_row

FILE = Path(__file__).with_suffix(".csv")
HERE = Path(__file__).parent
HEAD = {"name": "head", "stages": [{"epochs": 10, "learning_rate": 1e-3}], "why": "as the guide's head"}
VIEWS = {**HEAD, "name": "head_views", "views": 4, "augmentation": {"flip_horizontal": 0.5, "rotate": [-36, 36]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["head", "augmented", "floor", "kerashub", "startup", "large"])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    shared = Path(os.environ.get("TLKIT_SHARED", "../shared"))
    with tempfile.TemporaryDirectory() as scratch:
        for what in arguments.what:
            one = "clothing" if what == "large" else "cats_dogs"
            data = folders(shared / "data" / one, Path(scratch) / one)
            for row in globals()[f"compare_{what}"](data, arguments.repeats):
                keep(what, one, arguments.repeats, row)


def keep(what: str, data: str, repeats: int, row: dict) -> None:
    names = {name: version(name) for name in ("tensorflow", "keras")}
    numbers = dict.fromkeys(
        ("way", "train_seconds", "whole_seconds", "test_accuracy", "train_ratio", "whole_ratio"), ""
    )
    first = {"date": date.today().isoformat(), "what": what, "data": data, "repeats": repeats, "cores": os.cpu_count()}
    append_row(FILE, first | numbers | row | names)


def folders(source: Path, target: Path) -> Path:
    """Write train/, val/ and test/ folders of links, which both methods can read. Returns `target`."""
    if not target.exists():
        with (source / "splits.csv").open(newline="") as stream:
            for row in csv.DictReader(stream):
                link = target / row["split"] / row["label"] / Path(row["path"]).name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((source / row["path"]).resolve())
    return target


def guide(data: Path, *words: object) -> dict:
    command = [sys.executable, str(HERE / "guide.py"), str(data), "MobileNetV2", *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def tlkit(data: Path, backbone: str, recipe: dict | str, *words: str) -> dict:
    """Run `tlkit finetune` once with empty caches. Returns the values of `guide`, and the seconds of each step."""
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(recipe, dict):
            file = Path(scratch) / "recipe.json"
            file.write_text(json.dumps(recipe))
            recipe = str(file)
        out = Path(scratch) / "run"
        command = [sys.executable, "-m", "tlkit", "finetune", str(data), "--backbone", backbone, "--recipe", recipe]
        started = time.monotonic()
        environment = {**os.environ, "TLKIT_CACHE": f"{scratch}/cache"}
        subprocess.run([*command, "--out", str(out), *words], check=True, capture_output=True, env=environment)
        whole = time.monotonic() - started
        metrics = json.loads((out / "metrics.json").read_text())
        with (out / "history.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    seconds = metrics["seconds"]
    before = sum(seconds[step] for step in ("scan", "decode", "build"))
    return {
        "test_accuracy": metrics["test"]["accuracy"],
        "train_seconds": before + seconds["train"],
        "whole_seconds": whole,
        "curve": [[before + float(row["at_seconds"]), float(row["val_accuracy"])] for row in rows],
        "parity": metrics["parity"]["max_difference"],
        "seconds": seconds,
    }


def compare(repeats: int, ways: dict) -> dict[str, list[dict]]:
    """Run each method `repeats` times, alternating."""
    found: dict[str, list[dict]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(way())
            print(name, {k: v for k, v in found[name][-1].items() if k != "curve"}, flush=True)
    return found


def rows_of(found: dict[str, list[dict]]) -> list[dict]:
    """Return a row per method: medians, and how many times as fast as the guide."""
    middle = {
        name: {
            key: statistics.median(one[key] for one in runs)
            for key in ("train_seconds", "whole_seconds", "test_accuracy")
        }
        for name, runs in found.items()
    }
    return [
        {
            "way": name,
            "train_seconds": round(one["train_seconds"], 1),
            "whole_seconds": round(one["whole_seconds"], 1),
            "test_accuracy": round(100 * one["test_accuracy"], 1),
            "train_ratio": round(middle["guide"]["train_seconds"] / one["train_seconds"], 2),
            "whole_ratio": round(middle["guide"]["whole_seconds"] / one["whole_seconds"], 2),
        }
        for name, one in middle.items()
    ]


def compare_head(data: Path, repeats: int) -> list[dict]:
    return rows_of(
        compare(repeats, {"guide": lambda: guide(data, 10), "tlkit": lambda: tlkit(data, "mobilenetv2", HEAD)})
    )


def compare_augmented(data: Path, repeats: int) -> list[dict]:
    ways = {
        "guide": lambda: guide(data, 10, "--augment"),
        "tlkit": lambda: tlkit(data, "mobilenetv2", VIEWS),
    }
    return rows_of(compare(repeats, ways))


def compare_large(data: Path, repeats: int) -> list[dict]:
    """Compare the seconds (train_seconds) to the validation accuracy with which the guide ends."""
    ways = {
        "guide": lambda: guide(data, 10, "--fine-tune", 10, "--alpha", 0.35),
        "tlkit": lambda: tlkit(data, "mobilenetv2_0.35", "large_similar"),
    }
    found = compare(repeats, ways)
    for theirs, mine in zip(found["guide"], found["tlkit"], strict=True):
        target = theirs["curve"][-1][1]
        for one in (theirs, mine):
            reached = [seconds for seconds, accuracy in one["curve"] if accuracy >= target]
            one["train_seconds"] = min(reached, default=float("inf"))
    return rows_of(found)


def compare_floor(data: Path, repeats: int) -> list[dict]:
    ways = {"guide": lambda: guide(data, 10), "features + scikit-learn": lambda: script(FLOOR, data)}
    return rows_of(compare(repeats, ways))


FLOOR = """
import json, sys, time
begun = time.monotonic()
import keras, numpy as np
from sklearn.linear_model import LogisticRegression
started = time.monotonic()
base = keras.applications.MobileNetV2(include_top=False, pooling="avg", input_shape=(224, 224, 3))
x, y = {}, {}
for part in ("train", "test"):
    batches = keras.utils.image_dataset_from_directory(f"{sys.argv[1]}/{part}", image_size=(224, 224), verbose=False)
    pairs = [(base.predict_on_batch(images / 127.5 - 1), labels) for images, labels in batches.as_numpy_iterator()]
    x[part], y[part] = (np.concatenate(one) for one in zip(*pairs))
    if part == "train":
        probe = LogisticRegression(C=0.01, max_iter=1000).fit(x[part], y[part])
        trained = time.monotonic() - started
print(json.dumps({"test_accuracy": probe.score(x["test"], y["test"]), "train_seconds": trained,
                  "whole_seconds": time.monotonic() - begun}))
"""


def script(text: str, data: Path) -> dict:
    done = subprocess.run([sys.executable, "-c", text, str(data)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


KERASHUB = """
import json, sys, time
begun = time.monotonic()
import keras, keras_hub
started = time.monotonic()
data = {
    part: keras.utils.image_dataset_from_directory(
        f"{sys.argv[1]}/{part}", image_size=(128, 128), verbose=False
    ).cache()
    for part in ("train", "val", "test")
}
backbone = keras_hub.models.ResNetBackbone(
    input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 128, 256, 512],
    stackwise_num_blocks=[3, 4, 6, 3], stackwise_num_strides=[1, 2, 2, 2], block_type="bottleneck_block",
    image_shape=(128, 128, 3),
)
backbone.trainable = False
model = keras_hub.models.ImageClassifier(backbone=backbone, num_classes=2, activation="softmax", preprocessor=None)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(data["train"], validation_data=data["val"], epochs=10, verbose=0)
trained = time.monotonic() - started
accuracy = model.evaluate(data["test"], verbose=0)[1]
print(json.dumps({"test_accuracy": accuracy, "train_seconds": trained, "whole_seconds": time.monotonic() - begun}))
"""


def compare_kerashub(data: Path, repeats: int) -> list[dict]:
    ways = {
        "guide": lambda: script(KERASHUB, data),
        "tlkit": lambda: tlkit(data, "resnet50", HEAD, "--weights", "none", "--image-size", "128"),
    }
    rows = rows_of(compare(repeats, ways))
    return [{**row, "way": f"{row['way'].replace('guide', 'KerasHub')}, random weights"} for row in rows]


def compare_startup(data: Path, repeats: int) -> list[dict]:
    found = [until_first_epoch(data) for _ in range(repeats)]
    return [{"way": "tlkit", "train_seconds": round(statistics.median(found), 1)}]


def until_first_epoch(data: Path) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "tlkit", "finetune", str(data), "--backbone", "nano", "--epochs", "1"]
        environment = {**os.environ, "TLKIT_CACHE": f"{scratch}/cache"}
        started = time.monotonic()
        with subprocess.Popen(
            [*command, "--out", f"{scratch}/run"], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout:
                if re.match("  1 epochs? in", line):
                    seconds = time.monotonic() - started
            if process.wait():
                raise SystemExit(f"tlkit finetune ended with {process.returncode}")
    print("startup", round(seconds, 2), flush=True)
    return seconds


if __name__ == "__main__":
    main()
