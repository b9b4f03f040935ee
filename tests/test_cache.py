from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest

import tlkit.cache as cache_module
from tlkit.cache import Cache, Store, cache_folder, checksums, describe, in_memory
from tlkit.errors import NameUnknown, RunError
from tlkit.files import temporary_beside, write_atomically

PIXELS = "pixels/224-squash-v1"


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


def test_leftovers_and_damaged_shards_are_ignored_and_named(tmp_path: Path, said: list[str]) -> None:
    fill(tmp_path, ["a"], 1)
    (tmp_path / ".123.partial").write_bytes(b"half")
    whole = '{"keys": ["b"], "checksums": ["1"], "row": ["|u1", 2, 3]}'
    (tmp_path / "lost.json").write_text(whole)
    (tmp_path / "cut.json").write_text(whole.replace('"b"', '"c"'))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "bad.json").write_text("[")
    for name, keys, dtype in (("few", ["d", "e"], "uint8"), ("other", ["f"], "int8")):
        np.save(tmp_path / f"{name}.npy", np.zeros((1, 2, 3), dtype))
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"keys": keys, "checksums": ["0"] * len(keys), "row": ["|u1", 2, 3]})
        )
    assert Store(tmp_path).known(list("abcdef")).tolist() == [True, False, False, False, False, False]
    Store(tmp_path)
    assert sorted(line.split("'")[1].rpartition("/")[2] for line in said) == [
        "bad.npy",
        "cut.npy",
        "few.npy",
        "other.npy",
    ]


def test_a_shard_without_checksums_is_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "early.npy", np.zeros((1, 2, 3), "uint8"))
    (tmp_path / "early.json").write_text('["a"]')
    assert not Store(tmp_path).known(["a"]).any()


