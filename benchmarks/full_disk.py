"""What happens when the disk is full, or read-only, at each point of a run?

    unshare --user --map-root-user --mount python benchmarks/full_disk.py [POINT ...]
    python benchmarks/full_disk.py --report

Mounts a small tmpfs (as root, `unshare` is not needed) with an earlier, finished run and a file of the user's on it,
and runs a command of tlkit as a process of its own, on scikit-learn's digits with `nano`. Just before a function of
tlkit that writes, the process fills the disk up to a few bytes, or makes it read-only. So the errors are the kernel's
own. Then it is asked:

- how the command ended, and its last sentence, or whether there was a traceback;
- whether every file that was there before has the same SHA-256 (those of the run that is replaced by intent aside);
- whether temporary files were left behind;
- whether the run is finished, with the predictions of an undisturbed run; if it is not, whether `--resume` goes on with
  it once there is room, or the same command repeats it if it has no plan.json yet, to the same predictions.

Appends a row per point to benchmarks/full_disk.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
SIZE = "96m"
PER_CLASS = 8
RECIPE = ["--backbone", "nano", "--recipe", "small_similar"]
FINETUNE = ["finetune", "{data}", *RECIPE, "--out", "{disk}/run"]


@dataclass(frozen=True)
class Point:
    """A point of failure.

    command: with {disk}, {data}, {earlier} (a finished run on the disk) and {kept} (one elsewhere) filled in.
    before: "module:function", just before which the disk fails; "" for before the command.
    left: bytes that stay free; None for a disk that becomes read-only.
    cache: whether the caches are on the disk.
    goes_on: whether the command must succeed.
    again: whether an unfinished run is resumed once there is room, or repeated if it has no plan.json yet.
    """

    command: list[str]
    before: str = ""
    left: int | None = 0
    cache: bool = False
    goes_on: bool = False
    again: bool = False


ELSEWHERE = ["finetune", "{data}", *RECIPE, "--no-report", "--out", "{scratch}/run"]
SHORT = [*FINETUNE, "--no-report"]
POINTS = {
    "full: pixels into the cache": Point(ELSEWHERE, "tlkit.data.pixels:open_writers", 1000, cache=True, goes_on=True),
    "full: features into the cache": Point(
        ELSEWHERE, "tlkit.features.extract:open_writers", 1000, cache=True, goes_on=True
    ),
    "full: the index of a cache's shard": Point(ELSEWHERE, "tlkit.cache:_index", 0, cache=True, goes_on=True),
    "full: before a run": Point(SHORT, "", 1_000_000),
    "full: split.csv": Point(SHORT, "tlkit.finetuning.prepare:Prepared.write", again=True),
    "full: model.keras": Point(SHORT, "tlkit.finetuning.judge:save_model", 200_000, again=True),
    "full: predictions.csv": Point(SHORT, "tlkit.finetuning.judge:_calibrate_and_score", again=True),
    "full: the run's SavedModel": Point(SHORT, "tlkit.finetuning.deliver:export_served", 1_000_000, again=True),
    "full: metrics.json": Point(SHORT, "tlkit.runs.folder:Run.write_metrics", again=True),
    "full: the run's report": Point(FINETUNE, "tlkit.finetuning.deliver:write_report", 20_000),
    "full: a run that replaces another": Point(
        ["finetune", "{data}", *RECIPE, "--no-report", "--out", "{earlier}", "--force"],
        "tlkit.finetuning.judge:save_model",
        200_000,
        again=True,
    ),
    "full: export as SavedModel": Point(
        ["export", "{earlier}", "--to", "{disk}/out"], "tlkit.runs.export:export", 1_000_000
    ),
    "full: export as Keras": Point(
        ["export", "{earlier}", "--format", "keras"], "tlkit.runs.export:write_target", 1_000_000
    ),
    "full: report": Point(["report", "{earlier}"], "tlkit.reporting.report:_write_tables", 1000),
    "full: predict --csv": Point(
        ["predict", "{kept}", "{data}/3", "--csv", "{disk}/a.csv"], "tlkit.runs.predict:predict"
    ),
    "full: explain": Point(
        ["explain", "{kept}", "{data}/3/0003.png", "--out", "{disk}/a.png"], "tlkit.runs.explain:explain_files"
    ),
    "full: convert": Point(["convert", "{data}", "{disk}/clean"], "tlkit.data.clean:_write"),
    "full: ensemble": Point(
        ["ensemble", "{kept}", "{earlier}", "--out", "{disk}/both"], "tlkit.runs.ensemble:export", 1_000_000
    ),
    "read-only: the cache": Point(ELSEWHERE, "", None, cache=True, goes_on=True),
    "read-only: finetune": Point(SHORT, "", None),
    "read-only: export --to": Point(["export", "{kept}", "--to", "{disk}/out"], "", None),
    "read-only: predict --csv": Point(["predict", "{kept}", "{data}/3", "--csv", "{disk}/a.csv"], "", None),
    "read-only: report": Point(["report", "{earlier}"], "", None),
    "read-only: explain": Point(["explain", "{kept}", "{data}/3/0003.png", "--out", "{disk}/a.png"], "", None),
    "read-only: predict with a run on it": Point(["predict", "{earlier}", "{data}/3"], "", None, goes_on=True),
    "read-only: in the middle of a run": Point(SHORT, "tlkit.finetuning.judge:save_model", None, again=True),
}


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return worker(*sys.argv[2:5], sys.argv[5:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("points", nargs="*", metavar="POINT", help="default all")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        with tempfile.TemporaryDirectory() as scratch:
            kept, data = prepared(Path(scratch))
            for name in arguments.points or POINTS:
                row = measured(name, POINTS[name], Path(scratch), kept, data)
                append_row(FILE, row)
    report(read_rows(FILE))
    return None


def prepared(scratch: Path) -> tuple[Path, Path]:
    """An undisturbed run, and its data."""
    from tlkit.finetuning.demo import write_digits

    data, kept = write_digits(scratch / "digits", PER_CLASS), scratch / "kept"
    done = tlkit(["finetune", str(data), *RECIPE, "--out", str(kept)], scratch / "cache")
    assert done.returncode == 0, done.stderr
    return kept, data


def tlkit(command: list[str], cache: Path, *wrapped: str) -> subprocess.CompletedProcess[str]:
    """Run a command of tlkit in a process of its own. wrapped: the arguments of `worker` before the command."""
    start = [sys.executable, __file__, "--worker", *wrapped] if wrapped else [sys.executable, "-m", "tlkit"]
    environment = {**os.environ, "TLKIT_CACHE": str(cache)}
    return subprocess.run([*start, *command], capture_output=True, text=True, env=environment)


def worker(before: str, left: str, disk: str, command: list[str]) -> None:
    """Run a command of tlkit whose disk fails just before a function is called for the first time."""
    module, _, name = before.partition(":")
    holder: Any = importlib.import_module(module)
    *parents, last = name.split(".")
    for one in parents:
        holder = getattr(holder, one)
    function, failed = getattr(holder, last), []

    def failing(*arguments: Any, **settings: Any) -> Any:
        if not failed:
            failed.append(True)
            fail(Path(disk), None if left == "None" else int(left))
        return function(*arguments, **settings)

    setattr(holder, last, failing)
    if left == "None":  # while a file is open, here the lock, a tmpfs does not become read-only
        from tlkit.checkpoints import Checkpoints

        Checkpoints.locked = lambda self: contextlib.nullcontext()  # type: ignore[method-assign]
    from tlkit.cli.main import main as command_line

    sys.argv = ["tlkit", *command]
    command_line()


def fail(disk: Path, left: int | None) -> None:
    """Fill a disk up to `left` bytes, or make it read-only."""
    if left is None:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        return
    with (disk / "filler").open("ab") as filler, contextlib.suppress(OSError):
        while (free := shutil.disk_usage(disk).free - left) > 0:
            filler.write(bytes(min(free, 2**20)))
            filler.flush()


def measured(name: str, point: Point, scratch: Path, kept: Path, data: Path) -> dict[str, Any]:
    disk = scratch / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
    try:
        earlier = disk / "earlier"
        shutil.copytree(kept, earlier)
        (disk / "mine.txt").write_text("a file of the user's")
        shutil.rmtree(scratch / "run", ignore_errors=True)
        places = {"disk": disk, "data": data, "earlier": earlier, "kept": kept, "scratch": scratch}
        command = [one.format(**places) for one in point.command]
        cache = disk / "cache" if point.cache else scratch / "cache"
        before = hashes(disk)
        if not point.before:
            fail(disk, point.left)
        wrapped = (point.before, str(point.left), str(disk)) if point.before else ()
        done = tlkit(command, cache, *wrapped)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        (disk / "filler").unlink(missing_ok=True)
        after = hashes(disk)
        lines = [line for line in done.stderr.strip().splitlines() if line.startswith("Error: ")]
        failed = "Traceback" in done.stderr
        said = lines[-1] if lines else done.stderr.strip().splitlines()[-1] if failed else ""
        if failed:
            print(done.stderr[-4000:])
        for place, path in places.items():
            said = said.replace(str(path), f"{{{place}}}")
        return {
            "date": date.today().isoformat(),
            "point": name,
            "exit": done.returncode,
            "sentence": said,
            "traceback": failed,
            "as_expected": (done.returncode == 0) == point.goes_on and bool(lines) != point.goes_on,
            "earlier_files": len(before),
            "unchanged": sum(after.get(file) == digest for file, digest in before.items()),
            "left_behind": sum(".tmp-" in file or ".partial" in file for file in after),
            "run": state_of_run(command, kept, scratch, point.again),
        }
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def hashes(disk: Path) -> dict[str, str]:
    files = [one for one in disk.rglob("*") if one.is_file()]
    return {str(one.relative_to(disk)): hashlib.sha256(one.read_bytes()).hexdigest() for one in files}


def state_of_run(command: list[str], kept: Path, scratch: Path, again: bool) -> str:
    """Whether the run is finished, or can be repeated now that there is room; "" if the command trains none."""
    if command[0] != "finetune":
        return ""
    out = Path(command[command.index("--out") + 1])
    same = (kept / "predictions.csv").read_bytes()
    unfinished = sorted(out.parent.glob(f".unfinished-*-{out.name}"))
    if (out / "metrics.json").is_file() and not unfinished:
        return "finished, same predictions" if (out / "predictions.csv").read_bytes() == same else "finished, others"
    plan = next((one / "plan.json" for one in (*unfinished, out) if (one / "plan.json").is_file()), None)
    if not again:
        return "nothing was written" if not out.exists() else f"unfinished, {'with' if plan else 'without'} plan.json"
    what = (
        [command[1], *RECIPE, "--no-report", "--out", str(out), "--force"] if plan is None else ["--resume", str(out)]
    )
    how = "repeated from the command" if plan is None else "resumed"
    if tlkit(["finetune", *what], scratch / "cache").returncode:
        return f"cannot be {how}"
    same_again = (out / "predictions.csv").read_bytes() == same
    return f"{how}, {'same' if same_again else 'other'} predictions"


def report(rows: list[dict[str, str]]) -> None:
    latest = {row["point"]: row for row in rows}
    print("| point | exit | what was said | earlier files unchanged | left behind | run |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in latest.values():
        said = "a traceback" if row["traceback"] == "True" else row["sentence"].removeprefix("Error: ") or "goes on"
        print(
            f"| {row['point']} | {row['exit']} | {said} | {row['unchanged']} of {row['earlier_files']} | "
            f"{row['left_behind']} | {row['run']} |"
        )


if __name__ == "__main__":
    main()
