from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tlkit.files import temporary_beside, write_atomically
from tlkit.store import Store, in_memory


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


def test_leftovers_and_damaged_shards_are_as_if_not_there(tmp_path: Path) -> None:
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
