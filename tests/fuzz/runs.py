"""A small run folder without a model, its mutated files, and their readers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.tables import damaged, json_mutants
from tlkit.plan.decision import Decision
from tlkit.plan.job import Job
from tlkit.plan.plan import Plan, PlannedBackbone
from tlkit.reporting.findings import Record
from tlkit.runs.folder import Run, open_run
from tlkit.strategy.recipes import choose_recipe

SHA = "0" * 64
FILES = {
    "split.csv": f"path,label,split,group,sha256\na/1.png,a,train,,{SHA}\nb/2.png,b,validation,,{SHA}\n",
    "problems.csv": "path,label,problem,severity,action,detail\na/3.png,a,tiny,problem,used,8 x 8 pixels\n",
    "predictions.csv": "path,label,prediction,probability,a,b\nb/2.png,b,b,0.75,0.25,0.75\n",
    "history.csv": "stage,epoch,loss,accuracy,val_loss,val_accuracy,seconds,strength\n1,1,0.5,0.7,0.6,0.6,1.5,0.1\n",
}


def write_run(folder: Path) -> Path:
    """Write a finished run as `finetune` does, except for its model and report."""
    folder.mkdir(parents=True)
    run = Run(folder)
    recipe, decision = choose_recipe(200)
    backbone = PlannedBackbone("nano", ("after a",), 1000, "table", SHA, "Apache-2.0")
    run.write_plan(
        Plan(
            tlkit="0.2.0",
            command="tlkit finetune data",
            started="2026-11-27T12:00:00+0000",
            job=Job(Path("data")),
            recipe=recipe,
            decisions=(decision, Decision("split", "80/20", "by default", {"test_share": 0.2})),
            backbone=backbone,
            image_size=96,
            classes=("a", "b"),
            images={"train": 1, "validation": 1, "test": 0},
            problems="1 tiny",
            device="cpu",
            precision="float32",
            versions={"python": "3.11"},
        )
    )
    run.write_metrics({})
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run_mutants(folder: Path, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(file, bytes) of mutated files of a run, most of them its plan."""
    plans = json_mutants((folder / "plan.json").read_bytes(), count, seed)
    metrics = json_mutants((folder / "metrics.json").read_bytes(), count, seed)
    for index in range(count):
        r = random.Random(f"run {seed} {index}")
        name = r.choice(("plan.json", "plan.json", "plan.json", "metrics.json", *FILES))
        if name.endswith(".json"):
            yield name, next(plans if name == "plan.json" else metrics)
            continue
        data = FILES[name].encode()
        while (
            changed := r.choice((damaged(data, r), b"", data.replace(b",", r.choice((b";", b",,", b"\x00")))))
        ) == data:
            continue
        yield name, changed


def readers(folder: Path, name: str) -> None:
    """Read a run's file by all its readers. Raises TlkitError for one that cannot be used."""
    run = open_run(folder)
    if name == "plan.json":
        plan = run.plan
        plan.to_dict()
        assert plan.doubts is not None and plan.drew_test is not None
        Job.read(folder / name)
    elif name == "metrics.json":
        assert isinstance(run.metrics, dict) and run.learned_from
    elif name == "history.csv":
        Record(run).history()
    elif name == "problems.csv":
        Record(run).problems()
    else:
        run.read_table(name)
