"""The cache of features and pixels: what is found damaged, what is computed again, and what its keys depend on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import write_folder
from tests.tiny import tiny_file
from tlkit import Augmentation, Examples, Head, Recipe, Stage, build_classifier, finetune, scan
from tlkit.backbones import find_backbone
from tlkit.cache import Cache, in_memory
from tlkit.data.dataset import Dataset, decode_images
from tlkit.errors import TrainingError
from tlkit.features import extract
from tlkit.features.extract import extract_features, per_output
from tlkit.models.blocks import cut
from tlkit.progress import Deadline

BACKBONE = find_backbone(tiny_file())
SHIFT = Augmentation(shift_x=(-0.2, 0.2))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def flip(shard: Path, row: int) -> None:
    """Flip the highest bits of a byte in the middle of a row, as a failing disk does."""
    rows = np.load(shard, mmap_mode="r")
    size, offset = rows[0].nbytes, rows.offset
    at = offset + row * size + size // 2 // 4 * 4 + 3  # of a float, the byte with its exponent
    with shard.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 0b01100000]))


def shards(cache: Path, kind: str) -> list[Path]:
    return sorted((cache / kind).glob("*/*.npy"))


def prefix(**settings: Any) -> Any:
    return cut(build_classifier(BACKBONE, 3, **settings), BACKBONE, 0)[0]


def drawn(seed: int, count: int = 12) -> Examples:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 32, 32, 3)).astype("uint8")
    return Examples(in_memory(pixels), np.arange(count) % 3, [f"{seed:08x}{i:056x}" for i in range(count)], made_by="d")


@pytest.mark.slow
def test_a_flipped_byte_of_a_run_is_found_named_and_computed_again(
    tmp_path: Path, cache: Path, said: list[str], tiny: dict[str, Any], unserved: None
) -> None:
    data = write_folder(tmp_path / "data", start=6600)
    recipe = Recipe("test", stages=(Stage(2, 1e-2),), batch_size=8)
    first = finetune(data, recipe=recipe, out=tmp_path / "first", report=False, **tiny)
    features = shards(cache, "features")
    for file in features:
        for row in range(3):
            flip(file, row)
    second = finetune(data, recipe=recipe, out=tmp_path / "second", report=False, **tiny)
    damaged = [line for line in said if "damaged" in line]
    assert damaged and any(str(features[0]) in line and "computed again" in line for line in damaged), said
    assert (first.folder / "predictions.csv").read_text() == (second.folder / "predictions.csv").read_text()
    names = ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert first.read_table("history.csv")[names].equals(second.read_table("history.csv")[names])


def decoded(folder: Path) -> Dataset:
    return decode_images(scan(folder), 32)


@pytest.mark.slow
def test_flipped_pixels_are_decoded_again(tmp_path: Path, cache: Path, said: list[str]) -> None:
    folder = write_folder(tmp_path / "data", start=6610)
    before = decoded(folder).examples().pixels.gather(slice(None))
    (file,) = shards(cache, "pixels")
    flip(file, 5)
    dataset = decoded(folder)
    rows = dataset.examples().pixels
    assert (rows.gather(slice(None)) == before).all() and len([line for line in said if "row 5" in line]) == 1, said
    assert (rows.gather(np.arange(24)[::-1]) == before[::-1]).all() and dataset.pixels.decoded == 0
    later = decoded(folder)
    assert (later.examples().pixels.gather(slice(None)) == before).all() and later.pixels.decoded == 0
    assert len(said) == 1 and len(shards(cache, "pixels")) == 2, "decoded once, and stored"


def test_permuted_features_are_found(cache: Path, said: list[str]) -> None:
    network, data = prefix(), drawn(6620)
    before = per_output(extract_features(network, data))[0]
    (file,) = shards(cache, "features")
    rows = np.load(file, mmap_mode="r+")
    rows[:] = np.roll(rows, 1, axis=0)
    rows.flush()
    os.utime(file)
    assert (per_output(extract_features(network, data))[0] == before).all() and "12 rows" in said[0]


def test_one_of_several_outputs_and_views_is_mended(cache: Path, said: list[str]) -> None:
    network, data = prefix(head=Head(taps="all")), drawn(6621)
    one = extract_features(network, data, augmentation=SHIFT, views=2)
    before = [[source.gather(slice(None)) for source in view] for view in one.views]
    flip(shards(cache, "features")[1], 7)
    two = extract_features(network, data, augmentation=SHIFT, views=2)
    after = [[source.gather(slice(None)) for source in view] for view in two.views]
    assert two.computed == 0 and len(said) == 1
    assert all((a == b).all() for old, new in zip(before, after, strict=True) for a, b in zip(old, new, strict=True))


def test_a_cache_that_cannot_be_written_is_mended_in_memory(
    cache: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, data = prefix(), drawn(6622)
    before = per_output(extract_features(network, data))[0]
    flip(shards(cache, "features")[0], 2)
    monkeypatch.setattr("tlkit.cache.Store.writer", lambda *a: (_ for _ in ()).throw(PermissionError("read-only")))
    monkeypatch.setattr("tlkit.cache.write_atomically", lambda *a, **k: (_ for _ in ()).throw(OSError("full")))
    rows = extract_features(network, data)
    assert rows is not None and (per_output(rows)[0] == before).all() and (per_output(rows)[0] == before).all()
    assert len(said) == 1


def test_a_deadline_before_an_exact_duplicate_keeps_what_was_computed(cache: Path) -> None:
    data = drawn(6623, 9)
    keys = list(data.keys)
    keys[8] = keys[4]  # the last image equals the first one after the cut
    data = Examples(data.pixels, data.labels, keys, made_by="d")
    found = extract_features(prefix(), data, batch_size=4, deadline=Deadline.after(-1))
    assert found.count == 4 and per_output(found)[0].shape[0] == 4


def test_augmented_features_of_another_version_are_not_found(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, data = prefix(), drawn(6624)
    settings: dict[str, Any] = {"augmentation": SHIFT, "views": 2}
    assert extract_features(network, data, **settings).computed == 24
    assert extract_features(network, data, **settings).computed == 0
    monkeypatch.setattr("albumentations.__version__", "99.0")
    assert extract_features(network, data, **settings).computed == 24
    monkeypatch.setattr("tlkit.data.augment.AUGMENTATION_VERSION", 99)
    assert extract_features(network, data, **settings).computed == 24
    assert extract_features(network, data).computed == 12 and extract_features(network, data).computed == 0


@pytest.mark.slow
def test_pixels_of_another_tensorflow_are_not_found(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "data", per_class=2, start=6630)
    assert decoded(folder).pixels.decoded == 6 and decoded(folder).pixels.decoded == 0
    monkeypatch.setattr("tensorflow.__version__", "99.0")
    assert decoded(folder).pixels.decoded == 6


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0, 10**9])
def test_on_a_full_disk_rows_stay_in_memory_or_are_computed_at_each_use(
    tmp_path: Path, cache: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = write_folder(tmp_path / "data", per_class=2, start=6640)
    expected = decoded(folder).examples().pixels.gather(slice(None))
    Cache().clear("all")
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr("tlkit.cache.available_memory", lambda: memory)
    dataset = decoded(folder)
    assert dataset.pixels.streamed == (not memory)
    assert (dataset.examples().pixels.gather(slice(None)) == expected).all()
    data = drawn(6641)
    found = extract_features(prefix(), data)
    assert (found is None) == (not memory)
    if found is not None:
        assert found.computed == 12 and extract_features(prefix(), data).computed == 0
    assert len(said) == 2 and all("No space left on device" in line for line in said), said
    assert not list(cache.rglob("*.partial"))
    assert extract.all_cached(prefix(), drawn(6641)) is False


def test_features_that_are_no_numbers_are_named_and_not_kept(cache: Path) -> None:
    network = prefix()
    layer = next(one for one in network.layers if one.weights)
    layer.set_weights([np.full_like(one, np.inf) for one in layer.get_weights()])
    for _ in range(2):  # the second time too: nothing was cached
        with pytest.raises(TrainingError, match=r"not finite for 12 images of 12.*other weights"):
            extract_features(network, drawn(6642))
