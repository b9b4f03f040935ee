"""The commands on features of images: `embed` and `similar`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from tlkit.cli.group import log_shown, main
from tlkit.quiet import _tensorflow_quietly


@main.command("embed")
@click.argument("model", metavar="RUN|BACKBONE")
@click.argument("files", nargs=-1, required=True)
@click.option("--out", metavar="NAME.parquet", required=True, help="where the features go")
@click.option("--image-size", type=click.IntRange(1), metavar="N", help="pixels, of a BACKBONE; default its own")
@click.option("--on", metavar="WHERE", help="ray, or ray://HOST:PORT")
@click.option("--force", is_flag=True, help="remove features of another model or other images")
def embed_(model: str, files: Sequence[str], out: str, image_size: int | None, on: str | None, force: bool) -> None:
    """Write the pooled features of FILES to Parquet.

    FILES are images, folders and tables of paths. The network is that of a run, or a pretrained backbone. The same
    command goes on with what was stopped."""
    with _tensorflow_quietly():
        from tlkit.runs.batch import embed
    with log_shown():
        click.echo(embed(model, files, out, image_size=image_size, on=on, force=force))
