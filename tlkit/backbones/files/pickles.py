"""Reads the pickles in PyTorch's files without executing them: the opcodes, as far as a state dict needs them.

Nothing is imported and nothing is called by name. A name in a pickle is looked up in the table below, and stands for a
value of this module; any other name is refused. The results are None, bools, numbers, text, lists, tuples, dicts,
`Name`, `Storage` and `Tensor`. Where values of a pickle change others, only lists and dicts can be changed.

An allow-list over Python's own unpickler was not enough elsewhere: a file could choose a layout that was read without
the list (CVE-2025-32434), or set items of a tensor and disagree about a storage's length (CVE-2026-24747).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any

from tlkit.backbones.files.arrays import TYPES, Unreadable, check_extent, quoted

MOST_OPCODES = 1_000_000  # of all pickles in a file; a tensor needs about 40
MOST_BYTES = 16 * 2**20  # of all pickles in a file
MOST_STACKED, MOST_MARKS, MOST_REMEMBERED = 200_000, 1_000, 500_000
_LONGEST_NAME, _LONGEST_NUMBER = 200, 16  # bytes

_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.storage.UntypedStorage": "",  # the tensor says which
    "torch.UntypedStorage": "",
}
_REFUSED = {  # why, for names that people meet
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without values",
    "torch.ComplexFloatStorage": "complex numbers",
    "torch.ComplexDoubleStorage": "complex numbers",
    "torch.QInt8Storage": "quantized numbers",
    "torch.QUInt8Storage": "quantized numbers",
    "torch.QInt32Storage": "quantized numbers",
    "torch.QUInt4x2Storage": "quantized numbers",
    "torch.QUInt2x4Storage": "quantized numbers",
    "torch.float8_e4m3fn": "floating-point numbers of 8 bits",
    "torch.float8_e5m2": "floating-point numbers of 8 bits",
}


@dataclass(frozen=True, slots=True)
class Name:
    """A name of the table, which a pickle may call with arguments or give as the type of a storage."""

    text: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers elsewhere in the file.

    Attributes:
        key: its name.
        kind: one of `arrays.TYPES`; "" if a tensor has to say.
        count: how many numbers; bytes if kind is "".
    """

    key: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Part:
    """Elements start to start + count of a storage."""

    storage: Storage
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, in elements; its extent has been checked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class PickleReader:
    """Reads one pickle after another from a stream, within bounds for all of them.

    Attributes:
        storages: every storage that was named, by key.
    """

    def __init__(self, stream: BufferedIOBase) -> None:
        self.storages: dict[str, Storage] = {}
        self._types: dict[str, str] = {}  # of storages whose tensors say it
        self._stream = stream
        self._bytes, self._opcodes = MOST_BYTES, MOST_OPCODES
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """Read the pickle that begins where the stream is, and leave the stream behind it.

        Raises Unreadable for a name or an opcode that is not read, and for what is damaged or too large.
        """
        self._stack, self._below, self._memo = [], [], {}
        if self._take(1) != b"\x80" or not 2 <= self._take(1)[0] <= 5:
            raise Unreadable("does not hold a pickle of protocol 2 to 5 where PyTorch writes one.")
        while True:
            self._spend(1)
            code = self._take(1)
            if code == b".":
                value = self._pop()
                if self._stack or self._below:
                    raise Unreadable("holds a pickle that ends with values left over, so it is damaged.")
                return value
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise Unreadable(f"holds the pickle opcode {code!r}, which no state dict needs. Nothing of it was run.")
            operation(self)
            if len(self._stack) > MOST_STACKED:
                raise Unreadable(f"holds a pickle that stacks more than {MOST_STACKED:,} values.")

    # what every operation uses

    def _spend(self, opcodes: int) -> None:
        self._opcodes -= opcodes
        if self._opcodes < 0:
            raise Unreadable(f"holds a pickle of more than {MOST_OPCODES:,} operations, more than any state dict.")

    def _take(self, length: int) -> bytes:
        self._bytes -= length
        if self._bytes < 0:
            raise Unreadable(f"holds a pickle of more than {MOST_BYTES:,} bytes, more than any state dict.")
        taken = self._stream.read(length)
        if len(taken) != length:
            raise Unreadable("ends in the middle of a pickle. It is cut; get it again.")
        return taken

    def _number(self, code: str) -> int:
        return int(struct.unpack(code, self._take(struct.calcsize(code)))[0])

    def _text(self, length: int) -> str:
        taken = self._take(length)
        try:
            return taken.decode("utf-8")
        except UnicodeDecodeError:
            raise Unreadable("holds text in a pickle that is not UTF-8, so it is damaged.") from None

    def _pop(self) -> Any:
        if not self._stack:
            raise Unreadable("holds a pickle that takes a value where there is none, so it is damaged.")
        return self._stack.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _marked(self) -> list[Any]:
        """Take the values above the last mark."""
        if not self._below:
            raise Unreadable("holds a pickle that looks for a mark where there is none, so it is damaged.")
        values, self._stack = self._stack, self._below.pop()
        return values

    def _last(self, kind: type) -> Any:
        value = self._stack[-1] if self._stack else None
        if type(value) is not kind:
            raise Unreadable(f"holds a pickle that changes a {type(value).__name__} as if it were a {kind.__name__}.")
        return value

    # the operations

    def _frame(self) -> None:
        self._number("<Q")  # only a hint for buffering

    def _mark(self) -> None:
        if len(self._below) >= MOST_MARKS:
            raise Unreadable(f"holds a pickle that is nested more than {MOST_MARKS:,} deep.")
        self._below.append(self._stack)
        self._stack = []

    def _whole_number(self) -> None:
        length = self._take(1)[0]
        if length > _LONGEST_NUMBER:
            raise Unreadable(f"holds a whole number of {length} bytes in a pickle. Expected at most {_LONGEST_NUMBER}.")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def _float(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def _tuple(self, length: int) -> None:
        values = [self._pop() for _ in range(length)]
        self._push(tuple(reversed(values)))

    def _marked_tuple(self) -> None:
        values = self._marked()
        self._push(tuple(values))

    def _append(self) -> None:
        value = self._pop()
        self._last(list).append(value)

    def _appends(self) -> None:
        values = self._marked()
        self._last(list).extend(values)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        _set(self._last(dict), key, value)

    def _set_items(self) -> None:
        values = self._marked()
        if len(values) % 2:
            raise Unreadable("holds a pickle with a key that has no value, so it is damaged.")
        target = self._last(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            _set(target, key, value)

    def _remember(self, place: int) -> None:
        if not self._stack:
            raise Unreadable("holds a pickle that remembers a value where there is none, so it is damaged.")
        if len(self._memo) >= MOST_REMEMBERED:
            raise Unreadable(f"holds a pickle that remembers more than {MOST_REMEMBERED:,} values.")
        self._memo[place] = self._stack[-1]

    def _recall(self, place: int) -> None:
        if place not in self._memo:
            raise Unreadable(f"holds a pickle that recalls value {place:,}, which it never stored, so it is damaged.")
        self._push(self._memo[place])

    def _global(self) -> None:
        parts = []
        for _ in range(2):
            line = self._stream.readline(_LONGEST_NAME)
            self._bytes -= len(line)
            if not line.endswith(b"\n"):
                raise Unreadable("holds a pickle with a name that does not end, so it is damaged.")
            parts.append(line[:-1].decode("utf-8", "backslashreplace"))
        self._push(_named(*parts))

    def _stacked_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise Unreadable("holds a pickle that makes a name of something that is not text.")
        self._push(_named(module, name))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        call = _CALLS.get(function.text) if type(function) is Name else None
        if call is None or type(arguments) is not tuple:
            what = quoted(function.text) if type(function) is Name else f"a {type(function).__name__}"
            raise Unreadable(f"holds a pickle that calls {what}, which is nothing to call. Nothing of it was run.")
        self._push(call(self, arguments))

    def _build(self) -> None:
        """Leave out what is carried beside values: a state dict's versions of layers, a parameter's gradients."""
        state = self._pop()
        if not self._stack or (type(self._stack[-1]), type(state)) not in ((dict, dict), (Tensor, tuple)):
            raise Unreadable("holds a pickle that sets the state of something that has none. Nothing of it was run.")

    def _persistent(self) -> None:
        given = self._pop()
        if type(given) is not tuple or not 5 <= len(given) <= 6 or given[0] != "storage":
            raise Unreadable("refers to something that is not a storage of numbers. Expected a state dict.")
        _, kind, key, _, count, *view = given
        kind = _STORAGES.get(kind.text) if type(kind) is Name else None
        if kind is None or type(key) is not str or type(count) is not int or not 0 <= count < 2**59:
            raise Unreadable("describes a storage without a known type, a name and a length.")
        storage = Storage(key, kind, count)
        if self.storages.setdefault(key, storage) != storage:
            raise Unreadable(f"describes the storage {quoted(key)} twice, and differently.")
        self._push(_part(storage, view[0] if view else None))

    # what the names of the table do

    def _dict(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """Return an ordered dict: an empty one, or of a list of pairs, as Python 2 wrote them."""
        pairs = arguments[0] if len(arguments) == 1 else []
        if len(arguments) > 1 or type(pairs) is not list:
            raise Unreadable("makes an ordered dict of something that is not a list of pairs.")
        self._spend(len(pairs))  # a list may be used again and again
        made: dict[Any, Any] = {}
        for pair in pairs:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise Unreadable("makes an ordered dict of something that is not a list of pairs.")
            _set(made, *pair)
        return made

    def _tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        """Return a tensor of (storage, offset, shape, strides, ...)."""
        if not 4 <= len(arguments) <= 7 or type(arguments[0]) is not Part:
            raise Unreadable("describes a tensor without a storage, an offset, a shape and strides.")
        return _tensor_of(*arguments[:4])

    def _tensor_with_type(self, arguments: tuple[Any, ...]) -> Tensor:
        """Return a tensor of (storage, offset, shape, strides, requires_grad, hooks, dtype, ...)."""
        if not 7 <= len(arguments) <= 8 or type(arguments[0]) is not Part or type(arguments[6]) is not Name:
            raise Unreadable("describes a tensor without a storage, an offset, a shape, strides and a type.")
        untyped, kind = arguments[0].storage, _DTYPES.get(arguments[6].text)
        if kind is None or untyped.kind not in ("", kind):
            raise Unreadable(f"gives a tensor the type {quoted(arguments[6].text)}, and its storage another.")
        if not untyped.kind:
            count, rest = divmod(untyped.count, TYPES[kind].itemsize)
            if rest or self._types.setdefault(untyped.key, kind) != kind:
                raise Unreadable(f"reads the storage {quoted(untyped.key)} as numbers of different types.")
            return _tensor_of(Part(Storage(untyped.key, kind, count), 0, count), *arguments[1:4])
        return _tensor_of(*arguments[:4])

    def _parameter(self, arguments: tuple[Any, ...]) -> Tensor:
        """Return the tensor of a parameter, without what training needs."""
        if not 1 <= len(arguments) <= 4 or type(arguments[0]) is not Tensor:
            raise Unreadable("describes a parameter without a tensor.")
        return arguments[0]

    def _size(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(arguments) != 1 or type(arguments[0]) is not tuple:
            raise Unreadable("describes a size that is not a tuple.")
        return arguments[0]


def _set(target: dict[Any, Any], key: Any, value: Any) -> None:
    if type(key) not in (str, int):  # the hash of nested tuples can take for ever
        raise Unreadable(f"holds a dict with a {type(key).__name__} as a key. Expected names or numbers.")
    if key in target:
        raise Unreadable(f"names {quoted(key)} twice in one dict.")
    target[key] = value


def _named(module: str, name: str) -> Name:
    """Return the name if it is in the table. Raises Unreadable with the name otherwise."""
    text = f"{module}.{name}"
    if text in _CALLS or text in _STORAGES or text in _DTYPES:
        return Name(text)
    if text in _REFUSED:
        raise Unreadable(f"holds {_REFUSED[text]} ({text}), which tlkit does not read. Expected plain tensors.")
    raise Unreadable(
        f"names {quoted(text)}, which no state dict needs, so it was refused and nothing of it was run. Expected "
        "tensors only, as `torch.save(model.state_dict(), FILE)` writes them."
    )


def _part(storage: Storage, view: Any) -> Part:
    """Return the whole storage, or the part that a view (key, start, count) of old files has of it."""
    if view is None:
        return Part(storage, 0, storage.count)
    if type(view) is not tuple or len(view) != 3 or any(type(one) is not int or one < 0 for one in view[1:]):
        raise Unreadable("describes a part of a storage without a start and a length.")
    _, start, count = view
    if start + count > storage.count or not storage.kind:
        raise Unreadable(f"describes elements {start:,} to {start + count:,} of a storage of {storage.count:,}.")
    return Part(storage, start, count)


def _tensor_of(part: Part, offset: Any, shape: Any, strides: Any) -> Tensor:
    if not part.storage.kind:
        raise Unreadable(f"does not say of which type the numbers of the storage {quoted(part.storage.key)} are.")
    check_extent(offset, shape, strides, part.count)
    return Tensor(part.storage, part.start + offset, shape, strides)


_CALLS: dict[str, Callable[[PickleReader, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": PickleReader._dict,
    "torch._utils._rebuild_tensor": PickleReader._tensor,
    "torch._utils._rebuild_tensor_v2": PickleReader._tensor,
    "torch._utils._rebuild_tensor_v3": PickleReader._tensor_with_type,
    "torch._utils._rebuild_parameter": PickleReader._parameter,
    "torch._utils._rebuild_parameter_with_state": PickleReader._parameter,
    "torch.nn.parameter.Parameter": PickleReader._parameter,  # before PyTorch 0.4
    "torch.Size": PickleReader._size,
}
_DTYPES = {f"torch.{kind}": kind for kind in TYPES}
_OPERATIONS: dict[bytes, Callable[[PickleReader], None]] = {
    b"\x95": PickleReader._frame,
    b"(": PickleReader._mark,
    b"N": lambda reader: reader._push(None),
    b"\x88": lambda reader: reader._push(True),
    b"\x89": lambda reader: reader._push(False),
    b"K": lambda reader: reader._push(reader._number("<B")),
    b"M": lambda reader: reader._push(reader._number("<H")),
    b"J": lambda reader: reader._push(reader._number("<i")),
    b"\x8a": PickleReader._whole_number,
    b"G": PickleReader._float,
    b"X": lambda reader: reader._push(reader._text(reader._number("<I"))),
    b"\x8c": lambda reader: reader._push(reader._text(reader._number("<B"))),
    b"T": lambda reader: reader._push(reader._text(reader._number("<I"))),  # Python 2's str
    b"U": lambda reader: reader._push(reader._text(reader._number("<B"))),
    b")": lambda reader: reader._push(()),
    b"]": lambda reader: reader._push([]),
    b"}": lambda reader: reader._push({}),
    b"t": PickleReader._marked_tuple,
    b"\x85": lambda reader: reader._tuple(1),
    b"\x86": lambda reader: reader._tuple(2),
    b"\x87": lambda reader: reader._tuple(3),
    b"a": PickleReader._append,
    b"e": PickleReader._appends,
    b"s": PickleReader._set_item,
    b"u": PickleReader._set_items,
    b"q": lambda reader: reader._remember(reader._number("<B")),
    b"r": lambda reader: reader._remember(reader._number("<I")),
    b"\x94": lambda reader: reader._remember(len(reader._memo)),
    b"h": lambda reader: reader._recall(reader._number("<B")),
    b"j": lambda reader: reader._recall(reader._number("<I")),
    b"c": PickleReader._global,
    b"\x93": PickleReader._stacked_global,
    b"R": PickleReader._reduce,
    b"b": PickleReader._build,
    b"Q": PickleReader._persistent,
}
