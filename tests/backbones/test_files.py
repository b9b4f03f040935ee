"""Weights files of each format: what is read, what is refused, and that nothing in them is executed."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tlkit
from tests.torch_files import (
    EMPTY_TUPLE,
    GLOBAL_DICT,
    REDUCE,
    WRITERS,
    expected,
    some_tensors,
    state,
    text,
    whole,
    whole_tuple,
    write_legacy,
    write_legacy_of,
    write_onnx,
    write_safetensors,
    write_safetensors_of,
    write_zip,
    write_zip_of,
)
from tlkit import WeightsError, read_weights
from tlkit.backbones.files import onnx as onnx_files
from tlkit.backbones.files import pickles

ONES = np.ones(6, "float32")
STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(6)


def check_same(read: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(read) == list(wanted)
    for name, array in wanted.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(read[name], array, err_msg=name)


def tensor(
    offset: int = 0, shape: tuple[int, ...] = (6,), strides: tuple[int, ...] = (1,), storage: bytes = b""
) -> bytes:
    """The opcodes of a tensor of `ONES`."""
    opened = b"ctorch._utils\n_rebuild_tensor_v2\n(" + (storage or STORAGE + b"tQ")
    hooks = GLOBAL_DICT + EMPTY_TUPLE + REDUCE
    return opened + whole(offset) + whole_tuple(shape) + whole_tuple(strides) + b"\x89" + hooks + b"tR"


def both(folder: Path, root: bytes, protocol: int = 2) -> list[Path]:
    """Both of PyTorch's layouts, with these opcodes as what they hold."""
    pickled = b"\x80" + bytes([protocol]) + root + b"."
    one = {"0": ONES}
    return [write_zip_of(folder / "made.pth", pickled, one), write_legacy_of(folder / "old.pth", pickled, one)]


def refusals(files: list[Path]) -> list[str]:
    """The messages of the errors with which all of these files are refused."""
    said = []
    for file in files:
        with pytest.raises(WeightsError) as caught:
            read_weights(file)
        assert str(file) in str(caught.value)
        said.append(str(caught.value))
    return said


@pytest.mark.parametrize("format", WRITERS)
def test_every_tensor_of_a_file_is_read_as_it_was_written(format: str, tmp_path: Path) -> None:
    tensors = some_tensors()
    file = WRITERS[format](tmp_path / "weights.anything", tensors)
    check_same(read_weights(str(file)), expected(tensors))


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("nested", ["state_dict", "model_state_dict", "model", "state_dict_ema"])
def test_a_state_dict_is_found_beside_the_epoch(write: Any, nested: str, tmp_path: Path) -> None:
    check_same(read_weights(write(tmp_path / "a.pth", some_tensors(), nested=nested)), expected(some_tensors()))


@pytest.mark.parametrize("format", WRITERS)
def test_module_is_taken_off_names_where_all_have_it(format: str, tmp_path: Path) -> None:
    file = WRITERS[format](tmp_path / "a.pth", {"module.a": ONES, "module.module.b": ONES})
    assert list(read_weights(file)) == ["a", "module.b"]
    file = WRITERS[format](tmp_path / "b.pth", {"module.a": ONES, "b": ONES})
    assert list(read_weights(file)) == ["module.a", "b"]


def test_views_of_one_storage_share_memory_and_cannot_be_changed(tmp_path: Path) -> None:
    for file in (write_zip(tmp_path / "a.pth", some_tensors()), write_legacy(tmp_path / "b.pth", some_tensors())):
        read = read_weights(file)
        assert np.shares_memory(read["tied.a"], read["tied.b"])
        for array in read.values():
            assert not array.flags.writeable or not array.size


def test_dicts_and_text_as_python_2_wrote_them_are_read(tmp_path: Path) -> None:
    pairs = b"](](U\x01a" + tensor() + b"e](T\x01\0\0\0b" + tensor(2, (2,)) + b"ee"
    for file in both(tmp_path, b"ccollections\nOrderedDict\n" + pairs + b"\x85R"):
        assert {name: one.shape for name, one in read_weights(file).items()} == {"a": (6,), "b": (2,)}


