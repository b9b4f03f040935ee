"""Delivers an evaluated model: exports it, proves that the export predicts as it does, and writes the report."""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.deployment.parity import FreshProcess, prove_parity
from tlkit.deployment.saved_model import export_served
from tlkit.errors import DiskError
from tlkit.evaluation.predict import own_probabilities
from tlkit.finetuning.words import late, result_lines
from tlkit.folders import removed_unless_proved
from tlkit.progress import Clock, log
from tlkit.reporting.findings import ReportInputs, analyse
from tlkit.reporting.report import write_report
from tlkit.runs.export import serving_of
from tlkit.runs.folder import Run, finish_run
from tlkit.runs.reading import parity_sample

if TYPE_CHECKING:
    from tlkit.data.dataset import Dataset
    from tlkit.finetuning.judge import Judged
    from tlkit.finetuning.prepare import Prepared
    from tlkit.plan.plan import Plan


def deliver(
    plan: Plan,
    judged: Judged,
    prepared: Prepared,
    run: Run,
    *,
    into: Path | None = None,
    fresh: FreshProcess | None = None,
    clock: Clock | None = None,
) -> Run:
    """Export an evaluated model, prove the export, and write metrics.json and the report.

    Args:
        into: Where the finished run belongs, if it was made beside an earlier run that it replaces.
        fresh: The process that runs the export for the proof, if it is started already.
        clock: Measures the seconds of each step for metrics.json.

    Returns:
        The finished run, in its final folder.

    Raises:
        ParityError: The export predicts differently from the trained model.
        DiskError: The disk is full. If only the report is missing, the run is finished.
    """
    clock, dataset = clock or Clock(), prepared.dataset
    log.info("exporting the SavedModel")
    with clock.timed("export"):
        export_served(judged.model, run.saved_model, serving_of(run, judged.scores))
    inputs = ReportInputs(run, judged.reported, dataset) if plan.job.report else None
    with ThreadPoolExecutor(1) as beside:  # the slow part of the report runs while another process proves
        analysing = beside.submit(analyse, inputs) if inputs else None
        log.info("proving   in a fresh process that it predicts what the model predicts")
        with clock.timed("prove"), removed_unless_proved(run.saved_model):
            parity = _prove(run, judged, dataset, fresh)
    metrics = {
        **judged.scores,
        "parity": parity,
        "seconds": clock.seconds(),
        "images_decoded": dataset.pixels.decoded,
        "images_computed": judged.images_computed,
        "notes": [*judged.notes, *late(clock.deadline, plan.job.max_minutes)],
    }
    run.write_metrics(metrics)
    run = finish_run(run, into or run.folder)
    for line in result_lines(run):
        log.info(line)
    if inputs is not None and analysing is not None:
        log.info(f"{'writing':<11} the report")
        try:
            page = write_report(dataclasses.replace(inputs, run=run), analysing.result())
        except DiskError as error:
            raise DiskError(f"{error} The run is finished; its report comes by `tlkit report {run.folder}`.") from error
        log.info(f"{'report':<11} {page}")
        if not run.metrics["notes"]:
            for note in late(clock.deadline, plan.job.max_minutes):
                log.info(f"{'note':<11} {note}")
    return run


def _prove(run: Run, judged: Judged, dataset: Dataset, fresh: FreshProcess | None) -> dict[str, Any]:
    """Prove the export on validation images spread over all classes."""
    chosen = parity_sample(len(judged.served))
    sample = dataset.images.part("validation").take(chosen)
    return prove_parity(
        run.saved_model,
        sample.files(),
        judged.served[chosen],
        dataset.class_names,
        fresh,
        functools.partial(own_probabilities, judged.model, dataset.pixels.of(sample)),
        None if judged.p_values is None else judged.p_values[chosen],
    )
