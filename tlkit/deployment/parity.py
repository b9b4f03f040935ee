"""Proves on real images that an export predicts as the trained model does; a SavedModel runs in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.data.convert import Unreadable, convert
from tlkit.data.sources.member import Item
from tlkit.deployment.formats import FORMATS, open_target
from tlkit.deployment.saved_model import UNSURE
from tlkit.errors import ParityError
from tlkit.evaluation.known import NONE_OF_THESE
from tlkit.folders import read_description
from tlkit.progress import bar, counted_off
from tlkit.stats import wilson_interval
from tlkit.words import counted

PARITY_LIMIT = 1e-5
KNOWN_LIMIT = 1e-3  # of p-values, which are piecewise linear in the features
EVALUATED_LIMIT = 1e-2  # rounding in `models.inference`, amplified by large head weights, was 9e-5 at most
_WORKER = Path(__file__).with_name("_worker.py")

LEAST_AGREEMENT = 0.95  # share of images on which 8-bit integers predict the trained model's class
LARGEST_FALL = 0.015  # of accuracy, by 8-bit integers


class FreshProcess:
    """A separate process with TensorFlow but without Keras and tlkit, in which a SavedModel is run.

    Importing TensorFlow takes seconds, so start it before it is needed. Answers one call of `ask`. Use it as a context
    manager, which ends the process in any case.
    """

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)
        # -P: else TensorFlow's `import requests` would find the module of that name beside the program
        command = [sys.executable, "-P", str(_WORKER)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._errors)

    def __enter__(self) -> FreshProcess:
        return self

    def __exit__(self, *problem: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, saved_model: str | Path, files: Sequence[Item], batch_size: int = 16) -> dict[str, np.ndarray]:
        """Run a SavedModel on files.

        Returns:
            probabilities, shape (n, classes), class, sure and ok, each shape (n,), and seconds, which it took. Also
            known, shape (n,), and prediction_set, shape (n, classes), if the SavedModel has them.

        Raises:
            ParityError: The process failed.
        """
        with tempfile.TemporaryDirectory() as scratch:
            answers = Path(scratch) / "answers.npz"
            question = {
                "saved_model": str(saved_model),
                "files": [str(_servable(f, Path(scratch, f"{i}.png"))) for i, f in enumerate(files)],
                "answers": str(answers),
                "batch_size": batch_size,
            }
            with bar(None, "proving the export"):
                self._answer(json.dumps(question))
            with np.load(answers, allow_pickle=False) as loaded:
                return {name: loaded[name] for name in loaded.files}

    def _answer(self, question: str) -> None:
        """Give the process its question, and wait for its end. Raises ParityError if it failed."""
        self._process.communicate(question.encode())
        if self._process.returncode != 0:
            self._errors.seek(0)
            output = self._errors.read().decode("utf-8", "replace")[-1500:]
            raise ParityError(f"The exported model failed in a fresh process:\n{output}")


def _servable(item: Item, copy: Path) -> Path:
    """The file itself; `copy` of an item that is not on disk, or that is converted for the SavedModel to decode it."""
    try:
        data = item.read_bytes()
        converted = convert(data)
    except (OSError, Unreadable):  # the SavedModel names it
        converted = data = b""
    if converted is data and isinstance(item, Path):
        return item.resolve()
    copy.write_bytes(converted)
    return copy


def serve_files(saved_model: str | Path, files: Sequence[Item]) -> dict[str, np.ndarray]:
    """Run a SavedModel on files in a `FreshProcess` of its own."""
    with FreshProcess() as fresh:
        return fresh.ask(saved_model, files)


def prove_parity(
    saved_model: str | Path,
    files: Sequence[Item],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    fresh: FreshProcess | None = None,
    ask_again: Callable[[Sequence[int]], np.ndarray] | None = None,
    p_values: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compare a SavedModel on files with the Keras model's probabilities for their cached pixels.

    `probabilities` may come from `tlkit.models.inference`. Its graph fuses layers and therefore rounds differently, and
    a head with large weights amplifies that. So files whose probabilities differ by more than the limit are predicted
    again by the model itself. What remains is the difference between the model and its export.

    Args:
        saved_model: The SavedModel's folder.
        files: Image files.
        probabilities: The trained model's, float32, shape (n, classes).
        class_names: In class order.
        fresh: A process that is already started. Default: one is started now.
        ask_again: Gives the Keras model's own probabilities for some indices of `files`. Default: nothing is predicted
            again.
        p_values: The Keras model's own, of `tlkit.evaluation.known.p_values_of`, float32, shape (n, 4), if the
            SavedModel has the output `known`.

    Returns:
        JSON values: n, top1_agreement (share), max_difference (largest of any probability), asked_again (number of
        files), evaluated_difference (largest before these were predicted again), bytes, milliseconds_an_image (with
        reading and decoding), limit and within_limit. With `p_values` also known_difference, the largest.

    Raises:
        ParityError: One class differs, one file is refused, or a probability differs by more than 1e-3 (the target is
            below 1e-5), or a p-value by more than 1e-3. Also if `probabilities` differ from the model's own by
            `EVALUATED_LIMIT` or more, which rounding cannot explain: the reported numbers are then not this model's.
    """
    served = fresh.ask(saved_model, files) if fresh else serve_files(saved_model, files)
    if not served["ok"].all():
        refused = [str(f) for f, ok in zip(files, served["ok"], strict=True) if not ok]
        raise ParityError(
            f"The exported model refuses {counted(len(refused), 'file')} that training could read, "
            f"such as '{refused[0]}'."
        )
    differences = np.abs(served["probabilities"] - probabilities).max(axis=1)
    evaluated_difference = float(differences.max())
    again: list[int] = np.flatnonzero(differences >= PARITY_LIMIT).tolist() if ask_again else []
    if ask_again and again:
        own = ask_again(again)
        _check_evaluated(probabilities[again], own, [files[i] for i in again])
        probabilities = probabilities.copy()
        probabilities[again] = own
    names = np.array(class_names)
    sure = served.get("sure", served["ok"])  # an older export has no `sure`
    expected = np.where(sure, names[probabilities.argmax(axis=1)], UNSURE)
    known_difference = None
    if p_values is not None:
        known_difference = _check_known(served["known"], p_values, files)
        none_below = read_description(Path(saved_model)).get("none_below", 0.0)
        expected = np.where(served["known"] < none_below, NONE_OF_THESE, expected)
    agreement = float((served["class"] == expected).mean())
    difference = float(np.abs(served["probabilities"] - probabilities).max())
    proof = {
        "n": len(files),
        "top1_agreement": agreement,
        "max_difference": difference,
        "asked_again": len(again),
        "evaluated_difference": evaluated_difference,
        "bytes": sum(file.stat().st_size for file in Path(saved_model).rglob("*") if file.is_file()),
        "milliseconds_an_image": round(1000 * float(served["seconds"]) / len(files), 2),
        "limit": PARITY_LIMIT,
        "within_limit": difference < PARITY_LIMIT,
    }
    if known_difference is not None:
        proof["known_difference"] = known_difference
    if agreement < 1.0 or difference > 1e-3:
        raise ParityError(
            f"The exported model predicts the same class as the trained one on {agreement:.2%} of "
            f"{counted(len(files), 'file')} (expected 100 %), and its probabilities differ by up to {difference:.2g} "
            f"(expected below {PARITY_LIMIT:g}). Do not deploy it."
        )
    return proof


