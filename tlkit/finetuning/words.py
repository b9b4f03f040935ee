"""The lines that a run logs about its plan and its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tlkit.backbones import Backbone
from tlkit.evaluation.answers import known_sentence, sets_sentence
from tlkit.evaluation.refusal import class_sentence
from tlkit.plan.decision import Decision
from tlkit.plan.plan import Plan
from tlkit.progress import Deadline
from tlkit.runs.folder import Run
from tlkit.stats import FEWEST_TO_TELL
from tlkit.strategy.tuning import BEST_COST
from tlkit.words import counted, roughly


def plan_lines(plan: Plan, backbone: Backbone) -> list[str]:
    """The plan, for a person to read. backbone: the plan's own."""
    job = plan.job
    splits = ", ".join(f"{count:,} {split}" for split, count in plan.images.items() if count)
    lines = [f"data      {job.data}: {counted(len(plan.classes), 'class', 'classes')}; images: {splits}"]
    if plan.problems:
        lines.append(f"problems  {plan.problems} (listed in problems.csv)")
    lines += _decision_lines(one for one in plan.decisions if one.about == "classes")
    weights = f"from {job.from_run}" if job.from_run else backbone.weights_line(job.weights)
    licence = plan.backbone.licence_of_weights
    terms = f" ({licence})" if licence not in ("", "your own") else ""
    if backbone.note:
        terms += f", {backbone.note}"
    lines.append(f"backbone  {backbone.name} at {plan.image_size} px, weights: {weights}{terms}")
    return lines + _decision_lines(one for one in plan.decisions if one.about != "classes")


def _decision_lines(decisions: Iterable[Decision]) -> list[str]:
    lines = []
    for decision in decisions:
        sentences = decision.evidence.get("sentences")
        lines.append(f"{decision.about:<9} {decision.chosen}" + ("" if sentences else f": {decision.why}"))
        lines += [f"{'':<9} - {sentence}" for sentence in sentences or ()]
    return lines


def result_lines(run: Run) -> list[str]:
    """The result, for a person to read, and what to do next."""
    metrics, lines = run.metrics, [""]
    if "estimate" in metrics:
        lines.append(f"{'estimate':<11} {metrics['estimate']['sentence']}")
    lines += [f"{'but':<11} {sentence}" for sentence in run.plan.doubts]
    for split in ("validation", "test"):
        score = metrics[split]
        if score:
            low, high = score["accuracy_95"]
            lines.append(
                f"{split:<11} accuracy {score['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, "
                f"n = {score['n']:,}), macro-F1 {score['macro_f1']:.3f}"
            )
    calibration, best = metrics["calibration"], "test" if metrics["test"] else "validation"
    before, after = calibration["before"][best], metrics[best]
    fitted = f"temperature {calibration['temperature']:.2f}, fitted on "
    fitted += counted(calibration["fitted_on"], "held-out image")
    effect = f"{best} calibration error {before['ece']:.3f} to {after['ece']:.3f}, "
    effect += f"log loss {before['log_loss']:.3f} to {after['log_loss']:.3f}"
    if calibration["fitted_on"] < FEWEST_TO_TELL:
        effect = "too few to tell whether it makes the probabilities better"
    elif after["log_loss"] > before["log_loss"]:
        effect += ": worse on these images"
    lines.append(f"{'calibrated':<11} {fitted}: {effect}")
    if metrics["folds"] and metrics["folds"] != metrics["estimate"]:
        lines.append(f"{'folds':<11} {metrics['folds']['sentence']}")
    if metrics["transfer"]:
        lines.append(f"{'compared':<11} {metrics['transfer']['sentence']}")
    if metrics["refit"]:
        lines.append(f"{'refitted':<11} {refit_sentence(metrics['refit'])}")
    if metrics["refusal"]:
        lines.append(f"{'unsure':<11} {refusal_sentence(metrics['refusal'])}")
    if metrics["known"] and (metrics["known"]["none_below"] or "why_not" not in metrics["known"]):
        lines.append(f"{'known':<11} {known_sentence(metrics['known'])}")
    if metrics["prediction_sets"]:
        lines.append(f"{'sets':<11} {sets_sentence(metrics['prediction_sets'])}")
    parity = metrics["parity"]
    lines.append(
        f"{'exported':<11} predicts the trained model's class on {parity['top1_agreement']:.0%} of "
        f"{counted(parity['n'], 'file')}, probabilities differ by up to {parity['max_difference']:.1e}"
        + (
            f"; {counted(parity['asked_again'], 'file')} predicted again by Keras' own forward pass, because the fast "
            f"evaluation's rounding differed by up to {parity['evaluated_difference']:.1e}"
            if parity["asked_again"]
            else ""
        )
    )
    lines += [f"{'note':<11} {note}" for note in metrics["notes"]]
    lines += [f"{'more':<11} {sentence}" for sentence in _more(run.plan)]
    lines.append(f"{'took':<11} {metrics['seconds']['total']:.0f} s")
    lines.append(f"{'run':<11} {run.folder}")
    lines.append(f"{'next':<11} tlkit predict {run.folder} FILE...")
    return lines


