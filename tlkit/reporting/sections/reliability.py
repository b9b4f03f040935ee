"""How far a report's probabilities can be trusted: calibration, and errors by coverage."""

from __future__ import annotations

import numpy as np

from tlkit.evaluation.refusal import coverage_and_risk
from tlkit.reporting import charts
from tlkit.reporting.findings import Findings, Refusal
from tlkit.reporting.page import Section, fill
from tlkit.stats import FEWEST_TO_TELL
from tlkit.words import counted

USUAL_ERROR = 0.05  # the error for which a threshold is proposed, if the run has none

TEMPLATE = """
<div class="two"><div>{{ diagram | safe }}</div><div>{{ curve | safe }}</div></div>
{% for line in lines %}<p>{{ line }}</p>{% endfor %}
"""

Curve = list[tuple[float, float, float]]  # coverage, share wrong, threshold


def render(findings: Findings) -> Section:
    confidence, correct = findings.predictions["probability"].to_numpy(float), findings.correct
    curve = list(zip(*coverage_and_risk(confidence, correct), strict=True))
    calibration = findings.calibration
    title = f"reliability diagram: expected calibration error {calibration.error:.3f}, n = {len(correct):,}"
    diagram = charts.reliability(calibration.bins, title=title)
    lines = [_error(findings), *_temperature(findings), *_threshold(findings, curve)]
    values = {"diagram": diagram, "curve": _curve(findings.record.refusal, curve), "lines": lines}
    return Section("reliability", "Calibration", fill(TEMPLATE, values))


def _error(findings: Findings) -> str:
    calibration, (low, high) = findings.calibration, findings.calibration.interval
    return (
        f"Expected calibration error {calibration.error:.3f} (95 % interval {low:.3f} to {high:.3f}, "
        f"n = {len(findings.predictions):,}): the average gap between the predicted probability and the share of "
        "correct predictions. 0 is perfect."
    )


def _temperature(findings: Findings) -> list[str]:
    found, score = findings.record.temperature, findings.record.score
    if found is None:
        return []
    images = counted(found.fitted_on, "held-out image")
    if f"{found.value:.2f}" == "1.00":
        return [f"The temperature fitted on {images} is 1.00: the probabilities were left as they are."]
    divided = f"The exported model divides its logits by a temperature of {found.value:.2f}, fitted on {images}"
    if found.fitted_on < FEWEST_TO_TELL:
        return [f"{divided}: too few to tell whether that makes its probabilities better."]
    worse = ": on these images they became worse" if score.log_loss > found.log_loss_before else ""
    return [
        f"{divided}. With it the calibration error of the {findings.split} images went from "
        f"{found.calibration_error_before:.3f} to {score.calibration_error:.3f}, and the log loss from "
        f"{found.log_loss_before:.3f} to {score.log_loss:.3f}{worse}."
    ]


def _threshold(findings: Findings, curve: Curve) -> list[str]:
    """What the threshold of the model does, or what one would do."""
    refusal, split = findings.record.refusal, findings.split
    if refusal is not None:
        how = (
            "with 95 % confidence"
            if refusal.assured
            else "on the held-out images; there are too few of them to guarantee it for new images"
        )
        return [
            f'Below a probability of {min(refusal.threshold, 1):.3f} the model answers "unsure". That keeps errors at '
            f"or below {refusal.max_error:.1%} {how}. It answers {refusal.coverage:.1%} of the {split} images; "
            f"{refusal.error or 0:.1%} of those answers are wrong."
        ]
    wanted = next((one for one in reversed(curve) if one[1] <= USUAL_ERROR), None)
    if wanted is None or wanted[0] == 1:
        return []
    coverage, wrong, threshold = wanted
    return [
        f"If the model answered only at a probability of {threshold:.2f} or more, it would answer {coverage:.0%} of "
        f"the {split} images, and {wrong:.1%} of those answers would be wrong."
    ]


def _curve(refusal: Refusal | None, curve: Curve) -> str:
    coverage, wrong = [one[0] for one in curve], [one[1] for one in curve]
    words = ", ".join(
        f"{wrong[np.searchsorted(coverage, at)]:.1%} wrong at {at:.0%} coverage" for at in (0.5, 0.8, 1.0)
    )
    here = [(refusal.coverage, refusal.error)] if refusal is not None and refusal.error is not None else []
    return charts.lines(
        {"share of answers that are wrong": list(zip(coverage, wrong, strict=True))},
        title=f"errors by coverage, the least certain images left out first: {words}",
        x=charts.Axis("coverage: share of images answered", percent=True),
        y=charts.Axis("wrong", percent=True),
        dots=here,
    )
