"""The commands on finished runs, from `evaluate` to `verify`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tlkit.cli.group import log_shown, main
from tlkit.cli.output import json_option, show_json, wants_json
from tlkit.disk import check_writable
from tlkit.errors import SpecError
from tlkit.quiet import _tensorflow_quietly
from tlkit.words import counted, shown


@main.command()
@click.argument("run")
@click.argument("data", required=False)
@click.option("--columns", metavar="PATH=NAME,...", help="a table's columns, such as path=photo,label=kind")
@click.option("--views", metavar="HOW", help="also average over views of each image: flip or ten-crop")
@click.option("--data", "moved_to", metavar="DATA", help="where RUN's own data is now, if it was moved")
@click.option("--revision", metavar="NAME", help="of RUN as hf://USER/NAME: a branch, tag or commit")
@json_option
def evaluate(
    run: str,
    data: str | None,
    columns: str | None,
    views: str | None,
    moved_to: str | None,
    revision: str | None,
) -> None:
    """Evaluate RUN on DATA, or on its own validation images."""
    from tlkit.runs.hub import at_revision

    run = at_revision(run, revision)
    with _tensorflow_quietly():
        from tlkit.runs.evaluate import evaluate_run
        from tlkit.runs.folder import open_run
        from tlkit.tables import Column, shown_table
    with log_shown(lines=False):
        scores = evaluate_run(open_run(run, moved_to), data, views=views, columns=columns)
    if wants_json():
        show_json(scores)
        return
    for line in scores["lost"]:
        click.echo(f"attention: {shown(line)}")
    for folder in scores["gone"] if data is not None else ():
        click.echo(f"attention: the earlier run {shown(folder)} is gone: whether these images trained it is not known")
    _show_seen(scores, given=data is not None)
    click.echo(
        f"{_accuracy(scores)}, macro-F1 {scores['macro_f1']:.3f}, log loss {scores['log_loss']:.3f}, "
        f"ECE {scores['ece']:.3f}"
    )
    names = ("precision", "recall", "f1")
    header = [Column("class"), *[Column(name, right=True) for name in ("precision", "recall", "F1", "images")]]
    rows = [
        (shown(label), *["not measured" if one[name] is None else f"{one[name]:.3f}" for name in names], one["support"])
        for label, one in scores["per_class"].items()
    ]
    click.echo(shown_table(header, sorted(rows, key=lambda row: not row[-1])))
    if views:
        found = scores["views"]
        click.echo(
            f"averaged over {views}: accuracy {found['accuracy']:.1%}, {100 * found['gain']:+.1f} points "
            f"(±{196 * found['gain_error']:.1f}), takes {found['times_as_long']:.1f} times as long"
        )
    if scores["left_out"]:
        were = "file was" if scores["left_out"] == 1 else "files were"
        click.echo(f"{scores['left_out']:,} {were} left out; `tlkit inspect` names them")


def _accuracy(scores: dict[str, Any]) -> str:
    low, high = scores["accuracy_95"]
    return f"accuracy {scores['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, n = {scores['n']:,})"


def _show_seen(scores: dict[str, Any], given: bool) -> None:
    """Print how many images the run was trained on, and the accuracy without them. given: not the run's own images."""
    n = counted(scores["n"], "image")
    if scores["trained_on"]:
        others = scores["without_trained_on"]
        without = f"without them: {_accuracy(others)}" if others else "without them no image is left"
        if before := scores.get("judged_before"):
            without = (
                f"with {before:,} as predicted before it learned from them, and without the others: {_accuracy(others)}"
            )
        click.echo(
            f"the run was trained on {scores['trained_on']:,} of these {n}, so its accuracy on new images is "
            f"probably lower than the one below; {without}"
        )
    if given and scores["chosen_by"]:
        click.echo(f"the run's epochs and settings were chosen by {scores['chosen_by']:,} of these {n}")


