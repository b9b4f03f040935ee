"""Compare every export format for every source of backbones on the same 256 files: agreement, size and speed.

    python benchmarks/targets.py [--data clothing] [--size 224] [--native mobilenetv2] [--kerashub PRESET_OR_FOLDER]

Three runs with a fitted head: a native backbone, the same weights written as a TF-Hub module, and a backbone of
KerasHub (default: a ResNet18 with random weights from a local preset folder, because real ones must be downloaded).
Each run is exported to every format. `agreement` and `max_difference` compare with that run's own Keras model,
`like_native` and `from_native` with the native run. Milliseconds are those of batches of 16 on this machine: those of
the SavedModel include reading and decoding files, those of the others start from pixels. 8-bit integers are also
evaluated on 200 training images. Appends a row per format to benchmarks/targets.csv and prints the table.
"""

import argparse
import os
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from rows import append_row

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_suffix(".csv")
COLUMNS = (
    "source",
    "format",
    "n",
    "agreement",
    "max_difference",
    "like_native",
    "from_native",
    "accuracy",
    "megabytes",
    "ms",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="clothing")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--native", default="mobilenetv2")
    parser.add_argument("--kerashub", help="a preset or its folder")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for row in measure(arguments.data, arguments.size, arguments.native, arguments.kerashub, Path(scratch)):
            append_row(FILE, row)
            rows.append(row)
    print("  ".join(f"{name:<14}" for name in COLUMNS))
    for row in rows:
        print("  ".join(f"{row[name]!s:<14}" for name in COLUMNS))


def measure(data: str, size: int, native: str, preset: str | None, scratch: Path):  # type: ignore[no-untyped-def]
    import numpy as np

    import tlkit
    from tlkit import Recipe, Stage
    from tlkit.deployment.formats import TARGETS
    from tlkit.errors import ExportError, ParityError
    from tlkit.runs.reading import own_part, parity_sample

    source = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv"
    recipe = Recipe("head", stages=(Stage(1, 1e-3, solver="logistic"),))
    module, folder = as_module(native, size, scratch / "module"), preset or resnet18(size, scratch / "resnet18")
    backbones = {"native": native, "hub": f"hub:{module}", "kerashub": f"kerashub:{folder}"}
    theirs = None
    for kind, backbone in backbones.items():
        run = tlkit.finetune(
            source, backbone=backbone, image_size=size, recipe=recipe, out=scratch / f"run-{kind}", report=False
        )
        part = own_part(run, "validation")
        files = part.take(parity_sample(len(part))).files()
        for target in TARGETS:
            started, note = time.monotonic(), ""
            try:
                out, proof = tlkit.export_run(run, scratch / f"{kind}-{target}", target=target)
            except (ParityError, ExportError) as error:
                note = str(error)[:160]
                if isinstance(error, ExportError):
                    yield described(kind, data, size, target, None, note, started, (float("nan"), float("nan")))
                    continue
                out, proof = tlkit.export_run(run, scratch / f"{kind}-{target}", target=target, force=True)
            table = tlkit.predict(out, files, top=len(run.plan.classes))
            mine = by_class(table, run.plan.classes)
            theirs = mine if theirs is None else theirs
            against = float((mine.argmax(1) == theirs.argmax(1)).mean()), float(np.abs(mine - theirs).max())
            yield described(kind, data, size, target, proof, note, started, against)


def by_class(table, classes):  # type: ignore[no-untyped-def]
    """Return the probabilities in `tlkit.predict`'s table, shape (n, classes)."""
    import numpy as np

    values = np.zeros((len(table), len(classes)))
    for row, one in enumerate(table.to_dict("records")):
        for rank in range(1, len(classes) + 1):
            name, number = ("prediction", "probability") if rank == 1 else (f"top{rank}", f"top{rank}_probability")
            values[row, classes.index(one[name])] = one[number]
    return values


def described(kind, data, size, target, proof, note, started, against):  # type: ignore[no-untyped-def]
    proof = proof or {}
    return {
        "date": date.today().isoformat(),
        "data": data,
        "image_size": size,
        "source": kind,
        "format": target,
        "n": proof.get("n", 0),
        "agreement": round(proof.get("top1_agreement", float("nan")), 4),
        "max_difference": f"{proof.get('max_difference', float('nan')):.1e}",
        "like_native": round(against[0], 4),
        "from_native": f"{against[1]:.1e}",
        "accuracy_before": round(proof.get("accuracy_before", float("nan")), 4),
        "accuracy": round(proof.get("accuracy", float("nan")), 4),
        "megabytes": round(proof.get("bytes", 0) / 1e6, 2),
        "ms": proof.get("milliseconds_an_image", ""),
        "export_and_proof_seconds": round(time.monotonic() - started, 1),
        "note": note,
        "cores": os.cpu_count(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
    }


def as_module(native: str, size: int, folder: Path) -> Path:
    """Write the native backbone's pooled features as a trainable TF-Hub module: pixels 0 to 1 in, a vector out."""
    import keras

    from tlkit import build_classifier, find_backbone

    sys.path.insert(0, str(ROOT))
    from tests.reusable import unit_network, write_module

    model = build_classifier(native, 2, image_size=size)
    features = model.get_layer("head_features").output
    if getattr(find_backbone(native).builder, "preprocessing", None) != "tf":
        return write_module(unit_network(keras.Model(model.input, features)), folder, size=size)
    # as in published modules: one scaling, from [0, 1] to [-1, 1]; a chain of scalings loses accuracy in 8-bit integers
    inputs = keras.Input((size, size, 3))
    network = keras.Model(model.get_layer("normalise").output, features)
    scaled = keras.layers.Rescaling(2.0, offset=-1.0)(inputs)
    return write_module(keras.Model(inputs, network(scaled)), folder, size=size)


def resnet18(size: int, folder: Path) -> Path:
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[2, 2, 2, 2],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
    ).save_to_preset(str(folder))
    keras_hub.layers.ResNetImageConverter(
        image_size=(size, size), scale=[0.01712, 0.01751, 0.01743], offset=[-2.118, -2.036, -1.804]
    ).save_to_preset(str(folder))
    return folder


if __name__ == "__main__":
    main()
