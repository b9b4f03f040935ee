"""PyTorch's files: the zip, and the layout before version 1.6. Both hold pickles, which `pickles` reads, and numbers.

The zip holds NAME/data.pkl and a file NAME/data/KEY for each storage. The older layout is a magic number, a version, a
description of the system, the pickled object and the keys of the storages, each a pickle, and then the storages.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from typing import Any, cast

import numpy as np

from tlkit.backbones.files.arrays import (
    MEBIBYTE,
    TYPES,
    Unreadable,
    check_total,
    elements,
    quoted,
    read_values,
    strided,
)
from tlkit.backbones.files.pickles import MOST_BYTES, PickleReader, Storage, Tensor

NESTED = ("state_dict", "model_state_dict", "model", "state_dict_ema")  # where training keeps the state dict
MAGIC = 0x1950A86A20F9469CFC6C  # of the older layout
MOST_DIRECTORY = 6 * MEBIBYTE  # of a zip's list of its files: room for 50,000 storages
_PROTOCOL = 1001
_END = struct.Struct("<4s4H2LH")  # a zip's last record
_END64, _LOCATOR64 = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_LOCAL_HEADER = 30  # bytes of the header before each file of a zip, without names
_PIECE = MEBIBYTE


def read_zip(stream: BufferedIOBase, size: int) -> dict[str, np.ndarray]:
    """Read the tensors of the zip layout. All files in it are checked by their CRC-32. size: bytes of the file."""
    directory = _directory(stream, size)
    try:
        archive = zipfile.ZipFile(stream)
    except Exception as error:  # zipfile raises many kinds for a damaged list of files
        raise Unreadable(f"is a zip whose list of files is damaged ({type(error).__name__}). Get it again.") from None
    with archive:
        entries = _entries(archive.infolist(), directory, size)
        root = _root_of(entries)
        pickled = entries.pop(f"{root}data.pkl")
        if pickled.file_size > MOST_BYTES:
            raise Unreadable(f"holds a pickle of {pickled.file_size:,} bytes. Expected at most {MOST_BYTES:,}.")
        order = entries.pop(f"{root}byteorder", None)
        if order is not None and (order.file_size > 10 or _bytes_of(archive, order) != b"little"):
            raise Unreadable("was written on a machine whose numbers begin with the highest byte. Save it on another.")
        reader = PickleReader(io.BytesIO(_bytes_of(archive, pickled)))
        tensors = state_of(reader.read())
        _check_storages(reader.storages.values(), entries, root)
        check_total(_stored(tensors), size)
        wanted = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        values: dict[str, np.ndarray] = {}
        for name, entry in entries.items():
            storage = wanted.get(name.removeprefix(f"{root}data/")) if name.startswith(f"{root}data/") else None
            with _opened(archive, entry) as opened:
                if storage is not None:
                    values[storage.key] = read_values(opened, storage.count, storage.kind)
                while opened.read(_PIECE):  # up to its end, where its checksum is compared
                    pass
        return {name: _array(tensor, values[tensor.storage.key]) for name, tensor in tensors.items()}


def read_legacy(stream: BufferedIOBase, size: int) -> dict[str, np.ndarray]:
    """Read the tensors of the layout before PyTorch 1.6, which has no checksum. size: bytes of the file."""
    reader = PickleReader(stream)
    if reader.read() != MAGIC:
        raise Unreadable("is a pickle, but not one that PyTorch wrote with its own layout around it.")
    if reader.read() != _PROTOCOL:
        raise Unreadable(f"is of an unknown version of PyTorch's older layout. Expected {_PROTOCOL}.")
    system = reader.read()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Unreadable("was written on a machine whose numbers begin with the highest byte. Save it on another.")
    tensors = state_of(reader.read())
    keys = reader.read()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise Unreadable("does not list the storages after its pickle, so it is damaged. Get it again.")
    if len(set(keys)) != len(keys) or set(keys) != set(reader.storages):
        raise Unreadable(f"lists {len(keys):,} storages, which are not the {len(reader.storages):,} of its tensors.")
    check_total(_stored(tensors), size)
    wanted = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    values = {}
    for key in keys:
        storage = reader.storages[key]
        _check_length(stream, storage, size)
        if key in wanted:
            values[key] = read_values(stream, wanted[key].count, wanted[key].kind)
        else:
            stream.seek(_length(storage), io.SEEK_CUR)
    if stream.tell() != size:
        raise Unreadable(f"has {size - stream.tell():,} bytes after its last storage, so it is damaged.")
    return {name: _array(tensor, values[tensor.storage.key]) for name, tensor in tensors.items()}


def state_of(root: Any) -> dict[str, Tensor]:
    """Find the tensors by name in what a file holds: a state dict, or a dict with one under a name of `NESTED`.

    Numbers, text and None beside the tensors, such as the epoch, are left out.

    Raises Unreadable if there are no tensors, or something else that could hold weights beside them.
    """
    if type(root) is not dict:
        raise Unreadable(f"holds a {_kind(root)}. Expected a state dict, tensors by name.")
    for name in NESTED:
        if type(root.get(name)) is dict:
            root = root[name]
            break
    tensors = {name: value for name, value in root.items() if type(value) is Tensor}
    others = [
        f"{quoted(name)} (a {_kind(value)})"
        for name, value in root.items()
        if type(value) not in (Tensor, str, int, float, bool, type(None))
    ]
    if not tensors or others:
        found = ", ".join(others[:6]) or ", ".join(quoted(name) for name in list(root)[:6]) or "nothing"
        raise Unreadable(
            f"holds {found}{' and more' if len(others) > 6 else ''}{' beside its tensors' if tensors else ''}. "
            f"Expected tensors by name, or a dict of them under one of: {', '.join(NESTED)}."
        )
    if not all(type(name) is str for name in tensors):
        raise Unreadable("holds tensors under numbers. Expected tensors by name.")
    return tensors


def _kind(value: Any) -> str:
    name = type(value).__name__
    return {"Tensor": "single tensor", "Name": "type", "Part": "storage"}.get(name, name)


def _stored(tensors: dict[str, Tensor]) -> int:
    """Count the bytes of tensors as stored; those of a storage count for each tensor that shares it."""
    return sum(elements(one.shape, "a tensor") * TYPES[one.storage.kind].itemsize for one in tensors.values())


def _length(storage: Storage) -> int:
    return storage.count * (TYPES[storage.kind].itemsize if storage.kind else 1)


def _array(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    return strided(values, tensor.offset, tensor.shape, tensor.strides)


def _check_length(stream: BufferedIOBase, storage: Storage, size: int) -> None:
    """Check the length that stands before a storage of the older layout, and that the file is as long."""
    head = stream.read(8)
    count = int.from_bytes(head, "little", signed=True)
    if len(head) == 8 and count != storage.count:
        raise Unreadable(f"holds a storage of {count:,} numbers that should have {storage.count:,}, so it is damaged.")
    left = size - stream.tell()
    if len(head) < 8 or _length(storage) > left:
        raise Unreadable(
            f"ends too soon: a storage of {storage.count:,} numbers has {left:,} bytes left. It is cut; get it again."
        )


def _directory(stream: BufferedIOBase, size: int) -> int:
    """Return how many files a zip lists, and check that the list is short enough to be read."""
    stream.seek(max(0, size - _END.size))
    end = stream.read(_END.size)
    if len(end) < _END.size or end[:4] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise Unreadable("is a zip without its end. It is cut, or something was appended; get it again.")
    _, _, _, _, count, length, _, _ = _END.unpack(end)
    before = size - _END.size - _LOCATOR64.size - _END64.size
    if before >= 0:
        stream.seek(before)
        record, locator = _END64.unpack(stream.read(_END64.size)), stream.read(_LOCATOR64.size)
        if locator[:4] == b"PK\x06\x07":
            if record[0] != b"PK\x06\x06":
                raise Unreadable("is a zip whose list of files is damaged. Get it again.")
            count, length = record[7], record[8]
    if length > MOST_DIRECTORY:
        raise Unreadable(f"is a zip with a list of files of {length:,} bytes. Expected at most {MOST_DIRECTORY:,}.")
    return int(count)


def _entries(listed: list[zipfile.ZipInfo], count: int, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return a zip's files by name, once it is certain that they are what PyTorch writes.

    They are stored without compression, so nothing can grow, have distinct names below the zip's root, and share no
    bytes with each other. count: how many files the zip says it has. size: its bytes.
    """
    if len(listed) != count:
        raise Unreadable(f"is a zip that lists {len(listed):,} files and claims {count:,}, so it is damaged.")
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in listed:
        name = entry.orig_filename
        if name.startswith("/") or ".." in name.split("/") or any(one in name for one in "\\:\0"):
            raise Unreadable(f"is a zip with a file that would be written outside of it, {quoted(name)}.")
        if name in entries:
            raise Unreadable(f"is a zip with two files named {quoted(name)}.")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise Unreadable(f"is a zip in which {quoted(name)} is compressed. PyTorch stores its files as they are.")
        if entry.flag_bits & 0x1:
            raise Unreadable(f"is a zip in which {quoted(name)} is encrypted.")
        entries[name] = entry
    ordered = sorted(listed, key=lambda one: one.header_offset)
    if ordered and ordered[0].header_offset != 0:
        raise Unreadable("is a zip with something before its first file.")
    ends = [one.header_offset for one in ordered[1:]] + [size]
    for one, end in zip(ordered, ends, strict=True):
        if one.header_offset + _LOCAL_HEADER + one.file_size > end:
            raise Unreadable(f"is a zip in which {quoted(one.orig_filename)} shares bytes with another file.")
    return entries


