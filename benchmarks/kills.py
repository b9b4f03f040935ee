"""Kills `tlkit finetune` at random moments, resumes it, and compares it with the run that was not killed.

    python benchmarks/kills.py --kills 100

Three kinds of run with `nano` on scikit-learn's digits: a solved head, fine-tuning with augmentation and mixup, and a
tournament on noisy digits, in which a network is trained. Each run is killed with SIGKILL at a random moment of a
random phase, resumed, and so on until it ends. Then the weights of model.keras, history.csv, predictions.csv and
metrics.json are compared with those of the run that was not killed, but for what is measured (seconds, and how many
images were computed). `limits` says in which of the two a time limit ended something, as it may on a busy machine: then
they may differ. `seconds_lost` is, of each kill in training, the time since the last checkpoint, or since the process
began if that is less. Rows are appended to kills.csv as they end.
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
    *("equal", "seconds_lost", "seconds", "limits"),
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
POLL = 0.05  # seconds
LIMITED = re.compile("past the time limit|time limit was reached|limit of the check was reached")
KINDS: dict[str, list[str]] = {
    "solved head": ["--recipe", "small_similar"],
    "fine-tuning": ["--recipe", "RECIPE", "--allow", "rotate"],
    "tournament": ["--epochs", "8"],
}


def digits(folder: Path, a_class: int, noise: float = 0.0) -> Path:
    """Write scikit-learn's digits as class folders. noise: its standard deviation, in levels of 0 to 255."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    data, rng = load_digits(), np.random.default_rng(0)
    for number in range(10):
        (folder / str(number)).mkdir(parents=True)
        for index, pixels in enumerate(data.images[data.target == number][:a_class]):
            noisy = pixels / 16 * 255 + rng.normal(0, noise, pixels.shape)
            grey = noisy.clip(0, 255).astype(np.uint8)
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


PHASES = ("features", "training", "delivery")


def phase(log: str) -> str | None:
    """Where a run is, by its log; None before its first line."""
    if re.search(r"^(evaluating|exporting|proving)", log, re.M):
        return "delivery"
    if re.search(r"features of training images|^  epoch|head solved|^  linear|, step \d", log, re.M):
        return "training"
    return "features" if log else None


def run_and_kill(line: list[str], cache: Path, target: str | None, after: float) -> tuple[str | None, dict[str, float]]:
    """Run a command, and kill it `after` seconds in a phase.

    Returns the phase in which it was killed, None if it ended before, and how long it was in each phase.
    """
    seconds = dict.fromkeys(PHASES, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as file:
            environment = {**os.environ, "TLKIT_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
            process = subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            now = phase(log.read_text())
            if now is not None:
                seconds[now] += POLL
            if now is not None and now == target and seconds[now] > after:
                process.kill()
                process.wait()
                return now, seconds
            time.sleep(POLL)
        if process.returncode:
            raise SystemExit(f"{' '.join(line)} failed:\n{log.read_text()[-3000:]}")
    return None, seconds


def trial(kind: str, seed: int, data: Path, folder: Path) -> dict[str, Any]:
    """One run that is not killed, and one that is, again and again."""
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps(RECIPE))
    options = [str(recipe) if one == "RECIPE" else one for one in KINDS[kind]]
    given = [data, "--backbone", "nano", "--image-size", 64, "--no-report", "--seed", seed, *options]
    draw = random.Random(f"{kind} {seed}")
    whole, resumed = folder / "whole", folder / "resumed"
    started = time.monotonic()
    _, lasting = run_and_kill(command(*given, "--out", whole), folder / "cache", None, 0)
    seconds = time.monotonic() - started
    counts, lost, ended = dict.fromkeys(PHASES, 0), [], False
    while not ended:
        begun = (resumed / "plan.json").is_file()
        line = command("--resume", resumed) if begun else command(*given, "--out", resumed, "--force")
        target = draw.choice(PHASES)
        killed, worked = run_and_kill(line, folder / "other", target, draw.uniform(0, 0.8 * lasting[target]))
        over = (resumed / "metrics.json").is_file() and not (resumed / "checkpoints").exists()  # killed while it ended
        ended = killed is None or over
        if killed is not None:
            counts[killed] += 1
            progress = resumed / "checkpoints" / "progress.json"
            if killed == "training" and progress.is_file():
                lost.append(min(time.time() - progress.stat().st_mtime, sum(worked.values())))
    found, expected = parts_of(resumed), parts_of(whole)
    return {
        "date": datetime.date.today().isoformat(),
        "kind": kind,
        "seed": seed,
        "kills": sum(counts.values()),
        **{f"in_{name}": number for name, number in counts.items()},
        "equal": " ".join(name for name in expected if found[name] == expected[name]),
        "seconds_lost": " ".join(f"{one:.1f}" for one in lost),
        "seconds": round(seconds, 1),
        "limits": " ".join(one.name for one in (whole, resumed) if LIMITED.search((one / "plan.json").read_text())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--a-class", type=int, default=16, help="images of each class")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], choices=KINDS)
    arguments = parser.parse_args()
    total, seed = 0, arguments.first_seed
    with tempfile.TemporaryDirectory() as scratch:
        clean = digits(Path(scratch) / "digits", 12)
        noisy = digits(Path(scratch) / "noisy", 30, noise=90)
        while total < arguments.kills:
            for kind in arguments.kinds:
                folder = Path(scratch) / "trial"
                folder.mkdir()
                row = trial(kind, seed, noisy if kind == "tournament" else clean, folder)
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
