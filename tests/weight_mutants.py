"""Damaged weights files of each format, and what may become of each: refused with a WeightsError, or read right.

Nothing may be executed, imported or written while one is read; `watched` records what was.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import hashlib
import random
import struct
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.torch_files import WRITERS, expected, some_tensors, state, write_legacy_of, write_zip_of
from tlkit.backbones.files import read_weights
from tlkit.errors import WeightsError

KINDS = ("flipped", "flipped number", "flipped, named", "cut", "longer", "lengths", "opcodes", "spliced")
CHANGED = "conv.weight"  # whose numbers are flipped
SPARE = 256 * 2**20
EDGES = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
OPCODES = b".(0123GIJKLMNPQRSTUVXabcdeghijlopqrstu}])B" + bytes(range(0x80, 0x97))
SAFE_WORDS = (
    b'"F32"',
    b'"F64"',
    b'"BOOL"',
    b'"I64"',
    b"0",
    b"-1",
    b"1e9",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"null",
    b"9" * 30,
)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A damaged file.

    Attributes:
        kind: one of `KINDS`.
        data: its bytes.
        name: its name, with the first digits of the SHA-256 of the good file if `kind` is "flipped, named".
        rule: what may become of it beside being refused: "never" read, read as the "same" as the good file, with the
            same "structure" and other numbers in `CHANGED` only, or read as "anything" that is well formed.
    """

    kind: str
    data: bytes
    name: str
    rule: str


def mutants(format: str, count: int, seed: int = 0) -> Iterator[Mutant]:
    """Yield damaged files of a format: "zip", "legacy", "safetensors" or "onnx". The same seed gives the same files."""
    r = random.Random(f"{format} {seed}")
    good = good_file(format)
    number = some_tensors()[CHANGED].tobytes()
    start = good.index(number)
    checked = format == "zip"  # by its CRC-32
    made = 0
    while made < count:
        kind, name, rule = KINDS[made % len(KINDS)], "weights.pth", "same" if checked else "anything"
        if kind == "flipped":
            data = flipped(r, good, 0, len(good), r.choice((1, 1, 2, 8)))
        elif kind == "flipped number":
            data, rule = flipped(r, good, start, start + len(number), 1), "never" if checked else "structure"
        elif kind == "flipped, named":
            data, rule = flipped(r, good, 0, len(good), 1), "never"
            name = f"weights-{hashlib.sha256(good).hexdigest()[:8]}.pth"
        elif kind == "cut":
            data, rule = good[: r.randrange(len(good))], "never" if format != "onnx" else "anything"
        elif kind == "longer":
            at = r.choice((len(good), r.randrange(len(good))))
            data = good[:at] + r.randbytes(r.choice((1, 8, 1000))) + good[at:]
        elif kind == "lengths":
            data = with_length(r, good, format)
        elif kind == "opcodes":
            data, rule = with_opcodes(r, good, format), "anything"
        else:
            other = good_file(r.choice([*WRITERS]), seed=1)
            data = good[: r.randrange(1, len(good))] + other[r.randrange(len(other)) :]
        if data != good:
            made += 1
            yield Mutant(kind, data, name, rule)


def good_file(format: str, seed: int = 0) -> bytes:
    """A file of a format with `some_tensors`."""
    if (format, seed) not in GOOD:
        with tempfile.TemporaryDirectory() as folder:
            GOOD[format, seed] = WRITERS[format](Path(folder) / "weights.pth", some_tensors(seed)).read_bytes()
    return GOOD[format, seed]


GOOD: dict[tuple[str, int], bytes] = {}


def flipped(r: random.Random, data: bytes, begin: int, end: int, times: int) -> bytes:
    """Change `times` bits of a part of the data."""
    changed = bytearray(data)
    for _ in range(times):
        changed[r.randrange(begin, end)] ^= 1 << r.randrange(8)
    return bytes(changed)


