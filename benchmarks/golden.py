"""Golden runs: check that tlkit gives the same numbers before and after a change of its code.

    python benchmarks/golden.py make FOLDER [--sets digits drawn listed]
    python benchmarks/golden.py compare A B [--spread A1 A2] [--relative 1e-6] [--ignore-words] [--sets ...]

`make` runs what a user runs (`tlkit.finetune`, `tlkit.report`, the command line) on small data sets that it writes
itself, and keeps the results in FOLDER/cases. It uses only public names, so the same script runs before and after.
Everything runs in one process on one thread with a cache of its own, so that it repeats bit for bit. No time limit
interferes: runs get 240 minutes, where some steps would otherwise stop after 15 seconds, and a report is written only
for sets that are small enough for its own limit.

`compare` says for each case and artefact whether it is equal bit for bit, and if not, where it first differs and by how
much. Times, dates, versions, the command and the device are ignored, folder names are replaced by FOLDER, and sentences
are compared separately from other values. "--spread A1 A2" also accepts differences no larger than those between two
earlier makes. The exit code is 1 if anything is different.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Names that were changed on purpose: old -> new, or None for what is no longer written. They apply to keys of JSON,
# columns of CSV, file names, and whole values (such as "val" in a column); "a.b" is a path of keys at any depth.
RENAMED: dict[str, str | None] = {
    "settings": "job",
    "job.backbone": None,  # the job holds what was asked for, and "backbone" what was taken
    "max_minutes": None,  # the job's now
    "part": "split",
    "other_part": "other_split",
    "val": "validation",
    "robustness": None,  # of other corruptions now
    "parity.bytes": None,  # the SavedModel holds the walk over a GIF's blocks now
}
# Keys that were added on purpose.
ADDED: tuple[str, ...] = (
    "files",
    "decided",
    "ensemble_of",
    "members",
    "parity.bytes",
    "job.backbone",
    "augmented",
    *(
        f"job.{name}"
        for name in ("allow", "augment", "batch_size", "cache_gb", "checked", "effort", "epochs", "max_minutes")
    ),
    *(f"job.{name}" for name in ("recipe", "report", "strict")),
)

# Keys of times, dates, versions, the machine or the command.
PASSING = re.compile(
    r"(^|_)(seconds|milliseconds|minutes|started|date|versions?|command|device|tlkit|times_as_long)(_|$)"
)
# Largest differences by chance: TensorFlow writes a random number of varying length into every SavedModel.
CHANCE = {"bytes": 64}
# Keys whose values are sentences.
SENTENCES = {"why", "why_not", "sentences", "hints", "notes", "note", "outcome", "detail", "about"}

SEEDS = (0, 1, 2)
RECIPES = ("small_similar", "small_different", "large_similar", "large_different", "auto")
EXTRAS = {"litert": "ai_edge_litert", "litert-int8": "ai_edge_litert", "onnx": "onnxruntime", "keras": "keras"}
UNHURRIED = 240.0  # minutes; a tenth of a run's limit is for the safety check, and half is for the tournament
THREADS = dict.fromkeys(
    ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)
SETTINGS = {"TF_DETERMINISTIC_OPS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "NO_ALBUMENTATIONS_UPDATE": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="make the golden runs in a new folder")
    making.add_argument("folder", type=Path)
    comparing = commands.add_parser("compare", help="compare two folders")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument("--spread", nargs=2, type=Path, metavar=("A1", "A2"), help="two makes of the same code")
    comparing.add_argument("--relative", type=float, default=0.0, metavar="SHARE", help="such as 1e-6; default 0")
    comparing.add_argument("--ignore-words", action="store_true", help="sentences may differ")
    for one in (making, comparing):
        one.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.folder, arguments.sets)
    else:
        sys.exit(compare(arguments))


# -- making -----------------------------------------------------------------------------------------------


def make(folder: Path, sets: list[str]) -> None:
    """Make the golden runs of `sets` in a folder that is new or empty."""
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"'{folder}' is not empty. Give a new folder.")
    (folder / "keras").mkdir(parents=True)
    # before anything that reads them is imported
    os.environ.update(
        {**THREADS, **SETTINGS, "TLKIT_CACHE": str(folder / "cache"), "KERAS_HOME": str(folder / "keras")}
    )
    import tlkit

    started = time.monotonic()
    about = {"folder": str(folder), "sets": sets, "date": time.strftime("%Y-%m-%d"), "commit": _commit(tlkit.__file__)}
    (folder / "make.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    made = Making(folder)
    for name in sets:
        SETS[name](made)
    shutil.rmtree(folder / "cache")
    seconds, cpu = time.monotonic() - started, sum(os.times()[:4])
    print(f"{made.count} cases in {seconds:.0f} s ({cpu:.0f} s of CPU): {folder}")


@dataclass
class Making:
    """A folder in which golden runs are made: the runs in runs/, and their results in cases/."""

    folder: Path
    count: int = 0

    def data(self, name: str) -> Path:
        return self.folder / "data" / name

    def run(self, name: str, data: Path, **settings: Any) -> Path:
        """Fine-tune, and keep the results. Returns the run's folder."""
        import keras

        import tlkit

        out = self.folder / "runs" / name
        with self.case(name) as kept:
            keras.utils.clear_session()  # so that the names of layers do not depend on earlier runs
            settings = {"max_minutes": UNHURRIED, "cache_gb": 5.0, "report": False, **settings}
            tlkit.finetune(data, out=out, **settings)
            for file in ("plan.json", "metrics.json", "split.csv", "problems.csv", "history.csv", "predictions.csv"):
                shutil.copyfile(out / file, kept / file)
            keep_weights(tlkit.load_model(out), kept)
            if settings["report"]:
                keep_report(out, kept)
        return out

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[Path]:
        """Yield a new folder for the results of a case, and print the seconds that the case took."""
        started, kept = time.monotonic(), self.folder / "cases" / name
        kept.mkdir(parents=True)
        yield kept
        self.count += 1
        print(f"{name:<28} {time.monotonic() - started:6.1f} s", flush=True)


