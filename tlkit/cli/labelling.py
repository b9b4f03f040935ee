"""The command `label-next`."""

from __future__ import annotations

import click

from tlkit.cli.group import log_shown, main
from tlkit.cli.output import json_option, show_json, wants_json
from tlkit.quiet import _tensorflow_quietly
from tlkit.words import counted, shown


@main.command("label-next")
@click.argument("run")
@click.argument("unlabelled", required=False)
@click.option("--count", type=click.IntRange(1), default=50, metavar="N", help="images to choose; default 50")
@click.option("--strategy", metavar="NAME", help="such as margin or random; default the best on RUN's labels")
@click.option("--labelled", metavar="CSV", help="take back a CSV with its labels filled in")
@click.option("--out", metavar="CSV", help="default label-next.csv; with --labelled, labelled.csv")
@click.option("--seed", type=int, default=0, help="default 0")
@click.option("--data", "moved_to", metavar="DATA", help="where RUN's own data is now, if it was moved")
@json_option
def label_next(
    run: str,
    unlabelled: str | None,
    count: int,
    strategy: str | None,
    labelled: str | None,
    out: str | None,
    seed: int,
    moved_to: str | None,
) -> None:
    """Choose which images of UNLABELLED to label next for RUN.

    Writes a CSV to fill in. With --labelled it writes a table of RUN's
    images and the new ones, for `tlkit finetune`."""
    from tlkit.disk import check_writable

    if (unlabelled is None) == (labelled is None):
        raise click.UsageError("Give either UNLABELLED, or --labelled with the CSV that was filled in.")
    out = out or ("label-next.csv" if labelled is None else "labelled.csv")
    check_writable(out)
    with _tensorflow_quietly():
        from tlkit.runs import label_next as labelling
        from tlkit.runs.folder import open_run
    opened = open_run(run, moved_to)
    if labelled is not None:
        both = labelling.add_labels(opened, labelled, out)
        if wants_json():
            show_json({"written": out, "images": len(both)})
            return
        click.echo(f"{counted(len(both), 'image')} in {shown(out)}: tlkit finetune {shown(out)}")
        return
    assert unlabelled is not None
    with log_shown():
        found = labelling.label_next(opened, unlabelled, count=count, strategy=strategy, seed=seed)
    found.write(out)
    if wants_json():
        show_json({"written": out, "images": len(found.table), "sentences": found.sentences()})
        return
    for line in found.sentences():
        click.echo(shown(line))
    click.echo(
        f"written to {shown(out)}: fill in its column label, then tlkit label-next {shown(run)} --labelled {out}"
    )
