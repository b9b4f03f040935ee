"""Images in memory are data like files: the same pixels have the same keys, and the same images are in validation."""

from __future__ import annotations

import copy
import gc
import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tlkit
from tests.conftest import COLOURS, draw
from tlkit.data.arrays import as_pixels, png_bytes
from tlkit.data.dataset import decode_images
from tlkit.errors import DataError

CLASSES = ["red", "green", "blue"]  # not in alphabetical order


def drawn(per_class: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Images of the three colours, and their class numbers in CLASSES."""
    images = [np.asarray(draw(COLOURS[name], 1000 * k + i)) for k, name in enumerate(CLASSES) for i in range(per_class)]
    return np.stack(images), np.repeat(np.arange(3), per_class)


def keys(data: Any) -> list[str]:
    table = tlkit.scan(data).table
    return list(table.sort_values("path")["sha256"])


def parts(data: Any, **settings: Any) -> dict[str, str]:
    """Content -> split."""
    images = tlkit.split(tlkit.scan(data), **settings)
    return dict(zip(images.table["sha256"], images.table["split"], strict=True))


@pytest.mark.slow
def test_the_pixels_that_a_model_sees_are_those_of_the_array() -> None:
    x, y = drawn(2)
    dataset = decode_images(tlkit.scan(tlkit.from_arrays(x, y, CLASSES)), 40)
    assert (dataset.examples().pixels.gather(np.arange(6)) == x).all()
    assert dataset.examples().labels.tolist() == [0, 0, 1, 1, 2, 2] and dataset.class_names == tuple(CLASSES)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4), (300, 250, 3)])
def test_a_png_holds_the_pixels_and_nothing_else(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")
    data = png_bytes(as_pixels(pixels, "it"))
    with Image.open(io.BytesIO(data)) as image:
        assert (np.asarray(image) == pixels.squeeze()).all() and not image.info
    assert data == png_bytes(as_pixels(pixels.astype("float64") + 0.2, "it"))


def test_the_same_pixels_have_the_same_key_whatever_array_holds_them() -> None:
    x, y = drawn(2)
    plain = keys(tlkit.from_arrays(x, y))
    opaque = np.concatenate([x, np.full((*x.shape[:3], 1), 255, "uint8")], axis=-1)
    tensors, pictures = keras.ops.convert_to_tensor(x), [Image.fromarray(one) for one in x]
    for same in (x.astype("float32"), x.astype("int64"), list(x), pictures, opaque, tensors):
        assert keys(tlkit.from_arrays(same, y)) == plain
    grey = x[..., 0]
    assert keys(tlkit.from_arrays(grey, y)) == keys(tlkit.from_arrays(np.stack([grey] * 3, axis=-1), y))
    assert len(set(plain)) == len(plain)


def test_adding_an_image_moves_none_of_the_others() -> None:
    x, y = drawn()
    before = parts(tlkit.from_arrays(x[1:], y[1:], CLASSES))
    after = parts(tlkit.from_arrays(x[::-1], y[::-1], CLASSES))  # the order does not count either
    assert len(after) == len(before) + 1 and set(before.values()) == {"train", "validation"}
    moved = [key for key, split in before.items() if after[key] != split]
    assert len(moved) <= 1  # the one that keeps the class within its bounds, as for a folder


def test_images_of_any_sizes_in_a_list() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20 + i, 30 - i, 3), dtype="uint8") for i in range(8)]
    table = tlkit.scan(tlkit.from_arrays(images, [0, 1] * 4, ["a", "b"])).table
    assert list(zip(table["height"], table["width"], strict=True)) == [(20 + i, 30 - i) for i in range(8)]


def test_labels_in_every_form_name_the_same_classes() -> None:
    x, y = drawn(2)
    forms = (y, y[:, None], y.astype("float32"), np.eye(3)[y], [CLASSES[one] for one in y], pd.Series(y), y.tolist())
    for labels in forms:
        images = tlkit.scan(tlkit.from_arrays(x, labels, CLASSES))
        assert images.class_names == tuple(CLASSES) and images.labels().tolist() == y.tolist()
    assert tlkit.scan(tlkit.from_arrays(x[:4], [10, 10, 9, 9])).class_names == ("9", "10")


def test_splits_and_groups_are_taken_as_given() -> None:
    x, y = drawn(4)
    data = tlkit.from_arrays(x[:8], y[:8], CLASSES, validation=(x[8:], y[8:]), groups=[1, 1, 2, 2, 3, 3, 4, 4])
    table = tlkit.scan(data).table
    assert list(table["path"])[:2] == ["000000.png", "000001.png"] and table["path"].iloc[-1] == "validation/000003.png"
    assert table["split"].value_counts().to_dict() == {"train": 8, "validation": 4}
    assert list(table["group"])[:4] == ["1", "1", "2", "2"]


def test_a_class_without_images_is_named_and_left_out() -> None:
    x, y = drawn(2)
    images = tlkit.scan(tlkit.from_arrays(x, y, [*CLASSES, "black"]))
    assert images.class_names == tuple(CLASSES)
    assert images.problems.query("problem == 'empty-class'")["label"].tolist() == ["black"]


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.random.default_rng(0).random((4, 8, 8, 3)), [0, 1, 0, 1], "multiply by 255"),
        (np.full((4, 8, 8, 3), 300.0), [0, 1, 0, 1], "from 300 to 300"),
        (np.full((4, 8, 8, 3), np.nan), [0, 1, 0, 1], "nan"),
        (np.zeros((4, 3, 8, 8), "uint8"), [0, 1, 0, 1], "moveaxis"),
        (np.zeros((4, 8, 8, 2), "uint8"), [0, 1, 0, 1], "shape"),
        (np.zeros((4, 8, 8, 3), "uint8"), [0, 1, 0], "3 labels"),
        (np.zeros((4, 8, 8, 3), "uint8"), [0, 1, 0, 2], "label is 2"),
        (np.zeros((4, 8, 8, 3), "uint8"), [0, 1, 0, 0.5], "0.5"),
        (np.zeros((4, 8, 8, 3), "uint8"), [[1, 1], [0, 1], [0, 1], [1, 0]], "one-hot"),
        (np.zeros((4, 8, 8, 3), "uint8"), ["a", "b", "c", "a"], "'c'"),
        (np.zeros((0, 8, 8, 3), "uint8"), [], "no images"),
    ],
)
def test_what_is_no_image_or_label_is_named(x: Any, y: Any, words: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(DataError, match=words):
        tlkit.from_arrays(x, y, ["a", "b"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_files_of_arrays_go_with_the_data(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = tlkit.from_arrays(*drawn(2), CLASSES)
    assert len(data.files()) == 6 and copy.deepcopy(data) is data
    del data
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_dataset_gives_what_its_arrays_give() -> None:
    import tensorflow as tf

    x, y = drawn(2)
    wanted = keys(tlkit.from_arrays(x, y, CLASSES))
    plain = tf.data.Dataset.from_tensor_slices((x, y))
    one_hot = tf.data.Dataset.from_tensor_slices((x.astype("float32"), np.eye(3, dtype="float32")[y]))
    named = tf.data.Dataset.from_tensor_slices({"image": x, "label": y})
    for dataset in (plain, plain.batch(4), one_hot, one_hot.batch(4), named.batch(4)):
        data = tlkit.from_dataset(dataset, CLASSES)
        assert keys(data) == wanted and tlkit.scan(data).labels().tolist() == y.tolist()
    for dataset, words in ((plain.repeat(), "no end"), (plain.map(lambda image, label: image), "pairs")):
        with pytest.raises(DataError, match=words):
            tlkit.from_dataset(dataset, CLASSES)


def test_the_dataset_of_a_folder_of_keras_keeps_its_classes_and_its_splits(folder: Path) -> None:
    settings: dict[str, Any] = {"image_size": (40, 40), "validation_split": 0.25, "seed": 1, "verbose": False}
    train, validation = keras.utils.image_dataset_from_directory(folder, subset="both", **settings)
    images = tlkit.scan(tlkit.from_dataset(train, validation=validation))
    assert images.class_names == ("blue", "green", "red")
    assert images.table["split"].value_counts().to_dict() == {"train": 18, "validation": 6}
    files = decode_images(tlkit.scan(folder), 40).examples()
    by_pixels = {
        one.tobytes(): label for one, label in zip(files.pixels.gather(slice(None)), files.labels, strict=True)
    }
    found = decode_images(images, 40).examples()
    for one, label in zip(found.pixels.gather(slice(None)), found.labels, strict=True):
        assert by_pixels[one.tobytes()] == label


def test_a_frame_of_paths_is_a_table(folder: Path) -> None:
    files = sorted(folder.rglob("*.png"))
    frame = pd.DataFrame({"filename": [str(one.relative_to(folder)) for one in files]})
    frame["class"] = pd.Categorical([one.parent.name for one in files], categories=["red", "green", "blue"])
    frame.loc[0, "filename"] = "gone.png"
    images = tlkit.scan(tlkit.from_dataframe(frame, root=folder))
    assert images.class_names == ("red", "green", "blue") and len(images) == 23
    assert images.problems["problem"].tolist() == ["missing-file"]
    assert set(images.keys()) < set(tlkit.scan(folder).keys())


def test_a_frame_of_arrays_keeps_its_columns() -> None:
    x, y = drawn(2)
    frame = pd.DataFrame({"image": list(x), "label": [CLASSES[one] for one in y], "patient": [1, 1, 2, 2, 3, 3]})
    images = tlkit.scan(tlkit.from_dataframe(frame, group_by="patient"))
    assert keys(tlkit.from_dataframe(frame)) == keys(tlkit.from_arrays(x, y))
    assert images.table["group"].tolist() == ["1", "1", "2", "2", "3", "3"]
    with pytest.raises(DataError, match="'label'"):
        tlkit.from_dataframe(frame[["image"]])


def test_data_of_another_kind_is_refused_with_the_way_to_make_it_data() -> None:
    import tensorflow as tf

    x, y = drawn(2)
    for given, words in (
        (x, "from_arrays"),
        ((x, y), "from_arrays"),
        (pd.DataFrame(), "from_dataframe"),
        (tf.data.Dataset.from_tensor_slices((x, y)), "from_dataset"),
    ):
        for function in (tlkit.finetune, tlkit.scan, tlkit.inspect):
            with pytest.raises(DataError, match=words):
                function(given)
    with pytest.raises(DataError, match="from_dataframe"):
        tlkit.scan(tlkit.from_arrays(x, y), group_by="patient")


@pytest.mark.slow
def test_what_takes_a_path_takes_arrays(tmp_path: Path) -> None:
    data = tlkit.from_arrays(*drawn(4), CLASSES)
    assert len(tlkit.inspect(data, size=32)) == 12
    table = tlkit.clean_copy(data, tmp_path / "clean")
    assert table["copied"].all() and keys(tmp_path / "clean" / "labels.csv")
    assert sorted(keys(tmp_path / "clean" / "labels.csv")) == sorted(keys(data))
    tlkit.draw_sheet(tlkit.scan(data), tlkit.Augmentation(flip_horizontal=1.0), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()
