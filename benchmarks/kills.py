"""Kills `tlkit finetune` at random moments, resumes it, and compares it with the run that was not killed.

    python benchmarks/kills.py --kills 100

Three kinds of run with `nano` on scikit-learn's digits: a solved head, fine-tuning with augmentation and mixup, and a
tournament. Each run is killed with SIGKILL after a random time, resumed, and so on until it ends. Then the weights of
model.keras, history.csv, predictions.csv and metrics.json are compared with those of the run that was not killed, but
for what is measured (seconds, and how many images were computed). Rows are appended to kills.csv as they end.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("kills.csv")
COLUMNS = [
    *("date", "kind", "seed", "kills", "in_features", "in_training", "in_delivery"),
    *("equal", "seconds_lost", "seconds"),
]
MEASURED = {"seconds", "images_decoded", "images_computed", "milliseconds_an_image", "at_seconds", "bytes"}
RECIPE = {
    "name": "tuned",
    "stages": [
        {"epochs": 2, "learning_rate": 1e-3},
        {"epochs": 4, "learning_rate": 1e-3, "unfreeze": "all", "batch_norm": "moving", "mixup": 0.2, "ema": 0.9},
    ],
    "augmentation": {"shift_x": [-0.1, 0.1], "rotate": [-10, 10]},
    "batch_size": 16,
}
KINDS: dict[str, list[str]] = {
    "solved head": ["--recipe", "small_similar"],
    "fine-tuning": ["--recipe", "RECIPE", "--allow", "rotate"],
    "tournament": [],
}


def digits(folder: Path, a_class: int) -> Path:
    """Write scikit-learn's digits as class folders."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    for number in range(10):
        (folder / str(number)).mkdir(parents=True)
        for index, pixels in enumerate(data.images[data.target == number][:a_class]):
            grey = (pixels / 16 * 255).astype(np.uint8)
            Image.fromarray(grey).resize((32, 32)).save(folder / str(number) / f"{index:03d}.png")
    return folder


def command(*given: object) -> list[str]:
    return [sys.executable, "-m", "tlkit", "finetune", *map(str, given)]


def parts_of(run: Path) -> dict[str, str]:
    """SHA-256 of what must be equal."""
    with zipfile.ZipFile(run / "model.keras") as model:
        weights = model.read("model.weights.h5")
    import h5py

    digest = hashlib.sha256()
    with h5py.File(io.BytesIO(weights)) as file:
        file.visititems(lambda name, one: digest.update(one[()].tobytes()) if isinstance(one, h5py.Dataset) else None)
    rows = list(csv.DictReader((run / "history.csv").open()))
    history = json.dumps([{name: row[name] for name in row if name not in MEASURED} for row in rows])
    metrics = json.dumps(_unmeasured(json.loads((run / "metrics.json").read_text())), sort_keys=True)
    texts = {"history": history, "predictions": (run / "predictions.csv").read_text(), "metrics": metrics}
    return {"weights": digest.hexdigest()} | {n: hashlib.sha256(t.encode()).hexdigest() for n, t in texts.items()}


def _unmeasured(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _unmeasured(one) for name, one in values.items() if name not in MEASURED}
    return [_unmeasured(one) for one in values] if isinstance(values, list) else values


def phase(log: str) -> str:
    """Where a run was, by the last line of its log that says so."""
    found = "features"
    for line in log.splitlines():
        if re.search(r"epoch \d|deciding|trainable parameters|resumed|head solved|fine-tune", line):
            found = "training"
        if re.search(r"evaluating|exporting|proving|writing", line):
            found = "delivery"
    return found


def killed(line: list[str], environment: dict[str, str], after: float) -> tuple[bool, str]:
    """Run a command, and kill it after some seconds. Returns whether it ended before, and its log."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            log.seek(0)
            return False, log.read()
        log.seek(0)
        text = log.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(line)} failed:\n{text[-3000:]}")
    return True, text


def trial(kind: str, seed: int, data: Path, folder: Path) -> dict[str, Any]:
    """One run that is not killed, and one that is, again and again."""
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps(RECIPE))
    options = [str(recipe) if one == "RECIPE" else one for one in KINDS[kind]]
    given = [data, "--backbone", "nano", "--image-size", 64, "--no-report", "--seed", seed, *options]
    draw = random.Random(f"{kind} {seed}")
    whole, resumed = folder / "whole", folder / "resumed"
    started = time.monotonic()
    killed(command(*given, "--out", whole), {**os.environ, "TLKIT_CACHE": str(folder / "cache")}, 3600)
    seconds = time.monotonic() - started
    environment = {**os.environ, "TLKIT_CACHE": str(folder / "other")}
    counts = {"features": 0, "training": 0, "delivery": 0}
    ended, lost = False, 0.0
    while not ended:
        begun = (resumed / "plan.json").is_file()
        line = command("--resume", resumed) if begun else command(*given, "--out", resumed, "--force")
        ended, log = killed(line, environment, draw.uniform(0.25, 1.1) * seconds)
        if not ended and (resumed / "plan.json").is_file():
            counts[phase(log)] += 1
            progress = resumed / "checkpoints" / "progress.json"
            lost += time.time() - progress.stat().st_mtime if progress.is_file() else 0.0
    found, expected = parts_of(resumed), parts_of(whole)
    kills = sum(counts.values())
    return {
        "date": datetime.date.today().isoformat(),
        "kind": kind,
        "seed": seed,
        "kills": kills,
        **{f"in_{name}": number for name, number in counts.items()},
        "equal": " ".join(name for name in expected if found[name] == expected[name]),
        "seconds_lost": round(lost / kills, 1) if kills else "",
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--a-class", type=int, default=16, help="images of each class")
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    total, seed = 0, arguments.first_seed
    with tempfile.TemporaryDirectory() as scratch:
        data = digits(Path(scratch) / "digits", arguments.a_class)
        while total < arguments.kills:
            for kind in KINDS:
                folder = Path(scratch) / "trial"
                folder.mkdir()
                row = trial(kind, seed, data, folder)
                shutil.rmtree(folder)
                new = not RESULTS.exists()
                with RESULTS.open("a", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    if new:
                        writer.writeheader()
                    writer.writerow(row)
                print(row, flush=True)
                total += row["kills"]
            seed += 1


if __name__ == "__main__":
    main()
