"""Is a TF-Hub module worth fine-tuning?

    python benchmarks/hub.py [--data cats_dogs] [--backbone mobilenetv2] [--size 128] [--seeds 3] [--epochs 4]

Compares a head on the frozen module, the module fine-tuned as a whole, and the native backbone. The module has the
native backbone's weights, in the form in which TF-Hub publishes modules. All runs begin with a fitted head. Fine-tuning
then trains everything for some epochs at 1e-4: "judged" keeps the best epoch by validation loss, which may be the
fitted head itself, and "to the end" keeps the last epoch. Accuracy is that of the test split; differences are paired by
image, averaged over seeds. Every run's SavedModel is proven in a process that has only TensorFlow. Appends a row per
run to benchmarks/hub.csv.
"""

import argparse
import os
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from rows import append_row
from targets import as_module

FILE = Path(__file__).with_suffix(".csv")


def main() -> None:
    import numpy as np
    import pandas as pd

    import tlkit
    from tlkit import Recipe, Stage
    from tlkit.stats import paired_difference

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cats_dogs")
    parser.add_argument("--backbone", default="mobilenetv2")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    source = Path(os.environ.get("TLKIT_SHARED", "../shared")) / "data" / arguments.data / "splits.csv"
    solved = Stage(1, 1e-3, solver="logistic")
    frozen = Recipe("frozen head", stages=(solved,))
    stages = (solved, Stage(arguments.epochs, 1e-4, unfreeze="all", warmup=0.1))
    judged = Recipe("fine-tuned, judged", stages=stages, batch_size=32)
    to_the_end = Recipe("fine-tuned to the end", stages=stages, batch_size=32, monitor="last")
    correct: dict[tuple[str, str], list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        module = as_module(arguments.backbone, arguments.size, Path(scratch) / "module")
        for seed in range(arguments.seeds):
            for kind, backbone, recipe in (
                ("hub", f"hub:{module}", frozen),
                ("hub", f"hub:{module}", judged),
                ("hub", f"hub:{module}", to_the_end),
                ("native", arguments.backbone, to_the_end),
            ):
                started = time.monotonic()
                run = tlkit.finetune(
                    source,
                    backbone=backbone,
                    image_size=arguments.size,
                    recipe=recipe,
                    seed=seed,
                    out=Path(scratch) / f"{kind}-{recipe.name[-6:]}-{seed}",
                    report=False,
                )
                table = pd.read_csv(run.folder / "predictions.csv")
                table = table[table["split"] == "test"]
                correct.setdefault((kind, recipe.name), []).append((table["prediction"] == table["label"]).to_numpy())
                score, parity = run.metrics["test"], run.metrics["parity"]
                row = {
                    "date": date.today().isoformat(),
                    "data": arguments.data,
                    "backbone": arguments.backbone,
                    "image_size": arguments.size,
                    "source": kind,
                    "recipe": recipe.name,
                    "epochs": 0 if recipe is frozen else arguments.epochs,
                    "seed": seed,
                    "n": score["n"],
                    "accuracy": round(score["accuracy"], 4),
                    "log_loss": round(score["log_loss"], 4),
                    "parity_agreement": parity["top1_agreement"],
                    "parity_difference": f"{parity['max_difference']:.1e}",
                    "seconds": round(time.monotonic() - started, 1),
                    "cores": os.cpu_count(),
                    "tensorflow": version("tensorflow"),
                    "keras": version("keras"),
                }
                append_row(FILE, row)
    means = {name: np.mean(found, axis=0) for name, found in correct.items()}
    for one, other in (
        (("hub", "fine-tuned, judged"), ("hub", "frozen head")),
        (("hub", "fine-tuned to the end"), ("hub", "frozen head")),
        (("hub", "fine-tuned to the end"), ("native", "fine-tuned to the end")),
    ):
        gain, error = paired_difference(means[one], means[other])
        print(
            f"{' '.join(one)} {means[one].mean():.1%}, {' '.join(other)} {means[other].mean():.1%}: "
            f"{100 * gain:+.2f} points (95 % interval {100 * (gain - 1.96 * error):+.2f} to "
            f"{100 * (gain + 1.96 * error):+.2f}, n = {len(means[one])} images, {arguments.seeds} seeds)"
        )


if __name__ == "__main__":
    main()
