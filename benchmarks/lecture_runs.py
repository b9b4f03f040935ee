"""Take each network of the lectures through a whole run: `finetune`, its proof, `explain`, LiteRT, ONNX, a reload.

    python benchmarks/lecture_runs.py [NAME ...]
    python benchmarks/lecture_runs.py --report          # the table as Markdown

The images are the first 24 training, 10 validation and 8 test images of each class of blood_cells, at a small size. The
networks start from random weights and train for a few epochs (`bag_of_words` and `pixels`: a solved head), so accuracy
says only that they learn something. Each command is one of tlkit's command line. The proof compares classes and
probabilities on the 30 validation images: the SavedModel's, LiteRT's and ONNX's with the trained model's. "reloaded" is
the largest difference of the probabilities that model.keras gives in another process, which has Keras but not tlkit
unless the network has layers of tlkit, from those in predictions.csv, which have six digits.

Appends a row per network to benchmarks/lecture_runs.csv, skips those that are there with these versions, and exits 1 if
any proof is not 100 % and below 1e-5.
"""

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
SHARED = Path(os.environ.get("TLKIT_SHARED", Path(__file__).parents[2] / "shared"))
IMAGES = {"train": 24, "val": 10, "test": 8}  # of each class
NETWORKS = {  # its size and epochs
    "lenet5": (32, 12),
    "alexnet": (67, 6),
    "nin": (32, 12),
    "googlenet": (64, 6),
    "seresnet50": (64, 4),
    "spatial_transformer": (40, 12),
    "bag_of_words": (64, 0),
    "pixels": (32, 0),
    "zfnet": (64, 6),
    "maxout": (32, 6),
    "nin_imagenet": (64, 6),
    "fractional_pooling": (36, 12),
    "stochastic_depth_20": (32, 6),
}
LIMIT = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*NETWORKS], metavar="NAME")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    there = {row["network"] for row in read_rows(FILE) if versions().items() <= row.items()}
    wanted = [name for name in arguments.names if name not in there and not arguments.report]
    with tempfile.TemporaryDirectory() as scratch, multiprocessing.get_context("spawn").Pool(1) as other:
        if wanted:
            write_images(Path(scratch) / "data")
        for name in wanted:
            append_row(FILE, measured(name, Path(scratch), other))
    rows = read_rows(FILE)
    report(rows)
    sys.exit(not all(proven(row) for row in rows))


def write_images(folder: Path) -> None:
    """Copy the first images of each class and part."""
    counted: dict[tuple[str, str], int] = {}
    source = SHARED / "data" / "blood_cells"
    with (source / "splits.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            part = (row["split"], row["label"])
            counted[part] = counted.get(part, 0) + 1
            if counted[part] <= IMAGES[row["split"]]:
                place = folder / row["split"] / row["label"]
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / row["path"], place)