def make_digits(made: Making) -> None:
    """Run `nano` on handwritten digits: every recipe and auto, the exports, a report, a leaderboard, an ensemble."""
    import tlkit

    data = tlkit.write_digits(made.data("digits"), per_class=20)  # 40 for validation: fewer judge no fine-tuning
    nano: dict[str, Any] = {"backbone": "nano", "image_size": 64, "epochs": 2}
    for seed in SEEDS:
        for recipe in RECIPES:
            made.run(f"digits-{recipe}-{seed}", data, recipe=recipe, seed=seed, **nano)
    run, other = (made.folder / "runs" / f"digits-{name}-0" for name in ("large_similar", "small_different"))
    with made.case("digits-report") as kept:
        tlkit.report([run])
        keep_report(run, kept)
    with made.case("digits-leaderboard") as kept:
        keep_page(tlkit.report([run, other], out=made.folder / "runs" / "leaderboard.html"), kept)
    some = [str(file) for file in sorted(data.rglob("*.png"))[::5]]
    for target in ("savedmodel", *(name for name, module in EXTRAS.items() if _installed(module))):
        with made.case(f"digits-export-{target}") as kept:
            to = made.folder / "runs" / f"export-{target}"
            command("export", run, "--to", to, "--format", target, "--force")
            tlkit.predict(to, some).to_csv(kept / "predictions.csv", index=False)
            shutil.copyfile(to / "tlkit.json", kept / "tlkit.json")
            table = read_rows((run / "exports.csv").read_text())
            proofs = [{key: number_of(text) for key, text in row.items()} for row in table if row["format"] == target]
            (kept / "proof.json").write_text(json.dumps(proofs, indent=2))
    with made.case("digits-evaluate") as kept:
        (kept / "evaluate.json").write_text(command("evaluate", run, "--json"))
        (kept / "views.json").write_text(command("evaluate", run, "--json", "--views", "ten-crop"))
        command("predict", run, *some, "--csv", kept / "predictions.csv")
    with made.case("digits-ensemble") as kept:
        out = made.folder / "runs" / "digits-ensemble"
        command("ensemble", run, other, "--out", out)
        for file in ("plan.json", "metrics.json", "predictions.csv"):
            shutil.copyfile(out / file, kept / file)
    with made.case("digits-lr-find") as kept:
        command(
            "lr-find", data, "--backbone", "nano", "--image-size", "64", "--unfreeze", "1", "--csv", kept / "lr.csv"
        )
    look_at_data(made, "digits", data, "--backbone", "nano", "--image-size", "64")