def with_length(r: random.Random, good: bytes, format: str) -> bytes:
    """Put a wrong number of 1 to 8 bytes before the numbers, or into a zip's list of its files."""
    begin = good.index(b"PK\x01\x02") if format == "zip" and r.random() < 0.7 else 0
    width = r.choice((1, 2, 4, 8))
    at = r.randrange(begin, (len(good) if format in ("zip", "onnx") else good.index(some_number())) - width)
    old = int.from_bytes(good[at : at + width], "little")
    new = r.choice((*EDGES, old + 1, old - 1, old * 2, old + 8)) % 256**width
    return good[:at] + new.to_bytes(width, "little") + good[at + width :]


def some_number() -> bytes:
    return some_tensors()[CHANGED].tobytes()


def with_opcodes(r: random.Random, good: bytes, format: str) -> bytes:
    """Change opcodes of a pickle, words of JSON or fields of ONNX. Zips are packed again, so that checksums agree."""
    if format in ("zip", "legacy"):
        storages: dict[str, np.ndarray] = {}
        pickled = b"\x80\x02" + state(some_tensors(), storages, legacy=format == "legacy") + b"."
        for _ in range(r.choice((1, 1, 1, 2, 5))):
            if r.random() < 0.5:
                pickled = replaced(r, pickled, bytes([r.choice(OPCODES)]), len(pickled))
            else:  # another number in a shape, a stride, an offset or a length
                at = r.choice([at for at in range(len(pickled)) if pickled[at : at + 1] == b"K"])
                new = r.choice((b"K" + r.randbytes(1), b"K\x00", b"J" + r.randbytes(4), b"\x8a\x08" + r.randbytes(8)))
                pickled = pickled[:at] + new + pickled[at + 2 :]
        with tempfile.TemporaryDirectory() as folder:
            write = write_zip_of if format == "zip" else write_legacy_of
            return write(Path(folder) / "weights.pth", pickled, storages).read_bytes()
    if format == "safetensors":
        length = int.from_bytes(good[:8], "little")
        header = replaced(r, good[8 : 8 + length].rstrip(), r.choice(SAFE_WORDS), length - 8)
        header = header[:length].ljust(length) if r.random() < 0.5 else header
        return struct.pack("<Q", len(header)) + header + good[8 + length :]
    return replaced(r, good, bytes([r.choice((0x08, 0x0A, 0x10, 0x12, 0x2A, 0x3A, 0x42, 0x4A, 0x6A, 0x70, 0x7A))]), 200)


def replaced(r: random.Random, data: bytes, piece: bytes, within: int) -> bytes:
    """Replace a byte by another piece, insert it, or leave some bytes out."""
    at = r.randrange(min(within, len(data)))
    left_out = r.choice((0, 1, 1, 1, len(piece), 5))
    return data[:at] + (b"" if left_out == 5 else piece) + data[at + left_out :]


