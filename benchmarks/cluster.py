"""Measure how the work grows with the number of images, and what a second worker of a Ray cluster brings.

    python benchmarks/cluster.py grow [--on ray] [COUNT ...]
    python benchmarks/cluster.py workers [--work features|prediction] [--backbone NAME] [--size N]

`grow`: COUNT drawn JPEG files of 64 x 64 pixels in ten classes, no two alike, `nano` at 64 pixels with a head on all
blocks, empty caches, every step in a process of its own: scan (headers and hashes), decode, features, head (solved
shard by shard, whatever the number), and prediction of all images from their files. Memory is the peak of RssAnon of
that process, less what it has when TensorFlow and the network are loaded and have run once; Linux only. Appends a row
for each count, and prints each step's seconds and processor seconds per 1,000 more images, from each count to the next:
if these agree, the step grows linearly.

`workers`: images a second with one worker and with two, one thread each, alternating, from the thirteenth batch on, so
that starting the workers does not count, of JPEG files of 400 x 300 pixels. `scan` and `decode` read the files in the
workers, `features` sends decoded pixels to them, and `prediction` sends paths of files, which the workers decode. Wall
time means nothing on a machine that does other work: so the load average, and the processor time of workers and driver
for an image are stored too. From these follows what two idle cores would give: with one worker, the driver has a core
of its own; two workers share both cores with it.

`foresee`: prints the slopes again, and what the line through the two counts before the largest says of the largest.
`hours`: prints what the measured costs come to for 1 to 100 million images on 1 to 64 workers.
"""

import argparse
import contextlib
import dataclasses
import itertools
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
WORKER, DRIVER = "worker_milliseconds_per_image", "driver_milliseconds_per_image"
STEPS = ("scan", "decode", "features", "head", "prediction")
BATCH = 32
FEW = 12  # batches, before which the workers still start


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
    doors.add_parser("hours")
    lines = doors.add_parser("foresee")
    lines.add_argument("--on")
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
    elif given.door == "hours":
        hours()
    elif given.door == "foresee":
        foresee(given.on)
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
    foresee(on)


def foresee(on: str | None) -> None:
    """Print each step's slopes, and what the line through the two counts before the largest says of it."""
    found = sorted((row for row in read_rows(GROWTH) if row["on"] == (on or "")), key=lambda row: int(row["images"]))
    for before, after in itertools.pairwise(found):
        more = (int(after["images"]) - int(before["images"])) / 1000
        for kind in ("seconds", "processor"):
            slopes = [(float(after[f"{s}_{kind}"]) - float(before[f"{s}_{kind}"])) / max(more, 1e-9) for s in STEPS]
            shown = ", ".join(f"{step} {slope:.3f}" for step, slope in zip(STEPS, slopes, strict=True))
            print(f"{int(before['images']):,} to {int(after['images']):,}, {kind} per 1,000: {shown}")
    if len(found) < 3:
        return
    first, second, last = found[-3:]
    counts = [int(row["images"]) for row in (first, second, last)]
    total = [0.0, 0.0]
    for step in STEPS:
        low, high, true = (float(row[f"{step}_processor"]) for row in (first, second, last))
        said = high + (high - low) / (counts[1] - counts[0]) * (counts[2] - counts[1])
        total = [total[0] + said, total[1] + true]
        off = f"{said / true - 1:+.0%}"
        print(f"{step}: {said:.0f} processor seconds foreseen for {counts[2]:,}, {true:.0f} measured ({off})")
    print(f"together: {total[0]:.0f} foreseen, {total[1]:.0f} measured ({total[0] / total[1] - 1:+.0%})")