def test_parameters_as_pytorch_wrote_them_before_0_4_are_read(tmp_path: Path) -> None:
    state = b"(\x88\x89" + GLOBAL_DICT + b"]\x85Rtb"
    for file in both(tmp_path, b"}U\x01actorch.nn.parameter\nParameter\n" + tensor() + b"\x85R" + state + b"s"):
        check_same(read_weights(file), {"a": ONES})


def test_protocol_4_and_parameters_are_read(tmp_path: Path) -> None:
    parameter = b"\x8c\x0ctorch._utils\x8c\x12_rebuild_parameter\x93\x94" + tensor() + b"\x88}\x87R"
    for file in both(tmp_path, b"\x95\x10\0\0\0\0\0\0\0}\x94\x8c\x01a\x94" + parameter + b"s", 4):
        check_same(read_weights(file), {"a": ONES})


def test_a_tensor_that_says_its_type_itself_is_read(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype="uint16")
    storage = b"(" + text("storage") + b"ctorch.storage\nUntypedStorage\n" + text("0") + text("cpu") + whole(24) + b"tQ"
    made = b"ctorch._utils\n_rebuild_tensor_v3\n(" + storage + whole(4) + whole_tuple((2, 3)) + whole_tuple((3, 1))
    made += b"\x89}ctorch\nuint16\ntR"
    file = write_zip_of(tmp_path / "a.pth", b"\x80\x02}" + text("a") + made + b"s.", {"0": numbers})
    check_same(read_weights(file), {"a": numbers[4:10].reshape(2, 3)})


def test_a_storage_that_is_part_of_another_is_read_in_the_older_layout(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype="float32")
    part = STORAGE + b"(" + text("1") + whole(2) + whole(3) + b"ttQ"
    for start, fits in ((0, True), (1, False)):
        pickled = b"\x80\x02}" + text("a") + tensor(start, (3,), storage=part) + b"s."
        file = write_legacy_of(tmp_path / "a.pth", pickled, {"0": numbers})
        if fits:
            check_same(read_weights(file), {"a": numbers[2:5]})
        else:
            assert "too short" in refusals([file])[0]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch.nn.modules.linear", "Linear"),
        ("collections", "OrderedDict.fromkeys"),
        ("numpy.core.multiarray", "_reconstruct"),
    ],
)
def test_any_name_outside_the_table_is_refused_by_name(module: str, name: str, tmp_path: Path) -> None:
    called = f"c{module}\n{name}\n".encode() + b"(" + text(f"touch {tmp_path}/PWNED") + b"tR"
    stacked = text(module) + text(name) + b"\x93" + EMPTY_TUPLE + REDUCE
    for opcodes in (called, stacked):
        for said in refusals(both(tmp_path, b"}" + text("a") + opcodes + b"s")):
            assert f"'{module}.{name}'" in said and "nothing of it was run" in said
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    ("opcodes", "words"),
    [
        (b"ctorch._utils\n_rebuild_qtensor\n", "quantized"),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n", "sparse"),
        (b"ctorch\nComplexFloatStorage\n", "complex"),
        (b"i", "opcode"),
        (b"B\x04\0\0\0abcd", "opcode"),
        (text("a") + b"}\x81", "opcode"),
        (tensor() + text("b") + whole(1) + b"s", "changes a Tensor"),  # CVE-2026-24747
        (tensor() + b"}b", "sets the state"),
        (b"]}b", "sets the state"),
        (b"K\x01)R", "calls a int"),
        (b"ctorch\nFloatStorage\n)R", "nothing to call"),
        (GLOBAL_DICT + whole_tuple((1,)) + REDUCE, "list of pairs"),
        (b"})K\x01s", "tuple as a key"),
        (b"}(" + 2 * (text("a") + tensor()) + b"u", "'a' twice"),
        (b"h\x07", "recalls"),
        (b"e", "mark"),
        (b"\x8a\xff" + bytes(255), "whole number"),
        (b"X\xff\xff\xff\x7f", "bytes"),
        (b"X\x02\0\0\0\xff\xfe", "UTF-8"),
        (b"U\xc8" + bytes(200) + b"Q", "not a storage"),
        (b"(" * 2_000, "nested"),
        (b"c" + b"a" * 500 + b"\nb\n", "does not end"),
        (
            STORAGE + b"tQ" + b"(" + text("storage") + b"ctorch\nIntStorage\n" + text("0") + text("cpu") + b"K\x06tQ",
            "twice",
        ),
    ],
)
def test_pickles_that_no_state_dict_needs_are_refused(opcodes: bytes, words: str, tmp_path: Path) -> None:
    for said in refusals(both(tmp_path, b"}" + text("a") + opcodes + b"s")):
        assert words in said


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (5, (2,), (-1,)),
        (0, (2, 2), (5, 1)),
        (0, (-1,), (1,)),
        (0, (-2, -3), (1, 1)),
        (0, (2**62, 2**62), (0, 0)),
        (0, (2, 2), (2**63, 1)),
        (0, (7,), (0,)),
        (0, (3, 3), (1, 1)),
        (0, (2,), (1, 1)),
        (0, (1,) * 33, (1,) * 33),
        (7, (0,), (1,)),
        (0, (0, 2**61), (1, 1)),
    ],
)
def test_no_tensor_reaches_out_of_its_storage(offset: int, shape: Any, strides: Any, tmp_path: Path) -> None:
    assert refusals(both(tmp_path, b"}" + text("a") + tensor(offset, shape, strides) + b"s"))


