"""The commands that train: `finetune` and `demo`."""

from __future__ import annotations

from typing import Any

import click

from tlkit.cli.group import log_shown, main
from tlkit.quiet import _tensorflow_quietly


@main.command()
@click.option("--out", metavar="FOLDER", default="tlkit-demo", help="default tlkit-demo")
def demo(out: str) -> None:
    """Fine-tune `nano` on scikit-learn's digits. Needs no download."""
    with _tensorflow_quietly():
        from tlkit.finetuning.demo import demo as run_demo
    with log_shown():
        run_demo(out)


@main.command()
@click.argument("data")
@click.option("--backbone", metavar="NAME", help="see `tlkit backbones`; own file; a,b,c; auto")
@click.option("--recipe", metavar="NAME|PATH", help="see `tlkit recipes`; default auto")
@click.option("--similar/--different", default=None, help="are the pictures like ImageNet's?")
@click.option("--out", metavar="RUN", help="run folder; default runs/DATA-BACKBONE-N")
@click.option("--seed", type=int, help="default 0")
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="of every stage")
@click.option("--image-size", type=click.IntRange(1), metavar="N", help="pixels; default native")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="default the recipe's")
@click.option("--weights", metavar="NAME|FILE", help="imagenet (default), none, or a file")
@click.option("--validation", type=float, metavar="SHARE", help="of the training images; 0.2")
@click.option("--group-by", metavar="COLUMN", help="CSV column whose values stay together")
@click.option("--fit", metavar="HOW", help="squash (default), crop or pad to the square")
@click.option("--from", "from_run", metavar="RUN", help="start from an earlier run's weights")
@click.option("--augment", metavar="NAME|FILE", help="a preset or a file; checked on DATA first")
@click.option("--allow", multiple=True, metavar="FIELD", help="keep it though it is unsafe; repeatable")
@click.option("--max-error", type=float, metavar="SHARE", help='serve what is not so sure as "unsure"')
@click.option("--max-minutes", type=float, metavar="M", help="for the whole command")
@click.option("--cache-gb", type=float, metavar="G", help="limit of all caches on disk")
@click.option("--strict", is_flag=True, help="any problem in the data is an error")
@click.option("--report/--no-report", default=True, hidden=True)  # in the README; the help is one screen
@click.option("--dry-run", is_flag=True, help="print the plan and stop")
@click.option("--force", is_flag=True, help="replace an earlier run in RUN")
def finetune(data: str, **settings: Any) -> None:
    """Fine-tune a backbone on DATA: a folder, a CSV, or an earlier plan.json."""
    _check_names(data, settings)
    with _tensorflow_quietly():
        from tlkit.finetuning.finetune import finetune as run_finetune
    with log_shown():
        run_finetune(data, **settings)


def _check_names(data: str, settings: dict[str, Any]) -> None:
    """Wrong names fail in a tenth of a second, before TensorFlow is imported."""
    from tlkit.data.scan import check_exists
    from tlkit.errors import unknown
    from tlkit.plan.augmentation import check_fields
    from tlkit.plan.job import FITS, check_max_error

    if settings["backbone"] not in (None, "auto"):
        from tlkit.backbones import check_backbone_name

        for name in settings["backbone"].split(","):
            check_backbone_name(name.strip())
    if settings["recipe"] and not settings["recipe"].endswith(".py"):
        from tlkit.plan.job import AUTO
        from tlkit.recipes import find_recipe

        if settings["recipe"] != AUTO:
            find_recipe(settings["recipe"])
    if settings["augment"]:
        from tlkit.plan.augmentation import find_augmentation

        find_augmentation(settings["augment"])
    check_fields(settings["allow"])
    check_max_error(settings["max_error"])
    if settings["fit"] and settings["fit"] not in FITS:
        raise unknown("fit", settings["fit"], FITS)
    check_exists(data)