def measured(name: str, scratch: Path, other: Pool) -> dict[str, object]:
    import tlkit

    size, epochs = NETWORKS[name]
    data, run, recipe = scratch / "data", scratch / name, scratch / f"{name}.json"
    layers = "all" if epochs else 0
    solved = {} if epochs else {"solver": "logistic"}
    stage = tlkit.Stage(epochs or 1, 1e-3, unfreeze=layers, optimizer="adamw", batch_norm="moving", **solved)
    recipe.write_text(json.dumps(tlkit.plan.recipe.to_dict(tlkit.Recipe("lecture", stages=(stage,), batch_size=12))))
    # a head that is not solved once more has its own answers in predictions.csv
    start = ["--weights", "none"] if epochs else ["--no-refit"]
    words = ["--backbone", name, "--recipe", str(recipe), "--image-size", str(size), "--out", str(run), "--no-report"]
    metrics = asked("finetune", str(data), *start, *words)["metrics"]
    method = "cam" if epochs else "occlusion"
    image = next((data / "test" / "red").iterdir())
    drawn = scratch / f"{name}.png"
    asked("explain", str(run), str(image), "--method", method, "--out", str(drawn))
    row = {
        "date": date.today().isoformat(),
        "network": name,
        "image_size": size,
        "epochs": epochs,
        "validation_accuracy": round(metrics["validation"]["accuracy"], 4),
        "test_accuracy": round(metrics["test"]["accuracy"], 4),
        "n": metrics["parity"]["n"],
    }
    proofs = {"savedmodel": metrics["parity"]}
    for kind in ("litert", "onnx"):
        proofs[kind] = asked("export", str(run), "--format", kind)["proof"]
    for kind, proof in proofs.items():
        row[f"{kind}_same_class"] = proof["top1_agreement"]
        row[f"{kind}_difference"] = f"{proof['max_difference']:.1e}"
    evaluated = asked("evaluate", str(run))
    assert evaluated["accuracy"] == metrics["validation"]["accuracy"], "the reopened run has another accuracy"
    own_layers = bool(tlkit.find_backbone(name).own_layers)
    row |= {
        "reloaded": f"{difference_reloaded(run, data, size, None if own_layers else other):.1e}",
        "without_tlkit": "no" if own_layers else "yes",
        "explained": method if drawn.stat().st_size else "no",
    }
    shutil.rmtree(run)
    return {**row, **versions()}


def asked(*words: str) -> dict:
    """Run a command of tlkit in this process and return what it prints with --json."""
    from click.testing import CliRunner

    from tlkit.cli.main import main as tlkit_main

    result = CliRunner().invoke(tlkit_main, [*words, "--json"])
    if result.exit_code:
        raise SystemExit(f"tlkit {' '.join(words)}: {result.exit_code}\n{result.output}{result.exception or ''}")
    return json.loads(result.stdout)


def difference_reloaded(run: Path, data: Path, size: int, other: Pool | None) -> float:
    """The largest difference of a reloaded model's probabilities on the validation images from predictions.csv.

    other: a process without tlkit; None: this one.
    """
    import tlkit

    dataset = tlkit.decode_images(tlkit.split(tlkit.scan(data)), size)
    pixels = dataset.part("validation").pixels.gather(slice(None)).astype("float32")
    found = other.apply(probabilities, (str(run), pixels)) if other else probabilities(str(run), pixels)
    with (run / "predictions.csv").open(newline="") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    wanted = np.zeros_like(found)
    for i, path in enumerate(dataset.images.part("validation").table["path"]):
        for name, value in (("prediction", "probability"), ("top2", "top2_probability"), ("top3", "top3_probability")):
            wanted[i, dataset.class_names.index(rows[path][name])] = float(rows[path][value])
    return float(np.abs(found - wanted).max())


def probabilities(run: str, pixels: np.ndarray) -> np.ndarray:
    """Load model.keras as Keras does."""
    import keras

    assert multiprocessing.parent_process() is None or "tlkit" not in sys.modules
    return keras.models.load_model(Path(run) / "model.keras").predict(pixels, verbose=0)


def proven(row: dict[str, str]) -> bool:
    kinds = ("savedmodel", "litert", "onnx")
    return all(float(row[f"{one}_same_class"]) == 1 and float(row[f"{one}_difference"]) < LIMIT for one in kinds)


def versions() -> dict[str, str]:
    return {package: version(package) for package in ("keras", "tensorflow")}


def report(rows: list[dict[str, str]]) -> None:
    """Print the table."""
    print("| network | size | epochs | test accuracy, % | SavedModel | LiteRT | ONNX | reloaded | explained |")
    print("|" + " --- |" * 9)
    for row in rows:
        shown = [
            f"{float(row[f'{kind}_same_class']):.0%}, {row[f'{kind}_difference']}"
            for kind in ("savedmodel", "litert", "onnx")
        ]
        values = [f"`{row['network']}`", row["image_size"], row["epochs"], f"{100 * float(row['test_accuracy']):.1f}"]
        print(f"| {' | '.join([*values, *shown, row['reloaded'], row['explained']])} |")


if __name__ == "__main__":
    main()
