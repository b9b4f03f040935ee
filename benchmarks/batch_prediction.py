"""Measure `tlkit.predict_to`: its speed beside the SavedModel itself, its memory, and what kills leave behind.

    python benchmarks/batch_prediction.py speed [--backbone NAME] [--size PIXELS] [--images N]
    python benchmarks/batch_prediction.py memory [COUNT ...]
    python benchmarks/batch_prediction.py kills [--kills N]

speed: photographs of cats_dogs as JPEG files, answered in turns by the SavedModel in a loop, in batches of 32 from
memory, and by `predict_to` from the files to Parquet, in one process on the same cores, after a round that is not
counted. `cpu_ratio` is the CPU seconds of the loop divided by those of `predict_to`, and `wall_ratio` the same of the
clock: 1 is as fast as the loop. The clock means little beside other work.

memory: JPEG files of 64 x 64 pixels that all differ, in folders of 10,000, answered by `nano` at 64 pixels in a process
of their own. Memory is the peak of RssAnon, which does not count file pages; Linux only.

kills: `predict_to` on 600 such files in parts of 25, killed by SIGKILL at random moments and begun again until it ends.
Every row is then compared with a batch that was not killed.

Rows are appended to batch_prediction.csv, one for each measurement.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from rows import append_row

FILE = Path(__file__).with_suffix(".csv")
SHARED = Path(os.environ.get("TLKIT_SHARED", "../shared"))
COLUMNS = (
    *("date", "what", "backbone", "size", "images", "rounds", "cpu_ratio", "wall_ratio", "cpu_ms", "wall_ms"),
    *("peak_gib", "before_gib", "kills", "twice", "missing", "different", "cores", "load", "tensorflow"),
)
BATCH = 32
RUN = "import sys; from tlkit import predict_to; print(predict_to(*sys.argv[1:4], rows=int(sys.argv[4])).computed)"


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("what", choices=("speed", "memory", "kills"))
    words.add_argument("counts", nargs="*", type=int)
    words.add_argument("--backbone", default="mobilenetv2")
    words.add_argument("--size", type=int, default=224)
    words.add_argument("--images", type=int, default=512)
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--kills", type=int, default=20)
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if given.what == "speed":
            found = [speed(Path(scratch), given.backbone, given.size, given.images, given.rounds)]
        elif given.what == "memory":
            found = [memory(Path(scratch), count) for count in given.counts or [2_000, 20_000, 200_000]]
        else:
            found = [kills(Path(scratch), given.kills)]
    for one in found:
        print(one)


def noted(what: str, values: dict[str, Any]) -> dict[str, Any]:
    facts = {"date": date.today().isoformat(), "what": what, **values, "cores": os.cpu_count()}
    facts |= {"load": round(os.getloadavg()[0], 1), "tensorflow": version("tensorflow")}
    append_row(FILE, {name: facts.get(name, "") for name in COLUMNS})
    return facts


def model_in(folder: Path, backbone: str, size: int) -> Path:
    """An export of a classifier of two classes whose head is as it was initialised."""
    from tlkit import build_classifier, export

    return export(build_classifier(backbone, 2, image_size=size), ["cat", "dog"], folder / "model")


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.monotonic()
    work()
    return time.process_time() - cpu, time.monotonic() - wall


def speed(scratch: Path, backbone: str, size: int, count: int, rounds: int) -> dict[str, Any]:
    import tensorflow as tf

    from tlkit import predict_to

    found = sorted((SHARED / "data" / "cats_dogs").rglob("*.jpg"))
    files = [found[i % len(found)] for i in range(count)]
    model = model_in(scratch, backbone, size)
    serve = tf.saved_model.load(str(model)).signatures["serving_default"]
    data = [file.read_bytes() for file in files]
    numbers = iter(range(1000))

    def loop() -> None:
        for start in range(0, count, BATCH):
            serve(image_bytes=tf.constant(data[start : start + BATCH]))["probabilities"].numpy()

    def batch() -> None:
        predict_to(model, files, scratch / f"{next(numbers)}.parquet")

    took: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for number in range(rounds + 1):
        pair = (timed(loop), timed(batch)) if number % 2 else tuple(reversed((timed(batch), timed(loop))))
        took.append(pair)  # type: ignore[arg-type]
        print(number, pair, flush=True)
    loops, batches = (np.array([pair[side] for pair in took[1:]]).sum(0) for side in (0, 1))
    ms = 1000 * batches / (rounds * count)
    values = {"backbone": backbone, "size": size, "images": count, "rounds": rounds}
    values |= {"cpu_ratio": round(loops[0] / batches[0], 3), "wall_ratio": round(loops[1] / batches[1], 3)}
    return noted("speed", {**values, "cpu_ms": round(ms[0], 2), "wall_ms": round(ms[1], 2)})


def write(folder: Path, count: int) -> Path:
    """JPEG files that all differ, in folders of 10,000."""
    rng = np.random.default_rng(0)
    for i in range(count):
        file = folder / f"{i // 10_000:03d}" / f"{i:07d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), "uint8")
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR).save(file, quality=85)
    return folder


def memory(scratch: Path, count: int) -> dict[str, Any]:
    photos, model = write(scratch / f"photos-{count}", count), scratch / "model"
    if not model.is_dir():
        model_in(scratch, "nano", 64)
    out = scratch / f"{count}.parquet"
    command = [sys.executable, "-c", RUN, str(model), str(photos), str(out), "4096"]
    started, peak, before, children = time.monotonic(), 0, 0, resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            found = re.findall(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        except OSError:
            break
        peak = max(peak, *map(int, found), 0)
        if not list(out.glob("part-*")):  # the model is loaded, and the first part is under way
            before = peak
        time.sleep(0.2)
    if process.wait():
        raise SystemExit(f"it ended with {process.returncode}")
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    rows = pd.read_parquet(out, columns=["path", "ok"])
    missing = count - len(rows)
    values = {
        "backbone": "nano",
        "size": 64,
        "images": count,
        "missing": missing,
        "twice": int(rows["path"].duplicated().sum()),
    }
    values |= {"peak_gib": round(peak / 2**20, 2), "before_gib": round(before / 2**20, 2)}
    return noted(
        "memory", {**values, "cpu_ms": round(1000 * cpu / count, 3), "wall_ms": round(1000 * seconds / count, 3)}
    )


def kills(scratch: Path, most: int) -> dict[str, Any]:
    count = 600
    photos, model = write(scratch / "photos", count), model_in(scratch, "nano", 64)
    out, whole = scratch / "killed.parquet", scratch / "whole.parquet"
    command = [sys.executable, "-c", RUN, str(model), str(photos)]
    subprocess.run([*command, str(whole), "25"], check=True, capture_output=True)
    moments, done = random.Random(0), 0
    while done < most:
        process = subprocess.Popen([*command, str(out), "25"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        parts = len(list(out.glob("part-*")))
        while len(list(out.glob("part-*"))) == parts and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.2))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        done += 1
    subprocess.run([*command, str(out), "25"], check=True, capture_output=True)
    one, other = (pd.read_parquet(path).set_index("path") for path in (out, whole))
    missing, twice = len(set(other.index) - set(one.index)), int(one.index.duplicated().sum())
    same = one["prediction"].reindex(other.index) == other["prediction"]
    values = {"backbone": "nano", "size": 64, "images": count, "kills": done, "twice": twice, "missing": missing}
    return noted("kills", {**values, "different": int((~same).sum())})


if __name__ == "__main__":
    main()
