"""Planted faults are found, and sound data are left alone."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import softmax

from tlkit import check_up, scan
from tlkit.cache import in_memory
from tlkit.data.images import PROBLEM_COLUMNS, ImageSet
from tlkit.doctor.checkup import _of_a_sample, examine
from tlkit.doctor.duplicates import near_duplicates
from tlkit.doctor.labels import estimate_noise, label_errors
from tlkit.doctor.neighbours import outliers


class Rows:
    """Images in memory with the interface of cached ones."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]


def scene(seed: int, size: int = 64) -> np.ndarray:
    """An image of soft shapes, different for each seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = np.full((size, size, 3), random.uniform(60, 190, 3))
    for _ in range(12):
        at, reach, colour = random.uniform(0, 1, 2), random.uniform(0.05, 0.25), random.uniform(-120, 120, 3)
        image += np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / reach**2)[..., None] * colour
    return image.clip(0, 255).astype("uint8")


def again(image: np.ndarray, seed: int) -> np.ndarray:
    """A copy: cropped by up to 5 % at each side, resized, and encoded as JPEG."""
    random = np.random.default_rng(seed)
    size = image.shape[0]
    left, top, right, bottom = (random.uniform(0, 0.05, 4) * size).astype(int)
    image = Image.fromarray(image).crop((left, top, size - right, size - bottom)).resize((48, 48))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=70)
    return np.asarray(Image.open(stream).resize((size, size)))


def as_features(images: np.ndarray) -> np.ndarray:
    """Coarse averages as a stand-in for a network's features."""
    return images.reshape(len(images), 8, 8, 8, 8, 3).mean((2, 4)).reshape(len(images), -1).astype("float32")


def test_flipped_labels_stand_first_with_the_true_class_beside() -> None:
    random = np.random.default_rng(0)
    true = np.repeat(np.arange(3), 60)
    features = (np.eye(3)[true] * 4 + random.normal(size=(180, 3))).astype("float32")
    features = np.concatenate([features, random.normal(size=(180, 20))], axis=1).astype("float32")
    flipped = random.choice(180, 9, replace=False)
    labels = true.copy()
    labels[flipped] = (true[flipped] + 1) % 3
    found, noise = label_errors(features, labels, ("a", "b", "c"))
    first = found.sort_values("probability").head(9)
    assert len(set(first["row"]) & set(flipped)) >= 8
    assert 0.85 < noise.accuracy < 1 and noise.low < 0.05 < noise.high
    mine = first[first["row"].isin(flipped)]
    assert (mine["suggested"] == [("a", "b", "c")[true[row]] for row in mine["row"]]).all()
    assert found[found["probable"]]["row"].isin(flipped).mean() >= 0.7


def test_a_group_stays_in_one_fold_so_that_a_wrong_label_of_a_whole_group_is_found() -> None:
    """Ten images of one object, all labelled wrongly, confirm each other unless they are held out together."""
    random = np.random.default_rng(1)
    things = np.repeat(np.arange(24), 10)
    true = things % 2
    features = (random.normal(size=(24, 16))[things] + random.normal(scale=0.05, size=(240, 16))).astype("float32")
    features[:, 0] += 6 * true
    labels = true.copy()
    labels[things == 5] = 1 - true[things == 5]
    together, _ = label_errors(features, labels, ("a", "b"), things)
    apart, _ = label_errors(features, labels, ("a", "b"), None)
    assert set(np.flatnonzero(things == 5)) <= set(together["row"])
    assert len(set(np.flatnonzero(things == 5)) & set(apart["row"])) < 10


def test_classes_of_a_few_images_are_left_out_of_the_judgement() -> None:
    features = np.random.default_rng(0).normal(size=(23, 4)).astype("float32")
    labels = np.array([0] * 10 + [1] * 10 + [2] * 3)
    found, _ = label_errors(features, labels, ("a", "b", "rare"))
    assert not found["row"].isin([20, 21, 22]).any()
    nothing, noise = label_errors(features[:4], labels[:4], ("a", "b", "rare"))
    assert nothing.empty and not noise.judged


