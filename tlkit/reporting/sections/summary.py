"""The summary of a report: the numbers that matter most, and what to do next."""

from __future__ import annotations

from tlkit.data.classes import told_of_classes
from tlkit.reporting.findings import Findings, Score
from tlkit.reporting.page import Section, fill
from tlkit.stats import wilson_interval
from tlkit.words import counted

TEMPLATE = """
{% if estimate %}<p><b>{{ estimate }}.</b></p>{% endif %}
{% for line in doubts %}<p><b>But {{ line }}.</b></p>{% endfor %}
<div class="tiles">{% for name, value, about in tiles %}
<div class="tile"><small>{{ name }}</small><b>{{ value }}</b><small>{{ about }}</small></div>
{% endfor %}</div>
{% if recipe %}<p>{{ recipe }}</p>{% endif %}
{% if transfer %}<p>{{ transfer }}.</p>{% endif %}
<div class="next"><b>What to do next</b><ul>{% for line in steps %}<li>{{ line }}</li>{% endfor %}</ul></div>
"""

MOST_CLASSES = 4  # sentences on classes that lost files or are not measured
WEAK = 0.1  # of F1: how far below the mean the weakest class must be to be named
WIDE = 0.1  # of accuracy: a wider interval is pointed out
WRONG = 0.02  # share of labels that are probably wrong above which they come first


def render(findings: Findings) -> Section:
    values = {
        "estimate": findings.record.estimate,
        "doubts": findings.record.doubts,
        "tiles": _tiles(findings),
        "recipe": _recipe(findings),
        "transfer": findings.record.transfer[:1].upper() + findings.record.transfer[1:],
        "steps": next_steps(findings),
    }
    return Section("summary", "Summary", fill(TEMPLATE, values))


def _tiles(findings: Findings) -> list[tuple[str, str, str]]:
    """Name, value and explanation of each."""
    record, score, parity = findings.record, findings.record.score, findings.record.parity
    low, high = score.interval
    speed = findings.milliseconds
    return [
        (
            f"{findings.split} accuracy",
            f"{score.accuracy:.1%}",
            f"95 % interval {low:.1%} to {high:.1%}, n = {counted(score.n, 'image')}",
        ),
        ("macro-F1", f"{score.macro_f1:.3f}", f"mean F1 of {_measured_classes(findings)}"),
        ("log loss", f"{score.log_loss:.3f}", f"expected calibration error {score.calibration_error:.3f}"),
        (
            "model size",
            f"{record.model_bytes / 1e6:.1f} MB",
            f"SavedModel, {record.backbone} at {record.image_size} px",
        ),
        (
            "speed",
            "not measured" if speed is None else f"{speed:.1f} ms",
            f"per image, network only, in batches of 16 on {record.device}",
        ),
        (
            "export check",
            f"{parity.agreement:.0%}",
            f"of {counted(parity.n, 'file')} predicted by the SavedModel as by the trained model; "
            f"largest difference {parity.largest_difference:.0e}",
        ),
    ]


def _measured_classes(findings: Findings) -> str:
    """How many classes have a score: those that have images."""
    classes = findings.record.score.classes
    measured = sum(one.images > 0 for one in classes)
    if measured == len(classes):
        return counted(measured, "class", "classes")
    return f"the {measured} of {counted(len(classes), 'class', 'classes')} that have {findings.split} images"


def _recipe(findings: Findings) -> str:
    chosen = findings.record.decision("recipe")
    return f"Recipe {chosen.chosen}: {chosen.why}." if chosen else ""


def next_steps(findings: Findings) -> list[str]:
    """What the user might do next, most urgent first."""
    run = findings.record.run
    steps = [*_about_data(findings), *_about_accuracy(findings)]
    if findings.record.refusal is None:
        steps.append(f'To let it answer "unsure" instead of a wrong class: tlkit export {run.folder} --max-error 0.05.')
    steps.append(f"Try it: tlkit predict {run.folder} FILE... Deploy it: {run.saved_model} is the exported model.")
    return steps


def _about_data(findings: Findings) -> list[str]:
    checkup, split = findings.analysis.checkup, findings.split
    told = told_of_classes(findings.record.problems())
    steps = [f"{one[0].upper()}{one[1:]}." for one in told[:MOST_CLASSES]]
    if len(told) > MOST_CLASSES:
        steps.append(f"The same or the like holds for others: problems.csv names all {len(told):,}.")
    leaks = sum(split in one.splits and one.splits[0] != one.splits[1] for one in findings.duplicates)
    sampled = checkup is not None and checkup.drawn_from is not None
    among = f" among the {checkup.n:,} that were examined" if checkup is not None and sampled else ""
    if leaks:
        steps.append(
            f"{counted(leaks, 'duplicate pair')} of images{among} {'lies' if leaks == 1 else 'lie'} in the {split} "
            "split and in another one, so the accuracy above is too high. Keep the images of a pair in one split "
            "(see duplicates.csv; a group column does it)."
        )
    groups = int((findings.record.problems()["problem"] == "group-across-parts").sum())
    if groups:
        steps.append(
            f"{counted(groups, 'group')} {'has' if groups == 1 else 'have'} images in several splits, so the accuracy "
            "above may be too high. Keep the images of a group in one split."
        )
    wrong = 0 if checkup is None else int(checkup.label_errors["probable"].sum())
    if checkup is not None and wrong > WRONG * checkup.n:
        steps.append(
            f"Look at the {counted(wrong, 'label')} that are probably wrong (label_errors.csv; about "
            f"{checkup.noise.precision:.0%} of them are) before you change anything else."
        )
    return steps


def _about_accuracy(findings: Findings) -> list[str]:
    steps, score, split = [], findings.record.score, findings.split
    low, high = score.interval
    without = [one.name for one in score.classes if not one.images]
    if without:
        some = ", ".join(f"'{name}'" for name in without[:5]) + (" and others" if len(without) > 5 else "")
        steps.append(
            f"{counted(len(without), 'class', 'classes')} {'has' if len(without) == 1 else 'have'} no {split} images "
            f"({some}), so how well the model knows {'it' if len(without) == 1 else 'them'} is not measured."
        )
    steps += _weakest(score)
    if findings.record.still_climbing:
        steps.append("Accuracy still rises with the number of training images: more images would help.")
    if high - low > WIDE:
        steps.append(
            f"The 95 % interval of the accuracy is {100 * (high - low):.0f} points wide, because there "
            f"{'is' if score.n == 1 else 'are'} only {counted(score.n, f'{split} image')}. More would narrow it."
        )
    if split == "validation":
        steps.append(
            "There is no test split. The accuracy above is measured on the validation images, which were also used to "
            "choose the model, so it may be a little too high. Set test images aside for an unbiased number."
        )
    return steps


def _weakest(score: Score) -> list[str]:
    """The class with the lowest F1, if it is far below the mean, and whether that may be chance."""
    measured = [(one.f1, one.recall, one) for one in score.classes if one.f1 is not None and one.recall is not None]
    f1, recall, worst = min(measured, key=lambda one: one[0])
    if f1 >= score.macro_f1 - WEAK:
        return []
    images = f"F1 {f1:.2f} on {counted(worst.images, 'image')}"
    found = round(recall * worst.images)
    answers = int(score.confusion_matrix[:, [one.name for one in score.classes].index(worst.name)].sum())
    if not any(wilson_interval(found, n)[1] < score.accuracy for n in (worst.images, answers)):
        return [f"'{worst.name}' has the lowest score ({images}), but that may be chance with so few images."]
    return [f"'{worst.name}' is the weakest class ({images}). Look at its mistakes, and add images of it."]