def _check_known(served: np.ndarray, own: np.ndarray, files: Sequence[Item]) -> float:
    """The largest difference of a p-value from the model's own. Raises ParityError if rounding does not explain one.

    served: float32, shape (n,). own: as in `Known.p_values_nearby`, shape (n, 4).
    """
    differences = np.abs(served - own[:, 0])
    beyond = np.maximum(own.min(axis=1) - served, served - own.max(axis=1))
    worst = int(beyond.argmax())
    if beyond[worst] > KNOWN_LIMIT:
        raise ParityError(
            f"The exported model's p-value of '{files[worst]}', for being like the known images, is "
            f"{served[worst]:.4f}, and the trained model's {own[worst, 0]:.4f} (expected within {KNOWN_LIMIT:g} and "
            "what rounding of the features changes). Do not deploy it."
        )
    return float(differences.max())


def _check_evaluated(evaluated: np.ndarray, own: np.ndarray, files: Sequence[Item]) -> None:
    """Raise ParityError if evaluated probabilities differ from the model's own by more than rounding can explain.

    evaluated, own: float32, shape (n, classes).
    """
    differences = np.abs(evaluated - own).max(axis=1)
    wrong = differences >= EVALUATED_LIMIT
    if wrong.any():
        worst = int(differences.argmax())
        raise ParityError(
            f"The evaluated probabilities differ from the model's own on {wrong.sum()} of "
            f"{counted(len(files), 'file')} that it predicted again, by up to {differences[worst]:.2g} on "
            f"'{files[worst]}' (expected below {EVALUATED_LIMIT:g}). The reported accuracy is not this model's. Cached "
            "images or features may be damaged or out of date: clear them (`tlkit cache` shows how), and run again."
        )


