from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from tlkit.cache import Cache, Store, cache_folder, describe, in_memory
from tlkit.errors import NameUnknown, RunError
from tlkit.files import temporary_beside, write_atomically


def fill(folder: Path, keys: list[str], value: int) -> None:
    with Store(folder).writer(len(keys), (2, 3), "uint8") as writer:
        writer.add(keys, np.full((len(keys), 2, 3), value, "uint8"))


def test_rows_of_several_shards_come_in_the_asked_order(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"], 1)
    fill(tmp_path, ["c"], 2)
    store = Store(tmp_path)
    assert store.known(["a", "c", "z"]).tolist() == [True, True, False]
    rows = store.rows(["c", "a", "c", "b"])
    assert rows.gather(np.array([0, 1, 2, 3]))[:, 0, 0].tolist() == [2, 1, 2, 1]
    assert rows.take(np.array([0, 3])).gather(slice(None))[:, 0, 0].tolist() == [2, 1]
    with pytest.raises(KeyError):
        store.rows(["z"])


def test_rows_written_before_an_exception_are_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Store(tmp_path).writer(3, (2,), "float32") as writer:
        writer.add(["a"], np.ones((1, 2)))
        raise RuntimeError
    store = Store(tmp_path)
    assert store.known(["a"]).all() and store.rows(["a"]).gather([0]).tolist() == [[1.0, 1.0]]


def test_leftovers_and_damaged_shards_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path, ["a"], 1)
    (tmp_path / ".123.partial").write_bytes(b"half")
    (tmp_path / "lost.json").write_text('["b"]')
    (tmp_path / "cut.json").write_text('["c"]')
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "bad.json").write_text("[")
    assert Store(tmp_path).known(["a", "b", "c"]).tolist() == [True, False, False]


def test_in_memory_rows_gather_like_cached_ones() -> None:
    assert in_memory(np.arange(6).reshape(3, 2)).gather(np.array([2, 0])).tolist() == [[4, 5], [0, 1]]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, "old")
    with pytest.raises(RuntimeError), temporary_beside(file) as temporary:
        temporary.write_text("ne")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("first", "second"):
        with temporary_beside(target) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [p.name for p in target.iterdir()] == ["second"] and list(tmp_path.iterdir()) == [target]


