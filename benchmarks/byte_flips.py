"""What happens after one byte of a cache, a run or an export has changed?

    python benchmarks/byte_flips.py [--flips N] [--seed S] [--subjects stopped ...]
    python benchmarks/byte_flips.py --cost
    python benchmarks/byte_flips.py --report

Makes a cache (pixels, digests, features, a safety check, learned weights), a finished run and two exports from 36 drawn
images. Then, N times over, copies one of them, flips a random bit of a random byte of a random file, and does what
reads it: for caches the functions by which every command reads them, for a run `evaluate` and the reading of all its
tables and its model, for an export `predict`. A run that was stopped in its second training, with the checkpoints of
both, is resumed, and must end with the weights, history and predictions of the run that was not stopped. Each kind of
file is as likely as any other, so that small ones are flipped as often as large ones.

- refused: an error of tlkit's that names the file.
- mended: the log or the cache tells that the file was damaged, and the result is that of the undamaged one.
- said: a warning, and a result that differs at most in what the changed file says (an edited plan.json is allowed).
- harmless: the result is the same, and nothing was said.
- silent: another result without a word. traceback: an error that is not tlkit's. Both must not happen.

`verified` is whether `tlkit.verify` finds the flip. Appends a row per flip to benchmarks/byte_flips.csv. --cost prints
what hashing costs.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from rows import append_row, read_rows
from together import drawn

FILE = Path(__file__).with_suffix(".csv")
SUBJECTS = ("cache", "run", "export", "stopped")
OUTCOMES = ("refused", "mended", "said", "harmless", "silent", "traceback")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", default=120, type=int)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--subjects", nargs="+", default=[*SUBJECTS], choices=SUBJECTS)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if arguments.cost:
        cost()
        return
    if not arguments.report:
        with tempfile.TemporaryDirectory() as scratch:
            trial = Trial(Path(scratch))
            for number in range(arguments.flips):
                seed = 1000 * arguments.seed + number
                append_row(FILE, trial.flipped(arguments.subjects[number % len(arguments.subjects)], seed))
    report(read_rows(FILE))


class Killed(BaseException):
    """Stands for the end of the process."""


class Trial:
    """The undamaged subjects in a folder, and what reads each of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, []  # type: Path, list[str]
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("tlkit").addHandler(handler)
        self.data = drawn(folder / "data", per_class=12)
        os.environ["TLKIT_CACHE"] = str(folder / "cache")
        self.read: dict[str, Callable[[Path], object]] = {
            "cache": self.job,
            "run": self.read_run,
            "export": self.read_export,
            "stopped": self.resume,
        }
        from tlkit import Augmentation, build_classifier, cut, export_run, find_backbone, finetune

        nano = find_backbone("nano")
        self.prefix, _ = cut(build_classifier(nano, 3), nano, 0)
        self.job(folder / "cache")
        run = finetune(
            self.data,
            backbone="nano",
            recipe="small_similar",
            augment=Augmentation(),
            out=folder / "run",
            report=False,
        )
        export_run(run, target="keras")
        shutil.copytree(run.saved_model, folder / "export" / "saved_model")
        shutil.copytree(run.folder / "keras", folder / "export" / "keras")
        for name in ("saved_model", "keras"):  # exports are flipped as exports
            shutil.rmtree(run.folder / name)
        self.whole = {name: self.read[name](folder / name) for name in ("cache", "run")}
        for name in ("saved_model", "keras"):
            self.whole[name] = self.read_export(folder / "export" / name)
        self.whole["stopped"] = self.stop(folder / "stopped")

    def stop(self, folder: Path) -> object:
        """Leave in a folder a run that was stopped in its second training. Returns what it must end with."""
        from tlkit import Augmentation, Recipe, Stage, finetune
        from tlkit.checkpoints import Checkpoint

        deliver: Any = sys.modules["tlkit.finetuning.deliver"]
        proof = {"n": 0, "top1_agreement": 1.0, "max_difference": 0.0, "limit": 1e-5, "within_limit": True}
        deliver.prove_parity = lambda *a: {**proof, "asked_again": 0, "evaluated_difference": 0.0}
        deliver.export_served = lambda model, to, serving: to.mkdir(exist_ok=True)
        sys.modules["tlkit.finetuning.finetune"].FreshProcess = contextlib.nullcontext  # type: ignore[attr-defined]
        checkpoints: Any = sys.modules["tlkit.checkpoints"]
        checkpoints.MOST_OF_TIME, checkpoints.EVERY_SECONDS = float("inf"), 0.0
        stages = (Stage(1, 1e-3, solver="logistic"), Stage(3, 1e-3), Stage(2, 1e-3, unfreeze=1, mixup=0.2))
        recipe = Recipe("tuned", stages=stages, augmentation=Augmentation(brightness=(-0.1, 0.1)), batch_size=12)
        given: dict[str, Any] = {"backbone": "nano", "image_size": 64, "recipe": recipe, "report": False}
        whole = self.parts(finetune(self.data, **given, out=folder.with_name("unstopped")))
        save, left = Checkpoint.save, [8]

        def saving(one: Checkpoint, values: dict[str, Any]) -> None:
            one.among.every = 0.0
            save(one, values)
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        Checkpoint.save = saving  # type: ignore[method-assign]
        with contextlib.suppress(Killed):
            finetune(self.data, **given, out=folder)
        Checkpoint.save = save  # type: ignore[method-assign]
        assert (folder / "checkpoints").is_dir() and not (folder / "metrics.json").exists()
        return whole

    def resume(self, folder: Path) -> object:
        from tlkit import finetune

        return self.parts(finetune(resume=folder))

    def parts(self, run: Any) -> object:
        from tlkit import load_model

        history = run.read_table("history.csv")
        history = history[[name for name in history if name not in ("seconds", "images_computed", "at_seconds")]]
        weights = [one.tobytes() for one in load_model(run).get_weights()]
        return digest([*weights, history.to_csv().encode(), run.read("predictions.csv")])

    def job(self, cache: Path) -> object:
        """What runs read from caches: pixels, digests of them, features, a safety check, and weights that are learned.

        Each by the function that the commands use; a damaged one is computed again here.
        """
        from tlkit import Augmentation, check_safety, decode_images, extract_features, find_backbone, scan
        from tlkit.backbones.learning import learn_weights

        os.environ["TLKIT_CACHE"] = str(cache)
        images = scan(self.data)
        dataset = decode_images(images, 96)
        rows = dataset.examples()
        features = extract_features(self.prefix, rows)
        assert features is not None
        safety = check_safety(dataset, Augmentation(rotate=(-10, 10)), thorough=False).to_dict()
        del safety["seconds"]
        learned = learn_weights(find_backbone("bag_of_words"), rows)
        assert learned.weights is not None
        every = [np.ascontiguousarray(one.gather(slice(None))).tobytes() for one in (rows.pixels, *features.views[0])]
        texts = [json.dumps(safety), learned.weights.digest, dataset.images.problems.to_csv()]
        return digest([*every, *map(str.encode, texts)])

    def read_run(self, folder: Path) -> object:
        from tlkit import evaluate_run, load_model, open_run
        from tlkit.runs.export import exports_of

        run = open_run(folder)
        tables = [run.read_table(name).to_csv() for name in ("split.csv", "predictions.csv", "problems.csv")]
        tables += [run.read("history.csv").decode(), exports_of(run).to_csv()]
        weights = [one.tobytes() for one in load_model(run).get_weights()]
        return digest([*weights, *map(str.encode, tables), json.dumps([evaluate_run(run), run.metrics]).encode()])

    def read_export(self, folder: Path) -> object:
        from tlkit import predict

        return predict(folder, [self.data / "red"]).to_csv()

    def flipped(self, subject: str, seed: int) -> dict[str, object]:
        from tlkit import verify
        from tlkit.errors import TlkitError

        rng, copy = random.Random(seed), self.folder / f"{subject}-{seed}"
        shutil.copytree(self.folder / subject, copy)
        name, at, bit = chosen(copy, rng)
        data = bytearray((copy / name).read_bytes())
        data[at] ^= 1 << bit
        (copy / name).write_bytes(data)
        self.lines.clear()
        os.environ["TLKIT_CACHE"] = str(copy if subject == "cache" else self.folder / "cache")
        verified = ""
        if subject in ("run", "export"):  # verifying a cache mends it; a run that goes on has no checksums of its own
            verified = any(not verify(one).ok for one in ([copy] if subject == "run" else copy.iterdir()))
        detail, part = "", Path(name).parts[0] if subject == "export" else ""
        try:
            same = self.read[subject](copy / part) == self.whole[part or subject]
            words = [line for line in self.lines if "cache file" in line or "damaged" in line or "changed" in line]
            changed = subject == "cache" and (copy / name).is_file() and (copy / name).read_bytes() != bytes(data)
            gone = subject == "cache" and name.endswith((".json", ".npy", ".npz")) and not (copy / name).is_file()
            if words or changed or gone:
                outcome, detail = ("mended" if same else "said"), (words or ["computed again"])[0]
                outcome = "silent" if subject == "cache" and not same else outcome
            else:
                outcome = "harmless" if same else "silent"
        except TlkitError as error:
            outcome, detail = "refused", str(error)
        except Exception as error:
            outcome, detail = "traceback", f"{type(error).__name__}: {error}"
        if subject == "cache" and outcome == "harmless":
            verified = not verify("cache").ok
        shutil.rmtree(copy)
        return {
            "date": date.today().isoformat(),
            "subject": subject,
            "file": kind_of(name),
            "byte": at,
            "bit": bit,
            "seed": seed,
            "outcome": outcome,
            "verified": verified,
            "detail": detail.replace(str(copy), "").replace(str(self.folder), "")[:120].splitlines()[0]
            if detail
            else "",
        }


