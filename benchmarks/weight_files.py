"""Damaged and hostile weights files: each must be refused or read right, and nothing may be executed or written.

    python benchmarks/weight_files.py [--count 1000]

Of each format, `--count` files are damaged in eight ways (`tests/weight_mutants.py`, seeded): bits flipped anywhere,
bits of numbers flipped, bits flipped in a file whose name has its SHA-256, cut, made longer, wrong lengths, other
opcodes of a pickle (fields of ONNX, words of JSON), and joined with a part of another file. A hook records all that is
executed, imported, opened for writing or changed on disk meanwhile; `tracemalloc` measures the memory.

Then files that are made to take much memory or time, and good ones of 64 MiB, each in a process of its own whose
resident memory is measured; and the files in TLKIT_SHARED/reference/files. Writes benchmarks/weight_files.csv.
"""

import argparse
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from datetime import date
from itertools import chain
from pathlib import Path

import ml_dtypes
import numpy as np
from rows import append_row

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests import torch_files, weight_mutants  # noqa: E402
from tlkit import WeightsError, read_weights  # noqa: E402

FILE = Path(__file__).with_suffix(".csv")
MEBIBYTE = 2**20
LARGE = 64 * MEBIBYTE
SECONDS = 30.0  # the most for any file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--one", type=Path, help="read one file, print what it took, and end")
    arguments = parser.parse_args()
    if arguments.one:
        read_one(arguments.one)
        return
    FILE.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, file in chain(large_files(Path(folder)), greedy_files(Path(folder))):
            in_a_process(name, file)
        weight_mutants.install_hook()
        weight_mutants.run("zip", 0, Path(folder) / "first")  # what a first use imports is no fault
        reference_files(Path(folder) / "reference")
        for format in torch_files.WRITERS:
            damaged_files(format, arguments.count, Path(folder) / format)


def damaged_files(format: str, count: int, folder: Path) -> None:
    found = weight_mutants.run(format, count, folder)
    for kind in weight_mutants.KINDS:
        of_kind = [outcome for mutant, outcome in found if mutant.kind == kind]
        refused = sum(one.refused for one in of_kind)
        faults = [fault for one in of_kind for fault in one.faults]
        seconds, memory = max(one.seconds for one in of_kind), max(one.memory for one in of_kind)
        write(format, kind, len(of_kind), refused, faults, seconds, memory)


