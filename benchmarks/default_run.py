"""Compare `tlkit finetune` at each effort with an expert's plain recipe and with Keras' guide, as whole processes.

    TLKIT_SHARED=folder python benchmarks/default_run.py [--sets NAME ...] [--seeds N ...] [--ways NAME ...] [--size N]
    python benchmarks/default_run.py --report

MobileNetV2 0.35 with all images of each set, at 128 pixels unless "--size" says otherwise, with the given splits. The
expert (`peers/expert.py`, 30 epochs of the whole network) and the guide (`peers/keras_guide.py`, 10 + 10 epochs) are
scripts beside the data sets. Caches start empty. Weights come from Keras' cache (KERAS_HOME).

Appends a row per finished process to benchmarks/default_run.csv and skips those that are there, so it can be stopped
and started again. "wasted" is the share of the command's time that went into fine-tuning that was not used.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row, bits, read_rows

from tlkit import Run, open_run
from tlkit.plan.job import EFFORTS
from tlkit.stats import paired_difference

FILE = Path(__file__).with_suffix(".csv")
ALPHA = "0.35"
# What suits each set, as the expert's script reads it: h mirror, v vertical flip, r any rotation, - none of these.
FLAGS = {"cats_dogs": "h", "blood_cells": "hvr", "latin_letters": "-", "chest_xray": "-", "clothing": "h"}
PEERS = {"guide": ("keras_guide.py", ["10", "10"]), "expert": ("expert.py", ["30"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=[*FLAGS], choices=FLAGS)
    parser.add_argument("--seeds", nargs="+", default=[0, 1, 2], type=int)
    parser.add_argument("--ways", nargs="+", default=[*PEERS, *EFFORTS], choices=[*PEERS, *EFFORTS])
    parser.add_argument("--size", default=128, type=int)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        there = {(row["data"], int(row["image_size"]), int(row["seed"]), row["way"]) for row in read_rows(FILE)}
        for data in arguments.sets:
            for seed in arguments.seeds:
                for way in arguments.ways:
                    if (data, arguments.size, seed, way) not in there:
                        append_row(FILE, measure(data, arguments.size, seed, way))
    report(read_rows(FILE))


def measure(data: str, size: int, seed: int, way: str) -> dict[str, object]:
    """Run one process, and return its row."""
    shared = Path(os.environ.get("TLKIT_SHARED", "../shared")).resolve()
    started = time.monotonic()
    found = (peer if way in PEERS else tlkit)(shared, data, size, seed, way)
    seconds = time.monotonic() - started
    correct = found.pop("correct")
    return {
        "date": date.today().isoformat(),
        "data": data,
        "image_size": size,
        "seed": seed,
        "way": way,
        "test_accuracy": round(float(correct.mean()), 5),
        "n": len(correct),
        "seconds": round(seconds, 1),
        **found,
        "backbone": f"mobilenetv2_{ALPHA}",
        "cores": os.cpu_count(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
        "right": np.packbits(correct).tobytes().hex(),
    }


def peer(shared: Path, data: str, size: int, seed: int, way: str) -> dict[str, object]:
    script, epochs = PEERS[way]
    flags = [FLAGS[data]] if way == "expert" else []
    command = [sys.executable, str(shared / "peers" / script), str(shared / "data" / data), ALPHA, *epochs, *flags]
    done = subprocess.run([*command, str(size), str(seed)], check=True, capture_output=True, text=True)
    line = json.loads(done.stdout.strip().splitlines()[-1])
    n = sum(row["split"] == "test" for row in split_rows(shared, data))
    return {"recipe": way, "wasted": None, "wasted_seconds": None, "correct": bits(line["right"], n)}


def tlkit(shared: Path, data: str, size: int, seed: int, way: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        command = [sys.executable, "-m", "tlkit", "finetune", str(shared / "data" / data / "splits.csv")]
        options = ["--backbone", f"mobilenetv2_{ALPHA}", "--image-size", str(size), "--seed", str(seed)]
        subprocess.run(
            [*command, *options, "--effort", way, "--out", str(out)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TLKIT_CACHE": str(Path(scratch) / "cache")},
        )
        run = open_run(out)
        recipe, total, wasted = run.plan.recipe.name, run.metrics["seconds"]["total"], wasted_seconds(run)
        with (out / "predictions.csv").open(newline="") as stream:
            right = {row["path"]: row["label"] == row["prediction"] for row in csv.DictReader(stream)}
    paths = [row["path"] for row in split_rows(shared, data) if row["split"] == "test"]
    return {
        "recipe": recipe,
        "wasted": round(wasted / total, 3),
        "wasted_seconds": round(wasted, 1),
        "correct": np.array([right[path] for path in paths]),
    }


def wasted_seconds(run: Run) -> float:
    """The seconds that went into fine-tuning that was not used."""
    rows = next((one.evidence["contenders"] for one in run.plan.decisions if one.about == "recipe"), [])
    return sum(row["seconds"] for row in rows if row["fine_tuned"] and not row["taken"])


def split_rows(shared: Path, data: str) -> list[dict[str, str]]:
    return read_rows(shared / "data" / data / "splits.csv")


def report(rows: list[dict[str, str]]) -> None:
    """Print each way's means over seeds, and its difference from the expert on the same images, with an interval."""
    cells: dict[tuple[str, str], dict[str, dict[int, dict[str, str]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        cells[row["data"], row["image_size"]][row["way"]][int(row["seed"])] = row
    print("| data | pixels | way | seeds | test accuracy | minus expert (95 % interval) | seconds | wasted |")
    print("| --- " * 8 + "|")
    for (data, size), ways in cells.items():
        for way, by_seed in ways.items():
            seeds = sorted(set(by_seed) & set(ways.get("expert", {}))) or sorted(by_seed)
            chosen = [by_seed[seed] for seed in seeds]
            right = [bits(row["right"], int(row["n"])) for row in chosen]
            seconds = np.mean([float(row["seconds"]) for row in chosen])
            beside, share = "", ""
            if way != "expert" and set(seeds) <= set(ways.get("expert", {})):
                other = [ways["expert"][seed] for seed in seeds]
                expert = [bits(row["right"], int(row["n"])) for row in other]
                ahead, error = paired_difference(np.concatenate(right), np.concatenate(expert))
                beside = f"{100 * ahead:+.1f} ({100 * ahead - 196 * error:+.1f} to {100 * ahead + 196 * error:+.1f})"
                share = f" ({seconds / np.mean([float(row['seconds']) for row in other]):.2f} of the expert's)"
            wasted = [float(row["wasted"]) for row in chosen if row["wasted"]]
            print(
                f"| {data} | {size} | {way} | {len(seeds)} | {100 * np.mean(right):.1f} (n = {chosen[0]['n']}) | "
                f"{beside} | {seconds:.0f}{share} | {f'{np.mean(wasted):.0%}' if wasted else ''} |"
            )


if __name__ == "__main__":
    main()