@main.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True)
@click.option("--csv", "csv_file", metavar="FILE", help="write the answers to a CSV")
@click.option("--top", type=click.IntRange(1), default=3, metavar="N", help="classes per image; default 3")
@click.option("--out", metavar="NAME", help="stream any number of images to NAME.parquet or NAME.csv")
@click.option("--embeddings", is_flag=True, help="of --out: also write the pooled features")
@click.option("--on", metavar="WHERE", help="of --out: ray, or ray://HOST:PORT")
@click.option("--force", is_flag=True, help="of --out: remove answers of another model or other images")
@click.option("--revision", metavar="NAME", help="of hf://USER/NAME: a branch, tag or commit")
@json_option
def predict(
    model: str,
    files: Sequence[str],
    csv_file: str | None,
    top: int,
    out: str | None,
    embeddings: bool,
    on: str | None,
    force: bool,
    revision: str | None,
) -> None:
    """Classify FILES with MODEL: a run, an exported folder, or hf://USER/NAME.

    FILES are image files or folders of them. With --out also tables of paths; the same command goes on with what was
    stopped."""
    from tlkit.runs.hub import at_revision

    if out and csv_file:
        raise click.UsageError("--csv and --out both name a file for the answers. Give one of them.")
    model = at_revision(model, revision)
    if out:
        _predict_to(model, files, out, embeddings=embeddings, on=on, force=force)
        return
    if embeddings or on or force:
        raise click.UsageError("--embeddings, --on and --force are of --out.")
    if csv_file:
        check_writable(csv_file)
    with _tensorflow_quietly():
        from tlkit.runs.predict import predict as answer
    with log_shown(lines=False):
        table = answer(model, files, top=top)
    if csv_file:
        from tlkit.files import csv_text, write_atomically

        write_atomically(Path(csv_file), csv_text(table))
        bad = int((table["problem"] != "").sum())
        if wants_json():
            show_json({"written": csv_file, "files": len(table), "problems": bad})
            return
        click.echo(f"{counted(len(table), 'file')}, {bad:,} with a problem: {csv_file}")
        return
    if wants_json():
        show_json(table)
        return
    _print_answers(table, top)


def _predict_to(model: str, files: Sequence[str], out: str, *, embeddings: bool, on: str | None, force: bool) -> None:
    """Write the answers for any number of images, and say how many there were."""
    with _tensorflow_quietly():
        from tlkit.runs.batch import predict_to
    with log_shown(lines=not wants_json()):
        written = predict_to(model, files, out, embeddings=embeddings, on=on, force=force)
    if wants_json():
        show_json({"written": written.out, "files": written.rows, "problems": written.problems})
        return
    click.echo(written)


def _print_answers(table: Any, top: int) -> None:
    """Print the table of `tlkit.predict`, a line for each file."""
    for row in table.to_dict("records"):
        if row["problem"]:
            click.echo(f"{shown(row['path'])}  ({shown(row['problem'])})")
            continue
        names = ["prediction", *[f"top{i}" for i in range(2, top + 1)]]
        answers = [
            f"{shown(row[name])} {row['probability' if name == 'prediction' else f'{name}_probability']:.3f}"
            for name in names
            if name in row
        ]
        unsure = row["sure"] is not None and not row["sure"]
        if row.get("prediction_set") is not None:
            answers.append(f"{{{', '.join(map(shown, row['prediction_set']))}}}")
        if row.get("known") is not None:
            answers.append(f"known {row['known']:.3f}")
        click.echo(f"{shown(row['path'])}  {'unsure: ' if unsure else ''}{'  '.join(answers)}")