def test_work_and_memory_for_a_pickle_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_OPCODES", 3_000)
    monkeypatch.setattr(pickles, "MOST_BYTES", 20_000)
    monkeypatch.setattr(pickles, "MOST_STACKED", 500)
    monkeypatch.setattr(pickles, "MOST_REMEMBERED", 300)
    again = b"](" + b"".join(b"(K" + bytes([n]) + b"K\x01t" for n in range(200)) + b"eq\x01"
    again += b"".join(GLOBAL_DICT + b"h\x01\x85R" for _ in range(20))  # 4,000 items from one list
    for opcodes, words in (
        (b"N" + b"\x85" * 4_000, "operations"),
        (again, "operations"),
        (b"X\x10\x27\0\0" + b"a" * 10_000 + b"\x85" + b"X\x30\x75\0\0" + b"a" * 30_000, "bytes"),
        (b"N" * 600, "stacks"),
        (b"N" + b"".join(b"r" + struct.pack("<I", place) for place in range(400)), "remembers"),
    ):
        file = write_legacy_of(tmp_path / "old.pth", b"\x80\x02}" + text("a") + opcodes + b"s.", {"0": ONES})
        assert words in refusals([file])[0]


def test_tensors_that_share_bytes_cannot_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.backbones.files.arrays.SPARE", 0)
    large = np.zeros(10_000, "float32")
    tensors = {str(number): large for number in range(5)}
    for write in (write_zip, write_legacy):
        assert "fill memory" in refusals([write(tmp_path / "a.pth", tensors)])[0]
        assert len(read_weights(write(tmp_path / "a.pth", {"a": large, "b": large}))) == 2


@pytest.mark.parametrize(
    ("root", "words"),
    [
        (tensor(), "single tensor"),
        (b"]", "list"),
        (b"}", "nothing"),
        (b"}" + text("epoch") + b"K\x03s", "'epoch'"),
        (b"}(" + text("a") + tensor() + text("optimizer") + b"}u", "'optimizer' (a dict)"),
        (b"}" + text("teacher") + b"}" + text("a") + tensor() + b"ss", "'teacher' (a dict)"),
        (b"}K\x01" + tensor() + b"s", "under numbers"),
    ],
)
def test_what_is_no_state_dict_is_described(root: bytes, words: str, tmp_path: Path) -> None:
    for said in refusals(both(tmp_path, root)):
        assert words in said


