"""Pictures of what a run's network has learned, each with its numbers in a JSON file beside it.

`dense`, `units`, `filters`, `typical` and `fooling` are the options of `tlkit explain` of the same names. Each returns
lines for a person to read.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlkit.backbones import find_backbone
from tlkit.drawing import draw_rows
from tlkit.errors import SpecError, TlkitError, unknown
from tlkit.evaluation.dense import DenseNetwork
from tlkit.evaluation.feature_visualization import first_filters, most_typical
from tlkit.evaluation.fooling import SURE, Change, Fooling, feature_step
from tlkit.evaluation.gradients import as_picture
from tlkit.evaluation.units import BackProjection, montage, most_active
from tlkit.files import write_atomically
from tlkit.models.blocks import blocks, feature_maps
from tlkit.progress import bar, counted_off
from tlkit.runs.explain import decoded_files, image_files
from tlkit.runs.folder import Run, open_run
from tlkit.runs.reading import decoded, load_model, own_part, unsure_below
from tlkit.words import counted, shown

CLASSES = 16  # that are drawn where none is named
NOISES = 8
STEPS = 128  # of the ascent to a typical image
ACROSS = 8  # filters in a row
LARGER = 2  # times the run's image size, of the images of `dense`

Source = Run | str | Path
Picture = tuple[np.ndarray, str]


def dense(
    run: Source,
    files: Sequence[str | Path],
    out: str | Path = "dense.png",
    *,
    of_class: str | None = None,
    size: int | None = None,
) -> list[str]:
    """Draw a class's probability at every position of larger images: see `tlkit.evaluation.dense`.

    Args:
        run: A finished run.
        files: Image files, and folders, which are searched. Only the first 64 images are drawn.
        out: The image file to write. FILE.json beside it holds the maps of all classes, and how far they are from the
            model's answers on crops.
        of_class: The class to draw. Default: the most probable class of each image, as the run classifies it.
        size: Pixels of each side of the larger images. Default: twice the run's. Raised to whole steps.

    Raises:
        SpecError: The network gives no dense map: it has no feature maps, or takes images of one size only.
        DataError, NameUnknown: As of `explain_files`.
    """
    run = _opened(run)
    classes, native = run.plan.classes, run.plan.image_size
    if size is not None and size < native:
        raise SpecError(f"`size` is {size}. Expected {native} or more, the run's own image size.")
    chosen = _number(of_class, classes)
    found, model = image_files(files), load_model(run)
    network = DenseNetwork(model, size or LARGER * native)
    answers = np.asarray(model(decoded_files(run, found, native), training=False))
    images = decoded_files(run, found, network.size)
    maps = network(images)
    pictures: list[list[Picture]] = []
    lines, rows = [], []
    for file, image, map_, answer in zip(found, images, maps, answers, strict=True):
        number = int(answer.argmax()) if chosen is None else chosen
        one = map_[..., number]
        caption = f"{classes[number]}: {one.min():.0%} to {one.max():.0%}, mean {one.mean():.0%}"
        pictures.append([(image, shown(file.name)), (network.drawn(image, one), caption)])
        lines.append(f"{shown(file)}  {answer[number]:.1%} as a whole; {caption}")
        rows.append({"file": str(file), "class": classes[number], "map": np.round(map_, 5).tolist()})
    differences = network.compared(images, maps)
    numbers = {"classes": list(classes), "size": network.size, "window": network.window, "step": network.step}
    draw_rows(_in_pairs(pictures), Path(out))
    drawn = _write_numbers(out, {**numbers, "differs_from_crops": differences, "images": rows})
    crops, same = counted(int(differences["crops"]), "crop"), differences["same_class"]
    return [
        *lines,
        f"{network.side} x {network.side} crops of {network.window} pixels, one every {network.step}",
        f"the model's own answers on {crops} differ by {differences['mean']:.3f} on average and "
        f"{differences['largest']:.3f} at most; the class is the same for {same:.0%}",
        drawn,
    ]


def units(run: Source, layer: str = "", out: str | Path = "units.png", *, count: int = 8) -> list[str]:
    """Draw the nine patches of the run's validation images that activate a unit most, with guided back-projections.

    Args:
        run: A finished run, whose images are still there.
        layer: The name of a layer, or the number of a block, 1 = the bottom one: its end. "" for the feature maps that
            the head reads.
        out: The image file to write. FILE.json beside it names the images, with their activations.
        count: How many units: the most selective ones, see `tlkit.evaluation.units`.

    Raises:
        NameUnknown: There is no such layer.
        SpecError: It has no feature map, or there is no such block.
    """
    run = _opened(run)
    model = load_model(run)
    tensor, name = _tensor(run, model, layer)
    images = own_part(run, "validation")
    dataset = decoded(run, images)
    examples, table = dataset.examples(), dataset.images.table
    found, dead = most_active(model, tensor, examples.pixels, count=count)
    projection = BackProjection(model, tensor)
    pictures: list[list[Picture]] = []
    rows = []
    for unit in counted_off(found, len(found), "unit"):
        pixels = examples.pixels.gather(np.array(unit.rows))
        labels = [str(table["label"].iloc[row]) for row in unit.rows]
        most = max(sorted(set(labels)), key=labels.count)
        caption = f"unit {unit.number}: {labels.count(most)} of {len(labels)} {most}"
        patches, drawn = projection.pictures(pixels, unit)
        pictures.append([(montage(patches), caption), (montage(drawn), f"up to {unit.activations[0]:.3g}")])
        paths = [str(table["path"].iloc[row]) for row in unit.rows]
        rows.append(
            {"unit": unit.number, "selectivity": unit.selectivity, "files": paths, "labels": labels}
            | {"activations": unit.activations, "places": unit.places}
        )
    if not pictures:
        raise SpecError(f"All {counted(dead, 'unit')} of '{name}' have the same value on all images.")
    field = projection.field
    seen = {"size": field.size, "step": field.step, "start": field.start, "whole_image": field.whole} if field else None
    draw_rows(_in_pairs(pictures), Path(out))
    numbers = {"layer": name, "images": len(examples), "receptive_field": seen, "dead": dead}
    drawn_to = _write_numbers(out, {**numbers, "guided_layers": projection.guided, "units": rows})
    sees = f"a receptive field of {field.size[0]} x {field.size[1]} pixels, one every {field.step[0]}" if field else ""
    whole = ", and the whole image through a mean of it" if field and field.whole else ""
    return [
        f"'{name}': {sees or 'a receptive field that is not known'}{whole}",
        f"{len(found)} of {counted(int(tensor.shape[-1]), 'unit')}, the most selective on "
        f"{counted(len(examples), 'validation image')}; {dead:,} have the same value on all",
        drawn_to,
    ]


def filters(run: Source, out: str | Path = "filters.png") -> list[str]:
    """Draw the filters of the run's first convolution, as they act on RGB pixels.

    out: The image file to write. FILE.json beside it holds how many there are, and their size in pixels.

    Raises SpecError if the network has no convolution.
    """
    kernels = first_filters(load_model(_opened(run)))
    draw_rows(
        [[(one, "") for one in kernels[at : at + ACROSS]] for at in range(0, len(kernels), ACROSS)], Path(out), 96
    )
    count, height, width = kernels.shape[:3]
    empty = int((kernels == 128).all(axis=(1, 2, 3)).sum())
    drawn = _write_numbers(out, {"filters": count, "height": height, "width": width, "empty": empty})
    return [f"{counted(count, 'filter')} of the first layer, {height} x {width} pixels, {empty} without weight", drawn]


def typical(run: Source, out: str | Path = "typical.png", *, of_class: str | None = None, seed: int = 0) -> list[str]:
    """Draw synthetic images that maximise the score of a class: see `most_typical`.

    Args:
        run: A finished run.
        out: The image file to write. FILE.json beside it holds the probability that each image reaches.
        of_class: Default: the first 16 classes.
        seed: Of the noise that they start from.

    Raises NameUnknown: there is no such class.
    """
    run = _opened(run)
    classes, one = run.plan.classes, _number(of_class, run.plan.classes)
    model = load_model(run)
    pictures, rows = [], []
    drawn_classes = range(len(classes))[:CLASSES] if one is None else [one]
    with bar(STEPS * len(drawn_classes), "step") as update:
        for before, number in enumerate(drawn_classes):

            def done(step: int, before: int = before) -> None:
                update(STEPS * before + step)

            image = most_typical(model, number, steps=STEPS, seed=seed, done=done)
            answer = float(np.asarray(model(image[None].astype("float32"), training=False))[0, number])
            pictures.append((image, f"{classes[number]} {answer:.1%}"))
            rows.append({"class": classes[number], "probability": answer})
    draw_rows([pictures[at : at + 4] for at in range(0, len(pictures), 4)], Path(out))
    drawn = _write_numbers(out, {"seed": seed, "images": rows})
    return [f"synthetic images that maximise the score of {', '.join(caption for _, caption in pictures)}", drawn]


def fooling(
    run: Source,
    files: Sequence[str | Path] = (),
    out: str | Path = "fooling.png",
    *,
    of_class: str | None = None,
    seed: int = 0,
) -> list[str]:
    """Draw images that fool the run's network, and by how much they had to be changed: see `tlkit.evaluation.fooling`.

    Noise is raised until the network is 99 % sure. Each image file is changed to another class by the smallest step
    along the sign of the gradient, and by the smallest along the gradient. Probabilities are the calibrated ones of the
    run's model.

    Args:
        run: A finished run.
        files: Image files, and folders, which are searched; may be empty. Only the first 64 images are changed.
        out: The image file to write. FILE.json beside it holds all numbers.
        of_class: The class to reach. Default: for noise, each of the first 8; for a file, the one nearest to it.
        seed: Of the noise.

    Raises DataError, NameUnknown: As of `explain_files`.
    """
    run = _opened(run)
    classes, target = list(run.plan.classes), _number(of_class, run.plan.classes)
    found = image_files(files) if files else []
    images = decoded_files(run, found, run.plan.image_size) if found else np.zeros((0, 1, 1, 3), "uint8")
    model = load_model(run)
    network, pictures, lines = Fooling(model), [], []
    numbers: dict[str, Any] = {"sure": SURE, "seed": seed, "unsure_below": _threshold(run), "noise": [], "images": []}
    aims = range(len(classes))[:NOISES] if target is None else [target]
    for number in counted_off(aims, len(aims), "noise image"):
        start, change = network.noise(number, seed=seed)
        numbers["noise"].append(change.to_dict(classes))
        after = f"{classes[number]} {change.probability:.1%} after {change.amount:.0f} steps"
        pictures.append([(start, f"noise, {classes[number]} {change.before:.1%}"), (change.image, after)])
        pictures[-1].append(_difference(start, change))
        lines.append(f"noise: {after}, from {change.before:.1%}; changed by {_size(change)}")
    for file, image in counted_off(zip(found, images, strict=True), len(found), "image"):
        row, drawn, said = _changed(model, network, image, target, classes)
        numbers["images"].append({"file": str(file), **row})
        pictures.append(drawn)
        lines += [f"{shown(file)}  {one}" for one in said]
    draw_rows(pictures, Path(out))
    return [*lines, _write_numbers(out, numbers)]


def _changed(
    model: keras.Model, network: Fooling, image: np.ndarray, target: int | None, classes: list[str]
) -> tuple[dict[str, Any], list[Picture], list[str]]:
    """The numbers of an image's smallest changes, the pictures of them, and a line for each."""
    answer = network.answers(image[None].astype("float32"))[0]
    own = int(answer.argmax())
    row: dict[str, Any] = {"class": classes[own], "probability": float(answer[own])}
    pictures: list[Picture] = [(image, f"{classes[own]} {answer[own]:.1%}")]
    if own == target:
        return row, pictures, [f"{classes[own]} {answer[own]:.1%}: already that class"]
    sign, along = network.sign_step(image, target), network.gradient_step(image, target)
    share = feature_step(model, image)
    row |= {"sign_step": sign.to_dict(classes), "gradient_step": along.to_dict(classes), "feature_step": share}
    lines = []
    for name, change in (("sign step", sign), ("x + a w", along)):
        now = f"{classes[change.class_number]} {change.probability:.1%}"
        if not change.found:
            lines.append(f"{name}: no step up to {change.amount:.0f} levels changes the class")
        elif not change.kept:
            lines.append(f"{name}: a |w| = {change.amount:.3g} levels, less than whole pixels can hold")
        else:
            lines.append(f"{name}: {now}, from {change.before:.1%}; changed by {_size(change)}")
        pictures += [(change.image, f"{name}: {now}"), _difference(image, change)]
    if share is not None:
        lines.append(f"features: {share:.1%} of their length from another class")
    return row, pictures, lines


