"""How much larger and slower is a SavedModel that gives p-values for images of none of the classes?

    python benchmarks/known_cost.py [--network nano:96:3 mobilenetv2:128:10 ...]

A network is NAME:SIZE:CLASSES. Prototypes and quantiles are fitted to random features, which take as much room as real
ones. The sizes are those of the files; the seconds are processor time of batches of 16 JPEGs, the two exports by turns,
with the quartiles of their ratios. Appends to benchmarks/known_cost.csv.
"""

import argparse
import io
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from rows import append_row

from tlkit import build_classifier, find_backbone
from tlkit.deployment.saved_model import Serving, export_served
from tlkit.evaluation.known import features_model, fit_known, room_beside
from tlkit.evaluation.prediction_sets import fit_prediction_sets

FILE = Path(__file__).with_suffix(".csv")
BATCH, TURNS = 16, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["nano:96:3", "mobilenetv2:128:10", "mobilenetv2_0.35:128:26", "mobilenetv2_0.35:128:1000"]
    parser.add_argument("--network", nargs="+", default=default)
    for one in parser.parse_args().network:
        name, size, classes = one.split(":")
        append_row(FILE, {"date": date.today().isoformat(), **measured(name, int(size), int(classes))})


def measured(name: str, size: int, classes: int) -> dict[str, object]:
    random = np.random.default_rng(0)
    model = build_classifier(find_backbone(name), classes, image_size=size)
    reader = features_model(model)
    assert reader is not None
    labels = np.tile(np.arange(classes), max(60, 600 // classes) if classes < 100 else 12)
    features = random.random((len(labels), reader.output_shape[-1])).astype("float32")
    probabilities = random.dirichlet(np.ones(classes), len(labels)).astype("float32")
    known = fit_known(features, labels, probabilities, np.arange(len(labels)) // classes % 5, room=room_beside(model))
    assert known is not None
    names = tuple(map(str, range(classes)))
    sets = fit_prediction_sets(probabilities, labels, 0.9).to_dict(names)
    noise = [Image.fromarray(random.integers(0, 255, (size, size, 3), "uint8")) for _ in range(BATCH)]
    data = tf.constant([encoded(image) for image in noise])
    with tempfile.TemporaryDirectory() as scratch:
        plain = export_served(model, Path(scratch, "plain"), Serving(names))
        more = export_served(
            model, Path(scratch, "more"), Serving(names, known=known, none_below=0.05, prediction_sets=sets)
        )
        sizes = [sum(file.stat().st_size for file in one.rglob("*") if file.is_file()) for one in (plain, more)]
        calls = [tf.saved_model.load(str(one)).signatures["serving_default"] for one in (plain, more)]
        seconds = np.zeros((TURNS, 2))
        for turn in range(-2, TURNS):
            for place, call in enumerate(calls):
                began = time.process_time()
                call(image_bytes=data)
                if turn >= 0:
                    seconds[turn, place] = time.process_time() - began
    middle = np.median(seconds, 0)
    ratios = np.sort(seconds[:, 1] / seconds[:, 0])
    return {
        "network": name,
        "size": size,
        "classes": classes,
        "features": reader.output_shape[-1],
        "rank": known.prototypes.shape[1],
        "prototypes": len(known.prototypes),
        "bytes": sizes[0],
        "larger": f"{sizes[1] / sizes[0] - 1:.4f}",
        "milliseconds_an_image": f"{1000 * middle[0] / BATCH:.3f}",
        "slower": f"{middle[1] / middle[0] - 1:.4f}",
        "slower_low": f"{ratios[int(0.25 * TURNS)] - 1:.4f}",
        "slower_high": f"{ratios[int(0.75 * TURNS)] - 1:.4f}",
        "turns": TURNS,
    }


def encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


if __name__ == "__main__":
    main()