def digest(parts: list[bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in parts)).hexdigest()


def kind_of(name: str) -> str:
    """A file's name without what is random in it: pixels/*.npy."""
    path = Path(name)
    if path.parts[0] in ("pixels", "looks", "features", "safety", "weights"):
        return f"{path.parts[0]}/{'*' + path.suffix if len(path.stem) == 32 else path.name}"
    return name


def chosen(folder: Path, rng: random.Random) -> tuple[str, int, int]:
    """A random file, its kind first; a random byte of it, in one of four cases among its first 128; a random bit."""
    kinds: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.stat().st_size:
            name = file.relative_to(folder).as_posix()
            kinds.setdefault(kind_of(name), []).append(name)
    name = rng.choice(kinds[rng.choice(sorted(kinds))])
    size = (folder / name).stat().st_size
    return name, rng.randrange(min(size, 128) if rng.random() < 0.25 else size), rng.randrange(8)


def cost() -> None:
    """Print the processor's seconds for the SHA-256 of a file as large as a model's."""
    from tlkit.manifest import digest as digest_of

    with tempfile.TemporaryDirectory() as scratch:
        for megabytes in (10, 100, 500):
            file = Path(scratch, "model")
            file.write_bytes(np.random.default_rng(0).bytes(megabytes * 10**6))
            seconds = []
            for _ in range(5):
                began = time.process_time()
                digest_of(file)
                seconds.append(time.process_time() - began)
            print(f"{megabytes} MB: {1000 * np.median(seconds):.0f} ms of the processor, median of 5")


def report(rows: list[dict[str, str]]) -> None:
    print(f"| flips in | n | {' | '.join(OUTCOMES)} |")
    print("| --- |" + " --- |" * (len(OUTCOMES) + 1))
    for subject in SUBJECTS:
        found = Counter(row["outcome"] for row in rows if row["subject"] == subject)
        print(f"| {subject} | {sum(found.values())} | {' | '.join(str(found[one]) for one in OUTCOMES)} |")
    run = [row for row in rows if row["subject"] in ("run", "export")]
    print(f"`tlkit verify` found {sum(row['verified'] == 'True' for row in run)} of {len(run)} in runs and exports")


if __name__ == "__main__":
    main()
