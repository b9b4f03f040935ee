"""What does it cost to verify cached pixels and features when they are read?

    python benchmarks/checksums.py [--megabytes N ...] [--rounds N]
    python benchmarks/checksums.py --report

Writes rows of pixels (96 x 96 x 3, uint8) and of features (1,280 values, float16 and float32) into a store of
`tlkit.cache`, and reads all of them in batches of 32 or at once, as training and `all_rows` do: with every row
unverified, and with every row verified before, in turn. The first is what a process pays once for a file, the second
what it pays from then on. Seconds of the processor (`time.process_time`), the median of the rounds; the files are in
the operating system's cache. A real disk and the copy to the network come on top of both.

Appends a row per kind, size and way to benchmarks/checksums.csv.
"""

import argparse
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from rows import append_row, read_rows

from tlkit.cache import SOUND, UNSEEN, Shard, Store

FILE = Path(__file__).with_suffix(".csv")
KINDS = {
    "pixels": ((96, 96, 3), "uint8"),
    "features, float16": ((1280,), "float16"),
    "features, float32": ((1280,), "float32"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", nargs="+", default=[2, 20, 100, 500], type=int)
    parser.add_argument("--rounds", default=9, type=int)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        for megabytes in arguments.megabytes:
            for kind in KINDS:
                with tempfile.TemporaryDirectory() as scratch:
                    store, keys = written(Path(scratch), kind, megabytes)
                    for batch in (32, len(keys)):
                        append_row(FILE, measured(store, keys, kind, megabytes, batch, arguments.rounds))
    report(read_rows(FILE))


def written(folder: Path, kind: str, megabytes: int) -> tuple[Store, list[str]]:
    shape, dtype = KINDS[kind]
    count = int(megabytes * 1e6 / (np.prod(shape) * np.dtype(dtype).itemsize))
    random, store, keys = np.random.default_rng(0), Store(folder), [str(i) for i in range(count)]
    with store.writer(count, shape, dtype) as writer:
        for start in range(0, count, 512):
            some = keys[start : start + 512]
            writer.add(some, random.integers(0, 256, (len(some), *shape)).astype(dtype))
    return Store(folder), keys


def measured(store: Store, keys: list[str], kind: str, megabytes: int, batch: int, rounds: int) -> dict[str, object]:
    rows = store.rows(keys)
    seconds: dict[int, list[float]] = {UNSEEN: [], SOUND: []}
    for number in range(2 * rounds + 2):
        state = (UNSEEN, SOUND)[number % 2]
        for shard in rows.shards:
            assert isinstance(shard, Shard)
            shard.states[:] = state
        started = time.process_time()
        for start in range(0, len(keys), batch):
            rows.gather(slice(start, start + batch))
        if number >= 2:  # the first two warm up
            seconds[state].append(time.process_time() - started)
    first, later = (float(np.median(seconds[state])) for state in (UNSEEN, SOUND))
    return {
        "date": date.today().isoformat(),
        "kind": kind,
        "megabytes": megabytes,
        "rows": len(keys),
        "batch": batch,
        "rounds": rounds,
        "first_ms": round(1000 * first, 2),
        "later_ms": round(1000 * later, 2),
        "more": round(first / later - 1, 3),
        "more_low": round(min(seconds[UNSEEN]) / min(seconds[SOUND]) - 1, 3),
    }


def report(rows: list[dict[str, str]]) -> None:
    print("| kind | MB | read in | verified before, ms | first read, ms | more |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        way = "batches of 32" if row["batch"] == "32" else "one piece"
        print(
            f"| {row['kind']} | {row['megabytes']} | {way} | {row['later_ms']} | {row['first_ms']} | "
            f"{float(row['more']):+.1%} |"
        )


if __name__ == "__main__":
    main()
