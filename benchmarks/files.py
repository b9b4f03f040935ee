"""What every way into tlkit makes of each file of a folder, and what Pillow makes of it under the documented rules.

    python benchmarks/files.py EXPORT FOLDER... [--out FOLDER] [--most 400] [--report]

EXPORT is a SavedModel that tlkit wrote. A FOLDER holds files of any kind, or is a git repository (its directory with
`HEAD` and `objects`), of whose newest commit up to `--most` image-like files are taken, evenly spaced. For each file:
scan, the decoder of the cache, the SavedModel alone, `predict` and `serve`, ok or the problem, with seconds and peak
memory, in a process of their own: one that dies, or works for 10 seconds, is named and started again.
The SavedModel gets small files 16 in a request, whose seconds and memory count for each of them. The pixels are
compared with `files_reference.py`.

A row per file is appended to OUT/NAME.csv (continues where it stopped). `--report` prints the counts and the table of
disagreements, and writes the counts to benchmarks/files.csv. Files of a corpus are not kept in this repository.
"""

import argparse
import base64
import hashlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
DOORS = ("scan", "decode", "model", "predict", "serve")
HANG, START = 10.0, 300.0  # seconds
TOGETHER, SMALL = 16, 200_000  # files in a request, and the bytes of each
FAR = 3.0  # mean difference of 255
EXPLAINED = ("cmyk: converted to RGB without its colour profile",)  # notes after which pixels may differ from Pillow's
PIXELS, BESIDE = 50_000_000, 100_000_000  # the most pixels of an image, and bytes beside four for each of them
IMAGES = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "bmp", "dib", "rle", "webp", "tif", "tiff", "btf", "heic"),
    *("heif", "hif", "avif", "jp2", "j2k", "jpx", "jpc", "pbm", "pgm", "ppm", "pnm", "pam", "pfm", "tga", "sgi"),
    *("rgb", "rgba", "bw", "pcx", "ico", "cur", "qoi", "ras", "sun", "dds", "psd", "exr", "hdr", "jxl", "svg", "icns"),
)
Answer = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("files-out"))
    parser.add_argument("--most", type=int, default=400, help="files of a git repository")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    corpora = [Corpus(folder, arguments.out, arguments.most) for folder in arguments.folders]
    if arguments.report:
        report(corpora)
        return
    export = arguments.export.absolute()
    size = json.loads((export / "tlkit.json").read_text())["image_size"]
    doors, pillow = Asked("doors", str(export)), Asked("reference", str(size))
    try:
        for corpus in corpora:
            measure(doors, pillow, corpus)
    finally:
        doors.stop()
        pillow.stop()


