"""The report of a run: one page that opens from disk with no network, and the same numbers as files beside it.

`report.html` holds its pictures in itself and needs no scripts; `report.json` has the numbers, and `mistakes.csv`, `label_errors.csv`,
`duplicates.csv` and `outliers.csv` name files. All of it is made from the run folder, so it can be made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlkit.cache import Cache
from tlkit.errors import DataError
from tlkit.files import write_atomically
from tlkit.progress import log
from tlkit.reporting.album import _Album
from tlkit.reporting.findings import SECONDS, Looked, Material, _answers, _robustness, look_at
from tlkit.reporting.leaderboard import leaderboard
from tlkit.reporting.page import _data_name, _render
from tlkit.reporting.sections.confusion import _confusion
from tlkit.reporting.sections.curves import _curves
from tlkit.reporting.sections.data import _data
from tlkit.reporting.sections.decisions import _decisions
from tlkit.reporting.sections.explain import _explain
from tlkit.reporting.sections.mistakes import _mistakes
from tlkit.reporting.sections.reliability import _reliability
from tlkit.reporting.sections.robustness import _robust_section
from tlkit.reporting.sections.safety import _safety
from tlkit.reporting.sections.summary import _summary
from tlkit.runs.folder import Run, open_run
from tlkit.runs.reading import decoded, load_model, own_part


def report(
    runs: Sequence[Run | str | Path],
    *,
    robustness: bool = False,
    out: str | Path | None = None,
    cache: Cache | None = None,
) -> Path:
    """Write a run's report again, or a leaderboard of several runs.

    runs: run folders; with one, its `report.html` is made again. robustness: also measure accuracy on worsened pictures, up to 500 (minutes).
    out: where the leaderboard goes, default leaderboard.html beside the first run. Returns the page's path.

    Raises RunError for what is no finished run, SpecError for runs that were not judged on the same images.
    """
    opened = [one if isinstance(one, Run) else open_run(one) for one in runs]
    if len(opened) > 1:
        return leaderboard(opened, out)
    (run,) = opened
    material = Material(run, load_model(run), None)
    try:
        material = Material(run, material.model, decoded(run, own_part(run, None), cache))
    except DataError as error:
        log.info(f"without pictures: {error}")
    return write_report(material, seconds=15 * SECONDS, robust=robustness)


def write_report(
    material: Material,
    looked: Looked | None = None,
    *,
    seconds: float = SECONDS,
    robust: bool = False,
) -> Path:
    """Write `report.html` and the files beside it. looked: from `look_at`, if there is one already. The rest as there."""
    started = time.monotonic()
    run = material.run
    plan, metrics, answers = run.plan, run.metrics, _answers(run)
    part = "test" if metrics["test"] else "validation"
    looked = looked or look_at(material, seconds=seconds)
    checkup, cam = looked.checkup, looked.cam
    album = _Album(material)
    speed = round(cam.milliseconds(), 2) if cam else None
    numbers: dict[str, Any] = {"split": part, "milliseconds_an_image": speed}
    if checkup is not None:
        for name in ("label_errors", "duplicates", "outliers"):
            run.write_table(f"{name}.csv", getattr(checkup, name))
        numbers["data"] = checkup.to_dict()
    if looked.reliance is not None:
        numbers["explain"] = looked.reliance.to_dict()
    if robust and material.dataset is not None:
        numbers["robustness"] = _robustness(material, answers)
    elif (run.folder / "report.json").is_file():
        earlier = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
        numbers["robustness"] = earlier.get("robustness")
    table = numbers.get("robustness")
    mistakes = answers[answers["prediction"] != answers["label"]].sort_values("probability", ascending=False)
    run.write_table("mistakes.csv", mistakes.drop(columns="split"))
    reliability, numbers["reliability"] = _reliability(metrics, answers, part)
    page = _render(
        "report.html.jinja",
        title=f"{_data_name(plan)}: {len(plan.classes)} classes, {plan.backbone.name}",
        sections=[
            *(("summary", "Summary"), ("curves", "Curves"), ("confusion", "Confusion"), ("mistakes", "Mistakes")),
            *(("data-problems", "Data"), ("explain", "Why"), ("reliability", "Trust"), ("safety", "Augmentation")),
            *((("robustness", "Robustness"),) if table else ()),
            ("decisions", "Decisions"),
        ],
        summary=_summary(run, plan, metrics, part, speed, checkup),
        curves=_curves(run),
        confusion=_confusion(metrics[part], answers, album),
        mistakes=_mistakes(answers, album, cam, part),
        data=_data(run, plan, checkup, album),
        explain=_explain(plan, answers, album, cam, looked.reliance),
        reliability=reliability,
        safety=_safety(plan, album),
        robustness=_robust_section(table) if table else None,
        decisions=_decisions(run, plan),
        footer=f"tlkit {plan.tlkit}, {plan.started}, {plan.device}. Measured on the {part} part unless said otherwise.",
    )
    numbers["report_seconds"] = round(time.monotonic() - started, 1)
    run.write_json("report.json", numbers)
    write_atomically(run.folder / "report.html", page)
    return run.folder / "report.html"
