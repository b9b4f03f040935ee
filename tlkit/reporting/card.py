"""Writes a model card: what a classifier is, how good it is, and what it is not for, as model hubs show it.

The form is that of the Hugging Face Hub, a README.md with a header of metadata; the questions are those of Mitchell et
al. 2019, "Model Cards for Model Reporting" (arXiv:1810.03993). It says what the run measured, and nothing else: what
only a person knows stands as a line to fill in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tlkit.disk import check_writable
from tlkit.files import write_atomically
from tlkit.folders import CARD
from tlkit.plan.plan import Plan
from tlkit.runs.folder import Run, open_run
from tlkit.words import counted, text_of

MOST_CLASSES = 30  # that have a row each; of more, those with the lowest F1
TO_FILL_IN = "_Fill in: {}._"


def model_card(run: Run | str | Path, out: str | Path | None = None) -> Path:
    """Write a run's model card.

    Args:
        run: a finished run.
        out: the file. None: README.md in the run's folder.

    Returns:
        The path of the file.

    Raises:
        RunError: the folder is not a finished run.
        DiskError: the file cannot be written.
    """
    run = run if isinstance(run, Run) else open_run(run)
    path = Path(out) if out is not None else run.folder / CARD
    check_writable(path)
    if out is None:
        run.write_text(CARD, card_text(run))
    else:
        write_atomically(path, card_text(run))
    return path


def card_text(run: Run) -> str:
    """The model card of a run, in Markdown."""
    plan, metrics = run.plan, run.metrics
    split = "test" if metrics["test"] else "validation"
    sections = {
        "": _what(plan),
        "Use": _use(run),
        "How good it is": _quality(metrics, split),
        "Classes": _classes(metrics[split]),
        "Data": _data(plan),
        "How it was made": _made(plan),
        "Limits": _limits(plan, metrics),
        "Licence": _licence(plan),
    }
    body = "\n\n".join((f"## {title}\n\n" if title else "") + text for title, text in sections.items())
    return f"{_header(plan, metrics[split], split)}\n# {_title(plan)}\n\n{body}\n"


def _title(plan: Plan) -> str:
    return f"An image classifier for {counted(len(plan.classes), 'class', 'classes')}"


def _header(plan: Plan, scores: dict[str, Any], split: str) -> str:
    """The metadata, as YAML. Values are written as JSON, which YAML reads."""
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": f"the {split} images of the run", "type": "imagefolder", "split": split},
        "metrics": [{"type": name, "value": round(scores[name], 4)} for name in ("accuracy", "log_loss", "ece")],
    }
    values = {
        "pipeline_tag": "image-classification",
        "library_name": "keras",
        "tags": ["tlkit", "image-classification", plan.backbone.name],
        "model-index": [{"name": _title(plan), "results": [result]}],
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


def _what(plan: Plan) -> str:
    names = ", ".join(f"`{_plain(one)}`" for one in plan.classes[:MOST_CLASSES])
    more = f" and {len(plan.classes) - MOST_CLASSES:,} more" if len(plan.classes) > MOST_CLASSES else ""
    return (
        f"It tells {names}{more} apart. It takes encoded images and gives class names with calibrated probabilities. "
        f"The network is {plan.backbone.name} at {plan.image_size} x {plan.image_size} pixels, "
        f"{plan.backbone.parameters:,} parameters without its head.\n\n"
        + TO_FILL_IN.format("who made it, for whom, and for which decisions it may be used")
    )


def _use(run: Run) -> str:
    lines = [
        "```python",
        "import tensorflow as tf",
        "",
        'classify = tf.saved_model.load("saved_model").signatures["serving_default"]',
        'answer = classify(image_bytes=tf.constant([open("image.jpg", "rb").read()]))',
        'print(answer["class"].numpy(), answer["probability"].numpy())',
        "```",
        "",
        "It needs TensorFlow alone. `model.keras` is the same classifier as a Keras model: RGB pixels of 0 to 255 in.",
    ]
    parity = run.metrics["parity"]
    if parity and parity["n"]:
        lines += [
            "",
            f"The SavedModel was compared with the trained model on {counted(parity['n'], 'file')} in a fresh process: "
            f"the same class for {parity['top1_agreement']:.1%}, probabilities within {parity['max_difference']:.1g}.",
        ]
    return "\n".join(lines)


def _quality(metrics: dict[str, Any], split: str) -> str:
    scores, lines = metrics[split], []
    if metrics["estimate"]:
        lines += [f"{metrics['estimate']['sentence']}.", ""]
    low, high = scores["accuracy_95"]
    lines += [
        f"On {counted(scores['n'], f'{split} image')}:",
        "",
        "| measure | value |",
        "| --- | --- |",
        f"| accuracy | {scores['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}) |",
        f"| balanced accuracy | {scores['balanced_accuracy']:.1%} |",
        f"| macro-F1 | {scores['macro_f1']:.3f} |",
        f"| log loss | {scores['log_loss']:.3f} |",
        f"| calibration error (ECE) | {scores['ece']:.3f} |",
    ]
    refusal = metrics["refusal"]
    if refusal:
        lines += ["", f'Below a probability of {refusal["threshold"]:.3f} it answers "unsure".']
    return "\n".join(lines)


def _classes(scores: dict[str, Any]) -> str:
    """The scores of each class: the slices of the data that every run has."""
    rows = sorted(scores["per_class"].items(), key=lambda item: item[1]["f1"])
    shown = rows[:MOST_CLASSES] if len(rows) > MOST_CLASSES else list(scores["per_class"].items())
    lines = ["| class | n | precision | recall | F1 |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {_plain(name)} | {one['support']:,} | {one['precision']:.2f} | {one['recall']:.2f} | {one['f1']:.2f} |"
        for name, one in shown
    ]
    if len(rows) > MOST_CLASSES:
        lines += ["", f"The {MOST_CLASSES} of {len(rows):,} classes with the lowest F1."]
    return "\n".join(lines)


def _data(plan: Plan) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in plan.images.items() if count)
    split = plan.decision("split")
    lines = [f"Images: {counts}."]
    if split is not None:
        lines.append(f"{split.why[:1].upper()}{split.why[1:]}.")
    if plan.problems:
        lines.append(f"Files with problems: {plan.problems}.")
    return (
        " ".join(lines) + "\n\n" + TO_FILL_IN.format("where the images come from, and who or what is missing in them")
    )


def _made(plan: Plan) -> str:
    chosen = [f"- {one.about}: {_plain(one.chosen)}. {one.why[:1].upper()}{one.why[1:]}." for one in plan.decisions]
    versions = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    return "\n".join([f"By tlkit {plan.tlkit}, on {plan.started[:10]}, on {plan.device} ({versions}).", "", *chosen])


def _limits(plan: Plan, metrics: dict[str, Any]) -> str:
    found = [f"{one[:1].upper()}{one[1:]}." for one in plan.doubts]
    found += [f"{one[:1].upper()}{one[1:]}." for one in metrics["notes"]]
    checked = plan.decision("augmentation")
    if checked is not None:
        found.append(f"Changes of an image that were checked to keep its class: {checked.chosen}.")
    found.append("An image of none of these classes gets one of them: it knows no others.")
    return "\n".join(f"- {one}" for one in found) + "\n\n" + TO_FILL_IN.format("what it must not be used for")


def _licence(plan: Plan) -> str:
    return (
        f"The weights that it started from: {plan.backbone.licence_of_weights} ({plan.backbone.name}"
        + (f", SHA-256 `{plan.backbone.sha256}`" if plan.backbone.sha256 else "")
        + ").\n\n"
        + TO_FILL_IN.format("the licence of your images and of this model")
    )


def _plain(text: str) -> str:
    """A name for a table of Markdown, in which it is no markup."""
    for found, instead in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "'"), ("\n", " ")):
        text = text.replace(found, instead)
    return text_of(text)