@pytest.mark.parametrize("shape", [(), (3,), (5, 1), (8,), (7, 11, 3), (64, 64, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int64"])
def test_every_flipped_bit_changes_a_checksum(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6650)
    rows = rng.integers(0, 100, (4, *shape)).astype(dtype)
    before = checksums(rows)
    assert len(set(before.tolist())) > 1 or not shape
    row = rows[2:3].view("uint8").reshape(-1) if shape else rows.view("uint8")[2 * rows.itemsize : 3 * rows.itemsize]
    for byte in range(0, row.size, max(1, row.size // 50)):
        for bit in range(8):
            row[byte] ^= 1 << bit
            assert (checksums(rows) != before).tolist() == [False, False, True, False]
            row[byte] ^= 1 << bit
    assert (checksums(rows) == before).all()


def damage(folder: Path, row: int) -> None:
    (file,) = folder.glob("*.npy")
    rows = np.load(file, mmap_mode="r+")
    rows[row, 0, 0] ^= 64
    rows.flush()
    os.utime(file)


def test_a_damaged_row_is_asked_for_again_once(tmp_path: Path, said: list[str]) -> None:
    fill(tmp_path, ["a", "b", "c"], 1)
    damage(tmp_path, 1)
    store, asked = Store(tmp_path), []

    def again(indices: np.ndarray) -> np.ndarray:
        asked.append(indices.tolist())
        return np.full((len(indices), 2, 3), 1, "uint8")

    rows = store.rows(["c", "b", "a", "b"], again)
    for _ in range(2):
        assert (rows.take([0, 1, 2, 3]).gather([3, 0, 1]) == 1).all() and len(said) == 1
    assert asked == [[3, 1]] and "1 row of" in said[0] and "row 1 " in said[0]
    assert (store.rows(["b"]).gather([0]) == 1).all() and (Store(tmp_path).rows(["b"]).gather([0]) == 1).all()


def test_a_damaged_row_that_cannot_be_computed_again_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b", "c"], 1)
    damage(tmp_path, 1)
    rows = Store(tmp_path).rows(["a", "b", "c"])
    assert (rows.gather([0, 2]) == 1).all()
    with pytest.raises(RunError, match=r"1 row of the cache file '.*' is damaged, row 1 .*Clear the cache"):
        rows.gather([0, 1])


def test_sound_rows_are_compared_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, ["a", "b", "c"], 1)
    Store(tmp_path).rows(["a", "b"]).gather(slice(None))
    compared = []
    monkeypatch.setattr("tlkit.cache.checksums", lambda rows: compared.append(len(rows)) or checksums(rows))
    Store(tmp_path).rows(["a", "b"]).gather(slice(None))
    assert compared == []
    Store(tmp_path).rows(["a", "b", "c"]).gather([2])
    assert compared == [1]


def test_what_a_killed_writer_left_goes_after_an_hour(two_caches: Path) -> None:
    entry = two_caches / "features" / "abc"
    old, new, theirs = entry / f".{'0' * 32}.partial", entry / f".{'1' * 32}.partial", entry / ".notes.partial"
    for file, hours in ((old, 2), (new, 0.5), (theirs, 9)):
        file.write_bytes(b"half")
        os.utime(file, (time.time() - 3600 * hours,) * 2)
    Cache().has_room_for(1)
    assert not old.exists() and new.exists() and theirs.exists()


def test_an_entry_that_is_being_written_is_not_cleared_to_make_room(
    two_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.cache.BEAT_SECONDS", -1)
    entry = two_caches / "features" / "abc"
    with Store(entry).writer(2, (1000, 1000), "uint8") as writer:
        for path in (entry, *entry.iterdir()):
            os.utime(path, (time.time() - 3 * 3600,) * 2)  # opened three hours ago
        writer.add(["b"], np.zeros((1, 1000, 1000), "uint8"))
        Cache(limit_gb=0.0035).has_room_for(500_000)
    assert Store(entry).known(["a", "b"]).all()


def test_an_index_that_a_full_disk_does_not_take_costs_no_row(
    two_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, entry = Cache(), two_caches / "features" / "abc"
    before = sorted(entry.iterdir())
    monkeypatch.setattr(
        "tlkit.cache.write_atomically",
        lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
    )
    with cache.store(entry).writer(1, (2,), "f4") as writer:
        writer.add(["b"], np.ones((1, 2)))
    assert (cache.store(entry).rows(["b"]).gather(slice(None)) == 1).all() and sorted(entry.iterdir()) == before


def test_a_shard_that_is_being_written_is_not_cleared(two_caches: Path) -> None:
    entry = two_caches / "features" / "abc"
    with Store(entry).writer(1, (2,), "f4") as writer:
        writer.add(["b"], np.ones((1, 2)))
        Cache().clear("all")
        assert [one.kind for one in Cache().entries()] == ["features"] and not Store(entry).known(["a"]).any()
    assert Store(entry).rows(["b"]).gather([0]).tolist() == [[1.0, 1.0]]


def test_a_file_that_is_being_written_is_not_cleared(two_caches: Path) -> None:
    entry = two_caches / "features" / "abc"
    with temporary_beside(entry / "safety.json", durable=False) as temporary:
        temporary.write_text("{}")
        Cache().clear("all")
        (entry / ".tmp-0badcafe-index.json").touch()
        os.utime(entry / ".tmp-0badcafe-index.json", (0, 0))  # of a process that was killed
    assert (entry / "safety.json").read_text() == "{}"
    assert [one.kind for one in Cache().entries()] == ["features"] and not Store(entry).known(["a"]).any()
    Cache().clear("all")
    assert not Cache().entries()


@pytest.mark.parametrize("moment", ["begun", "written", "ended"])
def test_what_is_cleared_under_its_writer_nevertheless_is_written_again(
    moment: str, two_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another machine, which does not see this one's locks."""
    entry = two_caches / "features" / "new"
    store = Store(entry)
    with monkeypatch.context() as patch:
        if moment == "begun":
            reserve, calls = cache_module._reserve, []

            def cleared(file: Path) -> None:
                if not calls:
                    calls.append(shutil.rmtree(entry))
                reserve(file)

            patch.setattr(cache_module, "_reserve", cleared)
        writer = store.writer(1, (2,), "f4")
    with writer:
        writer.add(["b"], np.ones((1, 2)))
        if moment == "written":
            shutil.rmtree(entry)
    if moment == "ended":
        shutil.rmtree(entry)
    else:
        assert Store(entry).rows(["b"]).gather([0]).tolist() == [[1.0, 1.0]]
    assert store.rows(["b"]).gather([0]).tolist() == [[1.0, 1.0]], "the writer itself needs no file"


def test_rows_that_another_run_stored_meanwhile_are_not_kept_twice(tmp_path: Path) -> None:
    first, second = Store(tmp_path), Store(tmp_path)
    with first.writer(2, (2, 3), "uint8") as one, second.writer(2, (2, 3), "uint8") as two:
        for writer in (one, two):
            writer.add(["a", "b"], np.full((2, 2, 3), 1, "uint8"))
    assert len(list(tmp_path.iterdir())) == 2 and first.known(["a", "b"]).all()
    assert (first.rows(["b"]).gather([0]) == 1).all() and (second.rows(["b"]).gather([0]) == 1).all()
    with Store(tmp_path).writer(3, (2, 3), "uint8") as writer:  # some rows are new, so the shard stays
        writer.add(["a", "b", "c"], np.full((3, 2, 3), 1, "uint8"))
    assert Store(tmp_path).known(["c"]).all()


@pytest.mark.skipif(cache_module.fcntl is None, reason="this system has no locks")
def test_what_a_killed_writer_left_goes_with_the_next_writer(tmp_path: Path) -> None:
    code = (
        f"from tlkit.cache import *; w = Store(Path({str(tmp_path)!r})).writer(1, (9,), 'f4'); "
        "print('ready', flush=True); import time; time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            (left,) = tmp_path.iterdir()
            os.utime(left, (time.time() - 60,) * 2)
            fill(tmp_path, ["a"], 1)
            assert left.exists(), "its writer is there"
        finally:
            process.kill()
    fill(tmp_path, ["b"], 1)
    assert not left.exists() and len(list(tmp_path.iterdir())) == 4


def test_a_long_work_is_kept_in_shards_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SHARD_SECONDS", -1.0)
    store = Store(tmp_path)
    with store.writer(7, (3, 2), "f2") as writer:
        for row, key in enumerate("abcd"):
            writer.add([key], np.full((1, 3, 2), row))
            assert Store(tmp_path).known([key]).all(), "a process that is killed now has this row"
        writer.add(["e", "f"], np.full((2, 3, 2), 9))
    assert len(list(tmp_path.glob("*.npy"))) == 5 and not list(tmp_path.glob(".*"))
    for one in (store, Store(tmp_path)):
        assert one.rows(list("abcdef")).gather(slice(None))[:, 0, 0].tolist() == [0, 1, 2, 3, 9, 9]
    assert [len(np.load(file)) for file in sorted(tmp_path.glob("*.npy"))].count(1) == 4, "no room is wasted"


def test_rows_for_which_the_disk_has_no_room_any_more_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SHARD_SECONDS", -1.0)
    cache = Cache(root=tmp_path)
    store = cache.store(cache.at("features", "abc"))
    with store.writer(3, (2,), "f4") as writer:

        def full(file: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(cache_module, "_reserve", full)
        for row, key in enumerate("abc"):
            writer.add([key], np.full((1, 2), row))
    again = cache.store(cache.at("features", "abc"))
    assert again.rows(list("abc")).gather(slice(None))[:, 0].tolist() == [0, 1, 2]
    assert Store(cache.at("features", "abc")).known(list("abc")).tolist() == [True, False, False]


def test_halves_of_a_shard_go_after_an_hour(tmp_path: Path) -> None:
    fill(tmp_path, ["a"], 1)
    for name in (f"{'0' * 32}.npy", f"{'1' * 32}.json", f".tmp-01234567-{'1' * 32}.json"):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    (tmp_path / f"{'2' * 32}.npy").write_text("half")
    fill(tmp_path, ["b"], 1)
    assert len(list(tmp_path.iterdir())) == 5 and Store(tmp_path).known(["a", "b"]).all()


def test_an_entry_without_its_description_is_listed_and_cleared(two_caches: Path) -> None:
    (two_caches / "features" / "abc" / "about.txt").unlink()
    assert {(one.kind, one.about) for one in Cache().entries()} == {("features", "abc"), ("pixels", f"about {PIXELS}")}
    assert len(Cache().clear("features")) == 1 and not (two_caches / "features" / "abc").exists()


def test_a_description_with_a_flipped_byte_is_still_shown(two_caches: Path) -> None:
    (two_caches / PIXELS / "about.txt").write_bytes(b"about \xff")
    assert {one.about for one in Cache().entries()} == {"about features/abc", "about \ufffd"}


@pytest.mark.parametrize("begins", [b"", b"PK", b"\x93NUMPY\x01\x00\xff\xff{'", b"\x93NUMPY\x01\x00v\x00{'descr': ("])
def test_a_shard_whose_header_numpy_cannot_read_is_computed_again(begins: bytes, tmp_path: Path) -> None:
    fill(tmp_path, ["a"], 1)
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(begins + file.read_bytes()[len(begins) :] if begins else b"")
    assert not Store(tmp_path).known(["a"]).any()


def test_an_index_whose_keys_changed_places_is_not_read(tmp_path: Path) -> None:
    fill(tmp_path, ["a", "b"], 1)
    (index,) = tmp_path.glob("*.json")
    index.write_text(index.read_text().replace('"a", "b"', '"b", "a"'))
    assert not Store(tmp_path).known(["a", "b"]).any()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space")
def test_a_full_disk_is_an_error_at_once_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int) -> None:
        monkeypatch.setattr(os, "posix_fallocate", lambda *a: (_ for _ in ()).throw(OSError(number, "no")))

    fails(errno.ENOSPC)
    with pytest.raises(OSError):
        Store(tmp_path).writer(1, (2, 3), "uint8")
    assert not list(tmp_path.iterdir())
    fails(errno.EOPNOTSUPP)
    fill(tmp_path, ["a"], 1)
    assert Store(tmp_path).known(["a"]).all()


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
    for hours, name in ((2, PIXELS), (3, "features/abc")):
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


def test_files_that_are_held_are_held_once_and_closed_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"arrays")
    program = (
        "import sys; from pathlib import Path; from tlkit.cache import hold, _HELD\n"
        "hold(Path(sys.argv[1])); hold(Path(sys.argv[1])); assert len(_HELD) == 1"
    )
    words = [sys.executable, "-W", "always::ResourceWarning", "-c", program, str(tmp_path / "weights.npz")]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