FORBIDDEN = ("os.", "subprocess.", "socket.", "ctypes.", "shutil.", "pickle.", "import", "exec", "compile", "code.")
HARMLESS = {"os.scandir", "os.listdir"}
_seen: list[str] = []
_armed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _armed:
        return
    writes = event == "open" and (set(str(arguments[1])) & set("wax+") or int(arguments[2]) & 0x3 != 0)
    if writes or (event.startswith(FORBIDDEN) and event not in HARMLESS):
        _seen.append(f"{event} {arguments!r:.200}")
        raise RuntimeError(event)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Record, and prevent, what executes, imports or writes in the block. Needs `install_hook`."""
    global _armed
    _seen.clear()
    _armed = True
    try:
        yield _seen
    finally:
        _armed = False


def install_hook() -> None:
    """Install the hook behind `watched`, once for the whole process; it cannot be taken out again."""
    sys.addaudithook(_hook)


@dataclasses.dataclass
class Outcome:
    """What became of a file: refused or read, faults, seconds of the processor, and bytes of memory at the peak."""

    refused: bool
    faults: list[str]
    seconds: float
    memory: int


def outcome_of(file: Path, check: Callable[[dict[str, np.ndarray]], list[str]]) -> Outcome:
    """Read a file under watch. check: returns the faults of what was read."""
    tracemalloc.start()
    started, read, faults = time.process_time(), None, []
    with watched() as seen:
        try:
            read = read_weights(file)
        except WeightsError as error:
            if str(file) not in str(error) or not str(error).rstrip().endswith((".", "'")):
                faults.append(f"no sentence with the file's name: {error}")
        except BaseException as error:  # any other is a fault of the reader
            faults.append(f"{type(error).__name__}: {error}")
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    faults += [f"it did {event}" for event in seen]
    if peak > 2 * file.stat().st_size + SPARE:
        faults.append(f"took {peak:,} bytes")
    return Outcome(read is None, faults + (check(read) if read is not None else []), seconds, peak)


def judged(mutant: Mutant, folder: Path, format: str) -> Outcome:
    """Write a damaged file, read it, and compare what became of it with its rule."""
    file = folder / mutant.name
    file.write_bytes(mutant.data)
    before = sorted(folder.iterdir())
    wanted = expected(some_tensors())

    def check(read: dict[str, np.ndarray]) -> list[str]:
        if mutant.rule == "never":
            return ["read, though it is damaged"]
        if mutant.rule in ("same", "structure"):
            return differences(read, wanted, but=CHANGED if mutant.rule == "structure" else "")
        return ill_formed(read, len(mutant.data)) + (unlike_onnx(read, mutant.data) if format == "onnx" else [])

    outcome = outcome_of(file, check)
    if sorted(folder.iterdir()) != before:
        outcome.faults.append("something was written")
    file.unlink()
    return outcome


def differences(read: dict[str, np.ndarray], wanted: dict[str, np.ndarray], but: str = "") -> list[str]:
    """Return the tensors that differ. but: one whose numbers may."""
    if list(read) != list(wanted):
        return ["other names"]
    return [
        f"{name} differs"
        for name, one in wanted.items()
        if (read[name].shape, read[name].dtype) != (one.shape, one.dtype)
        or (name != but and read[name].tobytes() != one.tobytes())
    ]


def ill_formed(read: dict[str, np.ndarray], size: int) -> list[str]:
    """Return what is wrong with tensors of any file: they must be named arrays of numbers, not larger than allowed."""
    total = sum(one.nbytes for one in read.values())
    copies = [one.copy() for one in read.values()]  # touches every number
    wrong = [repr(name) for name, one in read.items() if type(name) is not str or one.dtype.kind not in "fiub"]
    return wrong + ([f"{total:,} bytes of tensors"] if total > 4 * size + SPARE or len(copies) != len(read) else [])


def unlike_onnx(read: dict[str, np.ndarray], data: bytes) -> list[str]:
    """Return where the `onnx` package reads other names, shapes or numbers from the same bytes.

    It also refuses damage outside of the tensors, in what a graph says of itself. Then they must be those of the good
    file.
    """
    import onnx

    try:
        graph = onnx.load_model_from_string(data).graph
        theirs = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    except Exception:  # it raises many kinds
        theirs = some_tensors()
    return differences(read, expected(theirs))


def run(format: str, count: int, folder: Path, seed: int = 0) -> list[tuple[Mutant, Outcome]]:
    """Judge `count` damaged files of a format. `install_hook` must have been called."""
    folder.mkdir(parents=True, exist_ok=True)
    if format == "onnx":
        unlike_onnx({}, good_file("onnx"))  # imports what it needs
    for codec in ("unicode_escape", "cp437"):  # what a first use imports is no fault
        codecs.lookup(codec)
    for _ in range(2):
        (folder / "good.pth").write_bytes(good_file(format))
        read_weights(folder / "good.pth")
        (folder / "good.pth").unlink()
    return [(mutant, judged(mutant, folder, format)) for mutant in mutants(format, count, seed)]
