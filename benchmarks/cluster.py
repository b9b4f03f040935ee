"""Measure how the work grows with the number of images, and what a second worker of a Ray cluster brings.

    python benchmarks/cluster.py grow [--on ray] [COUNT ...]
    python benchmarks/cluster.py workers [--work features|prediction] [--backbone NAME] [--size N]

`grow`: COUNT drawn JPEG files of 64 x 64 pixels in ten classes, no two alike, `nano` at 64 pixels with a head on all
blocks, empty caches, every step in a process of its own: scan (headers and hashes), decode, features, head (solved
shard by shard, whatever the number), and prediction of all images from their files. Memory is the peak of RssAnon of
that process, less what it has when TensorFlow and the network are loaded and have run once; Linux only. Appends a row
for each count, and prints each step's seconds and processor seconds per 1,000 more images, from each count to the next:
if these agree, the step grows linearly.

`workers`: images a second with one worker and with two, one thread each, alternating: the time for 1,500 more images,
so that starting the workers does not count. Wall time means nothing on a machine that does other work, so the load
average and the processor seconds of the workers for an image are stored too: if these do not rise with the second
worker, it is the cores that are missing.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from rows import append_row, read_rows

GROWTH, WORKERS = (Path(__file__).with_name(f"cluster_{name}.csv") for name in ("growth", "workers"))
STEPS = ("scan", "decode", "features", "head", "prediction")
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    doors = parser.add_subparsers(dest="door", required=True)
    grow = doors.add_parser("grow")
    grow.add_argument("counts", nargs="*", type=int, default=[1_000, 5_000, 20_000, 200_000])
    grow.add_argument("--on")
    one = doors.add_parser("one")
    one.add_argument("folder", type=Path)
    one.add_argument("count", type=int)
    one.add_argument("--on")
    workers = doors.add_parser("workers")
    workers.add_argument("--work", default="features")
    workers.add_argument("--backbone", default="nano")
    workers.add_argument("--size", type=int, default=96)
    workers.add_argument("--more", type=int, default=1_500)
    workers.add_argument("--rounds", type=int, default=3)
    some = doors.add_parser("pool")
    some.add_argument("work")
    some.add_argument("--backbone")
    some.add_argument("--folder", type=Path)
    for name in ("size", "more", "workers"):
        some.add_argument(f"--{name}", type=int)
    given = parser.parse_args()
    if given.door == "grow":
        growth(given.counts, given.on)
    elif given.door == "one":
        print(json.dumps(measure(given.folder, given.count, given.on)))
    elif given.door == "pool":
        print(json.dumps(with_workers(given)))
    else:
        two_workers(given.work, given.backbone, given.size, given.more, given.rounds)


# -- growth -----------------------------------------------------------------------------------------------


def growth(counts: list[int], on: str | None) -> None:
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch:
            write(Path(scratch) / "data", count)
            command = [sys.executable, __file__, "one", scratch, str(count), *([] if on is None else ["--on", on])]
            environment = {**os.environ, "TLKIT_CACHE": str(Path(scratch) / "cache")}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            append_row(GROWTH, json.loads(done.stdout.splitlines()[-1]))
    found = sorted((row for row in read_rows(GROWTH) if row["on"] == (on or "")), key=lambda row: int(row["images"]))
    for before, after in zip(found, found[1:], strict=False):
        more = (int(after["images"]) - int(before["images"])) / 1000
        for kind in ("seconds", "processor"):
            slopes = [(float(after[f"{s}_{kind}"]) - float(before[f"{s}_{kind}"])) / max(more, 1e-9) for s in STEPS]
            shown = ", ".join(f"{step} {slope:.2f}" for step, slope in zip(STEPS, slopes, strict=True))
            print(f"{int(before['images']):,} to {int(after['images']):,}, {kind} per 1,000: {shown}")


def write(folder: Path, count: int) -> None:
    """Draw images: a colour for each class, and noise."""
    random = np.random.default_rng(0)
    for i in range(count):
        kind = i % 10
        pixels = np.array([25 * kind, 250 - 25 * kind, 128]) + random.integers(-60, 60, (12, 12, 3))
        file = folder / f"class{kind}" / f"{i:08d}.jpg"
        if i < 10:
            file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels.clip(0, 255).astype("uint8")).resize((64, 64), Image.Resampling.BILINEAR)
        image.save(file, quality=90)


def measure(scratch: Path, count: int, on: str | None) -> dict:
    from tlkit import Cache, Examples, Head, Recipe, Stage, build_classifier, decode_images, find_backbone, scan
    from tlkit.cluster import current, working_on
    from tlkit.evaluation.predict import predict_probabilities
    from tlkit.features.extract import extract_features
    from tlkit.models.blocks import cut
    from tlkit.training import solve
    from tlkit.training.train import train

    solve.MOST_IN_MEMORY = 0  # so that the same solver is measured at every count
    network = find_backbone("nano")
    model = build_classifier(network, 10, head=Head(taps="all"), image_size=64)
    predict_probabilities(model, np_rows(np.zeros((BATCH, 64, 64, 3), "uint8")))
    base, steps = anonymous(), {}
    with Peak() as peak, working_on(on):

        @contextlib.contextmanager
        def step(name: str) -> Iterator[None]:
            before, cpu = time.monotonic(), processor(current())
            yield
            steps[f"{name}_seconds"] = round(time.monotonic() - before, 2)
            steps[f"{name}_processor"] = round(processor(current()) - cpu, 2)
            steps[f"{name}_peak_gib"] = round((peak.take() - base) / 2**30, 3)

        with step("scan"):
            images = scan(scratch / "data")
        with step("decode"):
            dataset = decode_images(images, 64, cache=Cache(20))
        everything = dataset.examples()
        chosen = np.random.default_rng(0).permutation(count)
        held = max(300, count // 20)
        prefix, _ = cut(model, network, 0)
        with step("features"):
            extract_features(prefix, everything, batch_size=BATCH)
        recipe = Recipe("head", (Stage(1, 1e-3, solver="logistic", strength=0.01),), head=Head(taps="all"))
        with step("head"):
            history = train(model, network, recipe, everything.take(chosen[held:]), everything.take(chosen[:held]))
        files = dataclasses.replace(dataset.pixels, store=None).of(dataset.images)
        with step("prediction"):
            found = predict_probabilities(model, files, batch_size=BATCH)
        different = len(set(everything.keys))
    assert isinstance(everything, Examples) and different == count == len(found)
    return {
        "date": date.today().isoformat(),
        "on": on or "",
        "images": count,
        **steps,
        "accuracy": round(float((found.argmax(1) == everything.labels).mean()), 4),
        "head_rows": history.rows[0]["val_accuracy"],
        "tensorflow_gib": round(base / 2**30, 3),
        "peak_beyond_gib": max(steps[f"{name}_peak_gib"] for name in STEPS),
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
    }


def np_rows(array: np.ndarray):  # type: ignore[no-untyped-def]
    from tlkit.cache import in_memory

    return in_memory(array)


def anonymous() -> int:
    """Bytes of this process's memory that are not pages of files."""
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


