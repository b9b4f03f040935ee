"""The answers of a batch on disk: part files that are complete or absent, in a folder that tells what they are of.

OUT.parquet is a folder of part-000000-1a2b3c4d5e6f7a8b.parquet and so on, each with the same number of rows but the
last. pandas, pyarrow, DuckDB, Spark and Dask read such a folder as one table. A single file would have to be written
whole at the end: twice the disk, and nothing to read until then. The second half of a name is a hash of the part's
items: their names, sizes and times. So a listing of the folder tells which parts are done, and which are of others.

OUT.csv is one file: its parts are in OUT.csv.parts until all are there, and are then joined.

`_tlkit.json` holds the model's SHA-256, what was asked of it, and of which images. Readers of Parquet pass over files
whose names begin with "_" or ".". Only this module imports pyarrow to write.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from tlkit.errors import ExportError, RunError, SpecError
from tlkit.evaluation.known import NONE_OF_THESE
from tlkit.files import fcntl, temporary_beside, write_atomically
from tlkit.progress import log
from tlkit.runs.answering import Answers
from tlkit.runs.items import Item
from tlkit.words import counted

STATE = "_tlkit.json"
PART_ROWS = 4096  # images of a part: what a kill costs at most, and at 1,280 features 21 MB
NAMED = 3  # changed items in a message
SAID = 5  # such messages in the log; `Written.changed` has all
_PART = re.compile(r"part-(\d{6})-([0-9a-f]{16})\.(parquet|csv)")
_LEFT = re.compile(r"\.tmp-[0-9a-f]{8}-(part-.*|_tlkit\.json)")  # by a killed process, see `tlkit.files`


@dataclass(frozen=True)
class Part:
    """The items of one part file, in their order."""

    number: int
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        lines = "\n".join(f"{one.name}\0{one.size}\0{one.modified}\0{one.aside}" for one in self.items)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def parts_of(items: Iterable[Item], rows: int) -> Iterator[Part]:
    """Cut items into parts of `rows`."""
    some: list[Item] = []
    number = 0
    for one in items:
        some.append(one)
        if len(some) == rows:
            yield Part(number, tuple(some))
            number, some = number + 1, []
    if some:
        yield Part(number, tuple(some))


# -- formats -------------------------------------------------------------------------------------------------

Columns = dict[str, Any]  # name -> values of all rows; a list, or an array, of two dimensions for a column of lists


def columns_of(part: Part, answers: Answers, classes: Sequence[str]) -> Columns:
    """The columns of a part: see `tlkit.predict_to` for their names."""
    items, ok = part.items, answers.ok
    found: Columns = {
        "path": [one.name for one in items],
        "bytes": [one.size for one in items],
        "modified": [one.modified for one in items],
    }
    if answers.probabilities is not None:
        best = answers.probabilities.argmax(1)
        highest = answers.probabilities[np.arange(len(items)), best]
        found["prediction"] = [classes[i] if good else None for i, good in zip(best, ok, strict=True)]
        found["probability"] = [float(p) if good else None for p, good in zip(highest, ok, strict=True)]
        found["probabilities"] = answers.probabilities
        sure = answers.sure
        found["sure"] = [bool(sure[i]) if sure is not None and ok[i] else None for i in range(len(items))]
        for i in np.flatnonzero(answers.none if answers.none is not None else ()):
            found["prediction"][i] = NONE_OF_THESE
        known, sets = answers.known, answers.prediction_set
        found["known"] = [float(known[i]) if known is not None and ok[i] else None for i in range(len(items))]
        found["prediction_set"] = [
            [name for name, one in zip(classes, sets[i], strict=True) if one] if sets is not None and ok[i] else None
            for i in range(len(items))
        ]
    found["ok"] = ok.tolist()
    found["problem"] = list(answers.problems)
    if answers.embeddings is not None:
        found["embedding"] = answers.embeddings
    return found


class Format(Protocol):
    """A format of part files. suffix: of their names."""

    suffix: str

    def write(self, file: Path, columns: Columns, classes: Sequence[str]) -> None: ...

    def read(self, file: Path, names: Sequence[str]) -> pd.DataFrame:
        """Some of the columns path, bytes, modified and ok. Raises ValueError or OSError for a damaged file."""
        ...


class Parquet:
    """Parquet files. Lists are null where a row is not ok. The class names are in the metadata, as JSON."""

    suffix = "parquet"

    def __init__(self) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise ExportError(
                "Parquet files need the package pyarrow. Install it with `pip install tlkit[parquet]`, or write a .csv."
            ) from None
        self._arrow, self._parquet = pyarrow, pyarrow.parquet

    def write(self, file: Path, columns: Columns, classes: Sequence[str]) -> None:
        pa = self._arrow
        types = {
            "bytes": pa.int64(),
            "modified": pa.timestamp("us", "UTC"),
            "probability": pa.float32(),
            "known": pa.float32(),
            "prediction_set": pa.list_(pa.string()),
            "sure": pa.bool_(),
            "ok": pa.bool_(),
        }
        ok = np.array(columns["ok"], bool)
        arrays = {
            name: self._lists(values, ok)
            if isinstance(values, np.ndarray)
            else pa.array(values, types.get(name, pa.string()))
            for name, values in columns.items()
        }
        table = pa.table(arrays).replace_schema_metadata({"classes": json.dumps(list(classes))} if classes else {})
        self._parquet.write_table(table, file)

    def _lists(self, values: np.ndarray, ok: np.ndarray) -> Any:
        """A row of each array as a list of float32, null where it is not ok."""
        pa = self._arrow
        ends = np.concatenate([[0], np.cumsum(np.where(ok, values.shape[1], 0))]).astype("int32")
        offsets = pa.array(ends, pa.int32(), mask=np.append(~ok, False))
        return pa.ListArray.from_arrays(offsets, pa.array(values[ok].ravel(), pa.float32()))

    def read(self, file: Path, names: Sequence[str]) -> pd.DataFrame:
        try:
            table = self._parquet.read_table(file, columns=list(names), partitioning=None)
        except self._arrow.ArrowException as error:
            raise ValueError(str(error)) from None
        columns = {name: table.column(name) for name in names}
        if "modified" in columns:
            columns["modified"] = columns["modified"].cast(self._arrow.int64())
        return pd.DataFrame({name: values.to_pylist() for name, values in columns.items()}, dtype=object)


class Csv:
    """CSV files without a header, a column for each class. A prediction set is a list in JSON."""

    suffix = "csv"

    def write(self, file: Path, columns: Columns, classes: Sequence[str]) -> None:
        table = pd.DataFrame({name: values for name, values in columns.items() if not isinstance(values, np.ndarray)})
        for name in ("bytes", "modified"):
            table[name] = table[name].astype("Int64")
        sets = table["prediction_set"]
        table["prediction_set"] = [None if one is None else json.dumps(one, ensure_ascii=False) for one in sets]
        for number in range(len(classes)):
            values = columns["probabilities"][:, number]
            table[f"{number}"] = np.where(columns["ok"], values.astype(object), None)
        text = table.to_csv(index=False, header=False, lineterminator="\n")
        if "\r" in text:  # which would end the row for a reader
            text = table.to_csv(index=False, header=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        file.write_bytes(text.encode("utf-8", "backslashreplace"))

    def header(self, classes: Sequence[str]) -> bytes:
        names = ["path", "bytes", "modified", "prediction", "probability", "sure", "known", "prediction_set"]
        names += ["ok", "problem"]
        table = pd.DataFrame(columns=[*names, *(f"probability of {one}" for one in classes)])
        return table.to_csv(index=False, lineterminator="\n").encode("utf-8", "backslashreplace")

    def read(self, file: Path, names: Sequence[str]) -> pd.DataFrame:
        places = {"path": 0, "bytes": 1, "modified": 2, "ok": 8}
        table = pd.read_csv(
            file, header=None, usecols=[places[one] for one in names], dtype=str, keep_default_na=False
        ).rename(columns={place: name for name, place in places.items()})
        for name in names:
            if name in ("bytes", "modified"):
                table[name] = [int(one) if one else None for one in table[name]]
        if "ok" in names:
            table["ok"] = table["ok"] == "True"
        return table[list(names)].astype(object)


# -- the folder ----------------------------------------------------------------------------------------------


class Parts:
    """The part files of one output, and what is known of them.

    Attributes:
        classes: the model's class names.
        changed: messages about items that are not as they were when their part was written.
    """

    def __init__(self, out: Path, *, embeddings: bool) -> None:
        """Choose the format by the suffix of `out`, .parquet or .csv.

        Raises SpecError for any other suffix, and for embeddings in a CSV; ExportError where pyarrow is missing.
        """
        self.out, self._format = out, _format_of(out, embeddings)
        self.folder = out if isinstance(self._format, Parquet) else out.with_name(f"{out.name}.parts")
        self.classes: tuple[str, ...] = ()
        self.changed: list[str] = []
        self._there: dict[int, Path] = {}

    @contextlib.contextmanager
    def opened(self, description: Mapping[str, Any], *, force: bool) -> Iterator[bool]:
        """Hold the folder while the block runs; yield whether it was begun before, so that `classes` is known.

        description: what the answers depend on, in JSON values; a name of it -> its value.
        force: remove the parts of an earlier batch of another description.

        Raises RunError if the folder holds anything else, the answers of another batch, or another process writes it.
        """
        self._check_out()
        known = self._read_state()
        if known is not None and not force:
            _check_same(self.out, known["of"], description)
        elif known is not None and known["of"] != description:
            for one in [*self._files(), self.folder / STATE]:
                one.unlink()
            known = None
        self.folder.mkdir(parents=True, exist_ok=True)
        with _held(self.folder, self.out):
            self._remove_leftovers()
            self._there = {int(_PART.fullmatch(one.name)[1]): one for one in self._files()}  # type: ignore[index]
            self.classes = tuple(known["classes"]) if known is not None else ()
            yield known is not None

    def begin(self, description: Mapping[str, Any], classes: Sequence[str]) -> None:
        """Write what the parts that follow are of."""
        self.classes = tuple(classes)
        self._write_state(description, {})

    def has(self, part: Part) -> bool:
        """Whether a part is there, of the same items. One of other items is named in `changed`."""
        file = self._there.get(part.number)
        if file is None:
            return False
        if file.name == self._name(part):
            return True
        self._say(self._difference(file, part))
        return False

    def problems(self, part: Part) -> int | None:
        """How many items of a part that is there are not answered; None if it is damaged, and must be made again."""
        file = self._there[part.number]
        try:
            table = self._format.read(file, ["ok"])
        except (OSError, ValueError) as error:
            log.warning(f"'{file}' is damaged and made again: {str(error).splitlines()[0]}")
            return None
        if len(table) != len(part.items):
            log.warning(f"'{file}' is damaged and made again: it has {counted(len(table), 'row')}")
            return None
        return int((~table["ok"].astype(bool)).sum())

    def write(self, part: Part, answers: Answers) -> None:
        """Write a part, in place of one of other items. At every moment the folder holds it once, or not at all."""
        before, file = self._there.get(part.number), self.folder / self._name(part)
        if before is not None and before != file:
            before.unlink(missing_ok=True)
        with temporary_beside(file) as temporary:
            self._format.write(temporary, columns_of(part, answers, self.classes), self.classes)
        self._there[part.number] = file

    def finish(self, description: Mapping[str, Any], count: int, rows: int, problems: int) -> None:
        """Remove parts beyond the last, and say that all is there; join the parts of a CSV."""
        for number, file in list(self._there.items()):
            if number >= count:
                self._say(f"'{file}' is removed: there are fewer images now.")
                file.unlink()
                del self._there[number]
        if isinstance(self._format, Csv):
            with temporary_beside(self.out) as temporary, temporary.open("wb") as whole:
                whole.write(self._format.header(self.classes))
                for number in range(count):
                    with self._there[number].open("rb") as stream:
                        shutil.copyfileobj(stream, whole, 2**20)
            for one in [*self._there.values(), self.folder / STATE]:
                one.unlink()
            with contextlib.suppress(OSError):  # someone's file is in it
                self.folder.rmdir()
        else:
            self._write_state(description, {"rows": rows, "problems": problems})

    def _say(self, line: str) -> None:
        self.changed.append(line)
        if len(self.changed) <= SAID:
            log.warning(line)

    # -- helpers ---------------------------------------------------------------------------------------------

    def _name(self, part: Part) -> str:
        return f"part-{part.number:06d}-{part.digest}.{self._format.suffix}"

    def _files(self) -> list[Path]:
        return [one for one in self.folder.iterdir() if _PART.fullmatch(one.name)] if self.folder.is_dir() else []

    def _check_out(self) -> None:
        """Raise RunError if what is at `out` was not begun by this module."""
        if isinstance(self._format, Parquet) and self.out.exists() and not self.out.is_dir():
            raise RunError(
                f"'{self.out}' is a file. The answers become a folder of that name, with a file for each "
                f"{PART_ROWS:,} images. Give another name, or move the file away."
            )
        if self.folder.is_dir() and not (self.folder / STATE).is_file():
            others = [one.name for one in self.folder.iterdir() if not _LEFT.fullmatch(one.name)]
            if others:
                raise RunError(
                    f"'{self.folder}' holds other files, such as '{sorted(others)[0]}'. Give the name of a new folder."
                )

    def _read_state(self) -> dict[str, Any] | None:
        file = self.folder / STATE
        if not file.is_file():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return {"of": dict(found["of"]), "classes": [str(one) for one in found["classes"]]}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(
                f"'{file}' is damaged ({error}), so it is not known what the answers beside it are of. Give another "
                "name, or remove the folder."
            ) from None

    def _write_state(self, description: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        values = {"of": dict(description), "classes": list(self.classes), **facts}
        write_atomically(self.folder / STATE, json.dumps(values, indent=2) + "\n")

    def _remove_leftovers(self) -> None:
        """Remove files that a killed process left half-written. No other process writes here, see `_held`."""
        of_whole = self.out.parent.glob(f".tmp-????????-{glob.escape(self.out.name)}")
        for one in [*(one for one in self.folder.iterdir() if _LEFT.fullmatch(one.name)), *of_whole]:
            if one.is_file():
                one.unlink()

    def _difference(self, file: Path, part: Part) -> str:
        """Which items of a part are not as they were when `file` was written, in words."""
        before = f"Part {part.number} is answered again: "
        try:
            table = self._format.read(file, ["path", "bytes", "modified"])
        except (OSError, ValueError):
            return f"{before}'{file.name}' is damaged."
        old = {row.path: (row.bytes, row.modified) for row in table.itertuples()}
        new = {one.name: (one.size, one.modified) for one in part.items}
        kinds = {
            "changed": [name for name, facts in new.items() if name in old and old[name] != facts],
            "new here": [name for name in new if name not in old],
            "no longer here": [name for name in old if name not in new],
        }
        said = [
            f"{counted(len(names), 'image')} {kind}, such as {', '.join(map(repr, names[:NAMED]))}"
            for kind, names in kinds.items()
            if names
        ]
        return before + ("; ".join(said) or "its images are in another order") + "."


def _format_of(out: Path, embeddings: bool) -> Format:
    suffix = out.suffix.lower()
    if suffix == ".csv":
        if embeddings:
            raise SpecError(f"`out` is '{out}'. A CSV holds no embeddings. Expected a name that ends in .parquet.")
        return Csv()
    if suffix != ".parquet":
        raise SpecError(f"`out` is '{out}'. Expected a name that ends in .parquet or .csv.")
    return Parquet()


WORDS = {"model": "another model", "source": "other images", "rows": "another number of rows for each part"}


def _check_same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RunError if the answers at `out` are of another model or other images, with what differs."""
    for name, value in now.items():
        if before.get(name) != value:
            of = WORDS.get(name, f"other {name}")
            raise RunError(
                f"'{out}' was begun with {of}: {_short(before.get(name))}. Now it is {_short(value)}. Give another "
                "name, or `force` to remove these answers and begin again."
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"


@contextlib.contextmanager
def _held(folder: Path, out: Path) -> Iterator[None]:
    """Keep the folder for this process. Raises RunError if another one of this machine has it."""
    if fcntl is None:  # Windows has no such lock
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"Another process writes '{out}'. Wait until it ends, or stop it first.") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(lock)