def hours() -> None:
    """Print what the measured costs come to for more images, on more workers, as a table of Markdown.

    A step takes the workers' time for an image, divided by their number, or the driver's, if that is more. The head is
    solved by the driver alone.
    """
    growth_rows = sorted((r for r in read_rows(GROWTH) if not r["on"]), key=lambda row: int(row["images"]))
    first, last = growth_rows[0], growth_rows[-1]
    more = int(last["images"]) - int(first["images"])
    slope = {s: 1000 * (float(last[f"{s}_processor"]) - float(first[f"{s}_processor"])) / more for s in STEPS}
    measured = read_rows(WORKERS)

    def of(work: str, column: str, backbone: str = "nano", size: str = "96") -> float:
        rows = [r for r in measured if (r["work"], r["backbone"], r["size"]) == (work, backbone, size)]
        return float(np.median([float(row[column]) for row in rows]))

    for name, steps in {
        "`nano` at 96": {w: (of(w, WORKER), of(w, DRIVER)) for w in ("scan", "decode", "features", "prediction")},
        "`mobilenetv2` at 224": {
            "scan": (of("scan", WORKER), of("scan", DRIVER)),
            **{
                w: (of(w, WORKER, "mobilenetv2", "224"), of(w, DRIVER, "mobilenetv2", "224"))
                for w in ("decode", "features")
            },
        },
    }.items():
        print(name, {k: tuple(round(x, 3) for x in v) for k, v in steps.items()}, f"head {slope['head']:.2f}")
        for images in (1_000_000, 20_000_000, 100_000_000):
            cells = []
            for workers in (1, 8, 64):
                parts = {w: max(own / workers, driver) * images / 3.6e6 for w, (own, driver) in steps.items()}
                parts["head"] = slope["head"] * images / 3.6e6
                longest = max(parts, key=parts.__getitem__)
                cells.append(f"{sum(parts.values()):.1f} h ({longest} {parts[longest]:.1f})")
            print(f"| {images // 1_000_000} million | {' | '.join(cells)} |")


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
    one, two = ([row for row in rows if row["workers"] == n] for n in ("1", "2"))

    def median(some: list[dict[str, str]], column: str) -> float:
        return float(np.median([float(row[column]) for row in some]))

    speeds = [median(some, "images_per_second") for some in (one, two)]
    w, v, d = (median(one, WORKER), median(two, WORKER), median(two, DRIVER))
    print(
        f"{work}, {backbone} at {size}: medians {speeds[0]:.0f} and {speeds[1]:.0f} images a second, "
        f"{speeds[1] / speeds[0]:.2f} times (n = {len(one)} and {len(two)}); by processor time, on two idle cores "
        f"{2 * w / (v + d):.2f} times ({w:.2f} ms a worker, {v:.2f} with two, and {d:.2f} ms the driver)"
    )


def with_workers(given: argparse.Namespace) -> dict:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=given.workers,
        object_store_memory=200_000_000,
        log_to_driver=False,
    )
    from tlkit import Cache, build_classifier, decode_images, find_backbone, scan
    from tlkit.cluster import pool, working_on
    from tlkit.evaluation.predict import predict_probabilities
    from tlkit.features.extract import extract_features
    from tlkit.models.blocks import cut

    batch = {"scan": 64, "decode": 16}.get(given.work, BATCH)
    few = FEW * batch
    folder = given.folder / "data"
    if not folder.exists():
        photographs(folder, few + given.more)
    network = find_backbone(given.backbone)
    model = build_classifier(network, 2, image_size=given.size)
    dataset = decode_images(scan(folder), given.size, cache=Cache(20))
    prefix, _ = cut(model, network, 0)
    files = dataclasses.replace(dataset.pixels, store=None).of(dataset.images)

    def work(rows: np.ndarray) -> None:
        if given.work == "scan":
            scan(folder)
        elif given.work == "decode":
            decode_images(dataset.images, given.size, cache=Cache(20, given.folder / f"again{given.workers}"))
        elif given.work == "features":
            extract_features(prefix, dataset.examples().take(rows), batch_size=BATCH)
        else:
            predict_probabilities(model, files.take(rows), batch_size=BATCH)

    with pool("ray") as workers:
        marks: list[tuple[float, float, float]] = []  # when each batch was done: seconds, processor of workers and own

        class Watched(type(workers)):  # type: ignore[misc]
            def map_ordered(self, *given: object) -> Iterator[object]:
                for found in super().map_ordered(*given):
                    marks.append((time.monotonic(), sum(map(of_process, self.pids())), time.process_time()))
                    yield found

        workers.__class__ = Watched
        with working_on(workers):
            work(np.arange(len(dataset)))
    begun, end = marks[FEW], marks[-1]
    count = (len(marks) - 1 - FEW) * batch
    seconds, theirs, own = (last - first for first, last in zip(begun, end, strict=True))
    return {
        "date": date.today().isoformat(),
        "work": given.work,
        "backbone": given.backbone,
        "size": given.size,
        "workers": given.workers,
        "images": count,
        "images_per_second": round(count / seconds, 1),
        "seconds": round(seconds, 2),
        "worker_milliseconds_per_image": round(1000 * theirs / count, 3),
        "driver_milliseconds_per_image": round(1000 * own / count, 3),
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
