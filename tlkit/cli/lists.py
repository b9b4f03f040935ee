"""The commands that list things: `backbones`, `recipes` and `cache`."""

from __future__ import annotations

import time

import click

from tlkit.cli.group import main
from tlkit.words import counted


@main.command()
def backbones() -> None:
    """List the pretrained backbones."""
    from tlkit.backbones import BACKBONES, cached_file
    from tlkit.tables import Column, shown_table

    columns = [
        Column("name"),
        Column("parameters", right=True),
        Column("size", right=True),
        Column("blocks", right=True),
        Column("weights", right=True),
        Column("licence of weights", wraps=True),
        Column("here"),
    ]
    rows = [
        (
            name,
            f"{one.parameters / 1e6:.1f} M",
            one.size,
            one.blocks,
            "none" if one.weights_megabytes is None else f"{one.weights_megabytes:,.0f} MB",
            one.licence,
            "yes" if cached_file(one) else "no",
        )
        for name, one in BACKBONES.items()
    ]
    click.echo(shown_table(columns, rows))
    click.echo(
        "All were trained on ImageNet's images, which are for research and education; nano, which comes with tlkit, on "
        "a small part of them (see tlkit/backbones/NANO.md). here: whether the weights are on this machine."
    )
    click.echo(
        "Other backbones: your own .keras file or SavedModel folder; hub:HANDLE or hub:FOLDER, a TF-Hub module, "
        "fine-tuned as a whole or not at all; kerashub:PRESET or kerashub:FOLDER (pip install 'tlkit[kerashub]'), "
        "such as kerashub:resnet_18_imagenet."
    )


@main.command()
def recipes() -> None:
    """List the recipes."""
    from tlkit.recipes import RECIPES
    from tlkit.tables import Column, shown_table

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
@click.option("--clear", metavar="WHICH", help="clear these caches: pixels, features, safety, weights, or all")
@click.option(
    "--unused-days", type=float, default=0.0, metavar="D", help="only what was not opened for D days; default 0"
)
def cache(clear: str | None, unused_days: float) -> None:
    """Show or clear the cache of decoded images and features.

    Runs share it, so that nothing is computed twice."""
    from tlkit.cache import Cache
    from tlkit.tables import Column, shown_table

    if clear is not None:
        cleared = Cache().clear(clear, unused_days)
        click.echo(f"cleared {counted(len(cleared), 'cache')}, {sum(one.bytes for one in cleared) / 1e9:.2f} GB")
        return
    there, now = Cache().entries(), time.time()
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
