"""Measure the quality and speed of `nano`: a linear probe on five real data sets beside two baselines.

    TLKIT_SHARED=folder python benchmarks/nano.py [--weights FILE.npz] [--no-store] [--speed-alone]

- Probe: average-pooled features at 96 pixels, standardised, and scikit-learn's logistic regression. Its C is chosen on
  the validation split after fitting on the train split. Test accuracy, fitted on the train split only and on both.
- Baselines: MobileNetV2 0.35 at the same 96 pixels (weights from Keras' cache), and nano's network with random weights.
- Speed: forward passes of batches of 64 in one `tf.function`, both networks at 96 and at 224 pixels alternating,
  medians. The rows `speed` of 2026-11-21 are of nano at 96 and MobileNetV2 0.35 at 224.

Appends dated rows to benchmarks/nano.csv.
"""

import argparse
import os
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import append_row

SETS = ("cats_dogs", "clothing", "blood_cells", "chest_xray", "latin_letters")
FILE = Path(__file__).with_suffix(".csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="imagenet", help="another .npz file for nano")
    parser.add_argument("--no-store", action="store_true", help="print only")
    parser.add_argument("--nano-alone", action="store_true", help="leave out the baselines and the speed")
    parser.add_argument("--speed-alone", action="store_true", help="leave out the probes")
    arguments = parser.parse_args()
    if arguments.speed_alone:
        keep_speeds(arguments.no_store)
        return
    networks = [("nano", arguments.weights)]
    if not arguments.nano_alone:
        networks += [("mobilenetv2_0.35", "imagenet"), ("nano", "none")]
    for name, weights in networks:
        found = {one: probe(name, weights, one) for one in SETS}
        for fitted in ("train", "train and validation"):
            scores = {one: scores[fitted] for one, scores in found.items()}
            row = {
                "date": date.today().isoformat(),
                "measured": f"probe fitted on {fitted}, test accuracy",
                "backbone": name,
                "weights": weights,
                **{one: round(100 * score, 1) for one, score in scores.items()},
                "mean": round(100 * float(np.mean(list(scores.values()))), 1),
                "images_per_second": "",
                **versions(),
            }
            keep(row, arguments.no_store)
    if not arguments.nano_alone:
        keep_speeds(arguments.no_store)


def keep_speeds(print_only: bool) -> None:
    for (name, size), speed in images_per_second().items():
        row = {"date": date.today().isoformat(), "measured": f"speed at {size} pixels", "backbone": name}
        keep({**row, "images_per_second": round(speed), **versions()}, print_only)


def keep(row: dict, print_only: bool) -> None:
    if print_only:
        print(row, flush=True)
    else:
        append_row(FILE, row)


def versions() -> dict:
    return {"cores": os.cpu_count(), "tensorflow": version("tensorflow"), "keras": version("keras")}


def probe(name: str, weights: str, dataset: str, size: int = 96) -> dict[str, float]:
    """Return the test accuracy, 0 to 1, by the splits on which the probe was fitted."""
    import keras
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    import tlkit
    from tlkit.models.head import FEATURES

    shared = Path(os.environ.get("TLKIT_SHARED", "../shared"))
    dataset = tlkit.decode_images(tlkit.scan(shared / "data" / dataset / "splits.csv"), size)
    model = tlkit.build_classifier(name, 2, image_size=size, weights=weights, seed=0)
    features = keras.Model(model.input, model.get_layer(FEATURES).output)
    splits = {split: dataset.part(split) for split in ("train", "validation", "test")}
    x = {
        split: features.predict(one.pixels.gather(np.arange(len(one))), batch_size=64, verbose=0)
        for split, one in splits.items()
    }
    scaler = StandardScaler().fit(x["train"])
    x = {split: scaler.transform(one) for split, one in x.items()}

    y = {split: one.labels for split, one in splits.items()}
    both = np.concatenate([x["train"], x["validation"]]), np.concatenate([y["train"], y["validation"]])

    def fitted(c: float, features: np.ndarray, labels: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=1000).fit(features, labels)

    candidates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0)
    best = max(candidates, key=lambda c: fitted(c, x["train"], y["train"]).score(x["validation"], y["validation"]))
    print(dataset, "C", best)
    return {
        "train": float(fitted(best, x["train"], y["train"]).score(x["test"], y["test"])),
        "train and validation": float(fitted(best, *both).score(x["test"], y["test"])),
    }


def images_per_second(rounds: int = 15, batch: int = 64) -> dict[tuple[str, int], float]:
    """By backbone and pixels per side."""
    import tensorflow as tf

    import tlkit

    random = np.random.default_rng(0)
    calls = {}
    for name, size in (("nano", 96), ("mobilenetv2_0.35", 96), ("nano", 224), ("mobilenetv2_0.35", 224)):
        model = tlkit.build_classifier(name, 2, image_size=size, weights="none")
        pixels = tf.constant(random.integers(0, 256, (batch, size, size, 3)).astype("float32"))
        step = tf.function(lambda x, model=model: model(x, training=False))
        step(pixels)
        calls[name, size] = (step, pixels)
    seconds: dict[tuple[str, int], list[float]] = {one: [] for one in calls}
    for _ in range(rounds):
        for one, (step, pixels) in calls.items():
            started = time.perf_counter()
            step(pixels)
            seconds[one].append(time.perf_counter() - started)
    return {one: batch / float(np.median(times)) for one, times in seconds.items()}


if __name__ == "__main__":
    main()
