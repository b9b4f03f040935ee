"""Call the six steps of `finetune` one by one, so that you can replace any of them. The result is an ordinary run.

python examples/own_loop.py DATA OUT [BACKBONE] [IMAGE_SIZE]
"""

import logging
import sys
from pathlib import Path

import tlkit
from tlkit.finetuning.decide import decide
from tlkit.finetuning.deliver import deliver
from tlkit.finetuning.fit import fit
from tlkit.finetuning.judge import judge
from tlkit.finetuning.prepare import prepare
from tlkit.finetuning.resolve import resolve
from tlkit.runs.folder import start_run


def main(data: str, out: str, backbone: str = "nano", size: int = 96) -> tlkit.Run:
    job = tlkit.Job(data, backbone=backbone, image_size=size, recipe="small_similar", report=False)

    resolved = resolve(job)  # looks up names: backbones, a recipe, an augmentation
    prepared = prepare(resolved)  # scans, splits and decodes the images
    run = start_run(Path(out), force=False)
    prepared.write(run)
    decided = decide(prepared, run)  # measures and decides what was left open, with evidence
    print(f"{decided.plan.recipe.name}: {decided.plan.decisions[0].why}")

    trained = fit(decided, prepared)  # or your own: build.Trained(model, history, images_computed)
    judged = judge(decided.plan, trained, prepared, run)  # calibrates on the validation images, then scores
    print(f"validation accuracy {judged.scores['validation']['accuracy']:.3f}")
    return deliver(decided.plan, judged, prepared, run)  # exports, and proves that the export equals the trained model


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows what tlkit does
    main(sys.argv[1], sys.argv[2], *sys.argv[3:4], *map(int, sys.argv[4:5]))
