"""Reads tables that hold the images themselves: Parquet files, and the Arrow files of Hugging Face `datasets`.

The only file that reads Arrow. In an Arrow file the images are read in place. Those of a Parquet file, which packs them
by pages, are written one after another into a file in the cache, once for each content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlkit.cache import Cache, describe
from tlkit.data.sources.member import Item, Members, Piece
from tlkit.data.sources.records import Record, Records, as_text
from tlkit.data.sources.shards import split_of_file
from tlkit.data.sources.table_columns import COLUMNS, plain
from tlkit.disk import check_room
from tlkit.errors import DataError
from tlkit.files import temporary_beside
from tlkit.plan.address import redacted

IMAGES = ("image", "img", "images", "picture", "photo", "bytes", "jpg", "jpeg", "png", "webp")
Place = tuple[Path, int, int] | Path | None  # file, begin and size of an image, or its path; None for no image
ROWS = 64  # of a Parquet file that are held at a time


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise DataError(
            f"Reading '{what}' needs the package pyarrow. Install it with `pip install tlkit[parquet]`."
        ) from None
    return pyarrow


@dataclass(frozen=True)
class Columns:
    """What the columns of a table hold.

    image: the column of images. nested: whether its cells have the fields bytes and path.
    others: those that are read beside it. classes: the class names of a column of numbers.
    """

    image: str
    nested: bool
    others: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]


def columns_of(schema: Any) -> Columns | None:
    """What the columns of a schema hold; None if none holds images."""
    import pyarrow

    is_a = pyarrow.types
    nested = [one.name for one in schema if is_a.is_struct(one.type) and one.type.get_field_index("bytes") >= 0]
    paths = {plain(one) for one in COLUMNS["path"]}
    binary = [one.name for one in schema if is_a.is_binary(one.type) or is_a.is_large_binary(one.type)]
    if any(plain(one.name) in paths and is_a.is_string(one.type) for one in schema):  # a table of paths may hold others
        binary = [one for one in binary if one.lower() in IMAGES]
    found = [*nested, *binary]
    if not found:
        return None
    image = min(found, key=lambda name: IMAGES.index(name.lower()) if name.lower() in IMAGES else len(IMAGES))
    others = [
        one.name
        for one in schema
        if one.name not in found and not is_a.is_struct(one.type) and plain(one.name) not in paths
    ]
    return Columns(image, image in nested, tuple(others), _classes(schema))


def _classes(schema: Any) -> dict[str, tuple[str, ...]]:
    """The names that the schema's metadata gives to the numbers of a column, as `datasets` writes them."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: tuple(map(str, one["names"]))
            for name, one in features.items()
            if isinstance(one, dict) and one.get("_type") == "ClassLabel" and isinstance(one.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


class TableImages(Members):
    """The images in the rows of tables. names: FILE/000000-NAME, in the order of the rows.

    pieces: file, begin and size of each image, or its path if the row has only that.
    """

    def __init__(self, shown: str) -> None:
        super().__init__(shown)
        self._pieces: dict[str, tuple[Path, int, int] | Path] = {}
        self._names: list[str] = []
        self._rows: list[Record] = []

    def read_rows(
        self,
        prefix: str,
        columns: Columns,
        split: str,
        batch: Any,
        places: Sequence[Place],
    ) -> None:
        """Add the rows of a batch. places: where the image of each is; None for no image."""
        if not self._names:
            image = columns.image if plain(columns.image) in {plain(one) for one in COLUMNS["path"]} else "path"
            self._names = [image, *columns.others, *([] if "split" in columns.others else ["split"])]
            self.class_names = next(iter(columns.classes.values()), ())
        cells = {name: batch.column(name).to_pylist() for name in columns.others}
        for name, classes in columns.classes.items():
            if name in cells:
                cells[name] = [_named(one, classes) for one in cells[name]]
        named = _paths(batch.column(columns.image)) if columns.nested else [""] * len(places)
        for at, place in enumerate(places):
            number = len(self._rows)
            last = named[at].replace("\\", "/").rpartition("/")[2]
            name = f"{prefix}{number:06d}" + (f"-{last}" if last and last.isprintable() else "")
            values = [as_text(cells[one][at]) for one in columns.others]
            if "split" not in columns.others:
                values.append(split)
            self._rows.append(Record(number + 1, [name, *values], "" if place else "it holds no image"))
            if place is not None:
                self._pieces[name] = place

    def names(self) -> Iterable[str]:
        return self._pieces

    def __contains__(self, name: object) -> bool:
        return name in self._pieces

    def item(self, name: str) -> Item:
        place = self._pieces[name]
        return place if isinstance(place, Path) else Piece(str(place[0]), self.display(name), *place[1:], place[2])

    def size(self, name: str) -> int:
        place = self._pieces[name]
        return place.stat().st_size if isinstance(place, Path) else place[2]

    def records(self) -> Records:
        if not self._rows:
            raise DataError(f"'{self.shown}' has no rows. Expected a row with an image and a label for each image.")
        return Records(self._names, iter(self._rows))


def _named(value: Any, classes: Sequence[str]) -> Any:
    """The class of a number, if it has one. -1 stands for no label."""
    if isinstance(value, int) and value == -1:
        return None
    return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else value


def _paths(column: Any) -> list[str]:
    if column.type.get_field_index("path") < 0:
        return [""] * len(column)
    return [one or "" for one in column.field("path").to_pylist()]


# -- Parquet -------------------------------------------------------------------------------------------------


def holds_images(file: Path) -> bool:
    """Whether a Parquet file has a column of images. False if it cannot be read: it is a table then, and says why."""
    if not file.is_file():
        return False
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    with contextlib.suppress(OSError, pyarrow.ArrowException):
        return columns_of(parquet.read_schema(file)) is not None
    return False


def parquet_in(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("**/*.parquet") if not one.name.startswith("."))


def open_parquet(path: Path, shown: str = "") -> TableImages:
    """The images of a Parquet file, or of those in a folder. Raises DataError if one is damaged, or holds no images."""
    files = parquet_in(path) if path.is_dir() else [path]
    base = path if path.is_dir() else path.parent
    found = TableImages(shown or str(path))
    arrow = _pyarrow(found.shown)
    for file in files:
        prefix = f"{file.relative_to(base).with_suffix('').as_posix()}/" if len(files) > 1 else ""
        try:
            _read_parquet(found, file, prefix, split_of_file(file, base))
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"Cannot read '{file if path.is_dir() else found.shown}' as Parquet: {error}.") from error
    return found