def late(deadline: Deadline, max_minutes: float | None) -> list[str]:
    """That the time limit was passed, and by how much, if it was."""
    if max_minutes is None or not deadline.over:
        return []
    return [
        f"the time limit of {max_minutes:g} minutes was passed by {-deadline.left:.0f} s: the export, its proof and "
        "the report are never left out"
    ]


def _more(plan: Plan) -> list[str]:
    """What more effort would do, after a fine-tuning of the effort "normal" that was taken."""
    decision = plan.decision("recipe")
    rows = decision.evidence.get("contenders", []) if decision else []
    seconds = sum(row["seconds"] for row in rows if row.get("fine_tuned") and row.get("taken"))
    if not seconds or plan.job.effort != "normal":
        return []
    return [f"the effort `best` also trains three variations of this network: {roughly(BEST_COST * seconds)}"]


def refit_sentence(refit: Mapping[str, Any]) -> str:
    """What is said of a model that was also trained on the validation images. refit: as in metrics.json."""
    if "folds" in refit:
        return (
            f"the delivered model is the mean of the weights of {refit['folds']} models, each trained without one fold "
            f"of {counted(refit['images'], 'image')}; the validation images judged the one that had not learned from "
            "them"
        )
    drawn = "test" in refit.get("splits", ())
    kind, judges = (
        ("training, validation and test image", "validation and test")
        if drawn
        else (
            "training and validation image",
            "validation",
        )
    )
    return (
        f"the delivered model learned from all {counted(refit['images'], kind)}; the {judges} images judged one that "
        "had not learned from them"
    )


def refusal_sentence(refusal: dict[str, Any]) -> str:
    """What a limit on the error leads to, in one sentence."""
    limit, chosen_on = refusal["max_error"], refusal.get("chosen_on", refusal["validation"]["n"])
    if refusal["threshold"] > 1:
        return (
            f"no threshold keeps the error at or below {limit:.1%} on {counted(chosen_on, 'image')}: "
            "every answer is unsure"
        )
    held = (
        "with 95 % confidence"
        if refusal["assured"]
        else f"on {counted(chosen_on, 'image')}, too few for 95 % confidence"
    )
    text = f"below a probability of {refusal['threshold']:.3f}, which keeps the error at or below {limit:.1%} {held}"
    alone = class_sentence(refusal.get("classes") or {})
    text += f"; {alone}" if alone else ""
    for split in ("validation", "test"):
        if refusal[split] and refusal[split]["answered"]:
            one = refusal[split]
            answered = f"{one['coverage']:.1%} of {counted(one['n'], 'image')} answered"
            text += f"; {split}: {answered}, {one['error']:.1%} of these wrong"
    return text
