"""Which recipe, and why: by a tournament on the person's own images, or by their number and what the person says of similarity."""

from __future__ import annotations

import json
import runpy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.errors import DataError, NameUnknown, SpecError, nearest, unknown
from tlkit.files import write_atomically
from tlkit.recipes import RECIPES
from tlkit.spec import (
    PRESETS,
    Augmentation,
    Head,
    Recipe,
    Stage,
    Unfreeze,
    augmentation_from_dict,
    recipe_from_dict,
    to_dict,
)

if TYPE_CHECKING:
    import keras

    from tlkit.backbones import Backbone
    from tlkit.batches import Examples
    from tlkit.images import ImageSet
    from tlkit.lr_find import LearningRates
    from tlkit.tournament import Outcome

AUTO = "auto"
LARGE = 1000  # training images from which a set counts as large
MINUTES, SECONDS_PER_IMAGE, MOST_MINUTES = 1.0, 0.2, 30.0  # what a tournament may take


def choose_recipe(training_images: int, similar: bool | None = None) -> tuple[Recipe, dict[str, Any]]:
    """The recipe for a data set, and the decision with its evidence for the plan.

    training_images: how many. similar: whether the pictures are like ImageNet's (photographs of things, animals,
    scenes); None = not said, taken as similar, and the decision says so.

    >>> choose_recipe(390)[0].name
    'small_similar'
    """
    size = "large" if training_images >= LARGE else "small"
    kind = "different" if similar is False else "similar"
    recipe = RECIPES[f"{size}_{kind}"]
    said = "assumed, because neither --similar nor --different was given" if similar is None else "as you said"
    why = (
        f"{training_images:,} training images are {size} (the border is {LARGE:,}); "
        f"{kind} to ImageNet is {said}; similarity was not measured"
    )
    evidence = {"training_images": training_images, "large_from": LARGE, "similar": similar}
    return recipe, {"what": "recipe", "chosen": recipe.name, "why": why, "evidence": evidence}


def named_backbones(names: str) -> list[Backbone]:
    """The backbones of `--backbone`: one, several with commas between, or "auto" for all whose weights are on this machine.

    >>> [one.name for one in named_backbones("vgg16,nano")]
    ['vgg16', 'nano']
    """
    from tlkit.backbones import BACKBONES, cached_file, find_backbone

    if names == AUTO:
        return [one for one in BACKBONES.values() if cached_file(one)]
    return [find_backbone(name.strip()) for name in dict.fromkeys(names.split(","))]