def _read_parquet(found: TableImages, file: Path, prefix: str, split: str) -> None:
    """Add the rows of a file, whose images are copied to the cache unless they are there."""
    from pyarrow import parquet

    opened = parquet.ParquetFile(file)
    columns = columns_of(opened.schema_arrow)
    if columns is None:
        raise DataError(f"'{file}' has no column of images. Expected bytes, or bytes and path, as `datasets` writes.")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = Cache().at("sources", digest[:32])
    packed = (folder / f"{digest}.bytes").absolute()
    if not packed.is_file():
        check_room(folder, file.stat().st_size, f"the images of '{file.name}'")
        describe(folder, f"the images of '{file.name}'")
        with temporary_beside(packed, durable=False) as temporary, temporary.open("wb") as out:
            for batch in opened.iter_batches(batch_size=ROWS, columns=[columns.image]):
                for data in _bytes(batch.column(columns.image), columns.nested):
                    out.write(data or b"")
    offset = 0
    for batch in opened.iter_batches(batch_size=ROWS, columns=[columns.image, *columns.others]):
        places: list[Place] = []
        column = batch.column(columns.image)
        paths = _paths(column) if columns.nested else [""] * len(column)
        for data, path in zip(_bytes(column, columns.nested), paths, strict=True):
            if data is None:
                places.append(file.parent / path if path else None)
            else:
                places.append((packed, offset, len(data)))
                offset += len(data)
        found.read_rows(prefix, columns, split, batch, places)


def _bytes(column: Any, nested: bool) -> Iterator[bytes | None]:
    cells = column.field("bytes") if nested else column
    valid = column.is_valid().to_pylist() if nested else None
    for at, one in enumerate(cells):
        yield one.as_py() if valid is None or valid[at] else None


