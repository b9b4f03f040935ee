"""Packs a table of image files into every source that tlkit reads: for the tests, and for `benchmarks/sources.py`."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd


def _files(root: Path, table: pd.DataFrame) -> list[tuple[str, str, bytes]]:
    """(path, label, content) of each image."""
    return [(row.path, row.label, (root / row.path).read_bytes()) for row in table.itertuples()]


def in_zip(root: Path, table: pd.DataFrame, to: Path) -> Path:
    with zipfile.ZipFile(to / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, label, data in _files(root, table):
            archive.writestr(f"{label}/{Path(path).name}", data)
    return to / "set.zip"


def _tar(file: Path, mode: str, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            one = tarfile.TarInfo(name)
            one.size = len(data)
            archive.addfile(one, io.BytesIO(data))
    return file


def in_tar(root: Path, table: pd.DataFrame, to: Path) -> Path:
    return _tar(to / "set.tar", "w", [(f"{label}/{Path(p).name}", data) for p, label, data in _files(root, table)])


def in_tgz(root: Path, table: pd.DataFrame, to: Path) -> Path:
    return _tar(to / "set.tgz", "w:gz", [(f"{label}/{Path(p).name}", data) for p, label, data in _files(root, table)])


def in_webdataset(root: Path, table: pd.DataFrame, to: Path) -> Path:
    """Two shards, of keys with the class folder."""
    folder = to / "webdataset"
    folder.mkdir()
    files = _files(root, table)
    half = (len(files) + 1) // 2
    for number, some in enumerate((files[:half], files[half:])):
        members = [
            pair
            for path, label, data in some
            for pair in ((f"{label}/{Path(path).name}", data), (f"{label}/{Path(path).stem}.cls", label.encode()))
        ]
        _tar(folder / f"shards-{number:03}.tar", "w", members)
    return folder / "shards-{000..001}.tar"


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def example(features: dict[str, bytes | int]) -> bytes:
    """A serialised tf.train.Example with one value in each feature."""
    entries = b""
    for name, value in features.items():
        kind, inner = (1, _field(1, value)) if isinstance(value, bytes) else (3, _field(1, _varint(value)))
        entries += _field(1, _field(1, name.encode()) + _field(2, _field(kind, inner)))
    return _field(1, entries)


def record(content: bytes) -> bytes:
    """A record of a TFRecord file, with checksums of 0, which tlkit does not compare."""
    return struct.pack("<QI", len(content), 0) + content + bytes(4)


def in_tfrecord(root: Path, table: pd.DataFrame, to: Path) -> Path:
    with (to / "set.tfrecord").open("wb") as out:
        for path, label, data in _files(root, table):
            values: dict[str, bytes | int] = {
                "image/encoded": data,
                "image/class/text": label.encode(),
                "image/class/label": 7,
                "image/filename": path.encode(),
            }
            out.write(record(example(values)))
    return to / "set.tfrecord"


def in_tfds(root: Path, table: pd.DataFrame, to: Path) -> Path:
    """A folder as TFDS prepares it."""
    folder = to / "set" / "1.0.0"
    folder.mkdir(parents=True)
    classes = sorted(set(table["label"]))
    (folder / "label.labels.txt").write_text("\n".join(classes) + "\n")
    (folder / "features.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    with (folder / "set-all.tfrecord-00000-of-00001").open("wb") as out:
        for _, label, data in _files(root, table):
            out.write(record(example({"image": data, "label": classes.index(label)})))
    return folder


def _columns(root: Path, table: pd.DataFrame) -> dict[str, list[object]]:
    files = _files(root, table)
    return {
        "image": [{"bytes": data, "path": path} for path, _, data in files],
        "label": [label for _, label, _ in files],
    }


def in_parquet(root: Path, table: pd.DataFrame, to: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(_columns(root, table)), to / "set.parquet", row_group_size=100)
    return to / "set.parquet"


def in_parquet_of_paths(root: Path, table: pd.DataFrame, to: Path) -> Path:
    paths = [str(root / path) for path in table["path"]]
    pd.DataFrame({"path": paths, "label": table["label"]}).to_parquet(to / "paths.parquet")
    return to / "paths.parquet"


def in_arrow(root: Path, table: pd.DataFrame, to: Path) -> Path:
    """A folder as `datasets.Dataset.save_to_disk` writes it, whose labels are numbers with names."""
    import pyarrow

    columns, classes = _columns(root, table), sorted(set(table["label"]))
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": classes}}
    numbers = [classes.index(str(one)) for one in columns["label"]]
    rows = pyarrow.table({"image": columns["image"], "label": pyarrow.array(numbers, "int64")})
    rows = rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    folder = to / "saved"
    folder.mkdir()
    file = str(folder / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(file, "wb") as out, pyarrow.ipc.new_stream(out, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=50)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


PACKED: dict[str, Callable[[Path, pd.DataFrame, Path], Path]] = {
    "zip": in_zip,
    "tar": in_tar,
    "tgz": in_tgz,
    "webdataset": in_webdataset,
    "tfrecord": in_tfrecord,
    "tfds": in_tfds,
    "parquet": in_parquet,
    "parquet of paths": in_parquet_of_paths,
    "datasets": in_arrow,
}
