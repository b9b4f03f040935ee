"""The command `push`: uploads a run to a model hub."""

from __future__ import annotations

import click

from tlkit.cli.group import log_shown, main
from tlkit.cli.output import json_option, show_json, wants_json
from tlkit.words import shown


@main.command("push")
@click.argument("run")
@click.argument("to", metavar="hf://USER/NAME")
@click.option("--public", is_flag=True, help="for everyone to read; default: a private repository")
@click.option("--revision", metavar="BRANCH", default="", help="default the main branch")
@click.option("--with-data", is_flag=True, help="also what shows and names your images: report.html and tables")
@json_option
def push_(run: str, to: str, public: bool, revision: str, with_data: bool) -> None:
    """Upload RUN to Hugging Face's hub.

    The card (README.md), SavedModel, model.keras, plan, numbers and manifest are uploaded, without paths of this
    machine. `tlkit predict hf://USER/NAME FILES` answers with it. The token is that of `hf auth login`, or HF_TOKEN."""
    from tlkit.reporting.push import push

    with log_shown():
        commit = push(run, to, public=public, revision=revision, with_data=with_data)
    if wants_json():
        show_json({"repository": to, "commit": commit})
        return
    click.echo(f"uploaded to {shown(to)} as {commit[:12]}; fill in the lines in italics of its README.md")
