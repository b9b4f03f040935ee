"""The same pictures through every format: agreement with the trained model, largest difference, accuracy, size, milliseconds an image.

    TLKIT_SHARED=folder python benchmarks/targets.py [--data clothing] [--backbone mobilenetv2_0.35 mobilenetv2 ...] [--size 224]

One run with a solved head for each backbone; 256 validation files (or all), for 8-bit integers 200 training pictures besides. The SavedModel reads and decodes
files, the others are timed on decoded pixels, one at a time for LiteRT and in batches of 16 for ONNX and Keras. Appends a row per format to
benchmarks/targets.csv.
"""

import argparse
import os
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from rows import append_row

FILE = Path(__file__).with_suffix(".csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="clothing")
    parser.add_argument("--backbone", nargs="+", default=["mobilenetv2_0.35", "mobilenetv2"])
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    for backbone in arguments.backbone:
        for row in measure(arguments.data, backbone, arguments.size):
            append_row(FILE, row)


def measure(data: str, backbone: str, size: int):  # type: ignore[no-untyped-def]
    import tlkit
    from tlkit import Recipe, Stage
    from tlkit.errors import ParityError
    from tlkit.targets import TARGETS

    source = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / data / "splits.csv"
    recipe = Recipe("head", stages=(Stage(1, 1e-3, solver="logistic"),))
    with tempfile.TemporaryDirectory() as scratch:
        run = tlkit.finetune(
            source, backbone=backbone, image_size=size, recipe=recipe, out=Path(scratch) / "run", report=False
        )
        for target in TARGETS:
            started = time.monotonic()
            note = ""
            try:
                folder, proof = tlkit.export_run(run, Path(scratch) / target, target=target)
            except ParityError as error:
                note = str(error)[:120]
                folder, proof = tlkit.export_run(run, Path(scratch) / target, target=target, force=True)
            assert proof is not None
            bytes_ = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            yield {
                "date": date.today().isoformat(),
                "data": data,
                "backbone": backbone,
                "image_size": size,
                "format": target,
                "n": proof["n"],
                "agreement": round(proof["top1_agreement"], 4),
                "max_difference": f"{proof['max_difference']:.1e}",
                "accuracy_before": round(proof.get("accuracy_before", float("nan")), 4),
                "accuracy": round(proof.get("accuracy", float("nan")), 4),
                "megabytes": round(bytes_ / 1e6, 2),
                "milliseconds_an_image": proof.get("milliseconds_an_image", ""),
                "export_and_proof_seconds": round(time.monotonic() - started, 1),
                "note": note,
                "cores": os.cpu_count(),
                "tensorflow": version("tensorflow"),
                "keras": version("keras"),
            }


if __name__ == "__main__":
    main()