def make_drawn(made: Making) -> None:
    """Run a tiny backbone of our own on drawn images with given splits: every recipe and auto, with reports."""
    data = made.data("drawn")
    for part, count in (("train", 40), ("val", 16), ("test", 8)):
        for index, name in enumerate(COLOURS):
            write_images(
                data / part / name, name, count, start=1000 * index + {"train": 0, "val": 400, "test": 700}[part]
            )
    tiny: dict[str, Any] = {"backbone": tiny_file(made.folder / "tiny.keras"), "image_size": 32}
    for seed in SEEDS:
        for recipe in RECIPES:
            report = seed == 0 and recipe in ("large_different", "auto")
            made.run(f"drawn-{recipe}-{seed}", data, recipe=recipe, seed=seed, report=report, **tiny)
    made.run("drawn-streamed", data, recipe="large_similar", **tiny | {"cache_gb": 0.0})
    made.run(
        "drawn-from", data, from_run=made.folder / "runs" / "drawn-large_similar-0", recipe="large_similar", seed=5
    )
    made.run("drawn-repeated", made.folder / "runs" / "drawn-auto-1" / "plan.json")
    look_at_data(made, "drawn", data)


def make_listed(made: Making) -> None:
    """Run a CSV with groups and awkward files: rotated JPEGs, grey and oblong images, a damaged file, a duplicate."""
    data = write_listed(made.data("listed"))
    tiny: dict[str, Any] = {"backbone": tiny_file(made.folder / "tiny.keras"), "image_size": 32}
    listed: dict[str, Any] = {"recipe": "large_different", "group_by": "group", "max_error": 0.1}
    for fit, preset in (("crop", "standard"), ("pad", "strong")):
        made.run(f"listed-{fit}-{preset}", data, fit=fit, augment=preset, epochs=4, **listed, **tiny)
    made.run("listed-default", data, report=True)  # as little as can be said; no limit is given
    look_at_data(made, "listed", data, "--group-by", "group")


SETS: dict[str, Callable[[Making], None]] = {"digits": make_digits, "drawn": make_drawn, "listed": make_listed}


def look_at_data(made: Making, name: str, data: Path, *options: str) -> None:
    """Keep what `tlkit inspect` and `tlkit augment --check` report for a data set."""
    with made.case(f"{name}-inspect") as kept:
        said = command("inspect", data, "--out", kept, *options)
        (kept / "said.txt").write_text(said, encoding="utf-8")
        (kept / "data.json").write_text(json.dumps(hashes(data if data.is_dir() else data.parent)))
    if name == "drawn":  # the check takes longest on it, and the other sets have one
        return
    with made.case(f"{name}-augment") as kept:
        command("augment", data, "--check", "--json", kept / "verdicts.json", "--write", kept / "augmentation.json")


