"""What `finetune` does, step by step: each line is yours to change, and what it leaves is a run like any other.

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

    resolved = resolve(job)  # names become values: backbones, a recipe, an augmentation
    prepared = prepare(resolved)  # images are scanned, decoded and split
    run = start_run(Path(out), force=False)
    prepared.write(run)
    decided = decide(prepared, run)  # what was left open is measured and decided, each decision with its evidence
    print(f"{decided.plan.recipe.name}: {decided.plan.decisions[0].why}")

    trained = fit(decided, prepared)  # or your own: fit.Trained(model, history, images_computed)
    judged = judge(decided.plan, trained, prepared, run)  # calibrated on the validation images, then scored
    print(f"validation accuracy {judged.scores['validation']['accuracy']:.3f}")
    return deliver(decided.plan, judged, prepared, run)  # exported, and proven to be what was trained


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # what tlkit does, line by line
    main(sys.argv[1], sys.argv[2], *sys.argv[3:4], *map(int, sys.argv[4:5]))
