"""How much accuracy do 8-bit integers cost, and what do they save?

    TLKIT_SHARED=folder python benchmarks/int8.py [--data NAME ...] [--backbone NAME ...] [--image-size 96] [--epochs N]
        [--now-only]
    python benchmarks/int8.py --cross [--data NAME ...] [--backbone NAME ...] [--image-size 96] [--epochs N]
    python benchmarks/int8.py --report
    python benchmarks/int8.py --rule

For each data set and backbone: a logistic head is solved on the features of at most 400 training images, with the C
(0.001, 0.01 or 0.1) that is best on at most 300 validation images. With --epochs, all layers are then trained for so
many epochs, with BatchNormalization's statistics fixed. The classifier is written as `litert-int8`, for which the
converter sees at most 256 of the training images, and judged on at most 300 test images. Without --now-only, the
classifier is also written as `litert`, for its size and speed, and by the converter alone, as in earlier versions
("before"): it measures ranges on 200 training images, and nothing is done before.

Times are those of one image after another, in five alternating rounds of 20 images; only their ratio is stored, as
other work may run beside. Appends a row per classifier to benchmarks/int8.csv and skips those that are there. --report
prints the tables.

--cross judges on all images of a data set (at most 900, drawn with seed 0, whatever their split): three times, a third
of them is held out, a quarter of the rest chooses C, and the head and the converter see at most 400 and 256 of the
others. So each image is judged once, by a classifier and a converter that did not see it. Appends to
benchmarks/int8_cross.csv.

--rule prints how often the limits of `tlkit export` decide wrongly on n images.
"""

import argparse
import os
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row, read_rows

