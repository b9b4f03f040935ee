"""The lines that a run says of its plan and its result."""

from __future__ import annotations

from typing import Any

from tlkit.backbones import Backbone
from tlkit.plan.plan import Plan
from tlkit.runs.folder import Run


def plan_lines(plan: Plan, backbone: Backbone) -> list[str]:
    """The plan for a person to read. backbone: its backbone."""
    job = plan.job
    parts = ", ".join(f"{count:,} {part}" for part, count in plan.images.items() if count)
    lines = [f"data      {job.data}: {len(plan.classes)} classes, {parts}"]
    if plan.problems:
        lines.append(f"problems  {plan.problems} (named in problems.csv)")
    weights = f"from {job.from_run}" if job.from_run else backbone.weights_line(job.weights)
    terms = f" ({backbone.licence_line(job.weights)})" if job.weights == "imagenet" else ""
    if backbone.note:
        terms += f", {backbone.note}"
    lines.append(f"backbone  {backbone.name} at {plan.image_size} px, weights: {weights}{terms}")
    for decision in plan.decisions:
        sentences = decision.evidence.get("sentences")
        lines.append(f"{decision.about:<9} {decision.chosen}" + ("" if sentences else f": {decision.why}"))
        lines += [f"{'':<9} - {sentence}" for sentence in sentences or ()]
    return lines


def result_lines(run: Run) -> list[str]:
    """The outcome for a person to read, and what to do next."""
    metrics, lines = run.metrics, [""]
    for part in ("validation", "test"):
        score = metrics[part]
        if score:
            low, high = score["accuracy_95"]
            lines.append(
                f"{part:<11} accuracy {score['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, n = {score['n']:,}), "
                f"macro-F1 {score['macro_f1']:.3f}"
            )
    calibration, best = metrics["calibration"], "test" if metrics["test"] else "validation"
    before, after = calibration["before"][best], metrics[best]
    lines.append(
        f"{'calibrated':<11} temperature {calibration['temperature']:.2f} (from {calibration['fitted_on']:,} validation images): {best} "
        f"calibration error {before['ece']:.3f} to {after['ece']:.3f}, log loss {before['log_loss']:.3f} to {after['log_loss']:.3f}"
    )
    if metrics["refusal"]:
        lines.append(f"{'unsure':<11} {refusal_sentence(metrics['refusal'])}")
    parity = metrics["parity"]
    lines.append(
        f"{'served':<11} equals trained on {parity['top1_agreement']:.0%} of {parity['n']} files, "
        f"largest difference {parity['max_difference']:.1e}"
        + (
            f"; {parity['asked_again']} evaluated again without rounding, which differed by up to {parity['evaluated_difference']:.1e}"
            if parity["asked_again"]
            else ""
        )
    )
    lines += [f"{'note':<11} {note}" for note in metrics["notes"]]
    lines.append(f"{'took':<11} {metrics['seconds']['total']:.0f} s")
    lines.append(f"{'run':<11} {run.folder}")
    lines.append(f"{'next':<11} tlkit predict {run.folder} FILE...")
    return lines


def refusal_sentence(refusal: dict[str, Any]) -> str:
    """What a limit on the share of errors came to."""
    asked, seen = refusal["max_error"], refusal["validation"]
    if refusal["threshold"] > 1:
        return (
            f"no threshold keeps errors at {asked:.1%} on the {seen['n']:,} validation images: every answer is unsure"
        )
    held = (
        "with 95 % confidence"
        if refusal["assured"]
        else f"on the {seen['n']:,} validation images, too few to assure it"
    )
    said = f"below {refusal['threshold']:.3f}, which keeps errors at {asked:.1%} {held}"
    for part in ("validation", "test"):
        if refusal[part] and refusal[part]["answered"]:
            one = refusal[part]
            said += f"; {part}: {one['coverage']:.1%} answered, {one['error']:.1%} of them wrong"
    return said