def overlapping(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes that overlap, so that a probe is often wrong and sometimes sure, and right labels."""
    random = np.random.default_rng(seed)
    true = np.arange(n) % 3
    features = random.normal(size=(n, 12)).astype("float32")
    features[np.arange(n), true] += 2
    return features, true


@pytest.mark.slow
def test_hard_images_with_right_labels_are_not_called_probably_wrong() -> None:
    """The rule until version 0.2 called 9, 7 and 3 of these labels suspicious; all are right."""
    named = 0
    for seed in (6400, 6401, 6402):
        features, true = overlapping(600, seed)
        found, noise = label_errors(features, true, ("a", "b", "c"))
        named += int(found["probable"].sum())
        assert found["surprising"].sum() >= 3
        assert noise.low < 0.005 and 0.7 < noise.accuracy < 0.9
    assert named <= 3


def test_the_stated_share_precision_and_recall_are_the_true_ones() -> None:
    named = right = wrong = 0
    stated = would_find = 0.0
    for seed in (6410, 6411, 6412):
        features, true = overlapping(900, seed)
        features[np.arange(900), true] += 1
        random = np.random.default_rng(seed)
        flipped = random.choice(900, 45, replace=False)
        labels = true.copy()
        labels[flipped] = (true[flipped] + random.integers(1, 3, 45)) % 3
        found, noise = label_errors(features, labels, ("a", "b", "c"))
        rows = found["row"][found["probable"]]
        named, right, wrong = named + len(rows), right + int(rows.isin(flipped).sum()), wrong + 45
        stated, would_find = stated + noise.precision * len(rows), would_find + noise.recall * 45
        assert noise.low < 0.05 < noise.high
    assert abs(stated / named - right / named) < 0.1
    assert abs(would_find / wrong - right / wrong) < 0.1 and right / wrong > 0.6


def test_no_confidence_of_the_probe_is_taken_at_its_word() -> None:
    """Probabilities that are far too sure or unsure are put right by the temperature."""
    random = np.random.default_rng(6420)
    logits = random.normal(size=(3000, 4)) * 2.5
    labels = np.array([random.choice(4, p=one) for one in softmax(logits, axis=1)])
    for factor in (0.5, 1.0, 3.0):
        found = estimate_noise(softmax(factor * logits, axis=1), labels)
        assert found.share < 0.01 and (found.wrong >= 0.5).mean() < 0.002
        assert np.abs(found.probabilities - softmax(logits, axis=1)).max() < 0.06


def table_like(labels: list[str], splits: list[str], keys: list[str]) -> ImageSet:
    paths = [f"{i}.png" for i in range(len(labels))]
    columns = {"path": paths, "label": labels, "split": splits, "group": "", "sha256": keys}
    return ImageSet(Path(), pd.DataFrame(columns), tuple(sorted(set(labels))), pd.DataFrame(columns=PROBLEM_COLUMNS))


@pytest.mark.parametrize("classes", [10, 40])
def test_classes_too_small_to_judge_are_said_without_nan_or_warnings(classes: int) -> None:
    """40 images: 4 of each class, or a number to predict that was taken for a class."""
    labels = [f"{i % classes:02d}" for i in range(40)]
    features = np.random.default_rng(6430).normal(size=(40, 8)).astype("float32")
    pixels = np.random.default_rng(6431).integers(0, 256, (40, 32, 32, 3)).astype("uint8")
    images = table_like(labels, ["train"] * 40, [str(i) for i in range(40)])
    found = examine(images, features, features, Rows(pixels))
    lines = " ".join(found.sentences())
    assert "the labels were not judged, because fewer than two classes have 5 images or more" in lines
    assert "nan" not in lines and json.dumps(found.to_dict(), allow_nan=False)


def test_a_sample_finds_identical_files_among_all_and_claims_no_more_of_near_ones() -> None:
    pixels = np.stack([scene(6440 + seed) for seed in range(30)])
    everything = table_like(["a", "b"] * 30, ["train"] * 59 + ["test"], [str(i) for i in range(59)] + ["5"])
    sample = replace(everything, table=everything.table.iloc[:30].reset_index(drop=True))
    found = _of_a_sample(examine(sample, as_features(pixels), as_features(pixels), Rows(pixels)), everything)
    assert found.duplicates[["path", "other", "kind", "leak"]].to_numpy().tolist() == [
        ["5.png", "59.png", "exact", True]
    ]
    lines = found.sentences()
    assert "near duplicates were looked for among 30 of 60 images, drawn at random, which hold 25.0% of all pairs" in (
        " ".join(lines)
    )
    apart = table_like(["a", "b"] * 30, ["train"] * 60, [str(i) for i in range(60)])
    clean = _of_a_sample(examine(sample, as_features(pixels), as_features(pixels), Rows(pixels)), apart)
    assert "no duplicates or outliers were found among the 30 images that were examined" in clean.sentences()
    assert clean.to_dict()["drawn_from"] == 60


def test_copies_are_paired_with_their_images_and_nothing_else_is() -> None:
    images = np.stack([scene(seed) for seed in range(60)])
    copies = np.stack([again(images[seed], seed) for seed in range(12)])
    everything = np.concatenate([images, copies])
    keys = [f"{i}" for i in range(72)]
    pairs, distances = near_duplicates(Rows(everything), as_features(everything), keys)
    assert {tuple(pair) for pair in pairs.tolist()} == {(seed, 60 + seed) for seed in range(12)}
    assert (distances < 0.28).all() and (np.diff(distances) >= 0).all()


def test_equal_files_are_paired_at_distance_0() -> None:
    images = np.stack([scene(seed) for seed in range(20)] + [scene(3)])
    pairs, distances = near_duplicates(Rows(images), as_features(images), [f"{i}" for i in range(20)] + ["3"])
    assert pairs.tolist() == [[3, 20]]
    assert distances.tolist() == [0.0]


def test_a_handful_of_images_is_no_error() -> None:
    images = np.stack([scene(seed) for seed in range(3)])
    pairs, _ = near_duplicates(Rows(images), as_features(images), ["a", "b", "c"])
    assert len(pairs) == 0
    assert outliers(as_features(images)).empty


def test_what_is_like_nothing_else_is_named() -> None:
    features = np.random.default_rng(0).normal(size=(100, 12)).astype("float32") + np.eye(12, dtype="float32")[0] * 9
    features[:, :6] += np.repeat(np.random.default_rng(1).normal(size=(5, 6)) * 5, 20, axis=0)
    features[17] = -40 * np.eye(12)[11]
    found = outliers(features)
    assert found.sort_values("distance").iloc[-1]["row"] == 17
    assert len(found) <= 5


def test_a_duplicate_across_splits_is_a_leak_and_comes_first() -> None:
    originals = np.stack([scene(seed) for seed in range(40)])
    everything = np.concatenate([originals, [again(originals[1], 1), again(originals[2], 2)]])
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(42)],
            "label": ["a", "b"] * 21,
            "split": ["train"] * 40 + ["train", "test"],
            "group": "",
            "sha256": [f"{i}" for i in range(42)],
        }
    )
    images = ImageSet(Path(), table, ("a", "b"), pd.DataFrame(columns=list(PROBLEM_COLUMNS)))
    features = as_features(everything)
    found = examine(images, features, features, Rows(everything))
    assert found.duplicates[["path", "other", "leak"]].to_numpy().tolist() == [
        ["2.png", "41.png", True],
        ["1.png", "40.png", False],
    ]
    assert any(line.startswith("1 pair of duplicates lies across splits") for line in found.sentences())
    assert "2 pairs of duplicates" in found.sentences()
    assert f"on the features of nano at {everything.shape[1]} pixels" in found.sentences()[0]
    assert found.to_dict()["image_size"] == everything.shape[1]
    assert not any(line.startswith("0 ") for line in found.sentences())
    assert found.to_dict()["leaks"] == 1


@pytest.mark.slow
def test_inspect_names_a_copy_in_a_folder_by_nano(tmp_path: Path) -> None:
    for number in range(24):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.fromarray(scene(number, 96)).save(tmp_path / "ab"[number % 2] / f"{number:02d}.png")
    Image.fromarray(scene(4, 96)).save(tmp_path / "a" / "copy.jpg", quality=60)
    found = check_up(scan(tmp_path), size=96)
    assert found.duplicates[["path", "other"]].to_numpy().tolist() == [["a/04.png", "a/copy.jpg"]]
    assert found.judge == "nano" and found.n == 25
    assert "1 pair of duplicates" in found.sentences()
    assert not any("across splits" in line for line in found.sentences())  # there are no splits yet


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.real
def test_injected_faults_in_clothing_are_found(
    shared: Path, imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent.parent / "benchmarks"))
    monkeypatch.setenv("TLKIT_SHARED", str(shared))
    import faults

    row = faults.run("clothing", "mobilenetv2_0.35", 0)
    sys.modules.pop("faults")
    assert row["label_precision"] >= 0.7  # MobileNetV2 1.0 gave 0.80 to 0.85; the bar of 0.75 is for that
    assert row["copies_found"] >= 49
    assert row["pairs_not_put_in"] <= 2


def test_where_no_two_images_are_alike_none_are_named() -> None:
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (16, 60, 60, 3)).astype("uint8")
    pairs, distances = near_duplicates(
        in_memory(images), random.normal(size=(16, 32)).astype("float32"), [str(i) for i in range(16)]
    )
    assert len(pairs) == 0 and len(distances) == 0