def command(*words: object) -> str:
    """Return what `python -m tlkit WORDS` prints, run in this process so that TensorFlow is imported only once."""
    before, sys.argv = sys.argv, ["tlkit", *map(str, words)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module("tlkit", run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{' '.join(sys.argv)} ended with {ended.code}") from None
    finally:
        sys.argv = before
    return said.getvalue()


def keep_weights(model: Any, kept: Path) -> None:
    """Keep the values and SHA-256 of every weight, by its index and its variable's path."""
    import numpy as np

    weights = {f"{number:03d} {one.path}": np.asarray(one.numpy()) for number, one in enumerate(model.weights)}
    np.savez(kept / "weights.npz", **{name.replace("/", "|"): value for name, value in weights.items()})
    digests = {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in weights.items()}
    (kept / "weights.json").write_text(json.dumps(digests, indent=2) + "\n")


def keep_report(run: Path, kept: Path) -> None:
    for file in ("report.json", "mistakes.csv", "label_errors.csv", "duplicates.csv", "outliers.csv"):
        if (run / file).is_file():
            shutil.copyfile(run / file, kept / (file if file == "report.json" else f"report-{file}"))
    keep_page(run / "report.html", kept)


def keep_page(page: Path, kept: Path) -> None:
    """Keep the number of elements of a page, and its ids; not its text, which may be reworded."""
    text = page.read_text(encoding="utf-8")
    counts = {
        tag: len(re.findall(rf"<{tag}\b", text)) for tag in ("img", "svg", "table", "tr", "td", "section", "details")
    }
    facts = {**counts, "ids": re.findall(r'\bid="([^"]+)"', text)}
    (kept / "page.json").write_text(json.dumps(facts, indent=2) + "\n")


# -- data -------------------------------------------------------------------------------------------------

COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 40, 30)}


def draw(name: str, seed: int, wide: int = 40, high: int = 40) -> Any:
    """Draw a bright bar on a noisy background in the colour of a class, similar enough to others for some mistakes."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    ground = 0.25 * np.array(COLOURS[name]) + 0.75 * np.array([95, 95, 95]) + random.normal(0, 12, 3)
    pixels = ground + random.normal(0, 40, (high, wide, 3))
    y, x = (int(random.integers(4, side - 12)) for side in (high, wide))
    tall = list(COLOURS).index(name)
    pixels[y : y + 4 + 3 * tall, x : x + 10 - 3 * tall] += 70
    return Image.fromarray(pixels.clip(0, 255).astype("uint8"))


def write_images(folder: Path, name: str, count: int, start: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        draw(name, start + number).save(folder / f"{number:03d}.png")


def write_listed(folder: Path) -> Path:
    """Write a CSV of images with groups. Returns its path."""
    from PIL import Image

    folder.mkdir(parents=True)
    rows = []
    for index, name in enumerate(COLOURS):
        for number in range(36):
            image = draw(name, 5000 + 100 * index + number, 40 + number % 5 * 6, 40 + number % 3 * 10)
            path = f"{name}-{number:02d}.{'jpg' if number % 2 else 'png'}"
            if number % 6 == 0:
                image = image.convert("L")
            exif = Image.Exif()
            exif[0x0112] = 1 + number % 8  # Orientation
            image.save(folder / path, **({"quality": 90, "exif": exif} if number % 2 else {}))
            rows.append({"path": path, "label": name, "group": f"{name}-{number // 3}"})
    (folder / "damaged.jpg").write_bytes((folder / "red-01.jpg").read_bytes()[:300])
    shutil.copyfile(folder / "blue-03.jpg", folder / "double.jpg")
    rows += [
        {"path": "damaged.jpg", "label": "red", "group": "damaged"},
        {"path": "double.jpg", "label": "blue", "group": "double"},
    ]
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "images.csv"


def tiny_file(file: Path) -> str:
    """Write a backbone of four small blocks with BatchNormalization, 32 pixels, seeded weights, as a `.keras` file."""
    import keras

    if not file.exists():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((32, 32, 3))
        x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
        for filters in (8, 16, 24, 32):
            x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", name=f"conv_{filters}")(x)
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"bn_{filters}")(x)
            x = keras.layers.Activation("relu", name=f"relu_{filters}")(x)
        keras.Model(inputs, x).save(file)
    return str(file)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _installed(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def _commit(file: str | None) -> str | None:
    """Return the commit of the code that runs, with a + if it has uncommitted changes."""
    there = Path(str(file)).parent
    asked = [
        subprocess.run(["git", "-C", str(there), *words], capture_output=True, text=True, check=False).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "."))
    ]
    return asked[0] + ("+" if asked[1] else "") or None


# -- comparing --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A difference between two artefacts.

    Args:
        key: where they differ.
        old, new: the two values.
        size: the absolute difference of two numbers; infinity for other values.
        relative: the difference relative to the larger of the two numbers, or for arrays to the largest of all.
    """

    key: str
    old: object
    new: object
    size: float = math.inf
    relative: float = math.inf


