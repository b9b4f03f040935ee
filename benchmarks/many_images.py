"""Measure memory and time of a whole run on 1,000 to 50,000 generated images with `nano` at 96 pixels.

    python benchmarks/many_images.py [COUNT ...]

Ten classes of 96 x 96 JPEG files (a colour, noise), empty caches, 3 epochs of a linear head. Memory is the peak of
RssAnon, which does not count file pages such as those of the memory-mapped caches; Linux only. Appends a dated row per
count to benchmarks/many_images.csv. Prints the seconds per additional 1,000 images from the smallest to each larger
count; if these agree, time grows linearly.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from rows import append_row

FILE = Path(__file__).with_suffix(".csv")
RECIPE = {"name": "head", "stages": [{"epochs": 3, "learning_rate": 1e-3}], "why": "a measurement"}


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [1_000, 10_000, 25_000, 50_000]
    found = []
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch:
            write(Path(scratch) / "data", count)
            found.append(measure(Path(scratch), count))
            append_row(FILE, found[-1])
    first = found[0]
    for row in found[1:]:
        slope = (row["whole_seconds"] - first["whole_seconds"]) / (row["images"] - first["images"]) * 1000
        print(f"{first['images']:,} to {row['images']:,}: {slope:.2f} s per 1,000 images")


def write(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for i in range(count):
        kind = i % 10
        pixels = np.array([25 * kind, 250 - 25 * kind, 128]) + random.integers(-60, 60, (12, 12, 3))
        file = folder / f"class{kind}" / f"{i:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels.clip(0, 255).astype("uint8")).resize((96, 96), Image.Resampling.BILINEAR)
        image.save(file, quality=90)


def measure(scratch: Path, count: int) -> dict:
    (scratch / "recipe.json").write_text(json.dumps(RECIPE))
    command = [sys.executable, "-m", "tlkit", "finetune", str(scratch / "data"), "--backbone", "nano"]
    command += ["--recipe", str(scratch / "recipe.json"), "--out", str(scratch / "run"), "--cache-gb", "10"]
    environment = {**os.environ, "TLKIT_CACHE": str(scratch / "cache")}
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max(peak, *(int(kb) for kb in re.findall(r"RssAnon:\s+(\d+) kB", status)), 0)
        time.sleep(0.1)
    if process.wait():
        raise SystemExit(f"tlkit finetune ended with {process.returncode}")
    seconds = json.loads((scratch / "run" / "metrics.json").read_text())["seconds"]
    return {
        "date": date.today().isoformat(),
        "images": count,
        "peak_anonymous_gib": round(peak / 2**20, 2),
        "whole_seconds": round(time.monotonic() - started, 1),
        **{f"{step}_seconds": seconds[step] for step in ("scan", "decode", "train", "evaluate")},
        "cores": os.cpu_count(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
    }


if __name__ == "__main__":
    main()