def write(
    format: str, kind: str, files: int, refused: int, faults: list[str], seconds: float, memory: int, size: int = 0
) -> None:
    row = {
        "date": date.today().isoformat(),
        "format": format,
        "kind": kind,
        "files": files,
        "refused": refused,
        "read": files - refused,
        "faults": len(faults),
        "megabytes": round(size / 1e6, 3) if size else "",
        "most_seconds": round(seconds, 4),
        "most_memory_megabytes": round(memory / 1e6, 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    append_row(FILE, row)
    for fault in faults[:5]:
        print("   fault:", fault)


def reference_files(folder: Path) -> None:
    """Read the files that PyTorch wrote, good, cut and hostile, under watch."""
    source = Path(os.environ.get("TLKIT_SHARED", ROOT.parent / "shared")) / "reference" / "files"
    if not source.is_dir():
        print(f"left out: no {source}")
        return
    with np.load(source / "expected.npz") as stored:
        wanted = dict(stored)
    folder.mkdir()
    for kind in ("good", "cut", "hostile"):
        files = [Path(shutil.copy(file, folder)) for file in sorted(source.glob(f"{kind}*"))]
        before = sorted(Path.cwd().iterdir()), sorted(folder.iterdir())

        def check(read: dict[str, np.ndarray], kind: str = kind) -> list[str]:
            if kind != "good":
                return ["read, though it is damaged or hostile"]
            return weight_mutants.differences({name: read[name] for name in wanted}, wanted)

        outcomes = [weight_mutants.outcome_of(file, check) for file in files]
        faults = [fault for one in outcomes for fault in one.faults]
        faults += ["a good file was refused" for one in outcomes if one.refused and kind == "good"]
        if (sorted(Path.cwd().iterdir()), sorted(folder.iterdir())) != before:
            faults.append("something was written")
        seconds, memory = max(one.seconds for one in outcomes), max(one.memory for one in outcomes)
        write("as PyTorch wrote them", kind, len(files), sum(one.refused for one in outcomes), faults, seconds, memory)


def large_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Good files of 64 MiB: of float32, and of bfloat16, which takes twice as much once it is widened."""
    for format, writer in torch_files.WRITERS.items():
        for kind in ("float32", "bfloat16"):
            type_ = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
            part = np.zeros(LARGE // 8 // type_.itemsize if kind == "float32" else LARGE // 16, type_)
            file = writer(folder / f"large-{kind}.{format}", {str(number): part.copy() for number in range(8)})
            yield f"{format}: good, {kind}", file
            file.unlink()


def greedy_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files that are small, or break no rule of their format, and would take much memory or time."""
    ones = {"0": np.ones(6, "float32")}
    for name, opcodes in greedy_pickles().items():
        pickled = b"\x80\x02" + opcodes + b"."
        yield f"zip: {name}", torch_files.write_zip_of(folder / "greedy.pth", pickled, ones)
        yield f"legacy: {name}", torch_files.write_legacy_of(folder / "greedy.pth", pickled, ones)
    file = folder / "greedy.pth"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(90_000):
            archive.writestr(f"a/data/{number}", b"")
    yield "zip: a list of 90,000 files", file
    claimed = bytearray(torch_files.write_zip(file, torch_files.some_tensors()).read_bytes())
    at = claimed.rindex(b"PK\x01\x02")
    claimed[at + 20 : at + 28] = struct.pack("<LL", 2**32 - 2, 2**32 - 2)
    file.write_bytes(claimed)
    yield "zip: a file that claims 4 GiB", file
    for name, piece in {"lists": "[],", "dicts": "{},", "equal names": '"":0,'}.items():
        inside = piece * (4 * MEBIBYTE // len(piece) - 20)
        header = '{"a":[' + inside[:-1] + "]}" if piece[0] != '"' else "{" + inside[:-1] + "}"
        yield f"safetensors: a header of {name}", torch_files.write_safetensors_of(file, header, b"")
    file.write_bytes(struct.pack("<Q", 2**40) + b'{"a":' + bytes(100))
    yield "safetensors: a header that claims 1 TiB", file
    yield from greedy_onnx(file)


def greedy_pickles() -> dict[str, bytes]:
    text, a = torch_files.text, torch_files.text("a")
    face = "\U0001f600".encode()
    hashed = b"N\x85" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(200))
    pairs = b"](" + b"".join(b"(" + torch_files.whole(n) + b"K\x01t" for n in range(10_000)) + b"eq\x01"
    again = b"".join(torch_files.GLOBAL_DICT + b"h\x01\x85R" for _ in range(5_000))
    return {
        "190,000 dicts": b"}" + a + b"(" + b"}" * 190_000 + b"ts",
        "190,000 dicts of one": b"(" + (b"(" + b"}K\x01K\x01s" * 150_000 + b"t") + b"}K\x01K\x01s" * 40_000 + b"t",
        "a list that holds itself": b"]q\x01h\x01a" + b"h\x01a" * 100_000,
        "tuples nested 900,000 deep": b"N" + b"\x85" * 900_000,
        "tuples whose hash takes 2^200 steps": b"}" + hashed + b"K\x01s",
        "a list used 5,000 times": pairs + again,
        "16 MiB of text": b"("
        + b"".join(b"X" + struct.pack("<I", 8004) + face + b"a" * 8_000 for _ in range(2_090))
        + b"t",
        "text that claims 2 GiB": b"X" + struct.pack("<I", 2**31),
        "450,000 remembered": b"N" + b"".join(b"r" + struct.pack("<I", n) for n in range(450_000)),
        "a tensor repeated to 4 TiB": b"}" + a + tensor_of(text, (2**20, 2**20), (0, 0)) + b"s",
    }


def tensor_of(text: object, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    t, whole, tuple_ = torch_files.text, torch_files.whole, torch_files.whole_tuple
    storage = b"(" + t("storage") + b"ctorch\nFloatStorage\n" + t("0") + t("cpu") + whole(6) + b"tQ"
    rest = whole(0) + tuple_(shape) + tuple_(strides) + b"\x89}tR"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest


def greedy_onnx(file: Path) -> Iterator[tuple[str, Path]]:
    def field(number: int, data: bytes) -> bytes:
        return varying(number << 3 | 2) + varying(len(data)) + data

    def varying(value: int) -> bytes:
        more = b""
        while value > 127:
            more, value = more + bytes([value & 127 | 128]), value >> 7
        return more + bytes([value])

    def model(graph: bytes) -> Path:
        file.write_bytes(b"\x08\x08" + field(7, graph))
        return file

    yield "onnx: 3,000,000 empty nodes", model(field(1, b"") * 3_000_000)
    named = (b"\x10\x01\x08\x00" + field(8, str(number).encode()) for number in range(120_000))
    yield "onnx: 120,000 empty tensors", model(b"".join(field(5, one) for one in named))
    for count in (20 * MEBIBYTE, 60 * MEBIBYTE):
        numbers = b"\x10\x07" + b"\x08" + varying(count) + field(8, b"a") + field(7, bytes(count))
        yield f"onnx: {count // MEBIBYTE} MiB that become eight times as much", model(field(5, numbers))
    (file.parent / "outside.bin").write_bytes(bytes(MEBIBYTE))
    outside = field(13, field(1, b"location") + field(2, b"outside.bin")) + b"\x70\x01"
    many = (
        b"\x10\x01\x08" + varying(MEBIBYTE // 4) + field(8, str(number).encode()) + outside for number in range(5_000)
    )
    yield "onnx: 5,000 tensors of the same 1 MiB", model(b"".join(field(5, one) for one in many))


def in_a_process(name: str, file: Path) -> None:
    """Read a file in a process of its own, and write down how much its memory grew."""
    command = [sys.executable, __file__, "--one", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=4 * SECONDS, check=True, cwd=file.parent)
        took = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, json.JSONDecodeError) as error:
        took = {"refused": False, "seconds": 4 * SECONDS, "memory": 0, "said": f"{error}"}
    size, good = file.stat().st_size, "good" in name
    faults = [took["said"]] if took["memory"] == 0 or (good and took["refused"]) else []
    faults += [f"{took['memory']:,} bytes of memory"] if took["memory"] > 2 * size + 256 * MEBIBYTE else []
    faults += [f"{took['seconds']} seconds"] if took["seconds"] > SECONDS else []
    format, _, kind = name.partition(": ")
    print(took["said"][-200:])
    write(format, kind, 1, int(took["refused"]), faults, took["seconds"], took["memory"], size)


def read_one(file: Path) -> None:
    small = torch_files.write_zip(Path(tempfile.mkdtemp()) / "small.pth", torch_files.some_tensors())
    read_weights(small)  # what a first use imports is not counted
    shutil.rmtree(small.parent)
    before, started = peak_memory(), time.process_time()
    refused, said = False, ""
    try:
        read = read_weights(file)
        said = f"{len(read)} tensors"
    except WeightsError as error:
        refused, said = True, str(error)
    seconds = time.process_time() - started
    print(json.dumps({"refused": refused, "said": said, "seconds": seconds, "memory": max(1, peak_memory() - before)}))


def peak_memory() -> int:
    """Return the most resident memory of this process so far, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
