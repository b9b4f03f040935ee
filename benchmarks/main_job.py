"""Run the main job on real data: `tlkit finetune SET/splits.csv --backbone mobilenetv2`.

    TLKIT_SHARED=folder python benchmarks/main_job.py [SET ...]

The splits are given; the recipe is the default; one seed. Needs the data sets in $TLKIT_SHARED/data and the weights in
Keras' cache (KERAS_HOME). Caches start empty. Appends a dated row per set to benchmarks/main_job.csv. The floors are
goals that the project set for itself.
"""

import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from rows import append_row

from tlkit import open_run

FLOORS = {"cats_dogs": 95.8, "clothing": 89.0, "blood_cells": 98.3, "chest_xray": 95.0, "latin_letters": 80.0}
FILE = Path(__file__).with_suffix(".csv")


def main() -> None:
    shared = Path(os.environ.get("TLKIT_SHARED", "../shared"))
    rows = []
    for name in sys.argv[1:] or FLOORS:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "run"
            command = [sys.executable, "-m", "tlkit", "finetune", str(shared / "data" / name / "splits.csv")]
            started = time.monotonic()
            subprocess.run(
                [*command, "--backbone", "mobilenetv2", "--out", str(out)],
                check=True,
                env={**os.environ, "TLKIT_CACHE": str(Path(scratch) / "cache")},
            )
            seconds = time.monotonic() - started
            run = open_run(out)
            test, parity = run.metrics["test"], run.metrics["parity"]
            low, high = test["accuracy_95"]
            rows.append(
                {
                    "date": date.today().isoformat(),
                    "set": name,
                    "recipe": run.plan.recipe.name,
                    "seed": run.plan.job.seed,
                    "test_n": test["n"],
                    "test_accuracy": round(100 * test["accuracy"], 1),
                    "interval_low": round(100 * low, 1),
                    "interval_high": round(100 * high, 1),
                    "floor": FLOORS[name],
                    "macro_f1": round(test["macro_f1"], 3),
                    "parity_files": parity["n"],
                    "parity_agreement": parity["top1_agreement"],
                    "parity_max_difference": f"{parity['max_difference']:.1e}",
                    "seconds": round(seconds),
                    "cores": os.cpu_count(),
                    "tensorflow": version("tensorflow"),
                    "keras": version("keras"),
                }
            )
            append_row(FILE, rows[-1])
    missed = [row["set"] for row in rows if row["test_accuracy"] < row["floor"]]
    print(
        f"{len(rows) - len(missed)} of {len(rows)} sets at or above their floor"
        + (f"; below: {missed}" if missed else "")
    )
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
