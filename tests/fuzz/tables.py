"""Mutated tables, plans and run files, and folder trees with odd names."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CELLS = (
    "",
    " ",
    "a.png",
    "b/../a.png",
    "/etc/hostname",
    "\x00",
    "x" * 5000,
    "=cmd|'/c calc'!A0",
    "-rf",
    "@SUM(1)",
    "+1",
    "caf\u00e9",
    "\u202e",
    "\x1b[31m",
    "nan",
    "None",
    "1e999",
    "a\nb",
    '"',
    "C:\\a.png",
    "..",
    "train",
    "\ufeff",
    "\ud7ff",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1e308,
    float("nan"),
    2**70,
    "",
    "\x00",
    "x" * 3000,
    [],
    {},
    [[]],
    {"a": 1},
    "../..",
    "hub:/absent",
    ["a", "a"],
    "2**64",
)
NAMES = (
    "..a",
    "=1+1",
    "-rf",
    "@SUM",
    "a b",
    "\x1b[2J",
    "caf\u00e9",
    "CON",
    "a\nb",
    "\u202eb",
    "<b>",
    "&amp;",
    "'",
    '"',
    "%s",
    "{0}",
    "train",
    "val",
    "C:",
    "a;b",
    "$(id)",
)


def csv_mutants(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of tables: odd cells, other separators and encodings, flipped bytes, cuts, and wrong lines."""
    for index in range(count):
        r = random.Random(f"csv {seed} {index}")
        separator = r.choice(",,,;\t|")
        header = r.choice(
            (["path", "label"], ["path", "label", "split"], ["path", "label", "group"], ["a", "b"], ["path"], [])
        )
        rows = [header, *([r.choice((*CELLS, "a.png", "b.png")) for _ in header] for _ in range(r.randrange(12)))]
        if r.random() < 0.2:
            rows.append(["a.png"] * r.randrange(40))
        text = r.choice(("\n", "\r\n", "\r")).join(separator.join(cells) for cells in rows)
        data = text.encode(r.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1")), "replace")
        yield f"t{index}{r.choice(('.csv', '.csv', '.tsv', '.jsonl', '.csv.gz', '.parquet'))}", damaged(data, r)


def damaged(data: bytes, r: random.Random) -> bytes:
    """The bytes, half of the time with flips, a cut, or a piece put in."""
    way = r.randrange(8)
    if not data or way > 3:
        return data
    at = r.randrange(len(data))
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + r.randbytes(r.choice((1, 4, 50))) + data[at:]
    changed = bytearray(data)
    for _ in range(r.choice((1, 3, 10))):
        changed[r.randrange(len(data))] ^= 1 << r.randrange(8)
    return bytes(changed)


def json_mutants(good: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """JSON files: a value replaced, left out or added somewhere, or bytes damaged."""
    for index in range(count):
        r = random.Random(f"json {seed} {index}")
        if index % 3 == 2:
            yield damaged(good, r)
            continue
        values = json.loads(good)
        where = r.choice(list(places(values)))
        holder, key = where
        if r.random() < 0.3:
            del holder[key]
        else:
            holder[key] = r.choice(VALUES)
        yield json.dumps(values if r.random() < 0.95 else r.choice(VALUES)).encode()


def places(values: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of each value in JSON."""
    keys = list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in keys:
        yield values, key
        yield from places(values[key])


def folder_tree(root: Path, data: bytes, seed: int) -> Path:
    """A folder of a few odd class folders and files, with links and loops, by a seed."""
    r = random.Random(f"tree {seed}")
    root.mkdir(parents=True)
    folders = [root]
    for _ in range(r.randrange(1, 7)):
        folder = r.choice(folders) / r.choice(NAMES)
        folder.mkdir(exist_ok=True, parents=True)
        folders.append(folder)
    for number in range(r.randrange(8)):
        file = r.choice(folders) / (r.choice(NAMES) + r.choice((".png", ".JPG", "", ".csv", f"{number}.png")))
        if file.exists() or file.is_symlink():
            continue
        way = r.randrange(6)
        if way == 0:
            file.symlink_to(r.choice(("..", ".", "absent", "/dev/zero", str(root))))
        elif way == 1:
            file.write_bytes(damaged(data, r))
        else:
            file.write_bytes(data + bytes([number]))
    return root
