"""Writes small weights files as PyTorch, safetensors and ONNX do, from arrays by name, for tests of what reads them.

Arrays that share their memory share a storage in PyTorch's files, and a transposed or sliced one is a view of it.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

Arrays = Mapping[str, np.ndarray]
STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
SAFE = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "bool": "BOOL",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}
MAGIC = 0x1950A86A20F9469CFC6C
GLOBAL_DICT, EMPTY_TUPLE, REDUCE = b"ccollections\nOrderedDict\n", b")", b"R"


def some_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Ten small tensors: of several types, a scalar, an empty one, a transposed, a sliced and two that share memory."""
    r = np.random.default_rng(seed)
    tied = r.standard_normal((4, 3)).astype("float32")
    return {
        "conv.weight": r.standard_normal((4, 3, 3, 3)).astype("float32"),
        "conv.bias": r.standard_normal(4).astype("float32"),
        "bn.num_batches_tracked": np.array(7, "int64"),
        "half": r.standard_normal((2, 5)).astype("float16"),
        "brain": r.standard_normal((3, 5)).astype(ml_dtypes.bfloat16),
        "double": r.standard_normal(3),
        "mask": r.integers(0, 2, 6).astype("bool"),
        "transposed": r.standard_normal((6, 4)).astype("float32").T,
        "sliced": r.standard_normal((7, 8)).astype("float32")[1:6, 2:5],
        "tied.a": tied,
        "tied.b": tied,
        "empty": np.zeros((0, 4), "float32"),
    }


def expected(tensors: Arrays) -> dict[str, np.ndarray]:
    """What a reader should make of these: the same, with bfloat16 widened."""
    return {
        name: array.astype("float32") if array.dtype.name == "bfloat16" else array for name, array in tensors.items()
    }


def write_zip(path: Path, tensors: Arrays, *, nested: str = "") -> Path:
    """Write PyTorch's zip layout. nested: the key under which the state dict is put beside an epoch, if any."""
    storages: dict[str, np.ndarray] = {}
    pickled = b"\x80\x02" + state(tensors, storages, legacy=False, nested=nested) + b"."
    return write_zip_of(path, pickled, storages)


def write_zip_of(path: Path, pickled: bytes, storages: Arrays) -> Path:
    """Write the zip layout around a pickle."""
    root = path.stem
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        for key, values in storages.items():
            archive.writestr(f"{root}/data/{key}", values.tobytes())
        archive.writestr(f"{root}/version", b"3\n")
    return path


def write_legacy(path: Path, tensors: Arrays, *, nested: str = "") -> Path:
    """Write PyTorch's layout before version 1.6. nested: as for `write_zip`."""
    storages: dict[str, np.ndarray] = {}
    pickled = b"\x80\x02" + state(tensors, storages, legacy=True, nested=nested) + b"."
    return write_legacy_of(path, pickled, storages)


def write_legacy_of(path: Path, pickled: bytes, storages: Arrays) -> Path:
    """Write the older layout around a pickle."""
    system = b"}(" + text("protocol_version") + whole(1001) + text("little_endian") + b"\x88" + text("type_sizes")
    sizes = b"".join(text(name) + whole(size) for name, size in (("short", 2), ("int", 4), ("long", 4)))
    system += b"}(" + sizes + b"uu"
    keys = b"](" + b"".join(map(text, storages)) + b"e" if storages else b"]"
    parts = [b"\x80\x02" + one + b"." for one in (whole(MAGIC), whole(1001), system)]
    parts += [pickled, b"\x80\x02" + keys + b"."]
    parts += [struct.pack("<q", values.size) + values.tobytes() for values in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


def write_safetensors(path: Path, tensors: Arrays) -> Path:
    """Write a safetensors file, with its header padded to 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": SAFE[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    return write_safetensors_of(path, json.dumps(header), b"".join(array.tobytes() for array in tensors.values()))


def write_safetensors_of(path: Path, header: str, numbers: bytes) -> Path:
    """Write a safetensors file around a header."""
    padded = header.encode() + b" " * (-len(header.encode()) % 8)
    path.write_bytes(struct.pack("<Q", len(padded)) + padded + numbers)
    return path


def write_onnx(path: Path, tensors: Arrays) -> Path:
    """Write an ONNX file with these initialisers and no nodes, by the `onnx` package."""
    import onnx

    made = [onnx.numpy_helper.from_array(np.array(array, order="C"), name) for name, array in tensors.items()]
    graph = onnx.helper.make_graph([], "weights", [], [], initializer=made)
    path.write_bytes(onnx.helper.make_model(graph, producer_name="tests").SerializeToString())
    return path


WRITERS = {"zip": write_zip, "legacy": write_legacy, "safetensors": write_safetensors, "onnx": write_onnx}


def state(tensors: Arrays, storages: dict[str, np.ndarray], *, legacy: bool, nested: str = "") -> bytes:
    """The opcodes of a state dict, whose storages are added to `storages`, as Python's pickler would write them."""
    memo: dict[bytes, int] = {}
    keys: dict[tuple[int, int, str], str] = {}  # by address, size and type

    def remembered(opcodes: bytes) -> bytes:
        if opcodes in memo:
            place = memo[opcodes]
            return b"h" + bytes([place]) if place < 256 else b"j" + struct.pack("<I", place)
        place = memo[opcodes] = len(memo)
        return opcodes + (b"q" + bytes([place]) if place < 256 else b"r" + struct.pack("<I", place))

    def tensor(array: np.ndarray) -> bytes:
        flat, offset, strides = placed(array)
        key = keys.setdefault((address(flat), flat.nbytes, flat.dtype.name), str(len(keys)))
        storages[key] = flat  # which keeps the address
        name = remembered(f"ctorch\n{STORAGES[array.dtype.name]}\n".encode())
        storage = b"(" + remembered(text("storage")) + name + remembered(text(key)) + remembered(text("cpu"))
        storage += whole(flat.size) + (b"N" if legacy else b"") + b"tQ"
        place = whole(offset) + whole_tuple(array.shape) + whole_tuple(strides)
        hooks = remembered(GLOBAL_DICT) + EMPTY_TUPLE + REDUCE
        return remembered(b"ctorch._utils\n_rebuild_tensor_v2\n") + b"(" + storage + place + b"\x89" + hooks + b"tR"

    opened = remembered(GLOBAL_DICT) + EMPTY_TUPLE + REDUCE + b"("
    made = opened + b"".join(remembered(text(name)) + tensor(array) for name, array in tensors.items()) + b"u"
    versions = remembered(GLOBAL_DICT) + EMPTY_TUPLE + REDUCE
    made += b"}" + text("_metadata") + versions + b"sb"
    return b"}(" + text("epoch") + whole(3) + text(nested) + made + b"u" if nested else made


def placed(array: np.ndarray) -> tuple[np.ndarray, int, tuple[int, ...]]:
    """The storage of an array, flat, and its offset and strides there in elements."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    in_order = base.flags.c_contiguous and base.dtype == array.dtype and all(step >= 0 for step in array.strides)
    if not in_order or not array.size:
        base = array = np.array(array, order="C")
    width = array.itemsize
    offset = (address(array) - address(base)) // width
    return base.reshape(-1), offset, tuple(step // width for step in array.strides)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 2**16:
        return b"M" + struct.pack("<H", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    width = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([width]) + value.to_bytes(width, "little", signed=True)


def whole_tuple(values: tuple[int, ...]) -> bytes:
    return b")" if not values else b"(" + b"".join(map(whole, values)) + b"t"
