"""Files that change while a run uses them, and cached pixels and digests that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import draw, write_folder
from tlkit.cache import Cache
from tlkit.data import pixels as pixels_module
from tlkit.data.dataset import decode_images
from tlkit.data.scan import scan
from tlkit.errors import DataError


@pytest.fixture
def caches(tmp_path: Path) -> Cache:
    return Cache(root=tmp_path / "cache")


@pytest.mark.slow
def test_a_file_replaced_between_scan_and_decode_poisons_no_cache(tmp_path: Path, caches: Cache) -> None:
    images = scan(write_folder(tmp_path / "data", per_class=2))
    file, other = tmp_path / "data" / "red" / "000.png", tmp_path / "data" / "blue" / "000.png"
    first = file.read_bytes()
    file.write_bytes(other.read_bytes())
    found = decode_images(images, 32, cache=caches)
    row = found.images.problems.iloc[-1]
    assert len(found) == 5 and (row["path"], row["problem"]) == ("red/000.png", "unreadable")
    assert "changed after it had been scanned" in row["detail"]
    file.write_bytes(first)
    again = decode_images(images, 32, cache=caches)
    assert len(again) == 6 and again.pixels.decoded == 1
    fresh = decode_images(images, 32, cache=Cache(limit_gb=0.0, root=tmp_path / "none"))
    assert np.array_equal(again.examples().pixels.gather(range(6)), fresh.examples().pixels.gather(range(6)))


def test_a_file_that_was_put_back_is_said_to_have_changed(
    tmp_path: Path, caches: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = scan(write_folder(tmp_path / "data", per_class=2))
    file = tmp_path / "data" / "red" / "000.png"
    first, decoded = file.read_bytes(), pixels_module._decoded
    file.write_bytes(b"else")

    def then_put_back(*given: object):  # type: ignore[no-untyped-def]
        yield from decoded(*given)
        file.write_bytes(first)

    monkeypatch.setattr(pixels_module, "_decoded", then_put_back)
    problems = decode_images(images, 32, cache=caches).images.problems
    assert problems.iloc[-1]["detail"] == pixels_module.CHANGED


def test_a_damaged_row_is_not_mended_from_another_file(tmp_path: Path, caches: Cache) -> None:
    images = scan(write_folder(tmp_path / "data", per_class=2))
    decode_images(images, 32, cache=caches)
    (shard,) = caches.at("pixels", "").rglob("*.npy")
    rows = np.load(shard, mmap_mode="r+")
    rows[:, 0, 0, 0] ^= 64
    rows.flush()
    dataset = decode_images(images, 32, cache=caches)
    draw((1, 2, 3), 5).save(images.files()[0])
    with pytest.raises(DataError, match="Cannot decode 1 image that decoded before: files were changed"):
        dataset.examples().pixels.gather([0])
    assert dataset.examples().pixels.gather([1]).shape == (1, 32, 32, 3)


def test_damaged_digests_are_computed_again(tmp_path: Path, caches: Cache, said: list[str]) -> None:
    folder = write_folder(tmp_path / "data", per_class=2)
    for name in ("a", "b"):
        draw((200, 200, 200), 1).save(folder / "red" / f"{name}.png", compress_level=1 + 8 * (name == "b"))
    first = decode_images(scan(folder), 32, cache=caches)
    (shard,) = caches.at("looks", "").rglob("*.npy")
    for row in range(8):
        data = bytearray(shard.read_bytes())
        data[-16 * (row + 1)] ^= 1
        shard.write_bytes(data)
    again = decode_images(scan(folder), 32, cache=caches)
    assert again.images.problems.equals(first.images.problems) and "equal-pixels" in set(first.images.problems.problem)
    assert any("8 rows of the cache file" in line for line in said)
