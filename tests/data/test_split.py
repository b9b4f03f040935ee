"""The split by content and seed, and near duplicates from pixels alone."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter, ImageOps

from tests.conftest import draw, write_folder
from tlkit import decode_images, write_digits
from tlkit.data.images import PROBLEM_COLUMNS, TABLE_COLUMNS, ImageSet
from tlkit.data.near import near_duplicates
from tlkit.data.scan import scan
from tlkit.data.split import split
from tlkit.errors import DataError


def image_set(labels: Sequence[str], start: int = 0, groups: Sequence[str] | None = None, part: str = "") -> ImageSet:
    """Images that exist only in the table: image i is the same in every set that holds it."""
    rows = [
        (f"{label}/{i}.png", label, part, group, hashlib.sha256(f"65{i}".encode()).hexdigest(), "png", 9, 9)
        for i, (label, group) in enumerate(zip(labels, groups or [""] * len(labels), strict=True), start=start)
    ]
    table = pd.DataFrame(rows, columns=list(TABLE_COLUMNS))
    return ImageSet(Path(), table, tuple(sorted(set(labels))), pd.DataFrame(columns=list(PROBLEM_COLUMNS)))


def joined(*sets: ImageSet) -> ImageSet:
    table = pd.concat([one.table for one in sets], ignore_index=True)
    return ImageSet(Path(), table, tuple(sorted(set(table["label"]))), sets[0].problems)


def parts(images: ImageSet) -> dict[str, str]:
    return dict(zip(images.table["path"], images.table["split"], strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_adding_images_moves_no_other(seed: int) -> None:
    few = image_set(["a"] * 250 + ["b"] * 300)
    before = parts(split(few, seed=seed))
    for more in (image_set(["a"], 1000), image_set(["b"] * 70 + ["a"] * 5 + ["c"] * 9, 2000)):
        after = parts(split(joined(few, more), seed=seed))
        assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("seed", range(8))
def test_adding_images_of_groups_moves_no_other(seed: int) -> None:
    rng = np.random.default_rng(6501)
    labels, groups = rng.choice(["a", "b"], 600), [f"p{i}" for i in rng.integers(0, 300, 600)]
    few = image_set(labels, groups=groups)
    before = parts(split(few, seed=seed))
    more = image_set(["a", "b"] * 20, 1000, groups=[f"q{i % 25}" for i in range(40)])
    after = parts(split(joined(few, more), seed=seed))
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize("seed", range(5))
def test_a_pair_that_a_new_image_joins_is_all_that_may_move(seed: int) -> None:
    few = image_set(["a"] * 250 + ["b"] * 300)
    before = parts(split(few, seed=seed))
    images = joined(few, image_set(["a"], 1000))
    after = parts(split(images, seed=seed, pairs=np.array([[3, 550], [17, 550]])))
    assert len({after[f"a/{i}.png"] for i in (3, 17, 1000)}) == 1
    moved = {path for path in before if after[path] != before[path]}
    assert moved <= {"a/3.png", "a/17.png"}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_a_class_of_any_size_keeps_about_the_share_in_validation(share: float) -> None:
    sizes = (2, 3, 5, 10, 20, 50, 100)
    images = image_set([f"class {n}" for n in sizes for _ in range(n)])
    for seed in range(20):
        table = split(images, seed=seed, validation=share).table
        held = (table["split"] == "validation").groupby(table["label"]).sum()
        for n in sizes:
            least = max(1, int(n * share / 2))
            most = min(n - 1, max(least, round(n * min(1.5 * share, (1 + share) / 2))))
            assert least <= held[f"class {n}"] <= most


@pytest.mark.slow
def test_the_share_is_met_on_average_and_units_of_several_images_are_not_preferred() -> None:
    images = image_set(["a"] * 50 + ["b"] * 50)
    pairs = np.stack([np.arange(0, 20, 2), np.arange(1, 20, 2)], axis=1)
    held = np.mean(
        [split(images, seed=seed, pairs=pairs).table["split"] == "validation" for seed in range(100)], axis=0
    )
    assert held[:20].mean() == pytest.approx(0.2, abs=0.04)  # standard error 0.013
    assert held[50:].mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_groups_of_several_classes_get_the_share_asked_for(share: float) -> None:
    groups = [f"p{i % 60}" for i in range(600)]
    images = image_set(["a" if (i + i // 60) % 3 else "b" for i in range(600)], groups=groups)
    found = []
    for seed in range(10):
        table = split(images, seed=seed, validation=share).table
        assert (table.groupby("group")["split"].nunique() == 1).all()
        assert (table.groupby("label")["split"].nunique() == 2).all()
        found.append((table["split"] == "validation").mean())
    assert np.mean(found) == pytest.approx(share, abs=0.06)


def test_a_class_of_one_group_is_left_out_and_the_others_are_split() -> None:
    groups = [f"p{i % 10}" for i in range(40)] + ["p1"] * 5
    images = split(image_set(["a", "b", "b", "a"] * 10 + ["lonely"] * 5, groups=groups))
    assert images.class_names == ("a", "b")
    assert set(images.problems["problem"]) == {"class-too-small"} and set(images.problems["label"]) == {"lonely"}


def test_groups_that_leave_no_split_are_an_error() -> None:
    with pytest.raises(DataError, match="No split keeps the 3 groups whole"):
        split(image_set(["a", "a", "b", "b", "c", "c"], groups=["1", "2", "2", "3", "1", "3"]))


@pytest.mark.parametrize("seed", range(10))
def test_a_group_of_most_of_a_class_is_for_training(seed: int) -> None:
    images = image_set(["a"] * 100 + ["b"] * 100, groups=["big"] * 70 + [f"p{i}" for i in range(130)])
    table = split(images, seed=seed).table
    assert set(table.loc[table["group"] == "big", "split"]) == {"train"}


@pytest.mark.parametrize("seed", range(3))
def test_what_the_weights_were_trained_on_stays_in_train(seed: int) -> None:
    images = image_set(["a"] * 50 + ["b"] * 50)
    first = split(images, seed=100).table
    trained_on = set(first.loc[first["split"] == "train", "sha256"])
    table = split(images, seed=seed, trained_on=trained_on).table
    held = table[table["split"] == "validation"]
    assert not set(held["sha256"]) & trained_on and set(held["label"]) == {"a", "b"}
    assert len(held) >= 0.75 * len(images) * 0.2  # almost all that is left, where little is


def test_weights_trained_on_every_image_are_an_error() -> None:
    images = image_set(["a"] * 5 + ["b"] * 5)
    with pytest.raises(DataError, match="trained on all 10 training images"):
        split(images, trained_on=images.keys())


def test_a_class_whose_training_images_are_all_held_out_is_an_error() -> None:
    train = image_set(["a", "a", "b", "b"], part="train")
    held = image_set(["a", "b", "b"], 1, part="test")  # the files of 1, 2 and 3
    held.table["path"] = "test/" + held.table["path"]
    with pytest.raises(DataError, match=r"'b' is in test but not in train\. Its training images are left out"):
        split(joined(train, held))


# -- near duplicates --------------------------------------------------------------------------------------


class Rows:
    """Pixels in memory."""

    def __init__(self, images: Sequence[Image.Image], size: int = 64) -> None:
        self._pixels = np.stack([np.asarray(one.convert("RGB").resize((size, size))) for one in images])

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self._pixels.shape[1:]

    def __len__(self) -> int:
        return len(self._pixels)

    def gather(self, indices: np.ndarray | slice) -> np.ndarray:
        return self._pixels[indices]

    def take(self, indices: np.ndarray) -> Rows:
        raise NotImplementedError


def scene(seed: int, alike: float = 0.0) -> Image.Image:
    """A smooth random picture, 80 x 96 pixels. alike: how much of it is the same in all of them, 0 to 1."""
    own, common = (np.random.default_rng(one).normal(size=(20, 24, 3)) for one in (seed, 6500))
    pixels = 128 + 45 * ((1 - alike) * own + alike * common)
    return Image.fromarray(pixels.clip(0, 255).astype("uint8")).resize((96, 80), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int = 40) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


COPIES = {
    "encoded again": jpeg,
    "resized": lambda image: image.resize((48, 40), Image.Resampling.LANCZOS),
    "resized and encoded again": lambda image: jpeg(image.resize((48, 40)), 60),
    "mirrored": ImageOps.mirror,
    "brighter": lambda image: image.point(lambda value: min(255, 1.1 * value + 8)),
    "softened": lambda image: image.filter(ImageFilter.GaussianBlur(0.7)),
}


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_found_and_nothing_else(change: str) -> None:
    images = [scene(6510 + i) for i in range(60)]
    pairs = near_duplicates(Rows([*images, *[COPIES[change](one) for one in images[:10]]]))
    assert pairs.tolist() == [[i, 60 + i] for i in range(10)]


def test_images_that_are_all_alike_are_no_duplicates() -> None:
    images = [scene(6600 + i, alike=0.6) for i in range(80)]
    assert np.corrcoef([np.ravel(one) for one in images])[0, 1:].mean() > 0.6
    assert near_duplicates(Rows([*images, jpeg(images[7])])).tolist() == [[7, 80]]


def test_plain_images_are_no_duplicates() -> None:
    images = [Image.new("RGB", (40, 40), (10 * i, 90, 200 - 5 * i)) for i in range(12)]
    assert len(near_duplicates(Rows(images))) == 0


def test_a_pair_does_not_depend_on_the_other_images() -> None:
    images = [scene(6700 + i, alike=0.5) for i in range(30)]
    images += [jpeg(one, 15) for one in images[:8]]
    all_pairs = near_duplicates(Rows(images))
    alone = [i for i in range(8) if len(near_duplicates(Rows([images[i], images[30 + i]])))]
    assert [[i, 30 + i] for i in alone] == all_pairs.tolist()


@pytest.mark.slow
def test_near_duplicates_stay_in_one_part_by_default(tmp_path: Path) -> None:
    write_folder(tmp_path, 30, classes=("red", "blue"), start=6520)
    for i in range(10):
        file = tmp_path / "red" / f"{i:03d}.png"
        Image.open(file).resize((60, 60), Image.Resampling.BICUBIC).save(file.with_name(f"copy{i:03d}.png"))
    dataset = decode_images(scan(tmp_path), 32)
    pairs = dataset.near_duplicates()
    paths = dataset.images.table["path"]
    together = {frozenset((paths[i], paths[j])) for i, j in pairs}
    assert together == {frozenset((f"red/{i:03d}.png", f"red/copy{i:03d}.png")) for i in range(10)}
    for seed in range(10):
        found = dict(zip(paths, dataset.split(seed=seed).images.table["split"], strict=True))
        assert all(found[f"red/{i:03d}.png"] == found[f"red/copy{i:03d}.png"] for i in range(10))


@pytest.mark.slow
def test_a_given_split_is_kept_with_its_near_duplicates(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 4, classes=("red", "blue"), start=6560)
    write_folder(tmp_path / "val", 2, classes=("red", "blue"), start=6580)
    draw((200, 40, 30), 6560).resize((60, 60)).save(tmp_path / "val" / "red" / "copy.png")
    dataset = decode_images(scan(tmp_path), 32)
    before = dataset.images.table["split"]
    assert len(dataset.near_duplicates()) == 0 and dataset.split().images.table["split"].equals(before)


def test_digits_that_look_alike_are_no_duplicates(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", per_class=50)
    files = sorted((tmp_path / "digits").rglob("*.png"))
    assert len(near_duplicates(Rows([Image.open(file) for file in files]))) == 0
