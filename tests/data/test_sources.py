"""Every source gives the images, labels and problems that the folder gives which it was packed from."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.packing import PACKED, example, record
from tests.data.drawn import draw_folder
from tlkit.data.images import ImageSet
from tlkit.data.scan import scan
from tlkit.data.sources import kinds
from tlkit.data.sources.kinds import SOURCES
from tlkit.data.sources.tfrecord import example as parsed
from tlkit.errors import DataError

URL = "memory://bucket"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("drawn") / "birds")


@pytest.fixture(scope="module")
def expected(folder: Path) -> ImageSet:
    return scan(folder)


@pytest.fixture
def bucket():  # type: ignore[no-untyped-def]
    """The file system behind memory://, which counts what it is asked, and is empty at the end."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.asked = []
    for name in ("cat_file", "get_file"):
        method = getattr(type(system), name)

        def counting(*given, _method=method, _name=name, **named):  # type: ignore[no-untyped-def]
            system.asked.append((_name, given[0]))
            return _method(system, *given, **named)

        setattr(system, name, counting)
    yield system
    for name in ("cat_file", "get_file"):
        delattr(system, name)
    system.store.clear()
    kinds._listed.clear()


def _same(found: ImageSet, expected: ImageSet) -> None:
    assert found.keys() == expected.keys() and found.class_names == expected.class_names
    assert list(found.table["label"]) == list(expected.table["label"])
    assert list(found.table["format"]) == list(expected.table["format"])
    again = pickle.loads(pickle.dumps(found.files()))
    assert [hashlib.sha256(one.read_bytes()).hexdigest() for one in again] == expected.keys()


@pytest.mark.parametrize("source", PACKED)
def test_a_source_gives_what_its_folder_gives(source: str, folder: Path, expected: ImageSet, tmp_path: Path) -> None:
    if "parquet" in source or source == "datasets":
        pytest.importorskip("pyarrow")
    packed = PACKED[source](folder, expected.table, tmp_path)
    found = scan(packed)
    _same(found, expected)
    assert not len(found.problems)
    found.table[["path", "label"]].to_csv(tmp_path / "again.csv")
    assert all(str(one).startswith(str(found.root)) or Path(str(one)).is_file() for one in found.files())


@pytest.mark.parametrize("source", ["folder", "table", "zip", "tgz", "tfrecord", "parquet"])
def test_a_source_at_a_url_is_fetched_once(  # type: ignore[no-untyped-def]
    source: str, folder: Path, expected: ImageSet, tmp_path: Path, bucket
) -> None:
    name = source
    if source in PACKED:
        packed = PACKED[source](folder, expected.table, tmp_path)
        name = packed.name
        bucket.put(str(packed), f"/bucket/{name}")
    else:
        bucket.put(str(folder), "/bucket/folder", recursive=True)
        name = "folder"
        if source == "table":
            expected.table[["path", "label"]].to_csv(tmp_path / "labels.csv", index=False)
            bucket.put(str(tmp_path / "labels.csv"), "/bucket/folder/labels.csv")
            name = "folder/labels.csv"
    found = scan(f"{URL}/{name}")
    _same(found, expected)
    assert str(found.files()[0]).startswith(URL)
    asked = len(bucket.asked)
    kinds._listed.clear()
    _same(scan(f"{URL}/{name}"), expected)
    assert len(bucket.asked) == asked, "the second run asks for no bytes"