def zip_of(file: Path, files: list[tuple[str, bytes]], **settings: Any) -> Path:
    with zipfile.ZipFile(file, "w", **settings) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return file


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_that_pytorch_does_not_write_are_refused(tmp_path: Path) -> None:
    storages: dict[str, np.ndarray] = {}
    pickled = b"\x80\x02" + state({"a": ONES}, storages, legacy=False) + b"."
    good = [("a/data.pkl", pickled), ("a/data/0", ONES.tobytes()), ("a/version", b"3\n")]
    assert list(read_weights(zip_of(tmp_path / "good.pth", good))) == ["a"]
    cases = {
        "outside": [*good, ("../climbed", b"x")],
        "outside of it": [*good, ("/tmp/climbed", b"x")],
        "two files": [*good, good[1]],
        "lacks": [good[0], good[2]],
        "where its tensors need 24": [good[0], ("a/data/0", ONES.tobytes()[:8])],
        "where its tensors need": [good[0], ("a/data/0", ONES.tobytes() + b"x")],
        "NAME/data.pkl": good[1:],
        "Expected PyTorch's": [*good, ("b/data.pkl", pickled)],
        "TorchScript": [*good, ("a/constants.pkl", b"")],
        "highest byte": [*good, ("a/byteorder", b"big")],
    }
    for words, files in cases.items():
        assert words in refusals([zip_of(tmp_path / "bad.pth", files)])[0]
    assert "compressed" in refusals([zip_of(tmp_path / "b.pth", good, compression=zipfile.ZIP_DEFLATED)])[0]
    data = (tmp_path / "good.pth").read_bytes()
    for number, changed in enumerate((data[:-1], data + b"\0", b"PK\x03\x04" + data, data[:4])):
        (tmp_path / f"{number}.pth").write_bytes(changed)
    refusals([tmp_path / f"{number}.pth" for number in range(4)])


def test_a_zip_whose_files_share_bytes_is_refused(tmp_path: Path) -> None:
    data = bytearray(write_zip(tmp_path / "a.pth", {"a": ONES, "b": ONES + 1}).read_bytes())
    places = [at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"]
    data[places[2] + 42 : places[2] + 46] = data[places[1] + 42 : places[1] + 46]  # where the file begins
    (tmp_path / "a.pth").write_bytes(data)
    assert "shares bytes" in refusals([tmp_path / "a.pth"])[0]


def test_every_changed_byte_of_the_numbers_in_a_zip_is_found(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "a.pth", {"a": ONES})
    data = file.read_bytes()
    at = data.index(ONES.tobytes())
    for place in range(at, at + ONES.nbytes):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert "checksum" in refusals([file])[0]


def test_the_digits_of_the_name_are_compared_with_the_sha_256(tmp_path: Path) -> None:
    data = write_legacy(tmp_path / "a.pth", {"a": ONES}).read_bytes()
    digits = hashlib.sha256(data).hexdigest()[:8]
    right, wrong = tmp_path / f"net-{digits}.pth", tmp_path / "net-0123abcd.pth"
    right.write_bytes(data)
    wrong.write_bytes(data)
    assert list(read_weights(right)) == ["a"]
    assert "0123abcd" in refusals([wrong])[0] and digits in refusals([wrong])[0]
    right.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "is damaged" in refusals([right])[0]
    (tmp_path / "net-2024.pth").write_bytes(data)  # not eight digits
    assert list(read_weights(tmp_path / "net-2024.pth")) == ["a"]


def header(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24], **changes}}


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (header(dtype="F8_E4M3"), "F8_E4M3"),
        (header(dtype="C64"), "C64"),
        (header(dtype=["F32"]), "F32"),
        (header(shape=[7]), "28"),
        (header(shape=[2.0, 3]), "dimension"),
        (header(shape=[-2, -3]), "dimension"),
        (header(shape=[True, 6]), "dimension"),
        (header(shape=6), "list"),
        (header(shape=[2**40, 2**40]), "no memory"),
        (header(data_offsets=[4, 28]), "gap"),
        (header(data_offsets=[-24, 0]), "start and end"),
        (header(data_offsets=[24, 0]), "bytes"),
        (header(data_offsets=[0]), "start and end"),
        (header(other=1), "dtype, shape"),
        ({**header(shape=[3], data_offsets=[0, 12])}, "describes 12"),
        ({**header(), "b": header()["a"]}, "overlap"),
        ({}, "no tensors"),
        ([], "no weights file"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": ' + "[" * 100_000, "JSON"),
        ('{"a": NaN}', "dtype, shape"),
        ('{"a"', "JSON"),
    ],
)
def test_a_safetensors_header_that_does_not_fit_its_numbers_is_refused(
    described: Any, words: str, tmp_path: Path
) -> None:
    made = described if isinstance(described, str) else json.dumps(described)
    assert words in refusals([write_safetensors_of(tmp_path / "a.safetensors", made, ONES.tobytes())])[0]