def _size(change: Change) -> str:
    return f"{change.mean:.2f} levels of 255 on average, {change.largest:.0f} at most, {change.length:.0f} in L2"


def _difference(before: np.ndarray, change: Change) -> Picture:
    gap = change.image.astype(float) - before
    times = 127 / max(float(np.abs(gap).max()), 1.0)
    return as_picture(gap), f"difference x {times:.3g}: mean {change.mean:.2f}, L2 {change.length:.0f}"


def _threshold(run: Run) -> float | None:
    """The probability below which the run's export is unsure; None if that is not known."""
    try:
        return unsure_below(run.folder)
    except TlkitError:
        return None


def _tensor(run: Run, model: keras.Model, layer: str) -> tuple[Any, str]:
    """The output of a layer, of a block by its number, or of the topmost block; and its name."""
    if layer.isdecimal():
        all_blocks = blocks(model, find_backbone(run.plan.backbone.name))
        if not 1 <= int(layer) <= len(all_blocks):
            raise SpecError(f"There is no block {layer}. Expected 1 to {len(all_blocks)}, or the name of a layer.")
        tensor = all_blocks[int(layer) - 1].end[-1]
        return tensor, tensor._keras_history.operation.name
    if layer:
        names = [one.name for one in model.layers]
        if layer not in names:
            raise unknown("layer", layer, names)
        return model.get_layer(layer).output, layer
    ends = feature_maps(model)
    if not ends:
        raise SpecError(f"The model '{model.name}' has no feature maps before its head. Name a layer.")
    return ends[-1], ends[-1]._keras_history.operation.name


def _in_pairs(pictures: Sequence[Sequence[Picture]]) -> list[list[Picture]]:
    """Two groups of pictures in each row."""
    return [list(itertools.chain(*pictures[at : at + 2])) for at in range(0, len(pictures), 2)]


def _number(of_class: str | None, classes: Sequence[str]) -> int | None:
    if of_class is None:
        return None
    if of_class not in classes:
        raise unknown("class", of_class, classes)
    return list(classes).index(of_class)


def _opened(run: Source) -> Run:
    return run if isinstance(run, Run) else open_run(run)


def _write_numbers(out: str | Path, numbers: dict[str, Any]) -> str:
    """Write the numbers beside the image, and return the line that names both."""
    file = Path(out).with_suffix(".json")
    write_atomically(file, json.dumps(numbers, indent=1) + "\n")
    return f"drawn to {out}, numbers in {file}"
