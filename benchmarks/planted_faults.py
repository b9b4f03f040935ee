"""Check that the tests notice faults: one-line faults, planted one at a time in a copy of tlkit.

    python benchmarks/planted_faults.py [--practices] [--only NAME...] [--tests PATH...]

Without `--practices` they are twelve faults of what every run does. With it they are eight, each of which takes a
practice of the lectures (docs/lectures.md) away, and the likely tests are run with those marked `slow`.

The line of each fault is found by its text anywhere in tlkit/ and recipes/, and must occur exactly once. The tests most
likely to notice it run first; if they pass, the whole everyday suite (`-m "not slow"`) runs, up to the first failure. A
failure counts only if the same test passes in a copy without the fault. The process that runs the tests checks that it
imported the copy. `--tests` runs only the given tests. Appends a row per fault to benchmarks/planted_faults.csv. The
exit code is 1 if a fault was not noticed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from rows import append_row

ROOT = Path(__file__).resolve().parent.parent
FILE = Path(__file__).with_suffix(".csv")
LEFT_OUT = (".git", ".venv", "__pycache__", ".*_cache", "*.egg-info")
NOT_THE_COPY = 97  # exit code of a test run that imported tlkit from somewhere else
HANGS = "no end of"
LONGEST = 3600  # seconds of one test run; a fault that makes the tests hang counts as noticed


@dataclass(frozen=True)
class Fault:
    """A fault of one line.

    Args:
        name: of the fault.
        old: text of a line that occurs once in tlkit/ and recipes/.
        new: its replacement.
        breaks: what goes wrong with it.
        tests: patterns of the names of test files that are likely to notice it, in any folder.
    """

    name: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...] = ()


PRACTICES = (
    Fault(
        "no_max_norm",
        "keras.constraints.MaxNorm(head.max_norm) if head.max_norm else None",
        "None",
        "the weights of the head have no largest norm",
        ("test_stages.py",),
    ),
    Fault(
        "no_drop_connect",
        "keras.random.dropout(keras.ops.convert_to_tensor(self.kernel), self.rate, seed=self.seed_generator)",
        "keras.ops.convert_to_tensor(self.kernel)",
        "no weights are dropped",
        ("test_drop_connect.py",),
    ),
    Fault(
        "no_adversarial",
        "return self.alpha * clean + (1 - self.alpha) * adversarial",
        "return clean",
        "the loss on the moved images does not count",
        ("test_adversarial.py",),
    ),
    Fault(
        "no_scales",
        "lambda image, one: scaled_crop(image, size, scales, one)",
        "lambda image, one: scaled_crop(image, size, (size, size), one)",
        "the training images are not scaled",
        ("test_scales.py",),
    ),
    Fault(
        "no_restarts",
        "for number in range(recipe.restarts + 1):",
        "for number in range(1):",
        "there is one training, and no restart",
        ("test_restarts.py",),
    ),
    Fault(
        "gain_turned_around",
        "gain, error = paired_difference(theirs, own, groups)",
        "gain, error = paired_difference(own, theirs, groups)",
        "what transfer would have gained is said to be lost",
        ("test_transfer.py",),
    ),
    Fault(
        "no_gradient",
        "theta = ops.cast(ops.reshape(theta, (-1, 2, 3)), kind)",
        "theta = ops.cast(ops.stop_gradient(ops.reshape(theta, (-1, 2, 3))), kind)",
        "a layer of tlkit passes no gradient to one of its inputs",
        ("test_gradients.py",),
    ),
    Fault(
        "no_mean_of_folds",
        "model.set_weights([one / (len(numbers) + 1) for one in total])",
        "pass",
        "the model of the first fold is delivered for the mean of all",
        ("test_folds.py",),
    ),
)
FAULTS = (
    Fault(
        "batch_norm_moves",
        "inner.trainable = False",
        "inner.trainable = True",
        "BatchNormalization of unfrozen blocks trains where the recipe says frozen",
        ("test_classifier.py", "test_stages.py"),
    ),
    Fault(
        "validation_leaks",
        'training_examples(dataset, recipe, "train"),',
        'training_examples(dataset, recipe, "train", "validation"),',
        "the validation images are trained on",
        ("test_finetune.py",),
    ),
    Fault(
        "key_without_weights",
        "digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())",
        "pass",
        "features of other weights are taken from the cache",
        ("test_training.py", "test_cache.py", "test_extract.py"),
    ),
    Fault(
        "temperature_forgotten",
        "weight.assign(weight / temperature)",
        "weight.assign(weight)",
        "the temperature is measured, and not in the model that is saved and exported",
        ("test_calibrat*.py",),
    ),
    Fault(
        "names_reversed",
        "names, highest = tf.constant(self._names), tf.reduce_max(probabilities, axis=1)",
        "names, highest = tf.constant(self._names[::-1]), tf.reduce_max(probabilities, axis=1)",
        "the export answers with another class's name",
        ("test_saved_model.py",),
    ),
    Fault(
        "orientation_ignored",
        "return tf.switch_case(orientation - 1, turns)",
        "return image",
        "JPEGs that lie on their side are not turned upright",
        ("test_decode.py",),
    ),
    Fault(
        "order_of_classes",
        "return np.random.default_rng((self._seed, 1, epoch)).permutation(self._count)",
        "return np.argsort(self._targets.labels, kind='stable')",
        "training images come class by class instead of shuffled",
        ("test_batches.py", "test_training.py"),
    ),
    Fault(
        "safety_inverted",
        "if not finding.fine:",
        "if finding.fine:",
        "the class-safety check narrows what is safe and lets pass what is not",
        ("test_safety.py",),
    ),
    Fault(
        "refusal_too_lenient",
        "if _bound(wrong / effect, answered / effect) > max_error:",
        "if _bound(wrong / effect, answered / effect) > 2 * max_error:",
        "answers are given with twice the errors that were allowed",
        ("test_calibrat*.py", "test_refusal*.py"),
    ),
    Fault(
        "last_epoch_kept",
        "self.model.set_weights(self._weights)",
        "pass",
        "the last epoch's weights stay instead of the best",
        ("test_callbacks.py", "test_training.py", "test_stages.py"),
    ),
    Fault(
        "narrow_intervals",
        "float(norm.ppf((1 + level) / 2))",
        "float(norm.ppf(level))",
        "95 % intervals are those of 90 %",
        ("test_scores.py", "test_stats.py"),
    ),
    Fault(
        "written_in_place",
        "temporary.replace(path)",
        "shutil.copyfile(temporary, path)",
        "a file is overwritten instead of renamed, so that a reader may see half of it",
        ("test_cache.py", "test_files.py", "test_folder.py"),
    ),
)

# Placed before every other finder: without it, `tlkit.recipes` would come from where tlkit is installed.
FINDER = """
import importlib.machinery, importlib.util, os, sys

