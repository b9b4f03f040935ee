"""Classifies image files with a run or an export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tlkit.data.convert import Unreadable, convert
from tlkit.data.headers import why_not
from tlkit.data.limits import MAX_FILE_BYTES
from tlkit.data.sources.folder import files_below
from tlkit.errors import DataError, nearest
from tlkit.runs.reading import BATCH, open_exported, unsure_below
from tlkit.words import shown, text_of


def predict(model: str | Path, files: Sequence[str | Path], *, top: int = 3) -> pd.DataFrame:
    """Predict classes and probabilities for image files, with a run's SavedModel or any export.

    Args:
        model: A run's folder, or a folder that export wrote.
        files: Files, and folders, which are searched as `tlkit.scan` does: links are followed, system files and files
            that lie beside images, such as annotations, are passed over. What the model itself does not decode, such
            as TIFF and HEIC, is converted first: see `tlkit.convert`.
        top: How many classes to give, 1 or more.

    Returns:
        One row per file: path (bytes that are not UTF-8 are escaped), prediction, probability, top2, top2_probability,
        ..., sure, problem. `sure` is None where the model has no threshold below which it is unsure. A file that cannot
        be read has its reason under problem and no prediction.

    Raises:
        DataError: There are no such files, or `top` is below 1.
        RunError: The model is neither a run nor an export.
    """
    for given in (model, *files):
        if not isinstance(given, str | os.PathLike):
            raise TypeError(
                f"{type(given).__name__} was given. Expected the path of a run or an export, and the paths of files. A "
                "model itself predicts pixels by its own `predict`."
            )
    if top < 1:
        raise DataError(f"top is {top}. Expected 1 or more.")
    found = _expand(files)
    if not found:
        raise DataError(f"No files in {', '.join(repr(text_of(f)) for f in files)}. Expected image files.")
    (names, answer), has_threshold = open_exported(model), unsure_below(model) != 0
    rows: list[dict[str, Any]] = []
    for start in range(0, len(found), BATCH):
        chunk = found[start : start + BATCH]
        data = [aside or _read(file) for file, aside in chunk]
        oks, sures, all_values = answer([one if isinstance(one, bytes) else b"" for one in data])
        for (file, _), one, ok, sure, values in zip(chunk, data, oks, sures, all_values, strict=True):
            row: dict[str, Any] = {"path": text_of(file)}
            for rank, best in enumerate(np.argsort(-values, kind="stable")[:top], start=1):
                column = "prediction" if rank == 1 else f"top{rank}"
                row[column] = names[best] if ok else None
                row["probability" if rank == 1 else f"{column}_probability"] = float(values[best]) if ok else None
            row["sure"] = bool(sure) if ok and has_threshold else None
            row["problem"] = "" if ok else one if isinstance(one, str) else ": ".join(why_not(one))
            rows.append(row)
    return pd.DataFrame(rows).astype({"sure": object})


def _expand(files: Sequence[str | Path]) -> list[tuple[Path, str]]:
    """The files, and those in the folders, each with why it is left aside, or "".

    Folders are searched as `tlkit.scan` searches a class folder. Raises DataError for one that does not exist.
    """
    found: list[tuple[Path, str]] = []
    for one in map(Path, files):
        if one.is_dir():
            found += sorted(files_below(one))
        elif one.exists() or one.is_symlink():
            found.append((one, ""))
        else:
            siblings = [p.name for p in one.parent.iterdir()] if one.parent.is_dir() else []
            close = nearest(one.name, siblings)
            hint = f" Did you mean '{shown(one.parent / close)}'?" if close else ""
            raise DataError(f"No such file: '{shown(one)}'.{hint}")
    return found


def _read(file: Path) -> bytes | str:
    """A file's bytes, converted if the model does not decode its format, or why it cannot be read."""
    try:
        if file.is_symlink() and not file.exists():
            return "the link leads nowhere"
        if not file.is_file():
            return "not a regular file"
        if file.stat().st_size > MAX_FILE_BYTES:
            return f"larger than {MAX_FILE_BYTES // 1024**2} MiB"
        return convert(file.read_bytes())
    except Unreadable as reason:
        return str(reason)
    except OSError as error:
        return error.strerror or str(error)