class Peak:
    """The largest `anonymous` since it was last taken."""

    def __enter__(self) -> "Peak":
        self.bytes, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.over.wait(0.05):
            self.bytes = max(self.bytes, anonymous())

    def take(self) -> int:
        found, self.bytes = max(self.bytes, anonymous()), 0
        return found

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def processor(workers: object) -> float:
    """Processor seconds of this process and of the workers so far."""
    total = time.process_time()
    for pid in [] if workers is None else workers.pids():  # type: ignore[attr-defined]
        total += of_process(pid)
    return total


def of_process(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- workers ----------------------------------------------------------------------------------------------


def two_workers(work: str, backbone: str, size: int, more: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for round_number in range(rounds):
            for count in (1, 2):
                given = [work, "--backbone", backbone, "--size", str(size), "--more", str(more)]
                command = [sys.executable, __file__, "pool", *given, "--workers", str(count), "--folder", scratch]
                environment = {**os.environ, "TLKIT_CACHE": str(Path(scratch) / f"cache{round_number}{count}")}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                append_row(WORKERS, json.loads(done.stdout.splitlines()[-1]))
                shutil.rmtree(environment["TLKIT_CACHE"], ignore_errors=True)
    rows = [
        row for row in read_rows(WORKERS) if (row["work"], row["backbone"], row["size"]) == (work, backbone, str(size))
    ]
    one, two = ([float(r["images_per_second"]) for r in rows if r["workers"] == n] for n in ("1", "2"))
    print(
        f"{work}, {backbone} at {size}: medians {np.median(one):.0f} and {np.median(two):.0f} images a second, "
        f"{np.median(two) / np.median(one):.2f} times, n = {len(one)} and {len(two)}"
    )


def with_workers(given: argparse.Namespace) -> dict:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(include_dashboard=False, num_cpus=given.workers, object_store_memory=200_000_000, log_to_driver=False)
    from tlkit import Cache, build_classifier, decode_images, find_backbone, scan
    from tlkit.cluster import pool, working_on
    from tlkit.evaluation.predict import predict_probabilities
    from tlkit.features.extract import extract_features
    from tlkit.models.blocks import cut

    few = 8 * BATCH
    folder = given.folder / "data"
    if not folder.exists():
        photographs(folder, few + given.more)
    network = find_backbone(given.backbone)
    model = build_classifier(network, 2, image_size=given.size)
    dataset = decode_images(scan(folder), given.size, cache=Cache(20))
    prefix, _ = cut(model, network, 0)
    files = dataclasses.replace(dataset.pixels, store=None).of(dataset.images)

    def work(rows: np.ndarray) -> None:
        if given.work == "features":
            extract_features(prefix, dataset.examples().take(rows), batch_size=BATCH)
        else:
            predict_probabilities(model, files.take(rows), batch_size=BATCH)

    with pool("ray") as workers, working_on(workers):
        seconds, theirs, own = [], [], []
        # the first call starts the workers; then the network is set up at each call, and the difference is the images
        for start, end in ((0, few // 2), (few // 2, few), (few, len(dataset))):
            began, before, cpu = time.monotonic(), {pid: of_process(pid) for pid in workers.pids()}, time.process_time()
            work(np.arange(start, end))
            seconds.append(time.monotonic() - began)
            theirs.append(sum(of_process(pid) - before.get(pid, 0.0) for pid in workers.pids()))
            own.append(time.process_time() - cpu)
    count = len(dataset) - few - few // 2
    return {
        "date": date.today().isoformat(),
        "work": given.work,
        "backbone": given.backbone,
        "size": given.size,
        "workers": given.workers,
        "images": count,
        "images_per_second": round(count / (seconds[2] - seconds[1]), 1),
        "seconds": round(seconds[2] - seconds[1], 2),
        "worker_milliseconds_per_image": round(1000 * (theirs[2] - theirs[1]) / count, 3),
        "driver_milliseconds_per_image": round(1000 * (own[2] - own[1]) / count, 3),
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "ray": version("ray"),
        "tensorflow": version("tensorflow"),
    }


def photographs(folder: Path, count: int) -> None:
    """Draw JPEG files of 400 x 300 pixels, no two alike, in two classes."""
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = random.integers(0, 255, (15, 20, 3)).astype("uint8")
        file = folder / f"class{i % 2}" / f"{i:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((400, 300), Image.Resampling.BICUBIC).save(file, quality=90)


if __name__ == "__main__":
    main()