@dataclass(frozen=True)
class Verdict:
    """The result for an artefact of a case. values: how many were compared."""

    result: str
    values: int = 0
    worst: Difference | None = None
    first: Difference | None = None
    count: int = 0

    @property
    def bad(self) -> bool:
        return self.result in ("DIFFERENT", "MISSING")


@dataclass
class Made:
    """Read a folder that `make` wrote: case -> artefact -> key -> value."""

    folder: Path
    renamed: Mapping[str, str | None] = field(default_factory=dict)

    def cases(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "cases").iterdir())

    def artefacts(self, case: str) -> dict[str, dict[str, Any]]:
        """Return the values and the sentences of every file of a case, with flat keys."""
        root = json.loads((self.folder / "make.json").read_text(encoding="utf-8"))["folder"]
        found: dict[str, dict[str, Any]] = {}
        for file in sorted((self.folder / "cases" / case).iterdir()):
            name = self.renamed.get(file.name, file.name)
            if name is None or file.name == "weights.json":  # the values are compared
                continue
            if file.suffix == ".npz":
                found[name] = weights_of(file)
                continue
            text = file.read_text(encoding="utf-8").replace(root, "FOLDER")
            if file.suffix == ".txt":
                found[f"{name}, words"] = {f"line {i}": line for i, line in enumerate(text.splitlines(), start=1)}
                continue
            values = json.loads(text) if file.suffix == ".json" else columns_of(text)
            flat = dict(leaves(values, self.renamed))
            found[name] = {key: value for key, value in flat.items() if not is_words(key)}
            words = {key: value for key, value in flat.items() if is_words(key)}
            if words:
                found[f"{name}, words"] = words
        return found