@pytest.fixture
def two_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A megabyte of pixels last opened two hours ago, and one of features opened three hours ago."""
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    for hours, name in ((2, "pixels/224-squash-v1"), (3, "features/abc")):
        with Store(tmp_path / name).writer(1, (1000, 1000), "uint8") as writer:
            writer.add(["a"], np.zeros((1, 1000, 1000), "uint8"))
        describe(tmp_path / name, f"about {name}")
        for path in (tmp_path / name, *(tmp_path / name).iterdir()):
            os.utime(path, (time.time() - 3600 * hours,) * 2)
    return tmp_path


def test_caches_are_listed_longest_unused_first_with_what_they_hold(two_caches: Path) -> None:
    there = Cache().entries()
    assert [one.kind for one in there] == ["features", "pixels"] and there[0].about == "about features/abc"
    assert all(1_000_000 < one.bytes < 1_010_000 for one in there)


def test_room_is_made_by_clearing_the_longest_unused_and_no_more(two_caches: Path) -> None:
    assert Cache(limit_gb=0.003).has_room_for(1_500_000)
    assert [one.kind for one in Cache().entries()] == ["pixels"]


def test_what_was_opened_within_the_hour_is_not_cleared(two_caches: Path) -> None:
    Store(two_caches / "features" / "abc")  # opens it
    assert not Cache(limit_gb=0.003).has_room_for(2_500_000)
    assert [one.kind for one in Cache().entries()] == ["features"]


def test_what_exceeds_the_limit_by_itself_clears_nothing(two_caches: Path) -> None:
    assert not Cache(limit_gb=0.003).has_room_for(4_000_000)
    assert not Cache(limit_gb=0.0).has_room_for(1)
    assert not Cache().has_room_for(10**18)
    assert len(Cache().entries()) == 2


def test_what_is_not_ours_is_neither_listed_nor_cleared(two_caches: Path) -> None:
    theirs = [two_caches / "pixels" / "holiday" / "beach.jpg", two_caches / "letters" / "mum" / "one.txt"]
    for file in theirs:
        file.parent.mkdir(parents=True)
        file.write_text("dear")
        os.utime(file, (0, 0))
        os.utime(file.parent, (0, 0))
    assert len(Cache().entries()) == 2
    Cache(limit_gb=0.003).has_room_for(2_999_990)
    Cache().clear("all")
    assert Cache().entries() == [] and all(file.read_text() == "dear" for file in theirs)


@pytest.mark.parametrize("name", ["beach.jpg", "notes/", "model.npy"])
def test_a_cache_that_holds_anything_else_is_not_cleared(name: str, two_caches: Path) -> None:
    theirs = two_caches / "features" / "abc" / name
    theirs.mkdir() if name.endswith("/") else theirs.write_text("dear")
    for path in (theirs, theirs.parent):
        os.utime(path, (0, 0))
    with pytest.raises(RunError, match=rf"features/abc' holds.*{name}.*Nothing was cleared"):
        Cache().clear("all")
    assert theirs.exists() and len(Cache().entries()) == 2
    assert Cache(limit_gb=0.003).has_room_for(1_500_000), "the other one goes"
    assert theirs.exists() and [one.kind for one in Cache().entries()] == ["features"]


def test_a_link_among_the_caches_is_left_alone(two_caches: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    theirs = tmp_path_factory.mktemp("theirs")
    (theirs / "about.txt").write_text("dear")
    (two_caches / "pixels" / "theirs").symlink_to(theirs, target_is_directory=True)
    Cache().clear("all")
    assert (
        (theirs / "about.txt").exists() and (two_caches / "pixels" / "theirs").is_symlink() and Cache().entries() == []
    )


def test_a_cleared_cache_stays_readable_to_its_readers(two_caches: Path) -> None:
    rows = Store(two_caches / "features" / "abc").rows(["a"])
    assert [one.bytes for one in Cache().clear("features")] == [pytest.approx(1_000_000, rel=0.01)]
    assert rows.gather([0]).shape == (1, 1000, 1000)
    assert not Store(two_caches / "features" / "abc").known(["a"]).any()


def test_only_caches_unused_for_long_enough_are_cleared(two_caches: Path) -> None:
    assert len(Cache().clear("all", unused_days=2.5 / 24)) == 1 and [one.kind for one in Cache().entries()] == [
        "pixels"
    ]
    with pytest.raises(NameUnknown, match="Did you mean 'pixels'"):
        Cache().clear("pixel")


def test_a_cache_folder_that_cannot_be_written_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "file"))
    assert not Cache().has_room_for(1)
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(shutil, "disk_usage", lambda *a: (_ for _ in ()).throw(OSError))
    assert not Cache().has_room_for(1)


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder on macOS, with none of the variables set."""
    from platformdirs.macos import MacOS

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TLKIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(platformdirs, "PlatformDirs", MacOS)
    return tmp_path


def test_the_cache_is_where_the_system_keeps_caches(mac: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == mac / "Library" / "Caches" / "tlkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(mac / "xdg"))
    assert cache_folder() == mac / "xdg" / "tlkit"
    monkeypatch.setenv("TLKIT_CACHE", str(mac / "mine"))
    assert cache_folder() == mac / "mine"


def test_a_cache_at_the_earlier_default_keeps_being_used(mac: Path) -> None:
    (mac / ".cache" / "tlkit").mkdir(parents=True)
    assert cache_folder() == mac / ".cache" / "tlkit"


def test_on_linux_the_default_is_the_earlier_one(mac: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from platformdirs.unix import Unix

    monkeypatch.setattr(platformdirs, "PlatformDirs", Unix)
    assert cache_folder() == mac / ".cache" / "tlkit"


def test_who_reads_a_file_while_it_is_written_sees_the_whole_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    write_atomically(file, "earlier")
    with file.open(encoding="utf-8") as reader:
        write_atomically(file, "later, and longer")
        assert reader.read() == "earlier"
    assert file.read_text(encoding="utf-8") == "later, and longer"
