"""Disks that are full, read-only or absent: what is found before the work, and what is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from tlkit import finetune
from tlkit.cli.main import main
from tlkit.devices import available_memory
from tlkit.disk import check_room, check_writable, disk_error, disk_errors, errno_of
from tlkit.errors import DataError, DiskError, TlkitError
from tlkit.files import temporary_beside, write_atomically


def failing(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.ENOTDIR, "is a file, not a folder"),
        (errno.EIO, "Check the disk"),
        (errno.ELOOP, "symbolic links"),
    ],
)
def test_each_kind_of_failure_says_where_and_what_to_do(tmp_path: Path, number: int, said: str) -> None:
    file = tmp_path / "plan.json"
    with pytest.raises(DiskError, match=said) as caught, temporary_beside(file, needed=3_400_000) as temporary:
        temporary.write_text("half")
        raise failing(number, str(temporary))
    assert "plan.json" in str(caught.value) and isinstance(caught.value, OSError)
    assert number not in (errno.ENOSPC, errno.EDQUOT) or "3.4 MB" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_was_there_is_unchanged_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "a.json", "before")
    monkeypatch.setattr("tlkit.files.os.fsync", lambda *a: (_ for _ in ()).throw(failing(errno.ENOSPC)))
    with pytest.raises(DiskError, match="is full"):
        write_atomically(tmp_path / "a.json", "after")
    assert (tmp_path / "a.json").read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    write_atomically(tmp_path / "a.json", "after", durable=False)
    assert (tmp_path / "a.json").read_text() == "after"


def test_a_file_and_its_name_are_flushed_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[str, list[str]]] = []

    def fsync(descriptor: int) -> None:
        names = sorted(one.name.rpartition("-")[2] for one in tmp_path.iterdir())
        flushed.append((Path(f"/proc/self/fd/{descriptor}").resolve().name.rpartition("-")[2], names))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not name open files")
    monkeypatch.setattr("tlkit.files.os.fsync", fsync)
    write_atomically(tmp_path / "a.json", "text")
    assert flushed == [("a.json", ["a.json"]), (tmp_path.name.rpartition("-")[2], ["a.json"])]
    flushed.clear()
    with temporary_beside(tmp_path / "folder") as temporary:
        temporary.mkdir()
        write_atomically(temporary / "inner.json", "text")  # flushed once, with its folder
    assert [name for name, _ in flushed].count("inner.json") == 1


def test_errors_of_other_files_and_of_tlkit_are_raised_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as gone, temporary_beside(tmp_path / "a"):
        Path("/absent/image.png").read_bytes()
    assert not isinstance(gone.value, TlkitError)
    with pytest.raises(DataError), disk_errors(tmp_path / "a"):
        raise DataError("no images")
    with pytest.raises(ZeroDivisionError), disk_errors(tmp_path / "a"):
        raise ZeroDivisionError


def test_the_reason_is_found_behind_what_other_libraries_raise(tmp_path: Path) -> None:
    import tensorflow as tf

    full = tf.errors.ResourceExhaustedError(None, None, f"/run/variables; {os.strerror(errno.ENOSPC)}")
    memory = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
    hdf5 = OSError("Can't write data (file write failed: errno = 28, error message = '...')")
    assert errno_of(full) == errno.ENOSPC and errno_of(memory) is None and errno_of(hdf5) == errno.ENOSPC
    with pytest.raises(DiskError, match="is full"), disk_errors(tmp_path / "model.keras"):
        try:
            raise hdf5
        finally:
            raise ValueError("Can't close the ZIP file while there is an open writing handle on it")
    with pytest.raises(tf.errors.ResourceExhaustedError), disk_errors(tmp_path / "model.keras"):
        raise memory


def test_what_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.csv")
    check_writable(tmp_path / "new" / "deep" / "a.csv", makes_folders=True)
    assert not list(tmp_path.iterdir()), "nothing is left of the attempt"
    with pytest.raises(DiskError, match=r"the folder '.*new' does not exist. Make it first"):
        check_writable(tmp_path / "new" / "a.csv")
    with pytest.raises(DiskError, match=r"is a folder\. Expected the name of a file"):
        check_writable(tmp_path)
    with pytest.raises(DiskError, match="too long"):
        check_writable(tmp_path / ("a" * 250))
    with pytest.raises(DiskError, match="too long"):
        check_writable(tmp_path / "/".join(["a" * 200] * 30), makes_folders=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="is a file, not a folder"):
        check_writable(tmp_path / "file" / "a.csv", makes_folders=True)
    for folder in ("/proc", "/sys"):
        if Path(folder).is_dir():
            with pytest.raises(DiskError):
                check_writable(f"{folder}/x", makes_folders=True)


def test_what_does_not_fit_is_said_with_what_is_needed_and_free(tmp_path: Path) -> None:
    check_room(tmp_path / "run" / "deep", 1000, "the run")
    with pytest.raises(DiskError, match=r"The run needs about 1000000000.0 GB in '.*', and .* are free"):
        check_room(tmp_path / "run" / "deep", 10**18, "the run")


def test_a_very_long_path_is_shortened() -> None:
    assert len(str(disk_error(failing(errno.ENAMETOOLONG), Path("a" * 5000)))) < 500
    temporary = Path("run/.tmp-0a1b2c3d-.tmp-4a5b6c7d-saved_model")
    assert "'run/saved_model'" in str(disk_error(failing(errno.ENOSPC), temporary))


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    proc, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    cgroup.mkdir()
    proc.write_text("MemTotal:       16000 kB\nMemAvailable:    8000 kB\n")
    return proc, cgroup


def test_available_memory_is_within_a_containers_limit(machine: tuple[Path, Path], tmp_path: Path) -> None:
    proc, cgroup = machine
    assert available_memory(proc, cgroup) == 8000 * 1024
    for name, text in (("max", "max\n"), ("current", "3000000\n"), ("stat", "anon 5\ninactive_file 1000000\n")):
        (cgroup / f"memory.{name}").write_text(text)
    assert available_memory(proc, cgroup) == 8000 * 1024
    (cgroup / "memory.max").write_text("5000000\n")
    assert available_memory(proc, cgroup) == 3_000_000
    assert available_memory(tmp_path / "none", tmp_path) > 0


def test_the_command_line_says_what_a_disk_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(error: BaseException) -> str:
        monkeypatch.setattr("tlkit.cache.Cache.entries", lambda self: (_ for _ in ()).throw(error))
        result = CliRunner().invoke(main, ["cache"])
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
        return result.output

    assert "Error: The disk of '/full/a' is full" in told(failing(errno.ENOSPC, "/full/a"))
    assert "permission denied" in told(failing(errno.EACCES, "/locked/a"))
    assert "Error: Memory ran out" in told(MemoryError())
    assert "Error: something of a library" in told(OSError("something of a library"))
    monkeypatch.setattr("tlkit.cache.Cache.entries", lambda self: (_ for _ in ()).throw(ZeroDivisionError))
    assert isinstance(CliRunner().invoke(main, ["cache"]).exception, ZeroDivisionError), "a fault of tlkit's own"


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "run", "data", "--csv", "absent/a.csv"],
        ["inspect", "data", "--csv", "absent/a.csv"],
        ["inspect", "data", "--out", "file/folder"],
        ["lr-find", "data", "--csv", "absent/a.csv"],
        ["augment", "data", "--json", "absent/a.json"],
        ["finetune", "data", "--backbone", "nano", "--out", "file/run"],
        ["convert", "data", "file/clean"],
    ],
)
def test_places_that_take_no_file_are_found_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("file").write_text("")
    for work in ("data.scan.scan", "runs.predict.predict", "doctor.checkup.inspect", "data.decode.square_decoder"):
        monkeypatch.setattr(f"tlkit.{work}", lambda *a, **k: pytest.fail("the work has begun"))
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1 and "Error: '" in result.output and isinstance(result.exception, SystemExit)
    assert sorted(one.name for one in Path().iterdir()) == ["data", "file"]


def test_a_run_that_cannot_fit_says_so_before_it_begins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.disk.free_bytes", lambda path: 5_000_000)
    monkeypatch.setattr("tlkit.finetuning.prepare.scan", lambda *a, **k: pytest.fail("the work has begun"))
    with pytest.raises(DiskError, match=r"The run's folder needs about \d\d\.\d MB in .* 5\.0 MB are free"):
        finetune(folder, backbone="nano", out=folder.parent / "run")
    assert not (folder.parent / "run").exists()