@main.command()
@click.argument("run")
@click.option("--to", metavar="FOLDER", help="default RUN/saved_model, or RUN/NAME of --format")
@click.option("--max-error", type=float, metavar="SHARE", help='answer "unsure" to keep errors below SHARE')
@click.option(
    "--format",
    "target",
    metavar="NAME",
    default="savedmodel",
    help="savedmodel (default), litert, litert-float16, litert-int8, onnx, openvino, keras",
)
@click.option("--data", "moved_to", metavar="DATA", help="where RUN's data is now, if it was moved")
@click.option("--force", is_flag=True, help="keep an 8-bit model that loses too much")
@click.option(
    "--layout", metavar="NAME", default="nhwc", help="of onnx: nhwc (default), or nchw as OpenCV gives images"
)
@click.option(
    "--for-tensorflow", metavar="VERSION", help="leave out of savedmodel what TensorFlow VERSION does not know"
)
@json_option
def export(
    run: str,
    to: str | None,
    max_error: float | None,
    target: str,
    moved_to: str | None,
    force: bool,
    layout: str,
    for_tensorflow: str | None,
) -> None:
    """Export RUN's model, and prove that it equals the trained one."""
    from tlkit.plan.job import check_max_error

    check_max_error(max_error)
    with _tensorflow_quietly():
        from tlkit.finetuning.words import refusal_sentence
        from tlkit.runs.export import export_run, exports_of, other_thresholds
        from tlkit.runs.folder import open_run
    with log_shown():
        folder, proof = export_run(
            open_run(run, moved_to),
            to,
            target=target,
            max_error=max_error,
            force=force,
            layout=layout,
            for_tensorflow=for_tensorflow,
        )
    refusal = open_run(run).metrics["refusal"]
    if wants_json():
        show_json(
            {"written": folder, "refusal": refusal, "proof": proof, "exports": exports_of(run)}
            | {"other_thresholds": other_thresholds(run)}
        )
        return
    click.echo(f"written to {shown(folder)}")
    if refusal:
        click.echo(f"unsure {refusal_sentence(refusal)}")
    for name, threshold in other_thresholds(run).items():
        kept = f"below {threshold:.3f}" if threshold else "to nothing"
        click.echo(f'the earlier export {name} still answers "unsure" {kept}: write it again')
    if proof is None:
        click.echo("parity not measured")
        return
    interval = ""
    if "agreement_95" in proof and proof["top1_agreement"] < 1:
        interval = " (95 % interval {:.1%} to {:.1%})".format(*proof["agreement_95"])
    click.echo(
        f"same class as the trained model on {proof['top1_agreement']:.1%} of "
        f"{counted(proof['n'], 'validation image')}{interval}, largest difference {proof['max_difference']:.1e}"
    )
    if "accuracy" in proof:
        click.echo(f"accuracy on them {proof['accuracy_before']:.1%} to {proof['accuracy']:.1%}")
    _show_exports(exports_of(run))


def _show_exports(table: Any) -> None:
    """Print the exports of a run. table: of `tlkit.runs.export.exports_of`."""
    from tlkit.tables import Column, shown_table

    rows = []
    for one in table.itertuples():
        # unknown for an export of an early version
        size = "" if one.bytes != one.bytes else f"{one.bytes / 1e6:.1f} MB"
        speed = "" if one.milliseconds_an_image != one.milliseconds_an_image else f"{one.milliseconds_an_image:.1f} ms"
        timed = "files, decoding included" if one.format == "savedmodel" else "decoded pixels"
        timed += ", one at a time" if one.format.startswith("litert") else ", 16 at a time"
        images = f"{one.n:,} {one.split}"
        rows.append((one.format, f"{one.top1_agreement:.1%}", images, f"{one.max_difference:.1e}", size, speed, timed))
    right = [Column(name, right=True) for name in ("difference", "size", "an image")]
    click.echo(
        shown_table([Column("format"), Column("agrees", right=True), Column("of"), *right, Column("from")], rows)
    )


