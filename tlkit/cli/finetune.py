"""The commands that train: `finetune` and `demo`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlkit.cli.group import log_shown, main
from tlkit.cli.output import json_option, show_json, wants_json, wants_quiet
from tlkit.quiet import _tensorflow_quietly
from tlkit.words import shown

if TYPE_CHECKING:
    from tlkit.runs.folder import Run


@main.command()
@click.option("--out", metavar="FOLDER", default="tlkit-demo", help="default tlkit-demo")
@json_option
def demo(out: str) -> None:
    """Fine-tune `nano` on scikit-learn's digits. Needs no download."""
    with _tensorflow_quietly():
        from tlkit.finetuning.demo import demo as run_demo
    with log_shown():
        run = run_demo(out)
    _show_run(run)


# The options that are hidden are so that the help fits one screen.
@main.command()
@click.argument("data", required=False)
@click.option("--backbone", metavar="NAME", help="name, file, a,b,c or auto; see `tlkit backbones`")
@click.option("--recipe", metavar="NAME|PATH", help="default auto; see `tlkit recipes`")
@click.option("--similar/--different", default=None, help="whether DATA's images are like ImageNet's")
@click.option("--effort", metavar="HOW", help="quick: no fine-tuning; normal (default); best")
@click.option("--out", metavar="RUN", help="run folder; default runs/DATA-BACKBONE-N")
@click.option("--seed", type=int, help="default 0")
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="epochs of every stage")
@click.option("--learning-rate", type=float, metavar="RATE", help="of the last stage; see `tlkit lr-find`")
@click.option("--image-size", type=click.IntRange(1), metavar="N", help="pixels; default the backbone's own")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="default the recipe's")
@click.option("--weights", metavar="NAME|FILE", help="imagenet (default), none, a file, or timm:NAME")
@click.option(
    "--accept-licence", is_flag=True, hidden=True, help="use weights whose licence forbids some uses"
)  # documented in docs/weights.md
@click.option("--validation", type=float, metavar="SHARE", help="of the training images; default 0.2")
@click.option(
    "--test", type=float, metavar="SHARE", hidden=True, help="of all images, drawn as test images; 0 for none"
)  # documented in docs/recipes.md
@click.option(
    "--group-by", metavar="COLUMN", hidden=True, help="column of a table whose values stay together"
)  # documented in docs/data.md
@click.option(
    "--columns", metavar="PATH=NAME,...", hidden=True, help="a table's columns, such as path=photo,label=kind"
)  # documented in docs/data.md
@click.option(
    "--class-names", hidden=True, help="the classes in the order that they get, with commas"
)  # documented in docs/keras.md, as the five that follow
@click.option("--accept-license", is_flag=True, hidden=True, help="another name of --accept-licence")
@click.option("--validation-split", type=float, hidden=True, help="another name of --validation")
@click.option("--crop-to-aspect-ratio", is_flag=True, hidden=True, help="another name of --fit crop")
@click.option("--pad-to-aspect-ratio", is_flag=True, hidden=True, help="another name of --fit pad")
@click.option("--color-mode", hidden=True, help="rgb, which it always is")
@click.option("--fit", metavar="HOW", help="make images square: squash (default), crop or pad")
@click.option("--from", "from_run", metavar="RUN", help="start from an earlier run's weights")
@click.option("--augment", metavar="NAME|FILE", help="a preset or a file; checked on DATA first")
@click.option("--allow", multiple=True, metavar="FIELD", help="augment by FIELD although unsafe; repeatable")
@click.option("--max-error", type=float, metavar="SHARE", help='answer "unsure" to keep errors below SHARE')
@click.option("--known", type=float, hidden=True, help='answer "none of these" beyond this share of known images')
@click.option(
    "--coverage", type=float, hidden=True, help="answer with sets of classes that hold the true one this often"
)  # both documented in docs/explanation/known.md
@click.option(
    "--refit/--no-refit", default=None, hidden=True, help="train the delivered model on validation images too"
)  # documented in docs/runs.md
@click.option(
    "--folds", type=click.IntRange(2), hidden=True, help="judge by cross-validation with this many folds"
)  # documented in docs/lectures.md
@click.option(
    "--fair-to", metavar="COLUMN", hidden=True, help="column whose values count alike in each class"
)  # documented in docs/explanation/slices.md
@click.option(
    "--balance", metavar="HOW", hidden=True, help="of classes of unequal size: prior, weights or none"
)  # documented in docs/recipes.md
@click.option(
    "--metric", metavar="NAME", hidden=True, help="choose by accuracy, balanced_accuracy, macro_f1 or auc"
)  # documented in docs/recipes.md
@click.option("--max-minutes", type=float, metavar="M", help="time limit of the whole command")
@click.option(
    "--cache-gb", type=float, hidden=True, help="limit of the cache, in gigabytes"
)  # documented in docs/runs.md
@click.option(
    "--on", hidden=True, help="ray, or ray://HOST:PORT: compute on a Ray cluster"
)  # documented in docs/scale.md
@click.option(
    "--devices", metavar="N|cpu|gpu:0,1", hidden=True, help="what is computed on; default all GPUs"
)  # documented in docs/explanation/devices.md, as the next one
@click.option("--scale-batch", is_flag=True, hidden=True, help="a batch as large as one device's for each")
@click.option(
    "--strict", is_flag=True, hidden=True, help="treat any problem in the data as an error"
)  # documented in docs/runs.md
@click.option(
    "--report/--no-report", default=True, hidden=True, help="write report.html; the default"
)  # documented in docs/report.md
@click.option(
    "--data", "moved_to", hidden=True, help="where the data of a plan.json is now"
)  # documented in docs/runs.md
@click.option(
    "--log-to", multiple=True, hidden=True, help="tensorboard:DIR or mlflow:URI; repeatable"
)  # documented in docs/keras.md
@click.option("--dry-run", is_flag=True, help="print the plan and stop")
@click.option("--resume", metavar="RUN|auto", help="go on with a run that was stopped")
@click.option("--force", is_flag=True, help="replace an earlier run in RUN")
@functools.partial(json_option, hidden=True)
@click.pass_context
def finetune(
    context: click.Context,
    data: str | None,
    out: str | None,
    dry_run: bool,
    resume: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Fine-tune a backbone on DATA: a folder, table, archive, address, or plan.json."""
    from tlkit.errors import DataError
    from tlkit.finetuning.resolve import check_names
    from tlkit.plan.job import Job
    from tlkit.plan.spelling import in_names_of_a_job
    from tlkit.plan.tracking import named_trackers

    moved_to, log_to = options.pop("moved_to"), options.pop("log_to")
    named_trackers(log_to)
    given = {name: value for name, value in options.items() if _is_given(context, name)}
    given = in_names_of_a_job(given)
    job = None
    if data is not None and resume in (None, "auto"):
        job = Job.given(data, given if moved_to is None else {**given, "data": moved_to})
        if data.endswith(".json") and isinstance(job.data, Path) and not job.data.exists():
            raise DataError(f"The data of '{data}' is not at '{job.data}' any more. Give `moved_to`: where it is now.")
        check_names(job)  # before TensorFlow is imported
    elif resume is None:
        raise click.UsageError("Missing argument 'DATA', or --resume RUN.", context)
    with _tensorflow_quietly():
        from tlkit.finetuning.finetune import carry_out, resumed
        from tlkit.runs.trackers import make_trackers
    with log_shown():
        trackers = make_trackers(log_to)
        if resume is not None:
            run = resumed(resume, job or data or moved_to, out, force=force, given=sorted(given), callbacks=trackers)
        elif job is not None:
            run = carry_out(job, out, force=force, dry_run=dry_run, callbacks=trackers)
    _show_run(run)


def _show_run(run: Run) -> None:
    """Print what a run came to, for programs, and for people who were shown no log."""
    done = run.finished
    if wants_json():
        facts = {"run": run.folder, "finished": done}
        show_json(facts | ({"plan": run.plan.to_dict(), "metrics": run.metrics} if done else {}))
    elif wants_quiet() and done:
        sentence = (run.metrics["estimate"] or {}).get("sentence")
        click.echo(shown(f"{run.folder}: {sentence}" if sentence else run.folder))


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
