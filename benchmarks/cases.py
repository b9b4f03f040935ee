"""Do the situations and files from the field behave as they should, and did they before?

    TLKIT_SHARED=folder python benchmarks/cases.py [--tlkit FOLDER] [CASE ...]

Each case is drawn by its script (`cases/` of TLKIT_SHARED, which also says what is right), given to commands of tlkit,
and judged by their exit codes and words. FOLDER is a checkout of another version, to see that a case fails there.
Appends a row per case to benchmarks/cases.csv. The tests of the same kinds, on pixels too, are in `tests/data`; cases
11 to 13, which train, are commands in the shared folder's own texts.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image
from rows import append_row

FILE = Path(__file__).with_suffix(".csv")
CASES = Path(os.environ.get("TLKIT_SHARED", Path(__file__).parent.parent.parent / "shared")) / "cases"
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Case:
    """One situation.

    script: below `cases/`. data: what each command is given; "*.ext" puts these files into a class folder, beside a
    class of sound PNGs. words: the command before the data. right: judges all exit codes and outputs.
    """

    script: str
    data: tuple[str, ...]
    right: Callable[[list[int], list[str]], bool]
    words: tuple[str, ...] = ("inspect", "--fast")


def says(*patterns: str, code: int | None = 0) -> Callable[[list[int], list[str]], bool]:
    """Every command ended with the code (None: with any) and said something that each pattern matches."""

    def right(codes: list[int], outputs: list[str]) -> bool:
        ended = code is None or all(one == code for one in codes)
        return ended and all(
            re.search(pattern, one, re.IGNORECASE | re.MULTILINE) for one in outputs for pattern in patterns
        )

    return right


def _classes_or_error(codes: list[int], outputs: list[str]) -> bool:
    """The classes disc and cross, or an error about part folders; never a class of that name."""
    as_class = re.compile(r"^\s*(train|test|training_set|test_set)\s+\d", re.M)
    return not any(as_class.search(one) for one in outputs) and all(
        (not code and "disc" in one and "cross" in one) or (code == 1 and "class folders" in one)
        for code, one in zip(codes, outputs, strict=True)
    )


def _names(codes: list[int], outputs: list[str]) -> bool:
    one, folder, forms = outputs
    if not (codes[:2] == [0, 1] and "rename" in folder.lower() and re.search("1[12] usable|not UTF-8", one)):
        return False
    return not codes[2] or "unicode" in forms.lower()


ALL_CASES = {
    "01": Case("01-kaggle-layout/make.py", ("data", "data2"), _classes_or_error),
    "02": Case("02-csv-no-extension/make.py", ("data/labels.csv",), says(r"disc0\.png|12 usable", code=None)),
    "04 mark": Case("04-csv-encodings/make.py", ("data/bom.csv", "data/utf16.csv"), says("12 usable", "Größe")),
    "04 cp1252": Case("04-csv-encodings/make.py", ("data/cp1252.csv",), says("12 usable|CSV UTF-8", code=None)),
    "06": Case("06-names-not-utf8/make.py", ("data", "data2", "data3"), _names),
    "07": Case("07-png-16-bit/make.py", ("low", "ten", "twelve"), says(r"scaled|all but black")),
    "08 gif": Case("08-transparent-gif/make.py", ("gif",), says("28 transparent.* over white")),
    "08 white": Case("08-transparent-gif/make.py", ("white",), says("of one colour"), ("inspect",)),
    "file 01": Case("files/01-gif-transparent-black.py", ("01-disc.*",), says("2 transparent")),
    "file 03": Case("files/03-bmp-trailing-bytes.py", ("03-*.bmp",), says(r"^a +5\b")),
    "file 06": Case("files/06-jpeg-12-bit.py", ("06-12bit.jpg",), says("unsupported-format.* 12 bits")),
    "file 07": Case("files/07-class-vanishes.py", ("07-data",), says(r"mouse +12\b|class 'mouse'")),
    "file 08": Case("files/08-all-tiff.py", ("08-data",), says("TIFF", code=None)),
    "file 10": Case("files/10-png-large-metadata.py", ("10-*.png",), says(r"^a +4\b")),
    "file 11": Case("files/11-png-of-iphone.py", ("11-cgbi.png",), says("unsupported-format.*CgBI")),
    "file 14": Case("files/14-png-12-bits-in-16.py", ("14-12bit.png",), says("scaled|black")),
    "file 15": Case(
        "files/15-formats-unnamed.py",
        ("15*.*",),
        lambda codes, out: not re.search("not-an-image|its first bytes", out[0]) and "DICOM" in out[0],
    ),
    "file 16": Case("files/16-png-huge-chunk.py", ("16-huge.png",), says("truncated")),
    "file 17": Case(
        "files/17-opaque-rgba-is-a-problem.py", ("17-data",), says("8 usable"), ("inspect", "--fast", "--strict")
    ),
    "file 19": Case("files/19-gif-cut-in-second-frame.py", ("19-data",), says("truncated|11 usable")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[*ALL_CASES], metavar="CASE")
    parser.add_argument("--tlkit", type=Path, default=Path(__file__).parent.parent, metavar="FOLDER")
    arguments = parser.parse_args()
    git = ["git", "-C", str(arguments.tlkit), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    for name in arguments.cases:
        codes, outputs = outcome(ALL_CASES[name], arguments.tlkit)
        ended = " ".join(str(one) for one in codes)
        clean = not any(TRACEBACK in one for one in outputs)
        right = clean and ALL_CASES[name].right(codes, outputs)
        append_row(
            FILE, {"date": date.today().isoformat(), "case": name, "tlkit": commit, "right": right, "exit": ended}
        )
        print(f"{name}: {'right' if right else 'NOT RIGHT'}, exit {ended}")
        if not right:
            print("\n".join(f"    {line}" for one in outputs for line in one.splitlines()[-25:]))


def outcome(case: Case, tlkit: Path) -> tuple[list[int], list[str]]:
    """The exit code and the output of each command."""
    codes, outputs = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subprocess.run([sys.executable, str(CASES / case.script)], cwd=folder, check=True, capture_output=True)
        package = folder / "path" / "tlkit"  # as it is installed: recipes/ is a part of the package
        package.mkdir(parents=True)
        for one in (*(tlkit.absolute() / "tlkit").iterdir(), tlkit.absolute() / "recipes"):
            (package / one.name).symlink_to(one)
        environment = {**os.environ, "PYTHONPATH": str(package.parent), "TLKIT_CACHE": str(folder / "cache")}
        for data in case.data:
            place = beside_others(folder, data) if "*" in data or (folder / data).suffix in (".jpg", ".png") else data
            line = [sys.executable, "-m", "tlkit", *case.words, str(place)]
            done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, errors="replace")
            codes.append(done.returncode)
            outputs.append(done.stdout + done.stderr)
    return codes, outputs


def beside_others(folder: Path, pattern: str) -> str:
    """A folder of two classes with two sound PNGs each, and the files in one of them."""
    for name in ("a", "b"):
        (folder / "set" / name).mkdir(parents=True)
    for file in folder.glob(pattern):
        shutil.copy(file, folder / "set" / "a")
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / "set" / "ab"[seed % 2] / f"sound{seed}.png")
    return "set"


if __name__ == "__main__":
    main()
