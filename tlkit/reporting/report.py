"""The report of a run: one page that opens from disk with no network, and the same numbers as files beside it.

`report.html` holds its images in itself and needs no scripts; `report.json` has the numbers, and `mistakes.csv`,
`label_errors.csv`, `duplicates.csv` and `outliers.csv` name files. All of it is made from the run folder, so it can be
made again. A new section is a file in `sections/` and a row in `SECTIONS`.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tlkit.cache import Cache
from tlkit.disk import check_writable
from tlkit.errors import DataError, SpecError
from tlkit.progress import log
from tlkit.reporting.findings import SECONDS, Analysis, Findings, ReportInputs, analyse, collect
from tlkit.reporting.leaderboard import leaderboard
from tlkit.reporting.page import Section, report_page
from tlkit.reporting.sections import (
    beyond,
    confusion,
    curves,
    data,
    decisions,
    explain,
    mistakes,
    reliability,
    robustness,
    safety,
    summary,
)
from tlkit.reporting.sections import slices as by_slice
from tlkit.runs.folder import Run, open_run
from tlkit.runs.reading import decoded, load_judged, load_model, own_part
from tlkit.words import counted

# In the order of the page. Each makes its section, or returns None if it has nothing to show.
SECTIONS: tuple[Callable[[Findings], Section | None], ...] = (
    summary.render,
    curves.render,
    confusion.render,
    mistakes.render,
    by_slice.render,
    data.render,
    explain.render,
    reliability.render,
    beyond.render,
    safety.render,
    robustness.render,
    decisions.render,
)


def report(
    runs: Sequence[Run | str | Path],
    *,
    robustness: bool = False,
    slices: Sequence[str] | str | None = None,
    out: str | Path | None = None,
    cache: Cache | None = None,
) -> Path:
    """Write the report of a run again, or a leaderboard of several runs.

    Args:
        runs: run folders; with one, its `report.html` is made again. Where the data was moved,
            `open_run(folder, moved_to)`.
        robustness: also measure accuracy on corrupted images, up to 500 of them. Takes minutes.
        slices: of one run: the columns whose values are compared, as for `tlkit.slices`.
        out: where the leaderboard goes, default leaderboard.html beside the first run.
        cache: where pixels and features are kept, default the user's.

    Returns: the path of the page.

    Raises:
        RunError: a folder is not a finished run.
        DataError: the run's images are gone, and its report has results that need them. That report is kept.
        NameUnknown: one of `slices` is no column of the run's data.
        SpecError: the runs were not evaluated on the same images, or there are several and `slices` are given.
    """
    opened = [one if isinstance(one, Run) else open_run(one) for one in runs]
    if len(opened) > 1:
        if slices is not None:
            raise SpecError(f"`slices` are of one run's report. {len(opened)} runs are ranked. Give one run.")
        return leaderboard(opened, out)
    (run,) = opened
    check_writable(run.folder / "report.html")
    unseen = run.metrics["test"] and "test" not in run.learned_from
    model = load_model(run) if unseen else load_judged(run)  # not trained on what it is measured on
    inputs = ReportInputs(run, model, None, slices)
    try:
        inputs = dataclasses.replace(inputs, dataset=decoded(run, own_part(run, None), cache))
    except DataError as error:
        _check_no_richer_report(run, error)
        log.info(f"without images: {error}")
    return write_report(inputs, seconds=15 * SECONDS, robust=robustness)


def _check_no_richer_report(run: Run, reason: DataError) -> None:
    """Raise DataError if the run's report shows images, which a report without them would replace."""
    if not (run.folder / "report.html").is_file():
        return
    try:
        shows_images = "data" in json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        shows_images = True  # unknown, so it is kept
    if shows_images:
        raise DataError(f"{reason} '{run.folder / 'report.html'}', which shows the images, is kept as it is.") from None


def write_report(
    inputs: ReportInputs, analysis: Analysis | None = None, *, seconds: float = SECONDS, robust: bool = False
) -> Path:
    """Write `report.html` and the files beside it.

    Args:
        analysis: of `analyse`, if there is one already.
        seconds: about how long masking salient pixels may take.
        robust: also measure robustness.

    Returns: the path of the page.
    """
    started = time.monotonic()
    findings = collect(inputs, analysis or analyse(inputs, seconds=seconds), robust=robust)
    _write_tables(findings)
    page = _page(findings)
    numbers = findings.numbers() | {"report_seconds": round(time.monotonic() - started, 1)}
    inputs.run.write_json("report.json", numbers)
    inputs.run.write_text("report.html", page)
    return inputs.run.folder / "report.html"


def _page(findings: Findings) -> str:
    record = findings.record
    counts = ", ".join(f"{count:,} {split}" for split, count in record.image_counts.items() if count)
    images = counted(sum(record.image_counts.values()), "image")
    return report_page(
        title=f"{record.data_name}: {counted(len(record.classes), 'class', 'classes')}, {record.backbone}",
        subtitle=f"{images} ({counts}). Run time {record.seconds:.0f} s.",
        sections=[section for render in SECTIONS if (section := render(findings)) is not None],
        footer=f"tlkit {record.version}, {record.started}, {record.device}. "
        f"Measured on the {record.split} images unless stated otherwise.",
    )


def _write_tables(findings: Findings) -> None:
    run, checkup = findings.record.run, findings.analysis.checkup
    run.write_table("mistakes.csv", findings.mistakes)
    if findings.analysis.slices is not None and findings.analysis.slices.by_column:
        run.write_table("slices.csv", findings.analysis.slices.table)
    if checkup is not None:
        for name in ("label_errors", "duplicates", "outliers"):
            run.write_table(f"{name}.csv", getattr(checkup, name))