@main.command("serve")
@click.argument("run")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", help="default 127.0.0.1, this machine only")
@click.option("--port", type=int, metavar="N", default=8000, help="default 8000; 0 chooses a free one")
@click.option("--name", metavar="NAME", help="of /v1/models/NAME; default: the folder's, model and classifier")
@click.option(
    "--allow-origin", metavar="URL", multiple=True, help="whose pages may ask, such as https://a.org; * for all"
)
@click.option("--allow-host", metavar="NAME", multiple=True, help="a further name of this server, as a proxy gives it")
@click.option(
    "--token",
    envvar="TLKIT_TOKEN",
    metavar="TEXT",
    help='what requests must send; default: beyond this machine, one is made and shown; "" for none [TLKIT_TOKEN]',
)
@click.option("--token-file", metavar="FILE", help="the token from a file, which lists of processes do not show")
@click.option("--revision", metavar="NAME", help="of hf://USER/NAME: a branch, tag or commit")
def serve_(
    run: str,
    host: str,
    port: int,
    name: str | None,
    allow_origin: Sequence[str],
    allow_host: Sequence[str],
    token: str | None,
    token_file: str | None,
    revision: str | None,
) -> None:
    """Serve RUN: a local page, /predict, and TensorFlow Serving's REST interface.

    RUN is a run, an exported folder or hf://USER/NAME. The endpoints are /predict, /v1/models/NAME:predict,
    /v1/models/NAME, /v1/models/NAME/metadata, /health and /metrics."""
    from tlkit.runs.hub import at_revision

    run = at_revision(run, revision)
    if token_file is not None:
        token = _token_of(token_file)
    with _tensorflow_quietly():
        from tlkit.runs.serve import StillAnswering, serve
    with log_shown(is_result=True):
        try:
            serve(run, host=host, port=port, name=name, allow_origin=allow_origin, allow_host=allow_host, token=token)
        except StillAnswering as error:
            click.echo(f"Error: {error}", err=True)
            sys.stdout.flush()
            os._exit(1)  # TensorFlow aborts where Python ends under its threads


def _token_of(file: str) -> str:
    """The one line of a file. Raises SpecError if it is empty, because an empty token asks for none."""
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise SpecError(f"The token cannot be read from '{file}': {error}. Expected a file of one line.") from error
    if not token:
        raise SpecError(f"'{file}' is empty. Expected a file of one line, the token.")
    return token


@main.command("report")
@click.argument("runs", nargs=-1, required=True)
@click.option("--robustness", is_flag=True, help="also measure accuracy on corrupted images (minutes)")
@click.option("--slices", metavar="COLUMN,...", help="compare these columns' values; default those of 2 to 20")
@click.option("--out", metavar="FILE", help="page that ranks RUNS; default leaderboard.html")
@click.option("--data", "moved_to", metavar="DATA", help="where the data of RUN is now, if it was moved")
@json_option
def report_(runs: Sequence[str], robustness: bool, slices: str | None, out: str | None, moved_to: str | None) -> None:
    """Write the report of a run again, or rank several RUNS.

    Several runs are compared on the images they share, on a page beside them."""
    from tlkit.runs.folder import open_run

    opened = [open_run(one, moved_to) for one in runs]
    with _tensorflow_quietly():
        from tlkit.reporting.report import report
    with log_shown(is_result=len(opened) > 1):
        page = report(opened, robustness=robustness, slices=slices, out=out)
    if wants_json():
        from tlkit.reporting.leaderboard import compare_runs

        several = compare_runs(opened) if len(opened) > 1 else None
        ranking = {"images": several.images, "rows": several.rows} if several else {}
        show_json({"written": page, **ranking})
        return
    click.echo(f"written to {shown(page)}")


@main.command("card")
@click.argument("run")
@click.option("--out", metavar="FILE", help="default README.md in RUN")
@json_option
def card_(run: str, out: str | None) -> None:
    """Write RUN's model card, for a model hub."""
    from tlkit.reporting.card import model_card

    page = model_card(run, out)
    if wants_json():
        show_json({"written": page})
        return
    click.echo(f"written to {shown(page)}; fill in the lines in italics")


