"""The command `slices`."""

from __future__ import annotations

import click

from tlkit.cli.group import main
from tlkit.cli.output import json_option, show_json, wants_json
from tlkit.quiet import _tensorflow_quietly
from tlkit.words import counted, shown

MOST_ROWS = 20  # printed


@main.command()
@click.argument("run")
@click.option("--slices", metavar="COLUMN,...", help="columns of the table; default those of 2 to 20 values")
@click.option("--hidden/--no-hidden", default=True, help="look for slices that no column names; the default")
@click.option("--data", "moved_to", metavar="DATA", help="where RUN's data is now, if it was moved")
@click.option("--csv", "csv_file", metavar="FILE", help="write all rows to a CSV")
@json_option
def slices(run: str, slices: str | None, hidden: bool, moved_to: str | None, csv_file: str | None) -> None:
    """Find on which kinds of image RUN is worse."""
    from pathlib import Path

    from tlkit.disk import check_writable
    from tlkit.files import csv_text, write_atomically

    if csv_file:
        check_writable(csv_file)
    with _tensorflow_quietly():
        from tlkit.runs.folder import open_run
        from tlkit.runs.slices import named
        from tlkit.runs.slices import slices as find
        from tlkit.tables import Column, shown_table
    found = find(open_run(run, moved_to), slices, hidden=hidden)
    if csv_file:
        write_atomically(Path(csv_file), csv_text(found.table))
    if wants_json():
        show_json(found.to_dict())
        return
    click.echo(f"accuracy {found.accuracy:.1%} on {counted(found.n, 'image')} that the model was not trained on")
    if found.by_column:
        header = [Column("slice"), *[Column(name, right=True) for name in ("images", "accuracy", "95 % interval", "p")]]
        cells = [
            (shown(named(one)), f"{one.n:,}", f"{one.accuracy:.1%}", f"{one.low:.1%} to {one.high:.1%}", f"{one.p:.2g}")
            for one in found.by_column[:MOST_ROWS]
        ]
        click.echo(shown_table(header, cells))
    for line in found.sentences():
        click.echo(shown(line))
    for number, one in enumerate(found.hidden, start=1):
        if one.beyond_chance:
            click.echo(f"  slice {number}, such as {', '.join(shown(path) for path in one.paths[:3])}")