class OfTheCopy:
    @staticmethod
    def find_spec(name, path=None, target=None):
        folder = PACKAGES.get(name)
        if folder is None:
            return None
        start = os.path.join(folder, "__init__.py")
        return importlib.util.spec_from_file_location(name, start, submodule_search_locations=[folder])

PACKAGES = {packages!r}
sys.meta_path.insert(0, OfTheCopy)
"""
PLUGIN = """
import os, sys

def pytest_sessionfinish(session):
    files = [getattr(one, "__file__", None) for name, one in list(sys.modules.items()) if name.split(".")[0] == "tlkit"]
    files = [os.path.realpath(file) for file in files if file]
    foreign = [file for file in files if not file.startswith({copy!r} + os.sep)]
    if foreign:
        print("NOT THE COPY:", *foreign[:3])
        os._exit({code})
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--practices", action="store_true", help="those that take a practice of the lectures away")
    parser.add_argument("--only", nargs="+", choices=[one.name for one in FAULTS + PRACTICES], metavar="NAME")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="run only these tests")
    arguments = parser.parse_args()
    faults = PRACTICES if arguments.practices else FAULTS
    chosen = [one for one in faults if arguments.only is None or one.name in arguments.only]
    files = {
        one.name: file_of(one, ROOT) for one in FAULTS + PRACTICES
    }  # all of them, so that a line that is gone is noticed now
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        sound = copy_of(ROOT, Path(scratch) / "sound")
        for one in chosen:
            copy = copy_of(ROOT, Path(scratch) / "planted")
            plant(one, copy / files[one.name].relative_to(ROOT))
            rows.append(row_of(one, copy, sound, arguments.tests))
            append_row(FILE, rows[-1])
            shutil.rmtree(copy)
    unnoticed = [str(row["fault"]) for row in rows if row["caught"] == "no"]
    print(
        f"{len(rows) - len(unnoticed)} of {len(rows)} faults noticed"
        + "".join(f"\n  not noticed: {name}" for name in unnoticed)
    )
    sys.exit(bool(unnoticed))