def test_objects_that_changed_are_fetched_again_and_kept_ones_serve_without_a_network(  # type: ignore[no-untyped-def]
    folder: Path, expected: ImageSet, bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(str(folder), "/bucket/changing", recursive=True)
    scan(f"{URL}/changing")
    bucket.asked.clear()
    first, second = expected.table["path"][0], expected.table["path"][2]
    bucket.pipe_file(f"/bucket/changing/{first}", (folder / first).read_bytes() + b"\0")
    kinds._listed.clear()
    found = scan(f"{URL}/changing")
    assert [path for _, path in bucket.asked] == [f"/bucket/changing/{first}"]
    assert found.table["sha256"][0] != expected.table["sha256"][0] and found.table["path"][2] == second
    monkeypatch.setattr("tlkit.data.sources.remote.PAUSE", 0)

    def refused(*given: object, **named: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(type(bucket), "find", refused)
    kinds._listed.clear()
    assert scan(f"{URL}/changing").keys() == found.keys()
    kinds._listed.clear()
    with pytest.raises(DataError, match=r"Cannot reach 'memory://bucket/other'.*no route to host.*try again"):
        scan(f"{URL}/other")


def test_a_failure_that_passes_is_tried_again(  # type: ignore[no-untyped-def]
    folder: Path, expected: ImageSet, bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(str(folder), "/bucket/shaky", recursive=True)
    monkeypatch.setattr("tlkit.data.sources.remote.PAUSE", 0)
    counting, failed = bucket.cat_file, set()

    def shaky(path: str, **named: object) -> bytes:
        if path not in failed:
            failed.add(path)
            raise TimeoutError("timed out")
        return counting(path, **named)

    monkeypatch.setattr(bucket, "cat_file", shaky)
    _same(scan(f"{URL}/shaky"), expected)
    assert len(failed) == len(expected)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"{URL}/absent", r"No such object, folder or bucket: 'memory://bucket/absent'"),
        (f"{URL}/absent.zip", r"No such object, folder or bucket: 'memory://bucket/absent.zip'"),
        (f"{URL}/absent.csv", r"No such object, folder or bucket"),
        ("s9://bucket/x", r"Cannot reach 's9://bucket/x': Protocol not known"),
        ("tfds:nothing", r"TFDS has prepared no 'nothing'.*`tfds build nothing`"),
        ("tfrecord:nowhere", r"No such file or folder: 'nowhere'"),
        ("a-{000..002}.tar", r"3 of the 3 shards 'a-\{000..002\}.tar' are absent, such as 'a-000.tar'"),
    ],
)
def test_what_is_not_there_is_said(address: str, said: str, bucket, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said):
        scan(address)


