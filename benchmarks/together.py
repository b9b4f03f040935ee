"""Do runs that share a cache end as a lone run does?

    python benchmarks/together.py [--rounds N] [--way NAME ...]
    python benchmarks/together.py --report

Each round fine-tunes `nano` on 60 drawn images by two recipes, a solved head and a head with augmentation trained by
gradients, in a process of its own for each run. What is compared are the SHA-256 of the weights and of predictions.csv
with those of a lone run with a cache of its own. The export and its proof, which read no cache, are left out.

- four: four runs at once on one empty cache.
- cleared: four runs at once while another process clears all caches every 0.1 s.
- machines: two runs at once that take each other for other machines: other host names, and locks that none sees, as on
  a network folder without locks. The folder itself is a local one: a real network file system was not tried.
- killed: four runs at once, of which two are killed at a random moment; then the lone run's job on what they left.

`rows` and `copies` are the rows that the cache holds in the end, and how many of them hold a key once more. A row is
appended to benchmarks/together.csv for each way and round.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
WAYS = ("four", "cleared", "machines", "killed")
RUN = """
import contextlib, hashlib, json, sys
if sys.argv[3]:
    import fcntl, platform
    platform.node = lambda: sys.argv[3]
    fcntl.flock = lambda *a: None
import numpy as np
from pathlib import Path
from tlkit import Augmentation, Head, Recipe, Stage, finetune, load_model
import tlkit.finetuning.deliver as deliver
finetune_module = sys.modules["tlkit.finetuning.finetune"]
deliver.export = lambda model, names, folder, **settings: folder.mkdir()
deliver.prove_parity = lambda *a: {"n": 0, "top1_agreement": 1.0, "max_difference": 0.0, "limit": 1e-5,
    "asked_again": 0, "evaluated_difference": 0.0, "within_limit": True}
finetune_module.FreshProcess = contextlib.nullcontext
print("begun", flush=True)
data, out = Path(sys.argv[1]), Path(sys.argv[2])
trained = Recipe("trained", stages=(Stage(epochs=3, learning_rate=1e-2),), views=2,
    augmentation=Augmentation(rotate=(-10, 10)))
found = {}
for name, recipe in (("solved", "small_similar"), ("trained", trained)):
    run = finetune(data, backbone="nano", recipe=recipe, allow=["rotate"], out=out / name, report=False)
    weights = hashlib.sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in load_model(run).get_weights()))
    predictions = hashlib.sha256((run.folder / "predictions.csv").read_bytes())
    found[name] = [weights.hexdigest(), predictions.hexdigest()]
print(json.dumps(found))
"""
CLEAR = """
import sys, time
from tlkit.cache import Cache
count = 0
while True:
    count += len(Cache().clear("all"))
    print(count, flush=True)
    time.sleep(0.1)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", default=1, type=int)
    parser.add_argument("--way", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            data = drawn(folder / "data")
            lone = ended([started(data, folder / "lone", folder / "cache-lone")])[0]
            for number in range(arguments.rounds):
                for way in arguments.way:
                    append_row(FILE, tried(way, folder / f"{way}{number}", data, lone, number))
    report(read_rows(FILE))


def drawn(folder: Path, per_class: int = 20) -> Path:
    """Three classes of noisy squares."""
    from PIL import Image

    rng = np.random.default_rng(21)
    for label, colour in {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 40, 30)}.items():
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(np.array(colour) + rng.integers(-90, 90, (48, 48, 3)), 0, 255)
            Image.fromarray(pixels.astype("uint8")).save(folder / label / f"{number:03d}.png")
    return folder


def started(data: Path, out: Path, cache: Path, machine: str = "") -> subprocess.Popen[str]:
    """Start a run. machine: the host name that it takes itself to have; "" for the real one, with locks."""
    settings = os.environ | {"TLKIT_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [sys.executable, "-c", RUN, str(data), str(out), machine]
    return subprocess.Popen(words, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(runs: list[subprocess.Popen[str]]) -> list[dict[str, list[str]] | str]:
    """What each run found, or the last line of its error."""
    found: list[dict[str, list[str]] | str] = []
    for run in runs:
        output, errors = run.communicate()
        lines = errors.strip().splitlines() or ["killed"]
        found.append(json.loads(output.splitlines()[-1]) if run.returncode == 0 else lines[-1])
    return found


def tried(way: str, folder: Path, data: Path, lone: object, seed: int) -> dict[str, object]:
    cache, cleared = folder / "cache", 0
    machines = ["one", "two"] if way == "machines" else [""] * 4
    began = time.monotonic()
    runs = [started(data, folder / f"out{i}", cache, machine) for i, machine in enumerate(machines)]
    if way == "cleared":
        settings = os.environ | {"TLKIT_CACHE": str(cache)}
        clearing = subprocess.Popen(
            [sys.executable, "-c", CLEAR], env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    if way == "killed":
        rng = random.Random(seed)
        for run in runs[:2]:
            assert run.stdout is not None
            run.stdout.readline()
            time.sleep(rng.uniform(0, 10))
            run.kill()
    found = ended(runs)
    if way == "cleared":
        clearing.kill()
        output, errors = clearing.communicate()
        cleared = int(output.split()[-1])
        if errors:
            found.append(errors.strip().splitlines()[-1])
    if way == "killed":
        found = [*found[2:], *ended([started(data, folder / "later", cache)])]
    rows, copies, left = held(cache)
    return {
        "date": date.today().isoformat(),
        "way": way,
        "runs": len(found),
        "equal": sum(one == lone for one in found),
        "errors": "; ".join(one for one in found if isinstance(one, str)),
        "cleared": cleared,
        "rows": rows,
        "copies": copies,
        "partial_files": left,
        "seconds": round(time.monotonic() - began, 1),
    }


def held(cache: Path) -> tuple[int, int, int]:
    """How many rows the caches hold, how many of them hold a key again, and how many partial files there are."""
    rows = copies = 0
    for folder in {file.parent for file in cache.rglob("*.npy")}:
        indexes = [json.loads(file.read_text()) for file in folder.glob("*.json") if file.with_suffix(".npy").exists()]
        keys = [key for index in indexes for key in index["keys"] if key is not None]
        rows, copies = rows + len(keys), copies + len(keys) - len(set(keys))
    return rows, copies, len(list(cache.rglob("*.partial")))


def report(rows: list[dict[str, str]]) -> None:
    print("| way | rounds | runs | equal to the lone run | errors | caches cleared | rows | copies | partial files |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        sums = {name: sum(int(row[name]) for row in mine) for name in ("runs", "equal", "cleared", "rows", "copies")}
        errors, left = sum(bool(row["errors"]) for row in mine), sum(int(row["partial_files"]) for row in mine)
        print(
            f"| {way} | {len(mine)} | {sums['runs']} | {sums['equal']} | {errors} | {sums['cleared']} | "
            f"{sums['rows']} | {sums['copies']} | {left} |"
        )


if __name__ == "__main__":
    main()
