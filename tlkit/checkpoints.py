"""Checkpoints on disk: values and arrays that a job that was stopped goes on from.

A checkpoint is a `.npz` file of arrays and a `.json` file of everything else, with the SHA-256 of both. Each is written
under a temporary name, flushed to the disk and renamed, the `.json` last, so a process that is killed leaves the
checkpoint before. The two newest are kept: if the newest is damaged, the one before is read. Nothing is pickled, and
reading executes nothing.

This module knows nothing of models: `tlkit.training.resume` says what the checkpoint of a training holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.disk import disk_error
from tlkit.errors import RunError
from tlkit.files import temporary_beside, write_atomically
from tlkit.progress import log

EVERY_SECONDS = 120.0
MOST_OF_TIME = 0.02  # the share of the time that writing checkpoints may take
KEPT = 2
ARRAY = "__array__"  # the key that stands for an array in the JSON
PROGRESS = "progress.json"
LOCK = "lock"


@dataclass
class Checkpoints:
    """The folder of a run's checkpoints.

    Args:
        folder: it is made when something is first written.
        every: seconds between two checkpoints of a training; more if writing one takes more than MOST_OF_TIME of that.
        seconds: returns how long each step of the job took so far, which is stored with every checkpoint.
    """

    folder: Path
    every: float = EVERY_SECONDS
    seconds: Callable[[], dict[str, float]] = field(default=dict, repr=False)

    def of(self, name: str) -> Checkpoint:
        """The checkpoint of one training of the run. name: tells it from the run's other trainings."""
        return Checkpoint(self, re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-"))

    def once(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `compute` returned the first time, JSON values, also if the job was stopped in between."""
        step = self.of(name)
        found = step.read()
        if found is None:
            found = compute()
            step.save(found)
        return found

    def spent(self) -> dict[str, float]:
        """How long each step took, and "total", when the last checkpoint was written: seconds, {} if there is none."""
        try:
            values = json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))["seconds"]
            return {str(name): float(value) for name, value in values.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def note_time(self) -> None:
        """Store how long each step took so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / PROGRESS, json.dumps({"seconds": self.seconds()}) + "\n", durable=False)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder while the block runs. Raises RunError if another process of this machine does.

        Windows has no such lock, so nothing is checked there.
        """
        try:
            import fcntl
        except ImportError:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise in_use(self.folder.parent) from None
            except OSError:  # a file system without locks
                pass
            yield

    @property
    def held(self) -> bool:
        """Whether a process of this machine, this one included, holds the folder with `locked`."""
        try:
            import fcntl

            with (self.folder / LOCK).open("r") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (ImportError, OSError):  # Windows, no such folder, a file system without locks
            pass
        return False

    def remove(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Checkpoint:
    """What one training, or one step of a job, can go on from. Made by `Checkpoints.of`."""

    among: Checkpoints
    name: str
    _due: float = field(default=0.0, init=False)
    _cost: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._due = time.monotonic() + self.among.every

    def beside(self, name: str) -> Checkpoint:
        """The checkpoint of another training that belongs to this one."""
        return self.among.of(f"{self.name} {name}")

    @property
    def due(self) -> bool:
        """Whether it is time to write the next one."""
        return time.monotonic() >= self._due

    def due_after(self, seconds: float) -> bool:
        """Whether writing one now would take less than MOST_OF_TIME of `seconds`, the time since the last one."""
        return seconds > self._cost / MOST_OF_TIME

    def save(self, values: dict[str, Any]) -> None:
        """Write a checkpoint, if the disk takes it: if not, the log says so, and the one before is kept.

        values: a tree of dicts and lists, of JSON values and NumPy arrays.
        """
        started = time.monotonic()
        try:
            self._write(values)
        except OSError as error:
            log.warning(f"A checkpoint could not be written, and the run goes on without it. {disk_error(error)}")
        ended = time.monotonic()
        self._cost = ended - started
        self._due = ended + max(self.among.every, self._cost / MOST_OF_TIME)

    def _write(self, values: dict[str, Any]) -> None:
        arrays: dict[str, np.ndarray] = {}
        content = {"values": _without_arrays(values, arrays)}
        folder = self.among.folder
        folder.mkdir(parents=True, exist_ok=True)
        number = max((_number(one) for one in self._files()), default=0) + 1
        file = folder / f"{self.name}-{number}.json"
        if arrays:
            with temporary_beside(file.with_suffix(".npz")) as temporary:
                with temporary.open("wb") as stream:
                    np.savez(stream, allow_pickle=False, **arrays)
                content["arrays"] = _sha256(temporary)
        text = json.dumps(content)
        write_atomically(file, json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()}) + "\n" + text + "\n")
        for old in self._files()[:-KEPT]:
            _remove(old)
        self.among.note_time()

    def forget(self) -> None:
        """Remove what is kept."""
        for file in self._files():
            _remove(file)

    def read(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that is sound; None if there is none. A damaged one is named in the log."""
        for file in reversed(self._files()):
            try:
                return _read(file)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning(f"The checkpoint '{file}' is damaged ({error}), the one before is used, if any.")
        return None

    def _files(self) -> list[Path]:
        """The `.json` files, the oldest first."""
        found = self.among.folder.glob(f"{self.name}-*.json")
        return sorted((one for one in found if one.stem[len(self.name) + 1 :].isdigit()), key=_number)


def in_use(run: Path) -> RunError:
    """The error for a run's folder that another process holds."""
    return RunError(f"Another process works on the run '{run}'. Wait until it ends, or stop it first.")


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.with_suffix(".npz").unlink(missing_ok=True)


def _number(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def _read(file: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises ValueError if it differs from what was written."""
    head, text = file.read_text(encoding="utf-8").splitlines()
    if hashlib.sha256(text.encode()).hexdigest() != json.loads(head)["sha256"]:
        raise ValueError("its checksum is not the one it was written with")
    content = json.loads(text)
    arrays: dict[str, np.ndarray] = {}
    if "arrays" in content:
        with file.with_suffix(".npz").open("rb") as stream:
            if _sha256(file.with_suffix(".npz")) != content["arrays"]:
                raise ValueError("the checksum of its arrays is not the one they were written with")
            with np.load(stream, allow_pickle=False) as loaded:
                arrays = {name: loaded[name] for name in loaded.files}
    return _with_arrays(content["values"], arrays)


def _without_arrays(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Replace the arrays of a tree by their names, and add them to `arrays`."""
    if isinstance(tree, dict):
        return {key: _without_arrays(one, arrays) for key, one in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_arrays(one, arrays) for one in tree]
    if isinstance(tree, np.ndarray):
        arrays[f"a{len(arrays)}"] = tree
        return {ARRAY: f"a{len(arrays) - 1}"}
    return tree.item() if isinstance(tree, np.generic) else tree


def _with_arrays(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(tree, dict):
        return (
            arrays[tree[ARRAY]] if set(tree) == {ARRAY} else {k: _with_arrays(one, arrays) for k, one in tree.items()}
        )
    return [_with_arrays(one, arrays) for one in tree] if isinstance(tree, list) else tree


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
