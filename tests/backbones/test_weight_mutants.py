"""Damaged weights files: each is refused or read right, and nothing is executed, imported or written meanwhile.

They are judged in a process of its own, since the hook that watches it cannot be taken out again. The first of those
that `benchmarks/weight_files.py` takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.torch_files import WRITERS
from tests.weight_mutants import KINDS
from tlkit import read_weights

ROOT = Path(__file__).parent.parent.parent
JUDGE = """
import json, os, sys, tempfile
from pathlib import Path
from tests.weight_mutants import WRITERS, install_hook, run, watched
install_hook()
with tempfile.TemporaryDirectory() as folder:
    rows = [
        (format, mutant.kind, outcome.refused, outcome.faults, outcome.seconds)
        for format in WRITERS for mutant, outcome in run(format, 64, Path(folder))
    ]
    seen = []
    for act in (lambda: os.system("true"), lambda: open(Path(folder, "x"), "wb"), lambda: __import__("this"),
                lambda: os.mkdir(Path(folder, "y")), lambda: eval("1 + 1")):
        with watched() as events:
            try:
                act()
            except RuntimeError:
                pass
            seen.append(len(events))
    print(json.dumps([rows, seen]))
"""


@pytest.fixture(scope="module")
def judged() -> tuple[list[tuple[str, str, bool, list[str], float]], list[int]]:
    """(format, kind, refused, faults, seconds) of each file; and how much the hook saw of five forbidden acts."""
    done = subprocess.run([sys.executable, "-c", JUDGE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_damaged_files_are_refused_or_read_right(judged: tuple[list, list]) -> None:
    rows, _ = judged
    assert {(format, kind) for format, kind, *_ in rows} == {(format, kind) for format in WRITERS for kind in KINDS}
    assert not [row for row in rows if row[3]]
    assert max(row[4] for row in rows) < 5


def test_what_carries_a_checksum_is_never_read_with_other_numbers(judged: tuple[list, list]) -> None:
    rows, _ = judged
    refused = {(format, kind): {row[2] for row in rows if row[:2] == [format, kind]} for format, kind, *_ in rows}
    assert refused["zip", "flipped number"] == {True}
    assert all(refused[format, "flipped, named"] == {True} for format in WRITERS)
    for format in ("legacy", "safetensors", "onnx"):  # which carry none
        assert refused[format, "flipped number"] == {False}


def test_the_hook_sees_what_is_forbidden(judged: tuple[list, list]) -> None:
    assert all(judged[1]), judged[1]


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.slow
def test_reading_takes_little_more_memory_than_the_result(format: str, kind: str, tmp_path: Path) -> None:
    type_ = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
    tensors = {str(number): np.zeros(2**22, type_) for number in range(3)}
    file = WRITERS[format](tmp_path / "a.pth", tensors)
    result = 3 * 2**24
    tracemalloc.start()
    try:
        read = read_weights(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(one.nbytes for one in read.values()) == result
    assert result <= peak < result + 20 * 2**20