# -- Arrow, as Hugging Face `datasets` saves it --------------------------------------------------------------


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a folder by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def open_saved(path: Path, shown: str = "") -> TableImages:
    """The images of a folder of `datasets`. Raises DataError for a file that is absent or damaged."""
    parts: list[tuple[str, list[Path]]] = []
    try:
        if (path / "dataset_dict.json").is_file():
            names = [str(one) for one in json.loads((path / "dataset_dict.json").read_bytes())["splits"]]
            parts = [(name, _data_files(path / name)) for name in names]
        else:
            parts = [("", _data_files(path))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"'{shown or path}' is no folder of `save_to_disk`, or is damaged: {error}. Save it again."
        ) from error
    return images_of_arrow(shown or str(path), parts)


def _data_files(folder: Path) -> list[Path]:
    state = json.loads((folder / "state.json").read_bytes())
    return [folder / Path(str(one["filename"])).name for one in state["_data_files"]]


def images_of_arrow(shown: str, parts: Sequence[tuple[str, list[Path]]]) -> TableImages:
    """The images of Arrow files (the IPC stream format), by the names of their parts."""
    arrow = _pyarrow(shown)
    found = TableImages(shown)
    for name, files in parts:
        for file in files:
            split = split_of_file(Path(name or "x"), Path()) if len(parts) > 1 else ""
            try:
                _read_arrow(found, file.absolute(), f"{name}/" if len(parts) > 1 else "", split)
            except (arrow.ArrowException, OSError) as error:
                raise DataError(f"Cannot read '{file}' as Arrow: {error}. Save or load the data set again.") from error
    return found


def open_hub(name: str, shown: str) -> TableImages:
    """A data set of the Hugging Face hub, by USER/NAME or USER/NAME:CONFIG, which `datasets` downloads and keeps.

    Raises DataError if it cannot.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"Reading '{shown}' needs the package datasets. Install it with `pip install tlkit[datasets]`."
        ) from None
    try:
        loaded = datasets.load_dataset(*name.split(":", 1))
    except Exception as error:  # it raises many kinds
        said = redacted(str(error)).splitlines()
        raise DataError(f"`datasets` cannot load '{name}': {said[0] if said else type(error).__name__}.") from None
    parts = [(split, [Path(one["filename"]) for one in part.cache_files]) for split, part in loaded.items()]
    return images_of_arrow(shown, parts)


def _read_arrow(found: TableImages, file: Path, prefix: str, split: str) -> None:
    import pyarrow

    with pyarrow.memory_map(str(file)) as mapped:
        buffer = mapped.read_buffer()
        reader = pyarrow.ipc.open_stream(buffer)
        columns = columns_of(reader.schema)
        if columns is None:
            raise DataError(f"'{found.shown}' has no column of images; its columns: {', '.join(reader.schema.names)}.")
        for batch in reader:
            column = batch.column(columns.image)
            paths = _paths(column) if columns.nested else [""] * len(column)
            cells = column.field("bytes") if columns.nested else column
            places = [
                _path_place(path, file.parent) if place is None else place
                for place, path in zip(_places(cells, buffer, file), paths, strict=True)
            ]
            found.read_rows(prefix, columns, split, batch, places)


def _path_place(path: str, folder: Path) -> Path | None:
    return folder / path if path else None


def _places(cells: Any, buffer: Any, file: Path) -> list[tuple[Path, int, int] | None]:
    """Where the bytes of each cell are in the file."""
    import numpy as np
    import pyarrow

    _, ends, data = cells.buffers()
    kind = "int64" if pyarrow.types.is_large_binary(cells.type) else "int32"
    if not len(cells):
        return []
    offsets = np.frombuffer(ends, kind)[cells.offset : cells.offset + len(cells) + 1]
    base = (data.address if data is not None else buffer.address) - buffer.address
    if not 0 <= base <= buffer.size:
        raise DataError(f"'{file}' is compressed. Save the data set without compression: `save_to_disk`.")
    valid = cells.is_valid().to_pylist()
    begins, sizes = base + offsets[:-1].astype("int64"), np.diff(offsets)
    return [(file, int(begins[i]), int(sizes[i])) if valid[i] else None for i in range(len(cells))]
