"""The summary of a report: the numbers that matter most, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlkit.plan.plan import Plan
from tlkit.runs.folder import Run
from tlkit.strategy.axes import still_climbing

if TYPE_CHECKING:
    from tlkit.doctor.checkup import Checkup


def _summary(
    run: Run, plan: Plan, metrics: dict[str, Any], part: str, speed: float | None, checkup: Checkup | None
) -> dict[str, Any]:
    score = metrics[part]
    low, high = score["accuracy_95"]
    size = sum(file.stat().st_size for file in run.saved_model.rglob("*") if file.is_file())
    parity = metrics["parity"]
    tiles = [
        ("accuracy", f"{score['accuracy']:.1%}", f"{low:.1%} to {high:.1%} (95 %), {score['n']:,} {part} images"),
        ("macro-F1", f"{score['macro_f1']:.3f}", f"mean over {len(plan.classes)} classes"),
        ("log loss", f"{score['log_loss']:.3f}", f"calibration error {score['ece']:.3f}"),
        ("model", f"{size / 1e6:.1f} MB", f"{plan.backbone.name} at {plan.image_size} px, as a SavedModel"),
        (
            "speed",
            "not measured" if speed is None else f"{speed:.1f} ms",
            f"an image in batches of 16, {plan.device}",
        ),
        (
            "served = trained",
            f"{parity['top1_agreement']:.0%}",
            f"of {parity['n']} files, off by {parity['max_difference']:.0e} at most",
        ),
    ]
    chosen = plan.decision("recipe")
    images = plan.images
    counts = ", ".join(f"{count:,} {name}" for name, count in images.items() if count)
    return {
        "what": f"{sum(images.values()):,} images ({counts}). Trained in {metrics['seconds']['total']:.0f} s.",
        "tiles": [{"name": name, "value": value, "about": about} for name, value, about in tiles],
        "recipe": f"Recipe {chosen.chosen}: {chosen.why}." if chosen else "",
        "next": next_steps(run, plan, metrics, part, checkup),
    }


def next_steps(run: Run, plan: Plan, metrics: dict[str, Any], part: str, checkup: Checkup | None) -> list[str]:
    """What a person might do now, most urgent first."""
    score, steps = metrics[part], []
    low, high = score["accuracy_95"]
    if checkup is not None:
        leaks = checkup.duplicates[checkup.duplicates["leak"]]
        judged = int(leaks[["split", "other_split"]].isin([part]).any(axis=1).sum())
        if judged:
            steps.append(
                f"{judged} {part} images have a duplicate in another part, so that the accuracy above is too good: put each pair into one part (duplicates.csv, or a group column)."
            )
        wrong = int(checkup.label_errors["probable"].sum())
        if wrong > 0.02 * checkup.n:
            steps.append(
                f"Look at the {wrong:,} labels that are probably wrong (label_errors.csv) before you change anything else."
            )
    worst = min(score["per_class"].items(), key=lambda one: one[1]["f1"] if one[1]["support"] else 2)
    if worst[1]["f1"] < score["macro_f1"] - 0.1:
        steps.append(
            f"'{worst[0]}' is the weakest class (F1 {worst[1]['f1']:.2f}, {worst[1]['support']} images): look at its mistakes, and add pictures of it."
        )
    climbing = any(still_climbing(one.evidence) for one in plan.decisions if one.about == "measured")
    if climbing:
        steps.append("Accuracy still climbs with more training images: more pictures would help.")
    if high - low > 0.1:
        steps.append(
            f"The interval is {100 * (high - low):.0f} points wide: with {score['n']:,} {part} images, smaller differences cannot be seen."
        )
    if not metrics.get("refusal"):
        steps.append(f'To have it say "unsure" rather than be wrong: tlkit export {run.folder} --max-error 0.05.')
    steps.append(f"Try it: tlkit predict {run.folder} FILE... Deploy {run.saved_model}.")
    return steps