def differs_beyond(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Whether probabilities, shape (n, classes), differ by more, or the class found is one that is less probable.

    With a tolerance of rounding in float32 (1e-3) any other class counts.
    """
    if np.abs(found - expected).max() > tolerance:
        return True
    behind = expected.max(1) - np.take_along_axis(expected, found.argmax(1)[:, None], 1)[:, 0]
    return bool((behind > (0 if tolerance <= 1e-3 else tolerance)).any())


def prove_target(
    folder: Path,
    pixels: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Compare an export that takes pixels with the Keras model's own predictions.

    Args:
        folder: The export.
        pixels: uint8, shape (n, size, size, 3). Not those that gave a converter the ranges of activations: integers
            agree better on them than on others.
        probabilities: The Keras model's, shape (n, classes).
        labels: int, shape (n,).
        force: Accept 8-bit integers whatever they answer.

    Returns:
        JSON values: n, top1_agreement, agreement_95 (its Wilson interval), max_difference, accuracy (the export's),
        accuracy_before (the model's), bytes, milliseconds_an_image, limit and within_limit.

    Raises:
        ParityError: 8-bit integers agree on less than 95 %, or lose more than 1.5 points of accuracy, without `force`.
            Other formats: one class differs, or a probability differs by more than 1e-3. With weights in float16, a
            probability may differ by 0.1, and a class where its probability is within that of the best.
    """
    description, answer = open_target(folder)
    answer(pixels[:1])
    started = time.perf_counter()
    starts = range(0, len(pixels), 16)
    found = np.concatenate([answer(pixels[at : at + 16]) for at in counted_off(starts, len(starts), "batch of image")])
    seconds = time.perf_counter() - started
    agrees = found.argmax(1) == probabilities.argmax(1)
    agreement = float(agrees.mean())
    difference = float(np.abs(found - probabilities).max())
    accuracy, before = (float((one.argmax(1) == labels).mean()) for one in (found, probabilities))
    proof = {
        "n": len(pixels),
        "top1_agreement": agreement,
        "agreement_95": list(wilson_interval(int(agrees.sum()), len(agrees))),
        "max_difference": difference,
        "accuracy": accuracy,
        "accuracy_before": before,
        "bytes": sum(file.stat().st_size for file in folder.glob(f"{Path(description['file']).stem}.*")),
        "milliseconds_an_image": round(1000 * seconds / len(pixels), 2),
        "limit": PARITY_LIMIT,
        "within_limit": difference < PARITY_LIMIT,
    }
    form = FORMATS[description["format"]]
    loses_too_much = agreement < LEAST_AGREEMENT or round(before - accuracy, 9) > LARGEST_FALL
    if form.rounds and loses_too_much and not force:
        raise ParityError(
            f"With 8-bit integers the model predicts the same class on {agreement:.1%} of "
            f"{counted(len(pixels), 'image')} (expected {LEAST_AGREEMENT:.0%} or more), and accuracy goes from "
            f"{before:.1%} to {accuracy:.1%} (expected a fall of at most "
            f"{100 * LARGEST_FALL:g} points). It is not kept. Use the format litert, or keep it with `force`."
        )
    if not form.rounds and differs_beyond(found, probabilities, form.tolerance):
        expected = f"below {PARITY_LIMIT:g}" if form.tolerance <= 1e-3 else f"at most {form.tolerance:g}"
        raise ParityError(
            f"The export predicts the same class as the trained model on {agreement:.2%} of "
            f"{counted(len(pixels), 'image')} (expected 100 %), and its probabilities differ by up to {difference:.2g} "
            f"(expected {expected}). Do not deploy it."
        )
    return proof