def compare_backbones(
    networks: Sequence[Backbone],
    images: ImageSet,
    settings: Mapping[str, Any],
    cache_gb: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Backbone, dict[str, Any]]:
    """Compare backbones by linear probes on their last block, by held-out images; the quicker wins where these cannot tell.

    images: not split yet, or with parts; test images play no part. settings: seed, fit, weights, validation, image_size (None: each
    backbone's own). Returns the backbone, and the decision with its evidence for the plan.
    """
    import numpy as np

    from tlkit.evaluate import wilson_interval
    from tlkit.frozen import frozen_call
    from tlkit.images import split
    from tlkit.inference import examples_of
    from tlkit.linear import choose_strength
    from tlkit.model import build_classifier
    from tlkit.pixels import decode_images
    from tlkit.profile import feature_table, paired_difference

    rows: list[dict[str, Any]] = []
    right: dict[str, np.ndarray] = {}
    say(f"comparing {len(networks)} backbones by linear probes on held-out images")
    for network in networks:
        size = settings["image_size"] or network.size
        pixels, usable = decode_images(images, size, settings["fit"], cache_gb)
        usable = split(usable, validation=settings["validation"], seed=settings["seed"])
        pool = examples_of(usable, pixels, "train", "val")
        model = build_classifier(
            network, len(usable.class_names), image_size=size, weights=settings["weights"], seed=settings["seed"]
        )
        training = int((usable.table["part"] == "train").sum())
        table = feature_table(
            model, network, pool, training, pixels_key=pixels.key, seed=settings["seed"], cache_gb=cache_gb
        )
        if table is None:
            raise DataError(
                f"The cache has no room for {network.name}'s features. Raise --cache-gb, or name one backbone."
            )
        found = choose_strength(table.blocks[0], table.labels, table.folds, table.classes)
        right[network.name] = found.probabilities.argmax(1) == table.labels[table.held_out]
        call, batch = frozen_call(model, 32), np.zeros((32, size, size, 3), "uint8")
        call(batch)  # the first call traces
        started = time.monotonic()
        call(batch)
        milliseconds = 1000 * (time.monotonic() - started) / 32
        mine = right[network.name]
        low, high = wilson_interval(int(mine.sum()), len(mine))
        rows.append(
            {
                "backbone": network.name,
                "image_size": size,
                "accuracy": float(mine.mean()),
                "accuracy_95": [low, high],
                "n": len(mine),
                "milliseconds_per_image": round(milliseconds, 2),
            }
        )
        say(
            f"  {network.name:<22} {mine.mean():.1%} ({low:.1%} to {high:.1%}, n = {len(mine):,}), {milliseconds:.1f} ms an image"
        )
    rows.sort(key=lambda row: row["milliseconds_per_image"])
    leader = rows[0]
    for row in rows[1:]:
        ahead, error = paired_difference(right[row["backbone"]], right[leader["backbone"]])
        if ahead > error:
            leader = row
    best = max(rows, key=lambda row: row["accuracy"])
    why = f"{leader['accuracy']:.1%} by a linear probe (n = {leader['n']:,}), {leader['milliseconds_per_image']:.1f} ms an image"
    if best is not leader:
        ahead, error = paired_difference(right[best["backbone"]], right[leader["backbone"]])
        why += (
            f"; {best['backbone']} is {100 * ahead:.1f} points ahead (±{196 * error:.1f}), which these images cannot tell from "
            f"chance, at {best['milliseconds_per_image']:.1f} ms"
        )
    chosen = next(network for network in networks if network.name == leader["backbone"])
    return chosen, {"what": "backbone", "chosen": chosen.name, "why": why, "evidence": {"compared": rows}}