def test_the_length_of_a_safetensors_header_is_bounded(tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "a.safetensors", {"a": ONES})
    data = file.read_bytes()
    for length in (len(data), 2**31, 2**47):
        file.write_bytes(struct.pack("<Q", length) + data[8:])
        assert "header of" in refusals([file])[0] or "ends in its header" in refusals([file])[0]


def test_onnx_reads_every_field_that_numbers_can_be_in(tmp_path: Path) -> None:
    import onnx

    r = np.random.default_rng(0)
    kinds = {
        "float32": onnx.TensorProto.FLOAT,
        "float64": onnx.TensorProto.DOUBLE,
        "float16": onnx.TensorProto.FLOAT16,
        "bfloat16": onnx.TensorProto.BFLOAT16,
        "bool": onnx.TensorProto.BOOL,
        **{
            f"{sign}int{bits}": getattr(onnx.TensorProto, f"{sign}INT{bits}".upper())
            for sign in ("", "u")
            for bits in (8, 16, 32, 64)
        },
    }
    wanted, made = {}, []
    for name, kind in kinds.items():
        type_ = ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)
        array = (100 * r.standard_normal((3, 2))).clip(0 if name[0] in "ub" else -99, 99).astype(type_)
        wanted[name] = array.astype("float32") if name == "bfloat16" else array
        made.append(onnx.helper.make_tensor(name, kind, (3, 2), array.astype(type_).flatten(), raw=False))
    graph = onnx.helper.make_graph([], "weights", [], [], initializer=made)
    (tmp_path / "a.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    check_same(read_weights(tmp_path / "a.onnx"), wanted)


def test_long_runs_of_numbers_of_varying_width_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import onnx

    numbers = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 500) >> np.arange(500) % 63
    made = onnx.helper.make_tensor("a", onnx.TensorProto.INT64, (500,), numbers, raw=False)
    graph = onnx.helper.make_graph([], "weights", [], [], initializer=[made])
    (tmp_path / "a.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    for piece in (7, 64, 10_000):
        monkeypatch.setattr(onnx_files, "_PIECE", piece)
        check_same(read_weights(tmp_path / "a.onnx"), {"a": numbers})


def onnx_outside(folder: Path, **outside: str) -> Path:
    """An ONNX file whose only tensor, `ONES`, is in another file."""
    import onnx

    made = onnx.numpy_helper.from_array(ONES, "a")
    made.ClearField("raw_data")
    made.data_location = onnx.TensorProto.EXTERNAL
    for key, value in outside.items():
        made.external_data.add(key=key, value=value)
    graph = onnx.helper.make_graph([], "weights", [], [], initializer=[made])
    (folder / "a.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return folder / "a.onnx"


def test_onnx_reads_numbers_of_its_own_folder_and_of_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "more").mkdir(parents=True)
    for place in (folder / "a.bin", folder / "more" / "a.bin", tmp_path / "secret.bin"):
        place.write_bytes(b"1234" + ONES.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    sha1 = hashlib.sha1(b"1234" + ONES.tobytes()).hexdigest()
    for outside in (
        {"location": "a.bin", "offset": "4", "length": "24"},
        {"location": "more/a.bin", "offset": "4", "checksum": sha1},
    ):
        check_same(read_weights(onnx_outside(folder, **outside)), {"a": ONES})
    for outside, words in (
        ({"location": "../secret.bin", "offset": "4"}, "own folder"),
        ({"location": "more/../../secret.bin", "offset": "4"}, "own folder"),
        ({"location": str(tmp_path / "secret.bin"), "offset": "4"}, "own folder"),
        ({"location": "link.bin", "offset": "4"}, "leads out"),
        ({"location": ""}, "own folder"),
        ({"location": "b.bin"}, "not beside it"),
        ({"location": "more"}, "not beside it"),
        ({"location": "a.bin", "offset": "5"}, "which has 28"),
        ({"location": "a.bin", "offset": "-4"}, "whole number"),
        ({"location": "a.bin", "length": "28"}, "needs 24"),
        ({"location": "a.bin", "offset": "4", "checksum": "0" * 40}, "SHA-1"),
    ):
        assert words in refusals([onnx_outside(folder, **outside)])[0]


def test_onnx_tensors_that_are_not_plain_numbers_are_refused(tmp_path: Path) -> None:
    import onnx

    def file(initializer: list[Any], **more: Any) -> Path:
        graph = onnx.helper.make_graph([], "weights", [], [], initializer=initializer, **more)
        (tmp_path / "a.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
        return tmp_path / "a.onnx"

    plain = onnx.numpy_helper.from_array(ONES, "a")
    sparse = onnx.helper.make_sparse_tensor(plain, onnx.numpy_helper.from_array(np.arange(6)), [9])
    longer, nameless = onnx.TensorProto(), onnx.TensorProto()
    longer.CopyFrom(plain)
    longer.dims[:] = [7]
    nameless.CopyFrom(plain)
    nameless.name = ""
    assert "sparse" in refusals([file([plain], sparse_initializer=[sparse])])[0]
    assert "complex" in refusals([file([onnx.numpy_helper.from_array(ONES.astype("complex64"), "a")])])[0]
    assert "text" in refusals([file([onnx.helper.make_tensor("a", onnx.TensorProto.STRING, (1,), [b"x"])])])[0]
    assert "two initialisers" in refusals([file([plain, plain])])[0]
    assert "without a name" in refusals([file([nameless])])[0]
    assert "need 28" in refusals([file([longer])])[0]
    assert "without initialisers" in refusals([file([])])[0]


def test_other_files_are_said_to_be_what_they_are(tmp_path: Path) -> None:
    tar = bytes(257) + b"ustar" + bytes(300)
    cases = {
        "is empty": b"",
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "tar": tar,
        "begins with": b"GIF89a",
        "own layout": b"\x80\x02}.",
        "NAME/data.pkl": zip_of(tmp_path / "a.keras", [("config.json", b"{}")]).read_bytes(),
    }
    for words, data in cases.items():
        (tmp_path / "a.pth").write_bytes(data)
        assert words in refusals([tmp_path / "a.pth"])[0]
    with pytest.raises(WeightsError, match="Did you mean"):
        read_weights(tmp_path / "a.pht")
    with pytest.raises(WeightsError, match="No such weights file"):
        read_weights(tmp_path)


def test_files_as_pytorch_wrote_them(tmp_path: Path) -> None:
    """Those of `../shared/reference/files`, skipped where they are absent."""
    from tests.conftest import SHARED

    folder = SHARED / "reference" / "files"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    with np.load(folder / "expected.npz") as stored:
        wanted = dict(stored)
    for file in folder.glob("good*"):
        read = read_weights(file)
        check_same({name: read[name] for name in wanted}, wanted)
        assert len(read) == len(wanted)
    for file in (*folder.glob("cut-*"), *folder.glob("hostile-*")):
        refusals([shutil.copy(file, tmp_path / file.name)])
    assert {one.name for one in tmp_path.iterdir()} == {
        one.name for one in folder.iterdir() if one.name.startswith(("cut", "hostile"))
    }


def test_the_public_name_is_the_reader() -> None:
    assert tlkit.read_weights is read_weights


def test_onnx_and_torch_writers_agree(tmp_path: Path) -> None:
    tensors = some_tensors(1)
    onnx_read = read_weights(write_onnx(tmp_path / "a.onnx", tensors))
    check_same(onnx_read, read_weights(write_zip(tmp_path / "a.pth", tensors)))