def weights_of(file: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(file, allow_pickle=False) as arrays:
        return {name.replace("|", "/"): arrays[name] for name in arrays.files}


def read_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def columns_of(text: str) -> dict[str, Any]:
    """Return the columns of a CSV as lists, with numbers converted."""
    rows = read_rows(text)
    names = next(csv.reader(io.StringIO(text)), [])
    return {name: [number_of(row[name]) for row in rows] for name in names} | {"rows": len(rows)}


def number_of(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def leaves(value: Any, renamed: Mapping[str, str | None], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every value that is not a container, by its path of new key names, except those that `PASSING` ignores."""
    if isinstance(value, dict):
        if not value:
            yield ".".join(path), {}
        for key, one in value.items():
            name = new_name((*path, str(key)), renamed)
            if name is not None and not PASSING.search(name):
                yield from leaves(one, renamed, (*path, name))
    elif isinstance(value, list):
        yield ".".join((*path, "length")), len(value)
        for number, one in enumerate(value):
            yield from leaves(one, renamed, (*path, str(number)))
    else:
        yield ".".join(path), (renamed.get(value) or value) if isinstance(value, str) else value


def new_name(path: tuple[str, ...], renamed: Mapping[str, str | None]) -> str | None:
    """Return the new name of the last key of a path, by the longest rule that fits; None if it is no longer written."""
    for start in range(len(path)):
        old = ".".join(path[start:])
        if old in renamed:
            new = renamed[old]
            return None if new is None else new.rsplit(".", 1)[-1]
    return path[-1]


def is_words(key: str) -> bool:
    return any(part in SENTENCES for part in key.split("."))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Return the differences, in order. NaN equals NaN."""
    found = [Difference(key, value, "(missing)") for key, value in old.items() if key not in new]
    for key, value in new.items():
        if key not in old:
            if not any(f".{one}." in f".{key}." for one in ADDED):
                found.append(Difference(key, "(missing)", value))
        elif (one := difference(key, old[key], value)) is not None:
            found.append(one)
    return found


def difference(key: str, old: Any, new: Any) -> Difference | None:
    if hasattr(old, "tobytes"):
        return difference_of_arrays(key, old, new)
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (old, new))
    if not numbers:
        return None if type(old) is type(new) and old == new else Difference(key, old, new)
    if old == new or (math.isnan(old) and math.isnan(new)):
        return None
    size = abs(old - new)
    if size <= CHANCE.get(key.rsplit(".", 1)[-1], 0):
        return None
    return Difference(key, old, new, *((size, size / max(abs(old), abs(new))) if math.isfinite(size) else ()))


def difference_of_arrays(key: str, old: Any, new: Any) -> Difference | None:
    import numpy as np

    if old.dtype == new.dtype and old.shape == new.shape and old.tobytes() == new.tobytes():
        return None
    if old.shape != new.shape:
        return Difference(key, old.shape, new.shape)
    first, second = old.astype("float64"), new.astype("float64")
    size = float(np.abs(first - second).max(initial=0.0))
    largest = max(float(np.abs(one).max(initial=0.0)) for one in (first, second))
    index = int(np.abs(first - second).argmax())
    return Difference(
        key, float(first.flat[index]), float(second.flat[index]), size, size / largest if largest else 0.0
    )


def judge(old: Mapping[str, Any], new: Mapping[str, Any], spread: list[Difference] | None, relative: float) -> Verdict:
    """Judge whether two artefacts are equal, close enough, or different. spread: differences of two earlier makes."""
    found = differences(old, new)
    if not found:
        return Verdict("equal", len(new))
    if all(one.relative <= relative for one in found):
        result = f"within {relative:g}"
    elif spread is not None and all(one.size <= allowed(one.key, spread) for one in found):
        result = "within spread"
    else:
        result = "DIFFERENT"
    return Verdict(result, len(new), max(found, key=lambda one: one.size), found[0], len(found))


def allowed(key: str, spread: list[Difference]) -> float:
    """Return how much a value may differ, given the differences between two makes of the same code.

    A number may differ as much as any number of the artefact did; another value, only if it differed itself.
    """
    numbers = [one.size for one in spread if math.isfinite(one.size)]
    return math.inf if any(one.key == key and math.isinf(one.size) for one in spread) else max(numbers, default=-1.0)


def compare(arguments: argparse.Namespace) -> int:
    """Print the table of results. Returns 1 if anything is different, else 0."""
    old, new = Made(arguments.old, RENAMED), Made(arguments.new)
    spread = [Made(folder, RENAMED) for folder in arguments.spread or ()]
    verdicts: list[Verdict] = []
    wanted = [case for case in sorted({*old.cases(), *new.cases()}) if case.split("-", 1)[0] in arguments.sets]
    print(f"{'case':<28} {'artefact':<28} {'values':>6}  {'result':<14} differences, the largest, the first")
    for case in wanted:
        if case not in old.cases() or case not in new.cases():
            verdicts.append(Verdict("MISSING"))
            print(f"{case:<28} {'':<28} {'':>6}  MISSING        in {(old if case not in old.cases() else new).folder}")
            continue
        before, after = old.artefacts(case), new.artefacts(case)
        twice = [one.artefacts(case) for one in spread]
        for name in [*before, *(name for name in after if name not in before)]:
            if arguments.ignore_words and name.endswith(", words"):
                continue
            between = differences(*(one.get(name, {}) for one in twice)) if twice else None
            verdict = judge(before.get(name, {}), after.get(name, {}), between, arguments.relative)
            verdicts.append(verdict)
            print(f"{case:<28} {name:<28} {verdict.values:>6}  {verdict.result:<14} {told(verdict)}".rstrip())
    counts = {
        result: sum(one.result == result for one in verdicts) for result in dict.fromkeys(v.result for v in verdicts)
    }
    print(
        f"\n{len(wanted)} cases, {len(verdicts)} artefacts: "
        + ", ".join(f"{n} {result}" for result, n in counts.items())
    )
    return int(not verdicts or any(one.bad for one in verdicts))


def told(verdict: Verdict) -> str:
    if verdict.worst is None or verdict.first is None:
        return ""
    worst, first = verdict.worst, verdict.first
    size = f"{worst.size:.2g} (relative {worst.relative:.1g})" if math.isfinite(worst.size) else "not a number"
    return f"{verdict.count}; {size} at {worst.key}; {first.key}: {str(first.old)[:60]!r} -> {str(first.new)[:60]!r}"


if __name__ == "__main__":
    main()