def measure_axes(
    images: ImageSet,
    backbone: str,
    *,
    image_size: int | None = None,
    weights: str = "imagenet",
    seed: int = 0,
    cache_gb: float | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """How much data there is and how like the pictures are to what the backbone knows: see `tlkit.profile.profile`.

    images: from `tlkit.scan`; they are split if they are not yet, and their test part is left out. What is computed is kept for the
    run that follows. Raises DataError when the cache has no room for the features, and the errors of `tlkit.build_classifier`.
    """
    from tlkit.backbones import find_backbone
    from tlkit.images import split
    from tlkit.inference import examples_of
    from tlkit.model import build_classifier
    from tlkit.pixels import decode_images
    from tlkit.profile import feature_table, profile

    network = find_backbone(backbone)
    size = image_size or network.size
    pixels, images = decode_images(images, size, cache_gb=cache_gb)
    images = split(images, seed=seed)
    pool = examples_of(images, pixels, "train", "val")
    tapped = build_classifier(
        network, len(images.class_names), head=Head(taps="all"), image_size=size, weights=weights, seed=seed
    )
    training = int((images.table["part"] == "train").sum())
    table = feature_table(
        tapped, network, pool, training, pixels_key=pixels.key, seed=seed, cache_gb=cache_gb, verbose=verbose
    )
    if table is None:
        raise DataError(
            f"The cache has no room for the features of {len(pool):,} images. Raise --cache-gb, or clear it."
        )
    return profile(tapped, network, table, pool, seed=seed)


def suggest_learning_rate(
    images: ImageSet,
    backbone: str,
    *,
    unfreeze: Unfreeze = 0,
    optimizer: str = "adam",
    batch_size: int = 32,
    image_size: int | None = None,
    weights: str = "imagenet",
    seed: int = 0,
    cache_gb: float | None = None,
) -> LearningRates:
    """A learning rate for the training images of a set: see `tlkit.lr_find.lr_find`. The head is solved first if blocks train.

    images: from `tlkit.scan`; they are split if they are not yet.
    """
    from tlkit.backbones import find_backbone
    from tlkit.images import split
    from tlkit.inference import examples_of
    from tlkit.lr_find import lr_find
    from tlkit.model import build_classifier
    from tlkit.pixels import decode_images
    from tlkit.train import train

    network = find_backbone(backbone)
    network.block_count(unfreeze)
    size = image_size or network.size
    pixels, images = decode_images(images, size, cache_gb=cache_gb)
    images = split(images, seed=seed)
    model = build_classifier(network, len(images.class_names), image_size=size, weights=weights, seed=seed)
    training, validation = (examples_of(images, pixels, part) for part in ("train", "val"))
    common: dict[str, Any] = {"seed": seed, "pixels_key": pixels.key, "cache_gb": cache_gb}
    if unfreeze != 0:
        solved = Recipe("head", stages=(Stage(1, 1e-3, solver="logistic"),), batch_size=batch_size)
        train(model, network, solved, training, validation, **common)
    return lr_find(model, network, training, unfreeze=unfreeze, optimizer=optimizer, batch_size=batch_size, **common)


def decide_by_tournament(
    build: Callable[[Head], keras.Model],
    backbone: Backbone,
    pool: Examples,
    training: int,
    *,
    pixels_key: str,
    seed: int = 0,
    minutes: float | None = None,
    cache_gb: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    similar: bool | None = None,
    verbose: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Outcome, list[dict[str, Any]]]:
    """Measure the two axes, let the strategies compete, and give the winner with the decisions and their evidence for the plan.

    build, pool, training: see `tlkit.profile.feature_table`; `build` gives a classifier for a head, its weights fresh.
    minutes: for the whole; default 1 and a fifth of a second per image, at most 30. epochs, batch_size: of fine-tuning stages, default
    by the number of images.
    """
    from tlkit.profile import feature_table, profile
    from tlkit.tournament import Outcome, Tournament

    limit = min(MINUTES + SECONDS_PER_IMAGE * len(pool) / 60, MOST_MINUTES) if minutes is None else max(minutes, 0.0)
    deadline = time.monotonic() + 60 * limit
    say(f"deciding  a tournament of strategies on held-out images, {limit:.1f} minutes at most")
    tapped = build(Head(taps="all"))
    table = feature_table(
        tapped,
        backbone,
        pool,
        training,
        pixels_key=pixels_key,
        seed=seed,
        batch_size=batch_size or 32,
        cache_gb=cache_gb,
        verbose=verbose,
    )
    if table is None:
        recipe, decision = choose_recipe(training, similar)
        decision["why"] = (
            f"the cache has no room for features (--cache-gb), so no tournament was held; {decision['why']}"
        )
        return Outcome(recipe, decision["why"], []), [decision]
    axes = profile(tapped, backbone, table, pool, seed=seed)
    outcome = Tournament(
        build, backbone, table, pool, pixels_key, seed, deadline, cache_gb, epochs, batch_size, axes["similar"], say
    ).run()
    size = "large" if training >= LARGE else "small"
    kind = {True: "similar", False: "different", None: "not known to be different"}[axes["similar"]]
    return outcome, [
        {"what": "measured", "chosen": f"{size}, {kind}", "why": "; ".join(axes["sentences"]), "evidence": axes},
        {
            "what": "recipe",
            "chosen": outcome.recipe.name,
            "why": outcome.why,
            "evidence": {"contenders": outcome.contenders, "minutes_at_most": round(limit, 2)},
        },
    ]


def explore_augmentation(
    data: str | Path,
    asked: Augmentation | None = None,
    *,
    out: str | Path | None = None,
    check: bool = False,
    search: bool = False,
    backbone: str = "nano",
    allow: Sequence[str] = (),
    json_file: str | Path | None = None,
    write: str | Path | None = None,
    image_size: int = 224,
    max_minutes: float = 5.0,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Augmentation:
    """Check an augmentation on a person's pictures, choose among its safe fields, and draw it: what `tlkit augment` does.

    data: see `tlkit.scan`. asked: default every field at its full range for the check, and the preset "strong" for the search and the
    picture. out: a picture file of what training will see. check: measure what each field does (also where nothing else is asked).
    search: choose the safe fields that help a probe. json_file: the verdicts, by field. write: the augmentation that comes of it.
    max_minutes: of the search. Returns the augmentation, narrowed if it was checked.
    """
    from tlkit.images import scan
    from tlkit.safety import FULL, check_safety, prepare_check, sentence

    images = scan(data)
    check = check or search or json_file is not None or (out is None and write is None)
    augmentation = asked or (PRESETS["strong"] if search or not check else FULL)
    if check:
        say(f"checking  {', '.join(augmentation.fields()) or 'nothing'}, by {backbone}")
        safety = check_safety(images, augmentation, backbone=backbone, allow=allow, seed=seed, say=say)
        say(f"so        {sentence(safety)}")
        for hint in safety.hints:
            say(f"hint      {hint}")
        augmentation = safety.augmentation
        if json_file is not None:
            fields = safety.to_dict()["fields"]
            write_atomically(Path(json_file), json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    if search:
        from tlkit.search import search as choose

        able = prepare_check(images, augmentation, backbone=backbone, seed=seed)
        if not able.able:
            raise DataError(f"Nothing can be searched for: {able.why_not}.")
        found = choose(able, augmentation, deadline=time.monotonic() + 60 * max_minutes, say=say)
        say(f"found     {found.why}")
        augmentation = found.augmentation
    if write is not None:
        write_atomically(Path(write), json.dumps(to_dict(augmentation), indent=2) + "\n")
        say(f"written   {write}; use it with `tlkit finetune {data} --augment {write}`")
    if out is not None:
        from tlkit.sheet import draw_sheet

        draw_sheet(images, augmentation, out, size=image_size, seed=seed)
        say(f"drawn     {out}")
    return augmentation


def find_augmentation(name: str | Augmentation) -> Augmentation:
    """An augmentation by a preset's name, or from a JSON file of its fields, such as `tlkit augment --write` makes.

    Raises NameUnknown with the nearest name, SpecError for an unusable file.
    """
    if isinstance(name, Augmentation):
        return name
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if path.suffix != ".json":
        raise unknown("augmentation", name, list(PRESETS), see="A path to a .json file works too.")
    if not path.is_file():
        raise NameUnknown(f"No such augmentation file: '{name}'.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpecError(f"'{name}' is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise SpecError(
            f"'{name}' holds no fields of an augmentation. Expected an object such as {{\"rotate\": [-10, 10]}}."
        )
    return augmentation_from_dict(values)


def find_recipe(name: str) -> Recipe:
    """A recipe by name, or from one's own file: `.json` (as in plan.json), or a Python script that sets `recipe`.

    The script is run as the person's own code. Raises NameUnknown with the nearest name, SpecError for an unusable file.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix not in (".py", ".json"):
        raise unknown("recipe", name, [AUTO, *RECIPES], see="A path to your own .py or .json file works too.")
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, siblings)
        hint = f" Did you mean '{path.parent / close}'?" if close else ""
        raise NameUnknown(f"No such recipe file: '{name}'.{hint}")
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SpecError(f"'{name}' is not JSON: {error}.") from error
        return recipe_from_dict(values.get("recipe", values))
    recipe = runpy.run_path(str(path)).get("recipe")
    if not isinstance(recipe, Recipe):
        raise SpecError(f"'{name}' sets no variable `recipe` that is a tlkit.Recipe. Write recipe = Recipe(...).")
    return recipe