@main.command("explain")
@click.argument("run")
@click.argument("files", nargs=-1)
@click.option("--out", metavar="FILE", help="image file; default explained.png")
@click.option("--method", metavar="NAME", default="cam", help="cam (class activation maps, default) or occlusion")
@click.option("--class", "of_class", metavar="NAME", help="explain this class; default the answer")
@click.option("--dense", is_flag=True, help="draw the answer at every position of larger FILES")
@click.option("--size", type=int, metavar="PIXELS", help="of --dense: their side; default twice the run's")
@click.option("--units", metavar="LAYER", help="draw what activates a layer's units (or a block's, by number)")
@click.option("--filters", is_flag=True, help="draw the first layer's filters")
@click.option("--typical", is_flag=True, help="draw what excites each class (or --class) most")
@click.option("--fooling", is_flag=True, help="draw noise it is sure of, and FILES changed to another class")
@click.option("--seed", type=int, default=0, metavar="N", help="of --typical and --fooling; default 0")
@click.option("--data", "moved_to", metavar="DATA", help="of --units: where RUN's data is now, if it was moved")
@json_option
def explain_(run: str, files: Sequence[str], moved_to: str | None, **settings: Any) -> None:
    """Draw saliency maps: what RUN's answers on FILES rest on.

    With --dense, --units, --filters, --typical or --fooling: what its network has learned, and numbers as JSON."""
    from tlkit.runs.folder import open_run

    opened = open_run(run, moved_to)
    kinds = [name for name in ("dense", "units", "filters", "typical", "fooling") if settings[name]]
    if len(kinds) > 1:
        raise click.UsageError(f"--{kinds[0]} and --{kinds[1]} draw different pictures. Give one of them.")
    kind = kinds[0] if kinds else "explained"
    if settings["size"] and kind != "dense":
        raise click.UsageError("--size is of --dense.")
    out, of_class, seed = settings["out"] or f"{kind}.png", settings["of_class"], settings["seed"]
    check_writable(out, makes_folders=True)
    with _tensorflow_quietly():
        from tlkit.runs import pictures
        from tlkit.runs.explain import explain_files
    draw = {
        "explained": lambda: explain_files(opened, files, out, method=settings["method"], of_class=of_class),
        "dense": lambda: pictures.dense(opened, files, out, of_class=of_class, size=settings["size"]),
        "units": lambda: pictures.units(opened, settings["units"], out),
        "filters": lambda: pictures.filters(opened, out),
        "typical": lambda: pictures.typical(opened, out, of_class=of_class, seed=seed),
        "fooling": lambda: pictures.fooling(opened, files, out, of_class=of_class, seed=seed),
    }
    with log_shown():
        lines = draw[kind]()
    if wants_json():
        show_json({"written": out, "sentences": lines})
        return
    for line in lines:
        click.echo(shown(line))


@main.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", metavar="RUN", required=True, help="folder of the new run")
@click.option("--data", "moved_to", metavar="DATA", help="where the data of RUNS is now, if it was moved")
@click.option("--force", is_flag=True, help="replace an earlier run in RUN")
@json_option
def ensemble(runs: Sequence[str], out: str, moved_to: str | None, force: bool) -> None:
    """Average RUNS in one exportable model, and measure the gain."""
    from tlkit.runs.folder import check_members, open_run

    members = check_members([open_run(one, moved_to) for one in runs])
    with _tensorflow_quietly():
        from tlkit.runs.ensemble import ensemble as average
    with log_shown():
        run = average(members, out, force=force)
    if wants_json():
        show_json({"run": run.folder, "metrics": run.metrics})
        return
    for split in ("validation", "test"):
        score = run.metrics[split]
        if score:
            low, high = score["accuracy_95"]
            click.echo(
                f"{split:<11} accuracy {score['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, "
                f"n = {score['n']:,}), log loss {score['log_loss']:.3f}"
            )
    click.echo(f"run         {run.folder}")


@main.command("verify")
@click.argument("path")
@json_option
@click.pass_context
def verify_(ctx: click.Context, path: str) -> None:
    """Compare all files of PATH with their checksums: a run, an export, or cache.

    "cache" stands for the caches of decoded images and features; what is damaged there is removed, and computed again
    when it is needed. The exit code is 1 if anything is damaged, missing, or not tlkit's."""
    from tlkit.runs.verify import verify

    with log_shown(lines=False):
        found = verify(path)
    if wants_json():
        show_json(found.to_dict())
    else:
        for what in ("damaged", "missing", "foreign"):
            for name in getattr(found, what):
                click.echo(f"{what:<8} {shown(name)}")
        for note in found.notes:
            click.echo(f"note     {shown(note)}")
        rows = f", {counted(found.rows, 'row')}" if found.kind == "cache" else ""
        verdict = "as they were written" if found.ok else "not all is as it was written"
        click.echo(f"{counted(found.files, 'file')}{rows}, {found.bytes / 1e6:.1f} MB verified: {verdict}")
    if not found.ok:
        ctx.exit(1)