FILE = Path(__file__).with_suffix(".csv")
DATA = ("latin_letters", "blood_cells", "cats_dogs", "clothing", "chest_xray")
BACKBONES = ("mobilenetv2_0.35", "nano", "mobilenetv2")
TRAINING, TESTED = 400, 300
CROSS = Path(__file__).with_name("int8_cross.csv")
POOL, FOLDS = 900, 3
RULE_N = (60, 120, 256, 500, 1000)
RULE_CASES = ((0.01, 0.0), (0.03, 0.0), (0.03, 0.01), (0.03, 0.015), (0.04, 0.03), (0.05, 0.05))
STRENGTHS = (1e-3, 1e-2, 1e-1)  # values of C
ROUNDS, IN_A_ROUND = 5, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--backbone", nargs="+", default=list(BACKBONES))
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--now-only", action="store_true")
    parser.add_argument("--cross", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--rule", action="store_true")
    asked = parser.parse_args()
    if asked.report:
        report(read_rows(FILE))
        report_cross(read_rows(CROSS))
        return
    if asked.rule:
        report_rule()
        return
    file = CROSS if asked.cross else FILE
    for backbone in asked.backbone:
        for data in asked.data:
            cell = (data, backbone, asked.image_size, asked.epochs)
            there = {
                (row["data"], row["backbone"], int(row["image_size"]), int(row["epochs"])) for row in read_rows(file)
            }
            if cell not in there:
                append_row(file, measure_cross(*cell) if asked.cross else measure(*cell, all_three=not asked.now_only))


def measure(data: str, backbone: str, size: int, epochs: int, *, all_three: bool) -> dict[str, object]:
    from tlkit.deployment.formats import open_target, write_target
    from tlkit.stats import wilson_interval

    model, parts, names = classifier(data, backbone, size, epochs)
    pixels, labels = parts["test"]
    own = model.predict(pixels, batch_size=32, verbose=0)
    answers, seconds, megabytes, opened, ratio = {"own": own}, {}, {}, {}, None
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("litert-int8", *(["litert", "before"] if all_three else [])):
            started = time.monotonic()
            if name == "before":
                file = Path(scratch) / "before.tflite"
                write_as_before(model, file, parts["train"][0][:200])
                opened[name] = opened_alone(file)
            else:
                images = parts["train"][0][:256] if name == "litert-int8" else None
                folder = write_target(model, names, Path(scratch) / name, name, representative=images)
                opened[name], file = open_target(folder)[1], folder / "model.tflite"
            seconds[name], megabytes[name] = time.monotonic() - started, file.stat().st_size / 1e6
            answers[name] = opened[name](pixels)
        if all_three:
            ratio = time_ratio(opened["litert-int8"], opened["litert"], pixels)
    right = {name: float((found.argmax(1) == labels).mean()) for name, found in answers.items()}
    agrees = answers["litert-int8"].argmax(1) == own.argmax(1)
    low, high = wilson_interval(int(agrees.sum()), len(agrees))
    return {
        "date": date.today().isoformat(),
        "data": data,
        "backbone": backbone,
        "image_size": size,
        "epochs": epochs,
        "training": len(parts["train"][0]),
        "n": len(labels),
        "accuracy": round(right["own"], 4),
        "accuracy_int8": round(right["litert-int8"], 4),
        "accuracy_before": round(right["before"], 4) if all_three else "",
        "agreement": round(float(agrees.mean()), 4),
        "agreement_low": round(low, 4),
        "agreement_high": round(high, 4),
        "agreement_before": round(agreement(answers["before"], own), 4) if all_three else "",
        "largest_difference": round(float(np.abs(answers["litert-int8"] - own).max()), 3),
        "verdict": verdict(answers["litert-int8"], own, labels),
        "megabytes": round(megabytes["litert"], 2) if all_three else "",
        "megabytes_int8": round(megabytes["litert-int8"], 2),
        "time_ratio": round(ratio, 2) if ratio else "",
        "seconds_to_write": round(seconds["litert-int8"], 1),
        "cores": os.cpu_count(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
        "ai_edge_litert": version("ai-edge-litert"),
    }


def measure_cross(data: str, backbone: str, size: int, epochs: int) -> dict[str, object]:
    from tlkit import scan
    from tlkit.data.dataset import decode_images
    from tlkit.deployment.formats import open_target, write_target
    from tlkit.stats import wilson_interval

    images = scan(Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv")
    chosen = np.random.default_rng(0).permutation(len(images))[:POOL]
    examples = decode_images(images.take(chosen.tolist()), size).examples()
    pixels, labels = examples.pixels.gather(np.arange(len(examples))), examples.labels
    names, folds = images.class_names, np.arange(len(labels)) % FOLDS
    own, found = (np.zeros((len(labels), len(names))) for _ in range(2))
    verdicts = []
    for fold in range(FOLDS):
        rest, judged = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        at = len(rest) // 4
        indices = {"train": rest[at:][:TRAINING], "validation": rest[:at]}
        parts = {part: (pixels[index], labels[index]) for part, index in indices.items()}
        model = fitted(parts, len(names), backbone, size, epochs)
        own[judged] = model.predict(pixels[judged], batch_size=32, verbose=0)
        with tempfile.TemporaryDirectory() as scratch:
            seen = parts["train"][0][:256]
            folder = write_target(model, names, Path(scratch) / "out", "litert-int8", representative=seen)
            found[judged] = open_target(folder)[1](pixels[judged])
        verdicts.append(verdict(found[judged], own[judged], labels[judged]))
    right = own.argmax(1) == labels, found.argmax(1) == labels
    lost, won = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    agrees = int((own.argmax(1) == found.argmax(1)).sum())
    shares = {
        "accuracy": right[0].mean(),
        "accuracy_int8": right[1].mean(),
        "agreement": agrees / len(labels),
        **dict(zip(("agreement_low", "agreement_high"), wilson_interval(agrees, len(labels)), strict=True)),
        **dict(zip(("fall", "fall_low", "fall_high"), fall_interval(lost, won, len(labels)), strict=True)),
    }
    return {
        "date": date.today().isoformat(),
        "data": data,
        "backbone": backbone,
        "image_size": size,
        "epochs": epochs,
        "n": len(labels),
        "lost": lost,
        "won": won,
        **{name: round(float(share), 4) for name, share in shares.items()},
        "verdicts": " ".join(verdicts),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
        "ai_edge_litert": version("ai-edge-litert"),
    }


def verdict(found: np.ndarray, own: np.ndarray, labels: np.ndarray) -> str:
    """What `tlkit export` does if these are its validation images."""
    from tlkit.deployment.parity import LARGEST_FALL, LEAST_AGREEMENT

    fall = (own.argmax(1) == labels).mean() - (found.argmax(1) == labels).mean()
    kept = agreement(found, own) >= LEAST_AGREEMENT and round(float(fall), 9) <= LARGEST_FALL
    return "kept" if kept else "refused"


def fall_interval(lost: int, won: int, n: int) -> tuple[float, float, float]:
    """A fall of accuracy and its 95 % interval, for pairs of answers (Bonett and Price 2012).

    lost: the images that only the model answers rightly. won: those that only the export does.
    """
    first, second, count = (lost + 1) / (n + 2), (won + 1) / (n + 2), n + 2
    half = 1.96 * ((first + second - (first - second) ** 2) / count) ** 0.5
    return (lost - won) / n, first - second - half, first - second + half


def agreement(answers: np.ndarray, own: np.ndarray) -> float:
    return float((answers.argmax(1) == own.argmax(1)).mean())


def classifier(data: str, backbone: str, size: int, epochs: int):  # type: ignore[no-untyped-def]
    """Return a classifier, the pixels and labels of "train", "validation" and "test", and the names of the classes."""
    from tlkit import scan
    from tlkit.data.dataset import decode_images

    images = scan(Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv")
    parts = {}
    for name, most in (("train", TRAINING), ("validation", TESTED), ("test", TESTED)):
        part = images.part(name)
        chosen = np.random.default_rng(0).permutation(len(part))[:most]
        examples = decode_images(part.take(chosen.tolist()), size).examples()
        parts[name] = examples.pixels.gather(np.arange(len(examples))), examples.labels
    return fitted(parts, len(images.class_names), backbone, size, epochs), parts, images.class_names


def fitted(parts, classes: int, backbone: str, size: int, epochs: int):  # type: ignore[no-untyped-def]
    """Return a classifier with a solved head, fine-tuned for `epochs`. parts: "train" and "validation" are used."""
    import keras

    from tlkit import build_classifier
    from tlkit.features.linear import choose_strength, solve

    model = build_classifier(backbone, classes, image_size=size)
    last = model.get_layer("predictions")
    network = keras.Model(model.input, last.input)
    found = {name: network.predict(parts[name][0], batch_size=32, verbose=0) for name in ("train", "validation")}
    rows = np.concatenate(list(found.values()))
    true = np.concatenate([parts[name][1] for name in found])
    folds = np.where(np.arange(len(rows)) < len(found["train"]), -1, 0)
    strength = choose_strength(rows, true, folds, classes, strengths=STRENGTHS).strength
    head = solve(found["train"], parts["train"][1], classes, strength=strength)
    last.set_weights([head.kernel, head.bias])
    if epochs:
        for layer in model.layers:
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
        model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
        model.fit(*parts["train"], batch_size=32, epochs=epochs, verbose=0)
    return model


def write_as_before(model, file: Path, images: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    import tensorflow as tf

    from tlkit.deployment.formats.shared import signature
    from tlkit.quiet import _quietly

    floats = images.astype("float32")
    with _quietly():
        model.export(
            str(file),
            format="litert",
            input_signature=signature(model, 1),
            verbose=False,
            target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]},
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=lambda: ([one[None]] for one in floats),
        )


def opened_alone(file: Path):  # type: ignore[no-untyped-def]
    from tlkit.deployment.formats import FORMATS

    return FORMATS["litert-int8"].open(file)


def time_ratio(first, second, pixels: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    """The median over alternating rounds of the first function's time divided by the second's."""
    ratios = []
    for _ in range(ROUNDS):
        spent = []
        for answer in (first, second):
            started = time.perf_counter()
            answer(pixels[:IN_A_ROUND])
            spent.append(time.perf_counter() - started)
        ratios.append(spent[0] / spent[1])
    return float(np.median(ratios))


def report(rows: list[dict[str, str]]) -> None:
    print("| backbone | data | n | float | before | now | agreement: before, now | verdict | MB | time / float's |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        tuned = ", fine-tuned" if int(row["epochs"]) else ""
        shares = [name for name in row if name.startswith(("accuracy", "agreement"))]
        percent = {name: f"{100 * float(row[name]):.1f}" if row[name] else "" for name in shares}
        print(
            f"| {row['backbone']}{tuned} | {row['data']} | {row['n']} | {percent['accuracy']} "
            f"| {percent['accuracy_before']} | {percent['accuracy_int8']} "
            f"| {percent['agreement_before']}, {percent['agreement']} | {row['verdict']} "
            f"| {row['megabytes']} to {row['megabytes_int8']} | {row['time_ratio']} |"
        )


def report_cross(rows: list[dict[str, str]]) -> None:
    print("| backbone | data | n | float | 8 bits | fall (95 %) | lost, won | agreement (95 %) | thirds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        tuned = ", fine-tuned" if int(row["epochs"]) else ""
        percent = {
            name: f"{100 * float(row[name]):.1f}" for name in row if name.startswith(("accuracy", "agreement", "fall"))
        }
        kept = row["verdicts"].split().count("kept")
        print(
            f"| {row['backbone']}{tuned} | {row['data']} | {row['n']} "
            f"| {percent['accuracy']} | {percent['accuracy_int8']} "
            f"| {percent['fall']} ({percent['fall_low']} to {percent['fall_high']}) | {row['lost']}, {row['won']} "
            f"| {percent['agreement']} ({percent['agreement_low']} to {percent['agreement_high']}) "
            f"| {kept} of {FOLDS} kept |"
        )


def report_rule() -> None:
    """Print the chance that an export is refused, for true falls of accuracy and true shares of other answers."""
    from scipy.stats import multinomial

    from tlkit.deployment.parity import LARGEST_FALL, LEAST_AGREEMENT

    print("| other answers | fall, points | " + " | ".join(f"n = {n}" for n in RULE_N) + " |")
    print("| --- |" + " --- |" * (1 + len(RULE_N)))
    for others, fall in RULE_CASES:
        shares = ((others + fall) / 2, (others - fall) / 2)  # lost and won; both wrong in other ways is left out
        chances = []
        for n in RULE_N:
            most = int(others * n + 10 * (others * n) ** 0.5 + 20)
            lost, won = np.meshgrid(np.arange(most), np.arange(most))
            pairs = np.stack([lost.ravel(), won.ravel(), n - lost.ravel() - won.ravel()], 1)
            pairs = pairs[pairs[:, 2] >= 0]
            chance = multinomial.pmf(pairs, n, [*shares, 1 - others])
            agrees = 1 - (pairs[:, 0] + pairs[:, 1]) / n >= LEAST_AGREEMENT
            kept = agrees & ((pairs[:, 0] - pairs[:, 1]) / n <= LARGEST_FALL + 1e-9)
            chances.append(f"{100 * (1 - chance[kept].sum()):.0f} %")
        print(f"| {100 * others:g} % | {100 * fall:g} | " + " | ".join(chances) + " |")


if __name__ == "__main__":
    main()
