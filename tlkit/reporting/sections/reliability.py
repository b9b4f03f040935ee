"""How far a report's probabilities can be trusted: calibration, coverage and risk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.evaluation.calibration import calibration_error_of
from tlkit.evaluation.refusal import coverage_and_risk
from tlkit.reporting import charts
from tlkit.stats import reliability_bins

if TYPE_CHECKING:
    import pandas as pd


def _reliability(metrics: dict[str, Any], answers: pd.DataFrame, part: str) -> tuple[dict[str, Any], dict[str, Any]]:

    confidence, right = answers["probability"].to_numpy(float), (answers["prediction"] == answers["label"]).to_numpy()
    bins = reliability_bins(confidence, right)
    error, low, high = calibration_error_of(confidence, right)
    coverage, risk, thresholds = coverage_and_risk(confidence, right)
    lines = [
        f"Calibration error {error:.3f} (95 % interval {low:.3f} to {high:.3f}, n = {len(right):,}): what it says and how often that is so differ by that much on average."
    ]
    calibration = metrics.get("calibration")
    if calibration:
        before = calibration["before"][part]
        lines.append(
            f"A temperature of {calibration['temperature']:.2f}, fitted on {calibration['fitted_on']:,} validation images, is part of the model that is served: it moved the "
            f"calibration error from {before['ece']:.3f} to {metrics[part]['ece']:.3f}, and the log loss from {before['log_loss']:.3f} to {metrics[part]['log_loss']:.3f}."
        )
    refusal, here = metrics.get("refusal"), []
    if refusal and refusal.get(part):
        measured = refusal[part]
        here = [(measured["coverage"], measured["error"])] if measured["answered"] else []
        held = (
            "with 95 % confidence"
            if refusal["assured"]
            else "on the validation images seen, which are too few to assure it"
        )
        share = (
            f"; of the {part} images it answers {measured['coverage']:.1%}, {measured['error'] or 0:.1%} of those wrong"
        )
        lines.append(
            f'Below {min(refusal["threshold"], 1):.3f} it answers "unsure", to keep errors at {refusal["max_error"]:.1%} {held}{share}.'
        )
    else:
        wanted = next(
            ((c, r, t) for c, r, t in reversed(list(zip(coverage, risk, thresholds, strict=True))) if r <= 0.05), None
        )
        if wanted and wanted[0] < 1:
            lines.append(
                f"Were it to answer only when its probability is {wanted[2]:.2f} or more, it would answer {wanted[0]:.0%} of the {part} images, {wanted[1]:.1%} of them wrong."
            )
    values = {"ece": error, "ece_95": [low, high], "bins": [list(one) for one in bins]}
    risk_words = ", ".join(
        f"{risk[np.searchsorted(coverage, at)]:.1%} wrong at {at:.0%}" for at in (0.5, 0.8, 1.0) if len(coverage)
    )
    curve = charts.lines(
        {"share of the answers that is wrong": list(zip(coverage, risk, strict=True))},
        title=f"errors by coverage, the least sure left out first: {risk_words}",
        x_label="share of the pictures that are answered",
        y_label="wrong",
        percent=True,
        x_percent=True,
        dots=here,
    )
    diagram = charts.reliability(bins, title=f"reliability: calibration error {error:.3f}, n = {len(right)}")
    return {"diagram": diagram, "curve": curve, "lines": lines}, values
