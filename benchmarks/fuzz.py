"""What becomes of damaged and hostile inputs: images, tables, folder trees, plans and the files of runs?

    python benchmarks/fuzz.py [--kinds images tables folders runs] [--count N] [--seed N]

The inputs are made by tests/fuzz from a seed. Each process takes 2,500 of them; one that dies or does not answer is
counted and started again behind the input that it had. Images go through scan and, in batches of 16, through the
exported SavedModel of a small network; tables and folder trees through `tlkit.scan`; plans and the other files of a run
through their readers. Only a TlkitError may come out. Linux only, because peaks of memory are read from /proc.

Appends a row per kind to benchmarks/fuzz.csv, and prints each input that is a fault.
"""

import argparse
import collections
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
FILE = Path(__file__).with_suffix(".csv")
KINDS = ("images", "tables", "folders", "runs")
PART, BATCH, SLOW, HANG = 2500, 16, 10, 1800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--count", default=1000, type=int)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        kind, start, folder = arguments.part
        for row in DOORS[kind](int(start), arguments.count, arguments.seed, Path(folder)):
            print(json.dumps(row), flush=True)
        return
    from rows import append_row

    with tempfile.TemporaryDirectory() as scratch:
        for kind in arguments.kinds:
            append_row(FILE, measured(kind, arguments.count, arguments.seed, Path(scratch)))


def measured(kind: str, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run all inputs of a kind, in parts, and count what became of them."""
    counts: collections.Counter[str] = collections.Counter()
    seconds, peak, done = 0.0, 0, 0
    while done < count:
        many = min(PART, count - done)
        words = [
            sys.executable,
            __file__,
            "--count",
            str(many),
            "--seed",
            str(seed),
            "--part",
            kind,
            str(done),
            str(folder),
        ]
        try:
            ran = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=HANG)
            lines, how = ran.stdout.decode().splitlines(), "crash"
        except subprocess.TimeoutExpired as error:
            lines, how = (error.stdout or b"").decode().splitlines(), "hang"
        rows = [json.loads(line) for line in lines if line.startswith("{")]
        for row in rows:
            counts[row["what"]] += 1
            seconds, peak = max(seconds, row["seconds"]), max(peak, row["memory"])
            counts["hang"] += row["seconds"] > SLOW
            for fault in row["faults"]:
                counts["fault"] += 1
                print(f"{kind} {row['index']}: {fault}", flush=True)
        if len(rows) < many:
            counts[how] += 1
            print(f"{kind} {done + len(rows)}: {how}", flush=True)
        done += max(len(rows) + (len(rows) < many), 1)
    return {
        "date": date.today().isoformat(),
        "kind": kind,
        "seed": seed,
        "inputs": count,
        "read": counts["read"],
        "refused": counts["refused"],
        "crashes": counts["crash"],
        "hangs": counts["hang"],
        "other_errors_or_disagreements": counts["fault"],
        "max_cpu_seconds": round(seconds, 2),
        "peak_mb_over_start": round(peak / 1e6),
        **{name: version(name) for name in ("tlkit", "tensorflow", "pillow")},
    }


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def row(index: int, what: str, started: float, before: int, faults: list[str]) -> dict[str, Any]:
    used = time.process_time() - started
    return {"index": index, "what": what, "seconds": used, "memory": peak() - before, "faults": faults}


def images(start: int, count: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    from itertools import islice

    import numpy as np
    import tensorflow as tf

    from tests.fuzz.images import disagreements, mutants, seeds

    serve = tf.saved_model.load(str(exported(folder))).signatures["serving_default"]
    serve(image_bytes=tf.constant(list(seeds())))
    before = peak()
    some = list(islice(mutants(start + count, seed), start, None))
    for first in range(0, len(some), BATCH):
        chunk = [data for _, data in some[first : first + BATCH]]
        started, faults, ok = time.process_time(), collections.defaultdict(list), np.zeros(len(chunk), bool)
        try:
            ok = serve(image_bytes=tf.constant(chunk))["ok"].numpy()
            for index, what in disagreements(chunk, ok):
                faults[index].append(f"{some[first + index][0]}: {what}")
        except Exception as error:  # all that comes out is a fault
            faults[0].append(f"{type(error).__name__}: {str(error)[:200]}")
        for index, answered in enumerate(ok):
            yield row(start + first + index, "read" if answered else "refused", started, before, faults[index])


def exported(folder: Path) -> Path:
    """The SavedModel of a small network, written once."""
    target = folder / "model"
    if not target.exists():
        import keras

        from tests.tiny import tiny_file
        from tlkit.deployment.saved_model import export

        body = keras.saving.load_model(tiny_file())
        values = keras.layers.GlobalAveragePooling2D()(body.output)
        values = keras.layers.Dense(2, activation="softmax", name="predictions")(values)
        export(keras.Model(body.input, values), ["a", "b"], target)
    return target


def tried(index: int, work: Any, before: int) -> dict[str, Any]:
    from tlkit.errors import TlkitError

    started = time.process_time()
    try:
        work()
    except TlkitError:
        return row(index, "refused", started, before, [])
    except Exception as error:
        return row(index, "read", started, before, [f"{type(error).__name__}: {str(error)[:200]}"])
    return row(index, "read", started, before, [])


def tables(start: int, count: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    from tests.fuzz.images import seeds
    from tests.fuzz.tables import csv_mutants
    from tlkit import scan

    scratch = Path(tempfile.mkdtemp(dir=folder))
    for name, data in (("a.png", seeds()[4]), ("b.png", seeds()[5])):
        (scratch / name).write_bytes(data)
    before = peak()
    for index, (name, data) in enumerate(csv_mutants(start + count, seed)):
        if index >= start:
            (scratch / name).write_bytes(data)
            yield tried(index, lambda name=name: scan(scratch / name), before)


def folders(start: int, count: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    from tests.fuzz.images import seeds
    from tests.fuzz.tables import folder_tree
    from tlkit import scan

    scratch = Path(tempfile.mkdtemp(dir=folder))
    before = peak()
    for index in range(start, start + count):
        tree = folder_tree(scratch / str(index), seeds()[4], seed * 1_000_000 + index)
        yield tried(index, lambda tree=tree: scan(tree), before)


def runs(start: int, count: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    from tests.fuzz.runs import readers, run_mutants, write_run

    run = write_run(Path(tempfile.mkdtemp(dir=folder)) / "run")
    before = peak()
    for index, (name, data) in enumerate(run_mutants(run, start + count, seed)):
        if index >= start:
            good = (run / name).read_bytes()
            (run / name).write_bytes(data)
            yield tried(index, lambda name=name: readers(run, name), before)
            (run / name).write_bytes(good)


DOORS = {"images": images, "tables": tables, "folders": folders, "runs": runs}

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
