"""Measure images per second of each step of tlkit, and compare it with a limit of this machine.

    python benchmarks/pipeline.py [BACKBONE] [SIZE]

Needs no data and no weights.

- Decoding: `decode_images` of generated 320 x 240 JPEG files; the limit is TensorFlow's JPEG decoder alone on the same
  number of threads.
- Batches: from the decode cache, plain and augmented by the preset "standard"; the limit is copying the same bytes.
  Also, what a seed for every image costs.
- Frozen layers: `extract_features`; the limit is a plain forward pass of the same batches.
- Training: an epoch of the whole network, as `fit` runs it; the limit is a forward pass.

Weights are random. On Keras' other backends, decoding is skipped. Appends dated rows to benchmarks/pipeline.csv.
"""

import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from rows import append_row

import tlkit
from tlkit.cache import in_memory
from tlkit.data.augment import _pipeline, augment
from tlkit.features.extract import extract_features
from tlkit.models.head import FEATURES
from tlkit.plan.augmentation import PRESETS
from tlkit.training.batches import Batches, Targets, augmenting

FILE = Path(__file__).with_suffix(".csv")
COUNT, BATCH = 1024, 64
STANDARD = PRESETS["standard"]  # affine, flip, brightness, colour cast


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "mobilenetv2"
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 224
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TLKIT_CACHE"] = f"{scratch}/cache"
        if keras.backend.backend() == "tensorflow":
            decoding(Path(scratch), size)
        random = np.random.default_rng(0)
        pixels = in_memory(random.integers(0, 256, (COUNT, size, size, 3), dtype="uint8"))
        labels = np.arange(COUNT) % 10
        batching(pixels, labels, size)
        seeding(pixels, size)
        computing(name, pixels, labels, size)


def keep(step: str, speed: float, limit_of: str, limit: float) -> None:
    row = {
        "date": date.today().isoformat(),
        "step": step,
        "images_per_second": round(speed),
        "limit": limit_of,
        "limit_images_per_second": round(limit),
        "share_of_limit": round(speed / limit, 2),
        "cores": os.cpu_count(),
        "device": device(),
        "backend": keras.backend.backend(),
        "keras": version("keras"),
    }
    append_row(FILE, row)


def device() -> str:
    with contextlib.suppress(ImportError):
        import jax

        if keras.backend.backend() == "jax":
            return str(jax.devices()[0].device_kind)
    return "CPU"


def speed(work: Callable[[], object], images: int, repeats: int = 3) -> float:
    """Return the images per second of the fastest of a few repeats, after one to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return images / min(seconds)


def decoding(scratch: Path, size: int) -> None:
    import tensorflow as tf
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(COUNT):
        file = scratch / "data" / f"class{i % 2}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype="uint8"))
        small.resize((320, 240), Image.Resampling.BICUBIC).save(file, quality=90)
    images = tlkit.scan(scratch / "data")
    files = [file.read_bytes() for file in images.files()]

    def ours() -> None:
        with tempfile.TemporaryDirectory() as empty:
            os.environ["TLKIT_CACHE"] = empty
            tlkit.decode_images(images, size)

    def library() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda data: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"), files))

    keep(f"decode_images, {size} px", speed(ours, COUNT), "TensorFlow's JPEG decoder alone", speed(library, COUNT))


def batching(pixels: object, labels: np.ndarray, size: int) -> None:
    order = np.random.default_rng(0).permutation(COUNT)

    def copy() -> None:
        for start in range(0, COUNT, BATCH):
            pixels.gather(order[start : start + BATCH]).copy()

    limit = speed(copy, COUNT)
    with ThreadPoolExecutor() as pool:
        for name, transform in (
            ("plain", None),
            ("augmented (standard)", augmenting(STANDARD, list(range(COUNT)), 0, pool)),
        ):
            batches = Batches([[pixels]], Targets(labels, 10), batch_size=BATCH, shuffle=True, transform=transform)

            def read(batches: Batches = batches) -> None:
                for index in range(len(batches)):
                    batches[index]

            keep(f"Batches, {name}, {size} px", speed(read, COUNT), "copying the pixels", limit)


def seeding(pixels: object, size: int) -> None:
    """Measure the cost of a seed for every image: medians of 9 alternating repeats, CPU time of this process."""
    images = pixels.gather(np.arange(256))
    pipeline = _pipeline(STANDARD)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(20):
        started = time.process_time()
        for number, image in enumerate(images):
            if turn % 2:
                augment(image, STANDARD, (0, turn, number))
            else:
                pipeline(image=image)
        if turn > 1:
            seconds[bool(turn % 2)].append(time.process_time() - started)
    seeded, unseeded = (256 / statistics.median(seconds[which]) for which in (True, False))
    keep(f"augment (standard), seeded, CPU time, {size} px", seeded, "the same pipeline unseeded", unseeded)


def computing(name: str, pixels: object, labels: np.ndarray, size: int) -> None:
    model = tlkit.build_classifier(name, 10, image_size=size, weights="none")
    prefix = keras.Model(model.input, model.get_layer(FEATURES).output)
    keys = [f"{i:064x}" for i in range(COUNT)]
    examples = tlkit.Examples(pixels, labels, keys, made_by="random")
    runs = iter(range(100))

    def ours() -> None:
        extract_features(prefix, dataclasses.replace(examples, made_by=f"run{next(runs)}"), batch_size=BATCH)

    batches = [pixels.gather(np.arange(start, start + BATCH)) for start in range(0, COUNT, BATCH)]

    def forward() -> None:
        for batch in batches:
            np.asarray(prefix.predict_on_batch(batch))

    limit = speed(forward, COUNT)
    keep(f"extract_features, {name}, {size} px", speed(ours, COUNT), "a plain forward pass", limit)

    tlkit.set_trainable(model, name, unfreeze="all")
    model.compile("adam", "categorical_crossentropy")
    training = Batches([[pixels]], Targets(labels, 10), batch_size=BATCH, shuffle=True)
    trained = speed(lambda: model.fit(training, epochs=1, verbose=0, shuffle=False), COUNT, repeats=1)
    keep(f"a training epoch of everything, {name}, {size} px", trained, "a plain forward pass", limit)


if __name__ == "__main__":
    main()
