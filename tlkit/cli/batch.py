"""The commands on features of images: `embed` and `similar`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tlkit.cli.group import log_shown, main
from tlkit.cli.output import json_option, show_json, wants_json
from tlkit.disk import check_writable
from tlkit.quiet import _tensorflow_quietly
from tlkit.words import shown


@main.command("embed")
@click.argument("model", metavar="RUN|BACKBONE")
@click.argument("files", nargs=-1, required=True)
@click.option("--out", metavar="NAME.parquet", required=True, help="where the features go")
@click.option("--image-size", type=click.IntRange(1), metavar="N", help="pixels, of a BACKBONE; default its own")
@click.option("--on", metavar="WHERE", help="ray, or ray://HOST:PORT")
@click.option("--force", is_flag=True, help="remove features of another model or other images")
@json_option
def embed_(model: str, files: Sequence[str], out: str, image_size: int | None, on: str | None, force: bool) -> None:
    """Write the pooled features of FILES to Parquet.

    FILES are images, folders and tables of paths. The network is that of a run, or a pretrained backbone. The same
    command goes on with what was stopped."""
    with _tensorflow_quietly():
        from tlkit.runs.batch import embed
    with log_shown():
        written = embed(model, files, out, image_size=image_size, on=on, force=force)
    if wants_json():
        show_json({"written": written.out, "files": written.rows, "problems": written.problems})
        return
    click.echo(written)


@main.command("similar")
@click.argument("run")
@click.argument("images", nargs=-1, required=True)
@click.option("--count", type=click.IntRange(1), default=5, metavar="N", help="how many for each; default 5")
@click.option("--out", metavar="FILE", help="sheet of images; default similar.png")
@click.option("--csv", "csv_file", metavar="FILE", help="write the pairs to a CSV, and draw nothing unless --out")
@click.option("--data", "moved_to", metavar="DATA", help="where RUN's data is now, if it was moved")
@json_option
def similar_(
    run: str, images: Sequence[str], count: int, out: str | None, csv_file: str | None, moved_to: str | None
) -> None:
    """Find the training images of RUN that are most like IMAGES.

    Prints the path, the label and the likeness of each: 1 for equal features, about 0 for unrelated ones."""
    if csv_file:
        check_writable(csv_file)
    sheet = out or (None if csv_file else "similar.png")
    if sheet:
        check_writable(sheet, makes_folders=True)
    with _tensorflow_quietly():
        from tlkit.files import csv_text, write_atomically
        from tlkit.runs.folder import open_run
        from tlkit.runs.similar import similar
        from tlkit.tables import Column, shown_table
    with log_shown():
        table = similar(open_run(run, moved_to), images, count=count, out=sheet)
    if csv_file:
        write_atomically(Path(csv_file), csv_text(table))
    if wants_json():
        show_json(table)
        return
    for image, found in table.groupby("image", sort=False):
        click.echo(shown(image))
        rows = [(f"{row.likeness:.3f}", row.label, row.path) for row in found.itertuples()]
        click.echo(shown_table([Column("likeness", right=True), Column("label"), Column("training image")], rows))
    if sheet:
        click.echo(f"drawn to {shown(sheet)}")