# -- planting ---------------------------------------------------------------------------------------------


def file_of(fault: Fault, root: Path) -> Path:
    """Return the file with the fault's line. Ends the program if there is none, or more than one."""
    sources = [file for folder in ("tlkit", "recipes") for file in sorted((root / folder).rglob("*.py"))]
    found = [file for file in sources for line in file.read_text(encoding="utf-8").splitlines() if fault.old in line]
    if len(found) != 1:
        where = ", ".join(str(file.relative_to(root)) for file in found) or "nowhere"
        sys.exit(f"The line of {fault.name}, {fault.old!r}, is in {where}. Expected once. Update it.")
    return found[0]


def plant(fault: Fault, file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(fault.old, fault.new), encoding="utf-8")


def copy_of(root: Path, folder: Path) -> Path:
    """Copy the tree without its history, and add helpers that make Python import from the copy. Returns `folder`."""
    shutil.copytree(root, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    elsewhere = settings.get("package-dir", {})
    packages = {name: str(folder / elsewhere.get(name, name.replace(".", "/"))) for name in settings["packages"]}
    helpers = folder / ".planted"
    helpers.mkdir()
    (helpers / "sitecustomize.py").write_text(FINDER.replace("{packages!r}", repr(packages)))
    plugin = PLUGIN.replace("{copy!r}", repr(str(folder.resolve()))).replace("{code}", str(NOT_THE_COPY))
    (helpers / "of_the_copy.py").write_text(plugin)
    return folder


# -- testing ----------------------------------------------------------------------------------------------


def row_of(fault: Fault, copy: Path, sound: Path, only: list[str] | None) -> dict[str, object]:
    """Run the tests on a copy with a fault, the likely ones first. Returns a row of the table."""
    likely = [
        str(file.relative_to(copy)) for pattern in fault.tests for file in sorted((copy / "tests").rglob(pattern))
    ]
    attempts = [only] if only else ([likely] if likely else []) + [[]]
    marked = "not long" if fault in PRACTICES else "not slow"
    started, seconds, failed = time.monotonic(), 0.0, ""
    for paths in attempts:
        failed = first_failure(copy, paths, marked if paths else "not slow")
        seconds = time.monotonic() - started
        if failed and not failed.startswith(HANGS) and first_failure(sound, [failed], marked):
            sys.exit(f"{failed} fails without the fault too. Fix it, or leave it out with --tests.")
        if failed:
            break
    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "fault": fault.name,
        "breaks": fault.breaks,
        "caught": "yes" if failed else "no",
        "by": failed,
        "ran": "given tests" if only else "likely tests" if failed and paths else "everyday suite",
        "seconds": round(seconds),
    }


def first_failure(copy: Path, paths: list[str], marked: str) -> str:
    """Return the first test that fails, or "" if none does. marked: which are run, for pytest's `-m`.

    Ends the program if tlkit was not imported from the copy, or if no test ran.
    """
    words = [sys.executable, "-m", "pytest", "-m", marked, "-x", "-q", "-rfE", "-p", "of_the_copy", *paths]
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(copy / ".planted"), str(copy), *([before] if before else [])])
    # use no cached modules of an earlier copy, and leave no files in this one
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ran = subprocess.run(
            words, cwd=copy, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{HANGS} {' '.join(paths) or 'the everyday suite'}"
    found = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", ran.stdout, re.MULTILINE)
    if ran.returncode == 0:
        return ""
    if ran.returncode not in (1, 2) or not found:
        sys.exit(f"pytest ended with {ran.returncode} in '{copy}':\n{ran.stdout[-3000:]}\n{ran.stderr[-1000:]}")
    return re.sub(r"@[\w.]+$", "", found[0])  # without the group that pytest-xdist appends


def commit() -> str:
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
