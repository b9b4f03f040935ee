"""Check the backbone contract on every row of the table of backbones.

    python benchmarks/contract_all.py [NAME ...]

The contract: blocks, contributions that add up to the logit, `fit`, BatchNormalization, and the `.keras` and SavedModel
round trips. Random weights, the smallest size that each backbone accepts, and one process per backbone, so that its
memory is released. Appends a dated row per backbone to benchmarks/contract_all.csv, skips those that passed with this
Keras version, and exits 1 if any failed.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from rows import append_row

from tlkit.backbones import BACKBONES

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_suffix(".csv")
CHECK = """
import sys
from pathlib import Path
from tests.models.test_classifier import check_behaviour, check_contributions, check_structure
check_contributions(sys.argv[1], check_structure(sys.argv[1]))
check_behaviour(sys.argv[1], Path(sys.argv[2]))
"""


def main() -> None:
    done = set()
    if FILE.exists():
        with FILE.open(newline="") as stream:
            done = {
                row["backbone"]
                for row in csv.DictReader(stream)
                if (row["keras"], row["outcome"]) == (version("keras"), "passed")
            }
    failed = []
    for name in sys.argv[1:] or sorted(BACKBONES, key=lambda n: BACKBONES[n].parameters):
        if name in done:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-c", CHECK, name, scratch]
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        outcome = "passed" if result.returncode == 0 else result.stderr.strip().splitlines()[-1][:200]
        if result.returncode:
            failed.append(name)
        row = {
            "date": date.today().isoformat(),
            "backbone": name,
            "parameters": BACKBONES[name].parameters,
            "blocks": BACKBONES[name].blocks,
            "outcome": outcome,
            "seconds": round(time.monotonic() - started),
            "cores": os.cpu_count(),
            "keras": version("keras"),
            "tensorflow": version("tensorflow"),
        }
        append_row(FILE, row)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
