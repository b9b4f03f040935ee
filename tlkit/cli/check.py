"""The commands on images without labels: `check` and `adapt`."""

from __future__ import annotations

import click

from tlkit.cli.group import log_shown, main
from tlkit.cli.output import json_option, show_json, wants_json
from tlkit.disk import check_writable
from tlkit.quiet import _tensorflow_quietly
from tlkit.words import shown


@main.command("check")
@click.argument("run")
@click.argument("images")
@click.option("--out", metavar="FILE", help="the page; default check.html")
@click.option("--columns", metavar="PATH=NAME,...", help="a table's columns, such as path=photo")
@click.option("--data", "moved_to", metavar="DATA", help="where RUN's own data is now, if it was moved")
@json_option
def check_(run: str, images: str, out: str | None, columns: str | None, moved_to: str | None) -> None:
    """Estimate how accurate RUN is on IMAGES without labels.

    Also says whether they differ from RUN's own, and in what. Labels in IMAGES are
    not used, but the accuracy by them is printed. The first check of a run takes
    minutes: it learns from its held-out images, corrupted in many ways."""
    from tlkit.runs.folder import open_run

    page = out or (None if wants_json() else "check.html")
    if page:
        check_writable(page, makes_folders=True)
    opened = open_run(run, moved_to)
    with _tensorflow_quietly():
        from tlkit.reporting.checked import check_page_name, write_page
        from tlkit.runs.check import check
    if page:
        check_page_name(page)
    with log_shown():
        found = check(opened, images, columns=columns)
    if page:
        write_page(found, page)
    if wants_json():
        show_json(found.to_dict())
        return
    for line in found.sentences():
        click.echo(shown(line))
    if found.problems:
        click.echo(f"{found.problems:,} files were left out")
    click.echo(f"written to {shown(page or '')}")


@main.command("adapt")
@click.argument("run")
@click.argument("images")
@click.option("--out", metavar="RUN", required=True, help="folder of the adapted run")
@click.option("--columns", metavar="PATH=NAME,...", help="a table's columns, such as path=photo")
@click.option("--data", "moved_to", metavar="DATA", help="where RUN's own data is now, if it was moved")
@click.option("--force", is_flag=True, help="replace an earlier run in --out")
@json_option
def adapt_(run: str, images: str, out: str, columns: str | None, moved_to: str | None, force: bool) -> None:
    """Adapt RUN to IMAGES of a new site, without labels.

    BatchNormalization statistics and the shares of the classes are adapted, each
    only where the estimate of `tlkit check` says that it helps. The result is a run
    of its own, exported and proved; none is written where nothing is adapted."""
    from tlkit.runs.folder import open_run

    opened = open_run(run, moved_to)
    with _tensorflow_quietly():
        from tlkit.runs.adapt import adapt
    with log_shown():
        made, found = adapt(opened, images, out, columns=columns, force=force)
    if wants_json():
        show_json({**found.to_dict(), "run": None if made is None else made.folder})
        return
    for line in found.why:
        click.echo(shown(line))
    click.echo(f"run         {shown(made.folder)}" if made is not None else "no run is written")