class Corpus:
    """The files of a folder, or of the newest commit of a git repository."""

    def __init__(self, folder: Path, out: Path, most: int) -> None:
        is_git = (folder / "HEAD").is_file() and (folder / "objects").is_dir()
        self.repository = folder.parent.name.replace("+", "/") if is_git and folder.name == "repo" else folder.name
        self.name = self.repository.replace("/", "-")
        self.rows, self.folder = out / f"{self.name}.csv", folder
        self.commit = ""
        if is_git:
            self.commit = git(folder, "rev-parse", "HEAD").decode().strip()
            self.folder = out / "corpora" / self.name
            if not self.folder.is_dir():
                extract(folder, self.folder, most)
        self.files = sorted(one for one in self.folder.rglob("*") if one.is_file())

    def named(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()


def git(folder: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True).stdout


def extract(folder: Path, to: Path, most: int) -> None:
    """Write the image-like files of the newest commit, each content once, without pointers of Git LFS."""
    blobs: dict[str, str] = {}
    for line in git(folder, "ls-tree", "-r", "-z", "HEAD").decode("utf-8", "replace").split("\0"):
        about, _, path = line.partition("\t")
        if about.split(" ")[1:2] == ["blob"] and path.lower().rpartition(".")[2] in IMAGES:
            blobs.setdefault(about.split(" ")[2], path)
    found = sorted((path, blob) for blob, path in blobs.items())
    read = []
    for path, blob in found:
        try:
            data = git(folder, "cat-file", "blob", blob)
        except subprocess.CalledProcessError:  # a snapshot may lack its largest files
            continue
        if not data.startswith(b"version https://git-lfs"):
            read.append((path, data))
    for place in np.linspace(0, len(read) - 1, min(most, len(read))).round().astype(int):
        path, data = read[place]
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        (to / path).write_bytes(data)


class Asked:
    """A process of files_doors.py, started again when it dies or hangs."""

    def __init__(self, *arguments: str) -> None:
        self.arguments, self.process, self.depth = arguments, None, 16

    def start(self) -> Any:
        command = [sys.executable, str(Path(__file__).parent / "files_doors.py"), *self.arguments]
        with Path(os.environ.get("FILES_LOG", os.devnull)).open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        if self.line(process, START) != "ready":
            process.kill()
            raise SystemExit(f"{' '.join(command)} did not start")
        return process

    @staticmethod
    def line(process: Any, seconds: float) -> str | None:
        """The next line; None if it does not come in time.

        Other programs may keep the processor busy: only a process that had these seconds of it hangs, or one that does
        not answer in six times as many.
        """
        started = worked(process.pid)
        for _ in range(6):
            ready, _, _ = select.select([process.stdout], [], [], seconds)
            if ready:
                return process.stdout.readline().decode().rstrip("\n")
            if worked(process.pid) - started > seconds:
                return None
        return None

    def ask(self, door: str, *files: Path, seconds: float = HANG) -> Answer:
        self.process = self.process or self.start()
        paths = [str(file.absolute()) for file in files]
        question = json.dumps({"door": door, "files": paths, "depth": self.depth})
        self.process.stdin.write(f"{question}\n".encode())
        self.process.stdin.flush()
        answer = self.line(self.process, seconds)
        if answer:
            return json.loads(answer)
        self.process.kill()
        code = self.process.wait()
        self.process = None
        how = "hang" if answer is None else "crash"
        return {"ok": False, "problem": f"{how} ({code})", how: True, "seconds": seconds if answer is None else 0.0}

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def worked(process: int) -> float:
    """The processor's seconds of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(doors: Asked, pillow: Asked, corpus: Corpus) -> None:
    """Append a row for each file of a corpus that has none yet."""
    done = {row["file"] for row in read_rows(corpus.rows)}
    corpus.rows.parent.mkdir(parents=True, exist_ok=True)
    left = [file for file in corpus.files if corpus.named(file) not in done]
    if left:
        doors.depth = pillow.depth = 16
        doors.depth = pillow.depth = doors.ask("depth", *corpus.files, seconds=START).get("depth", 16)
    for group in groups(left):
        together = doors.ask("batch", *group) if len(group) > 1 else {}
        for file in group:
            answers = {door: doors.ask(door, file) for door in DOORS}
            shared = answers["model"]  # of the batch: what its files took together is the most that each took
            for name in ("seconds", "memory") if "memory" in together else ():
                shared[name] = max(shared[name], together[name])
            append_row(corpus.rows, row_of(corpus, file, answers, pillow.ask("reference", file)))


def groups(files: list[Path]) -> Iterator[list[Path]]:
    """Files that the SavedModel gets in one request: up to 16 small ones, or a large one alone."""
    small = [file for file in files if file.stat().st_size <= SMALL]
    yield from (small[start : start + TOGETHER] for start in range(0, len(small), TOGETHER))
    yield from ([file] for file in files if file.stat().st_size > SMALL)


def row_of(corpus: Corpus, file: Path, answers: dict[str, Answer], pillow: Answer) -> dict[str, object]:
    """What is stored of a file."""
    scan, decode = answers["scan"], answers["decode"]
    notes = scan.get("notes", []) + decode.get("notes", [])
    mean, most = difference(decode, pillow)
    peak = max(answers.values(), key=lambda one: one.get("memory", 0))
    slow = max(answers.values(), key=lambda one: one["seconds"])
    door_of = {id(answer): door for door, answer in answers.items()}
    pixels = scan.get("width", 0) * scan.get("height", 0) or pillow.get("stored", 0)
    said = {door: "ok" if one["ok"] else one["problem"] or "no reason" for door, one in answers.items()}
    return {
        "file": corpus.named(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest()[:16],
        "bytes": file.stat().st_size,
        "pixels": pixels,
        **said,
        "pillow": f"ok {pillow['format']}" if pillow["ok"] else pillow["problem"],
        "notes": "; ".join(notes),
        "mean": mean,
        "max": most,
        "faults": "; ".join(faults(answers, notes)),
        "seconds": round(slow["seconds"], 3),
        "slowest": door_of[id(slow)],
        "memory_mb": round(peak.get("memory", 0) / 1e6, 1),
        "largest": door_of[id(peak)],
        "trace": " | ".join(one["trace"].replace("\n", " ") for one in answers.values() if "trace" in one),
    }


def difference(mine: Answer, theirs: Answer) -> tuple[object, object]:
    """Mean and highest difference of the pixels; empty where one of them has none."""
    if "pixels" not in mine or "pixels" not in theirs:
        return "", ""
    one, other = (np.frombuffer(base64.b64decode(answer["pixels"]), "uint8") for answer in (mine, theirs))
    apart = np.abs(one.astype("int32") - other)
    return round(float(apart.mean()), 3), int(apart.max())


def faults(answers: dict[str, Answer], notes: list[str]) -> Iterator[str]:
    """Everything that must not be: crashes, hangs, exceptions, doors that disagree, refusals without a reason."""
    for door, answer in answers.items():
        for kind in ("hang", "crash", "trace"):
            if kind in answer:
                yield f"{kind} in {door}"
        if not answer["ok"] and not answer["problem"]:
            yield f"no reason in {door}"
    ok = {door: answer["ok"] for door, answer in answers.items()}
    used = ok["scan"] and ok["decode"]
    is_converted = any(note.startswith("converted") for note in notes)
    expected = {"predict": used, "serve": used, "model": used and not is_converted}
    for door, should in expected.items():
        if ok[door] != should:
            yield f"doors: {door} {'ok' if ok[door] else 'not ok'}"
    values = [answers[door]["answer"] for door in ("decode", "model", "predict", "serve") if ok[door]]
    best = [max(one) for one in values]
    if best and max(best) - min(best) > 1e-3:
        yield f"doors: probabilities {', '.join(f'{one:.3f}' for one in best)}"


# -- the report --------------------------------------------------------------------------------------------


def report(corpora: list["Corpus"]) -> None:
    """Print the counts and the disagreements, and write the counts."""
    FILE.unlink(missing_ok=True)
    for corpus in corpora:
        rows = read_rows(corpus.rows)
        if rows:
            append_row(FILE, counts(corpus, rows))
    for corpus in corpora:
        for row in read_rows(corpus.rows):
            for kind in verdicts(row):
                print(f"{kind:<12} {corpus.name}/{row['file']}")
                print("             " + " | ".join(f"{name}: {row[name][:90]}" for name in (*DOORS, "pillow")))
                print(f"             mean {row['mean']} max {row['max']}; {row['notes'][:200]} {row['faults'][:200]}")


def verdicts(row: dict[str, str]) -> Iterator[str]:
    """In what a file misses the bar, and where Pillow reads what tlkit does not, or the reverse."""
    if "trace in" in row["faults"] or "crash in" in row["faults"]:
        yield "traceback"
    if "hang in" in row["faults"]:
        yield "hang"
    if "doors:" in row["faults"] or "no reason" in row["faults"]:
        yield "doors"
    if row["mean"] and float(row["mean"]) > FAR:
        yield "explained" if why_apart(row) else "pixels"
    if beside(row) > 4 * PIXELS:
        yield "memory"
    if (row["decode"] == "ok") != row["pillow"].startswith("ok"):
        yield "pillow only" if row["pillow"].startswith("ok") else "tlkit only"


def why_apart(row: dict[str, str]) -> str:
    """The note of scan that says why pixels differ from Pillow's; empty if none does."""
    return next((note for note in EXPLAINED if note in row["notes"]), "")


def counts(corpus: Corpus, rows: list[dict[str, str]]) -> dict[str, object]:
    found = [list(verdicts(row)) for row in rows]
    used = [row for row in rows if row["scan"] == row["decode"] == "ok"]
    return {
        "date": date.today().isoformat(),
        "corpus": corpus.name,
        "repository": corpus.repository,
        "commit": corpus.commit[:12],
        "files": len(rows),
        "ok": len(used),
        "converted": sum("converted" in row["notes"] for row in used),
        "named_problems": len(rows) - len(used),
        **{
            name: sum(kind in one for one in found)
            for name, kind in {
                "tracebacks": "traceback",
                "hangs": "hang",
                "doors_disagree": "doors",
                "pixels_off": "pixels",
                "pixels_explained": "explained",
                "only_pillow_reads": "pillow only",
                "only_tlkit_reads": "tlkit only",
                "over_memory": "memory",
            }.items()
        },
        "compared": sum(bool(row["mean"]) for row in rows),
        "max_seconds": max(float(row["seconds"]) for row in rows),
        "max_memory_mb": max(float(row["memory_mb"]) for row in rows),
        "max_bytes_per_allowed_pixel": round(max(beside(row) for row in rows) / PIXELS, 2),
        **{name: version(name) for name in ("tlkit", "tensorflow", "pillow")},
    }


def beside(row: dict[str, str]) -> float:
    """The bytes of the peak above 100 MB."""
    return max(0.0, float(row["memory_mb"]) * 1e6 - BESIDE)


if __name__ == "__main__":
    main()