@pytest.mark.parametrize(
    ("package", "address", "extra"),
    [
        ("fsspec", "https://host/x.zip", r"tlkit\[remote\]"),
        ("s3fs", "s3://bucket/x", r"tlkit\[s3\]"),
        ("gcsfs", "gs://bucket/x", r"tlkit\[gs\]"),
        ("datasets", "hf:me/birds", r"tlkit\[datasets\]"),
        ("pyarrow", "datasets:saved", r"tlkit\[parquet\]"),
    ],
)
def test_without_an_extra_one_sentence_says_what_to_install(
    package: str, address: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text('{"_data_files": []}')
    with pytest.raises(DataError, match=rf"`pip install {extra}`\.$"):
        scan(address)


# -- bad items -----------------------------------------------------------------------------------------------


def _webdataset(images: list[bytes], to: Path) -> Path:
    from tests.data.test_archives import _tar

    keys = [(f"{at}.png", one) for at, one in enumerate(images)]
    labels = [(f"{at}.cls", b"crow" if at % 2 else b"wren") for at in range(len(images)) if at != 1]
    return _tar(to / "odd.tar", *((name, b"0", data) for name, data in [*keys, *labels, ("0.png", images[0])]))


def _tfrecord(images: list[bytes], to: Path) -> Path:
    rows = [
        example({"image/encoded": one, "image/class/text": b"" if at == 1 else b"crow" if at % 2 else b"wren"})
        for at, one in enumerate(images)
    ]
    whole = b"".join(map(record, [*rows, example({"text": b"no image"}), b"\xff\xff"]))
    (to / "odd.tfrecord").write_bytes(whole + record(rows[0])[:-9])
    return to / "odd.tfrecord"


def _parquet(images: list[bytes], to: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    labels = [None if at == 1 else "crow" if at % 2 else "wren" for at in range(len(images))]
    table = pyarrow.table({"image": [*images, None], "label": [*labels, "crow"]})
    parquet.write_table(table, to / "odd.parquet")
    return to / "odd.parquet"


BAD = {
    "webdataset": (_webdataset, {"no-label": 1, "truncated": 1, "repeated-name": 1}),
    "tfrecord": (_tfrecord, {"no-label": 1, "truncated": 2, "bad-row": 2}),
    "parquet": (_parquet, {"no-label": 1, "truncated": 1, "bad-row": 1}),
}


@pytest.mark.parametrize("source", BAD)
def test_bad_items_are_named_as_in_a_folder(source: str, expected: ImageSet, tmp_path: Path) -> None:
    images = [one.read_bytes() for one in expected.files()]
    images[3] = images[3][:-20] if images[3][:4] == b"\x89PNG" else images[3][: len(images[3]) // 2]
    write, problems = BAD[source]
    found = scan(write(images, tmp_path))
    assert found.problems["problem"].value_counts().to_dict() == problems
    assert all(found.problems["detail"]) and len(found) == len(images) - 2


def test_a_cut_file_is_said_for_each_kind(expected: ImageSet, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for source, said in (
        ("parquet", "as Parquet"),
        ("datasets", "as Arrow"),
        ("zip", "cut off"),
        ("tgz", "Cannot unpack"),
    ):
        (tmp_path / source).mkdir()
        packed = PACKED[source](folder, expected.table, tmp_path / source)
        file = packed if packed.is_file() else next(packed.glob("*.arrow"))
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(DataError, match=said):
            scan(packed)


@pytest.mark.parametrize("seed", range(20))
def test_no_record_is_read_beyond_its_end(seed: int) -> None:
    """A damaged example is refused or read; a feature never lies outside the record."""
    import random

    draw = random.Random(seed)
    data = bytearray(example({"image/encoded": bytes(50), "image/class/text": b"crow", "n": 3}))
    for _ in range(20):
        data[draw.randrange(len(data))] = draw.randrange(256)
        with io.BytesIO() as _:
            try:
                found = parsed(memoryview(bytes(data)), 0, len(data))
            except ValueError:
                continue
            assert all(isinstance(one, int) or 0 <= one[0] <= one[1] <= len(data) for one in found.values())


# -- splits, classes and folders of shards -------------------------------------------------------------------


def test_the_split_comes_from_the_names_of_files(expected: ImageSet, folder: Path, tmp_path: Path) -> None:
    packed = PACKED["tfrecord"](folder, expected.table, tmp_path)
    for name in ("train-00000-of-00001.tfrecord", "validation-00000-of-00001.tfrecord"):
        (tmp_path / "both").mkdir(exist_ok=True)
        shutil.copy(packed, tmp_path / "both" / name)
    found = scan(tmp_path / "both")
    assert set(found.table["split"]) == {"train", "validation"}
    assert set(found.problems["problem"]) == {"duplicate"}
    assert found.table["path"][0].startswith("train-00000-of-00001.tfrecord/000000")


def test_a_tar_for_each_class_counts_as_class_folders(expected: ImageSet, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    for name in expected.class_names:
        shutil.make_archive(str(tmp_path / "tars" / name), "tar", folder / name)
    _same(scan(tmp_path / "tars"), expected)


def test_the_classes_of_tfds_have_its_order(expected: ImageSet, folder: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    packed = PACKED["tfds"](folder, expected.table, tmp_path)
    (packed / "label.labels.txt").write_text("wren\ncrow\n")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    found = scan("tfds:set")
    assert found.class_names == ("wren", "crow") and len(found) == len(expected)


def test_a_kind_before_a_path_chooses_the_source(expected: ImageSet, folder: Path, tmp_path: Path) -> None:
    packed = PACKED["tfrecord"](folder, expected.table, tmp_path)
    packed.rename(tmp_path / "records.bin")
    _same(scan(f"tfrecord:{tmp_path / 'records.bin'}"), expected)


def test_every_source_has_its_words_in_the_documents() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
    assert not [one for one in SOURCES if one.rstrip("s") not in text.lower()]


# -- written by the libraries themselves ---------------------------------------------------------------------


@pytest.mark.slow
def test_what_tensorflow_webdataset_and_datasets_write_is_read(
    expected: ImageSet, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tf = pytest.importorskip("tensorflow")
    features = tf.train.Features

    def of(data: bytes) -> object:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))

    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for item, label in zip(expected.files(), expected.table["label"], strict=True):
            values = {"image/encoded": of(item.read_bytes()), "image/class/text": of(label.encode())}
            writer.write(tf.train.Example(features=features(feature=values)).SerializeToString())
    _same(scan(tmp_path / "x.tfrecord"), expected)
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as sink:
        for path, item, label in zip(expected.table["path"], expected.files(), expected.table["label"], strict=True):
            sink.write({"__key__": path.rpartition(".")[0], path.rpartition(".")[2]: item.read_bytes(), "cls": label})
    _same(scan(tmp_path / "x.tar"), expected)
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    classes = datasets.ClassLabel(names=list(expected.class_names))
    columns = {
        "image": [{"bytes": one.read_bytes(), "path": one.name} for one in expected.files()],
        "label": list(expected.table["label"]),
    }
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(image=datasets.Image(), label=classes))
    made.save_to_disk(str(tmp_path / "saved"))
    made.to_parquet(str(tmp_path / "x.parquet"))
    _same(scan(tmp_path / "saved"), expected)
    _same(scan(tmp_path / "x.parquet"), expected)
    datasets.DatasetDict(train=made, test=made.select([0, 1])).save_to_disk(str(tmp_path / "both"))
    assert scan(tmp_path / "both").table["split"].value_counts().to_dict() == {"train": 8, "test": 2}
