"""Checkpoints on disk: what is read is what was written, or an earlier one, and never something else."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tlkit.checkpoints import Checkpoint, Checkpoints
from tlkit.errors import RunError

VALUES = {"rows": [{"loss": 0.1 + 0.2, "best": True, "rate": None}], "weights": [np.arange(4.0), np.float32(3)]}


@pytest.fixture
def place(tmp_path: Path) -> Checkpoint:
    return Checkpoints(tmp_path / "checkpoints").of("stage 1/2")


def numbered(number: int) -> dict[str, object]:
    return {"number": number, "weights": np.full(1000, number, "float32")}


def test_what_is_read_is_what_was_written(place: Checkpoint) -> None:
    assert place.read() is None
    place.save(VALUES)
    found = place.read()
    assert found is not None and found["rows"] == VALUES["rows"]
    assert np.array_equal(found["weights"][0], np.arange(4.0)) and found["weights"][1] == 3.0
    place.forget()
    assert place.read() is None


def test_two_are_kept(place: Checkpoint) -> None:
    for number in range(4):
        place.save(numbered(number))
    files = sorted(one.name for one in place.among.folder.iterdir())
    assert files == ["progress.json", "stage-1-2-3.json", "stage-1-2-3.npz", "stage-1-2-4.json", "stage-1-2-4.npz"]
    place.beside("restart 1").save(numbered(7))
    found = place.read()
    assert found is not None and found["number"] == 3, "another one's are not taken for it"


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_flipped_byte_is_found_and_the_one_before_is_used(
    place: Checkpoint, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    for trial in range(20):
        place.save(numbered(1))
        place.save(numbered(2))
        newest = max(place.among.folder.glob(f"stage-*{suffix}"), key=lambda file: int(file.stem.rpartition("-")[2]))
        content = bytearray(newest.read_bytes())
        content[random.integers(len(content))] ^= 1 << int(random.integers(8))
        newest.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            found = place.read()
        assert found is not None and found["number"] == 1 and (found["weights"] == 1).all(), trial
        assert "is damaged" in caplog.text
        place.forget()


def test_a_file_that_is_cut_or_gone_is_not_read(place: Checkpoint) -> None:
    place.save(numbered(1))
    (file,) = place.among.folder.glob("stage*.npz")
    file.write_bytes(file.read_bytes()[:100])
    assert place.read() is None
    file.unlink()
    assert place.read() is None


def test_a_full_disk_ends_no_training(
    place: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.save(numbered(1))

    def full(*given: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(np, "savez", full)
        place.save(numbered(2))
    assert "could not be written" in caplog.text
    found = place.read()
    assert found is not None and found["number"] == 1
    assert not [one for one in place.among.folder.iterdir() if one.name.startswith(".")]


def test_nothing_pickled_is_read(place: Checkpoint) -> None:
    with pytest.raises((TypeError, ValueError)):
        place.save({"weights": np.array([object()], dtype=object)})
    assert place.read() is None


def test_once_is_computed_once(tmp_path: Path) -> None:
    computed: list[int] = []

    def compute() -> dict[str, int]:
        computed.append(1)
        return {"chosen": 3}

    for _ in range(2):
        assert Checkpoints(tmp_path).once("choice", compute) == {"chosen": 3}
    assert computed == [1]


def test_the_time_that_was_spent_is_kept(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).spent() == {}
    Checkpoints(tmp_path, seconds=lambda: {"scan": 1.5, "total": 9.0}).note_time()
    assert Checkpoints(tmp_path).spent() == {"scan": 1.5, "total": 9.0}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_a_run_that_another_process_works_on_is_refused(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tlkit.checkpoints import Checkpoints\n"
        f"with Checkpoints(Path({str(tmp_path / 'checkpoints')!r})).locked():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with (
            pytest.raises(RunError, match="Another process works on the run"),
            Checkpoints(tmp_path / "checkpoints").locked(),
        ):
            pass
        other.kill()
    with Checkpoints(tmp_path / "checkpoints").locked():
        pass
