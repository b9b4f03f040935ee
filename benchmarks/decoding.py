"""Compare the time that decoding takes with a plain TensorFlow graph, and with an earlier version of tlkit.

    python benchmarks/decoding.py [--before CHECKOUT] [--size 96] [--count 192] [--rounds 7] [--idle]

Drawn JPEG and PNG files without a colour profile, of 320 x 240 and of 1200 x 900 pixels. In one run, and in turns:

- tlkit: `StreamedRows.gather`, as training decodes a set that the cache has no room for, and the graph alone.
- before: the same of the package `tlkit` in another checkout.
- TensorFlow: a graph of read_file, decode_jpeg or decode_png, and resize with antialiasing. A JPEG is decoded at the
  same fraction of its size.

Each way has a process of its own, which lives through all rounds. The numbers are the medians of the rounds, of wall
time and of CPU time; where other programs run, only CPU time says much, and without `--idle` a row says "not idle".
Appends dated rows to benchmarks/decoding.csv.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row

FILE = Path(__file__).with_suffix(".csv")
SIDES = {"small": (320, 240), "large": (1200, 900)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.size)
        return
    with tempfile.TemporaryDirectory() as scratch:
        ways = ["tlkit", *(["before"] if given.before else []), "TensorFlow"]
        workers = {way: start(way, given) for way in ways}
        for kind in ("jpg", "png"):
            for name, sides in SIDES.items():
                folder = Path(scratch) / f"{kind}-{name}"
                draw(folder, kind, sides, given.count if name == "small" else given.count // 4)
                for what in ("whole", "graph"):
                    compare(workers, what, folder, given)
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()


def draw(folder: Path, kind: str, sides: tuple[int, int], count: int) -> None:
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(18)
    for i in range(count):
        image = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype="uint8"))
        image.resize(sides, Image.Resampling.BICUBIC).save(folder / f"{i:04d}.{kind}")


def start(way: str, given: argparse.Namespace) -> subprocess.Popen[str]:
    paths = [str(given.before)] if way == "before" else []
    paths += [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    words = [sys.executable, __file__, "--work", way, "--size", str(given.size)]
    return subprocess.Popen(
        words,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def compare(workers: dict, what: str, folder: Path, given: argparse.Namespace) -> None:
    """Let each way decode the folder in turns, and keep the medians."""
    found: dict[str, list[list[float]]] = {way: [] for way in workers}
    for turn in range(given.rounds + 1):
        for way in list(workers) if turn % 2 else list(workers)[::-1]:
            print(what, folder, file=workers[way].stdin, flush=True)
            answer = workers[way].stdout.readline().split()
            if turn:  # the first is to warm up
                found[way].append([float(number) for number in answer])
    wall, cpu = ({way: statistics.median(column) for way, column in columns(found, at).items()} for at in (0, 1))
    count = len(list(folder.iterdir()))
    row = {"date": date.today().isoformat(), "files": folder.name, "what": what, "size": given.size, "count": count}
    row |= {f"{way} cpu ms": round(1000 * cpu.get(way, float("nan")) / count, 3) for way in WAYS}
    row |= {f"cpu ratio to {way}": round(cpu["tlkit"] / cpu[way], 3) if way in cpu else "" for way in WAYS[1:]}
    row |= {f"wall ratio to {way}": round(wall["tlkit"] / wall[way], 3) if way in wall else "" for way in WAYS[1:]}
    row |= {"rounds": given.rounds, "cores": os.cpu_count(), "tensorflow": version("tensorflow")}
    append_row(FILE, {**row, "machine": "idle" if given.idle else "not idle"})


WAYS = ("tlkit", "before", "TensorFlow")


def columns(found: dict[str, list[list[float]]], at: int) -> dict[str, list[float]]:
    return {way: [numbers[at] for numbers in rounds] for way, rounds in found.items()}


# -- a process that decodes in one way -----------------------------------------------------------------------


def work(way: str, size: int) -> None:
    """Answer each line "what folder" with the wall time and the CPU time of decoding the folder, in seconds."""
    decoders: dict[tuple[str, str], Callable[[list[Path]], object]] = {}
    for line in sys.stdin:
        what, folder = line.split()
        files = sorted(Path(folder).iterdir())
        if (what, folder) not in decoders:
            decoders[what, folder] = plain(files[0], size, what) if way == "TensorFlow" else ours(size, what)
        started = time.perf_counter(), time.process_time()
        decoders[what, folder](files)
        print(time.perf_counter() - started[0], time.process_time() - started[1], flush=True)


def ours(size: int, what: str) -> Callable[[list[Path]], object]:
    import tensorflow as tf

    try:
        from tlkit.data.decode import decode_and_resize
        from tlkit.data.pixels import StreamedRows
    except ImportError:  # before 0.2
        from tlkit.decode import decode_and_resize
        from tlkit.pixels import StreamedRows

    if what == "whole":
        return lambda files: StreamedRows(tuple(files), size, "squash").gather(slice(None))
    graph = tf.function(
        lambda data: decode_and_resize(data, size), input_signature=[tf.TensorSpec((), tf.string)], autograph=False
    )
    return one_by_one(graph.get_concrete_function())


def plain(example: Path, size: int, what: str) -> Callable[[list[Path]], object]:
    import tensorflow as tf
    from PIL import Image

    with Image.open(example) as image:
        shorter = min(image.size)
    ratio = next(ratio for ratio in (8, 4, 2, 1) if ratio == 1 or shorter // ratio >= 2 * size)

    def decode(data: tf.Tensor) -> tf.Tensor:
        if example.suffix == ".jpg":
            image = tf.io.decode_jpeg(data, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")
        else:
            image = tf.io.decode_png(data, channels=3)
        resized = tf.image.resize(image, (size, size), antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    signature = [tf.TensorSpec((), tf.string)]
    if what == "graph":
        return one_by_one(tf.function(decode, input_signature=signature, autograph=False).get_concrete_function())
    read = tf.function(
        lambda path: decode(tf.io.read_file(path)), input_signature=signature, autograph=False
    ).get_concrete_function()

    def whole(files: list[Path]) -> np.ndarray:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack(list(pool.map(lambda file: read(tf.constant(str(file))).numpy(), files)))

    return whole


def one_by_one(graph: Callable) -> Callable[[list[Path]], object]:
    """The graph on the bytes of one file after another."""
    import tensorflow as tf

    return lambda files: [graph(tf.constant(file.read_bytes())).numpy() for file in files]


if __name__ == "__main__":
    main()
