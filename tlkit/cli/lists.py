"""The commands that list things: `backbones`, `recipes` and `cache`."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import click

from tlkit.cli.group import main
from tlkit.cli.output import json_option, show_json, wants_json
from tlkit.words import counted

if TYPE_CHECKING:
    from tlkit.backbones import Backbone

_PUBLISHERS = {"storage.googleapis.com": "Keras", "download.pytorch.org": "torchvision"}


@main.command()
@json_option
def backbones() -> None:
    """List the backbones by year, and where their weights come from."""
    from tlkit.backbones import BACKBONES, cached_file
    from tlkit.tables import Column, shown_table

    if wants_json():
        show_json([_backbone_facts(name, one) for name, one in BACKBONES.items()])
        return
    columns = [
        Column("name"),
        Column("year", right=True),
        Column("params", right=True),
        Column("px", right=True),
        Column("blocks", right=True),
        Column("weights", wraps=True),
        Column("licence", wraps=True),
    ]
    rows = [
        (
            name,
            one.year or "",
            f"{one.parameters / 1e6:.1f} M",
            one.size,
            one.blocks,
            _source(one) + (", here" if cached_file(one) else ""),
            one.licence,
        )
        for name, one in sorted(BACKBONES.items(), key=lambda pair: pair[1].year or 9999)
    ]
    click.echo(shown_table(columns, rows))
    click.echo(
        "year: of the first publication. px: pixels of each side. weights: who publishes those that "
        "`--weights imagenet`, the default, loads; here: they are on this machine. "
        "They were trained on ImageNet's images, which are for research and education; nano's, which come with tlkit, "
        "on a small part of them (see tlkit/backbones/NANO.md). PyTorch files: `--weights FILE` takes the .pth, "
        ".safetensors or .onnx files of PyTorch's libraries, or their names (docs/weights.md)."
    )
    own = ", ".join(name for name, one in BACKBONES.items() if one.own_layers)
    click.echo(
        f"Keras alone loads the model.keras of every row but {own}, which have layers of tlkit: import tlkit first, or "
        "use their SavedModel."
    )
    click.echo(
        "Other backbones: your own .keras file or SavedModel folder; hub:HANDLE or hub:FOLDER, a TF-Hub module, "
        "fine-tuned as a whole or not at all; kerashub:PRESET, kerashub:FOLDER or a handle of KerasHub, hf://... or "
        "kaggle://... (pip install 'tlkit[kerashub]'), such as kerashub:resnet_18_imagenet."
    )


def _backbone_facts(name: str, one: Backbone) -> dict[str, object]:
    from tlkit.backbones import cached_file

    return {
        "name": name,
        "year": one.year or None,
        "parameters": one.parameters,
        "image_size": one.size,
        "blocks": one.blocks,
        "weights": _source(one),
        "here": cached_file(one) is not None,
        "licence": one.licence,
        "own_layers": bool(one.own_layers),
    }


def _source(backbone: Backbone) -> str:
    """Say who publishes a row's ImageNet weights, and their size; or how it is trained if nobody does."""
    if backbone.learn is not None:
        return "learned from your training images"
    if not backbone.parameters:
        return "it has none"
    if backbone.weights is None and backbone.checkpoint is None:
        return "none on ImageNet: from scratch"
    if backbone.weights is None:
        return "PyTorch files, or from scratch"
    publisher = "tlkit" if backbone.weights.come_with_tlkit else backbone.weights.url.split("/")[2]
    source = f"{_PUBLISHERS.get(publisher, publisher)} ({backbone.weights_megabytes:,.0f} MB)"
    return source + ", or PyTorch files" if backbone.checkpoint else source


@main.command()
@json_option
def recipes() -> None:
    """List the recipes."""
    from tlkit.recipes import RECIPES
    from tlkit.tables import Column, shown_table

    if wants_json():
        tournament = {"name": "auto", "why": "the default: strategies compete, judged on held-out images"}
        show_json([tournament, *(dataclasses.asdict(one) for one in RECIPES.values())])
        return
    rows = [("auto", "a tournament", "the default: strategies compete, judged on your own held-out images")]
    for name, recipe in RECIPES.items():
        stages = " -> ".join(
            (f"{stage.solver} head" + (" on all blocks" if recipe.head.taps else ""))
            if stage.solver != "gradient"
            else ("head" if stage.unfreeze == 0 else f"{stage.unfreeze} blocks")
            + f" x{stage.epochs} @{stage.learning_rate:g}"
            for stage in recipe.stages
        )
        rows.append((name, stages, recipe.why))
    click.echo(shown_table([Column("name"), Column("stages", wraps=True), Column("when and why", wraps=True)], rows))


@main.command()
@click.option("--clear", metavar="WHICH", help="pixels, features, safety, weights, models, sources, or all")
@click.option(
    "--unused-days", type=float, default=0.0, metavar="D", help="only what was not opened for D days; default 0"
)
@json_option
def cache(clear: str | None, unused_days: float) -> None:
    """Show or clear the cache of decoded images and features.

    Runs share it, so that nothing is computed twice."""
    from tlkit.cache import Cache
    from tlkit.tables import Column, shown_table

    if clear is not None:
        cleared = Cache().clear(clear, unused_days)
        if wants_json():
            show_json({"cleared": [dataclasses.asdict(one) for one in cleared]})
            return
        click.echo(f"cleared {counted(len(cleared), 'cache')}, {sum(one.bytes for one in cleared) / 1e9:.2f} GB")
        return
    there, now = Cache().entries(), time.time()
    if wants_json():
        total = sum(one.bytes for one in there)
        show_json({"folder": Cache().folder, "bytes": total, "entries": [dataclasses.asdict(one) for one in there]})
        return
    if there:
        columns = [
            Column("kind"),
            Column("size", right=True),
            Column("unused for", right=True),
            Column("contents", wraps=True),
        ]
        rows = [
            (one.kind, f"{one.bytes / 1e9:.2f} GB", f"{max(0.0, now - one.used) / 86400:.1f} days", one.about)
            for one in there
        ]
        click.echo(shown_table(columns, rows))
    click.echo(f"{counted(len(there), 'cache')}, {sum(one.bytes for one in there) / 1e9:.2f} GB in {Cache().folder}")