def _root_of(entries: dict[str, zipfile.ZipInfo]) -> str:
    """Return the folder that a zip's files are in, "NAME/"."""
    roots = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if any(f"{root}constants.pkl" in entries for root in roots):
        raise Unreadable("is a TorchScript program. Expected a state dict, as `torch.save(model.state_dict(), FILE)`.")
    if len(roots) != 1:
        found = ", ".join(quoted(name) for name in list(entries)[:4]) or "nothing"
        raise Unreadable(f"is a zip with {found}. Expected PyTorch's NAME/data.pkl.")
    return roots[0]


def _check_storages(storages: Iterable[Storage], entries: dict[str, zipfile.ZipInfo], root: str) -> None:
    for storage in storages:
        entry = entries.get(f"{root}data/{storage.key}")
        if entry is None:
            raise Unreadable(f"lacks the storage {quoted(storage.key)}, so it is damaged. Get it again.")
        if entry.file_size != _length(storage):
            raise Unreadable(
                f"has a storage {quoted(storage.key)} of {entry.file_size:,} bytes where its tensors need "
                f"{_length(storage):,}."
            )


def _bytes_of(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with _opened(archive, entry) as stream:
        return stream.read()


@contextlib.contextmanager
def _opened(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[BufferedIOBase]:
    """Open a file of a zip. What zipfile raises while it is read is `Unreadable`."""
    try:
        with archive.open(entry) as stream:
            yield cast(BufferedIOBase, stream)
    except (zipfile.BadZipFile, EOFError):
        raise Unreadable(
            f"is damaged: {quoted(entry.orig_filename)} in it does not agree with its checksum. Get it again."
        ) from None
    except (NotImplementedError, RuntimeError, ValueError, struct.error) as error:
        raise Unreadable(f"is a zip with a damaged entry, {quoted(entry.orig_filename)} ({error}).") from None
