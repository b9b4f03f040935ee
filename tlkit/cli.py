"""The command line: a door. It reads words, calls one function of the library, prints, and turns errors into exit codes.

The only file that imports click. Exit codes: 0 done, 1 an error of `tlkit.errors`, 2 words that are no command, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from tlkit import __version__
from tlkit.errors import TlkitError, nearest


class _Command(click.Command):
    """A command whose help leaves out --help, which who reads it has found."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.hidden = True
        return option

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without a headline of their own: what follows the sentence are the options."""
        records = [
            record
            for one in self.get_params(ctx)
            if isinstance(one, click.Option) and (record := one.get_help_record(ctx))
        ]
        if records:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_dl(records)


class _Group(click.Group):
    """A group that offers the nearest command, and prints our errors as one paragraph."""

    command_class = _Command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            close = nearest(name, self.commands)
            hint = f"Did you mean '{close}'?" if close else f"Expected one of: {', '.join(sorted(self.commands))}."
            raise click.UsageError(f"No such command '{name}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TlkitError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tlkit")
def main() -> None:
    """A folder of images in, a classifier you can trust and deploy out."""


@main.command()
@click.option("--out", metavar="FOLDER", default="tlkit-demo", help="default tlkit-demo")
def demo(out: str) -> None:
    """Fine-tune `nano` on scikit-learn's digits. Needs no download."""
    with _tensorflow_quietly():
        from tlkit.demo import demo as run_demo
    run_demo(out, verbose=sys.stdout.isatty(), say=click.echo)


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
        from tlkit.finetune import finetune as run_finetune
    run_finetune(data, verbose=sys.stdout.isatty(), say=click.echo, **settings)


@main.command()
@click.argument("data")
@click.option("--group-by", metavar="COLUMN", help="CSV column whose values stay together")
@click.option("--csv", "csv_file", metavar="FILE", help="write every problem to a CSV")
@click.option("--strict", is_flag=True, help="any problem is an error")
@click.option("--fast", is_flag=True, help="read the files only: no label errors, no near duplicates")
@click.option("--out", "folder", metavar="FOLDER", help="write all that is found to CSV files in FOLDER")
@click.option("--backbone", metavar="NAME", help="measure size and similarity by its features")
@click.option("--image-size", type=click.IntRange(1), metavar="N", help="pixels; default native")
def inspect(
    data: str,
    group_by: str | None,
    csv_file: str | None,
    strict: bool,
    fast: bool,
    folder: str | None,
    backbone: str | None,
    image_size: int | None,
) -> None:
    """Say what is in DATA and what is wrong with it; with a backbone, how much there is for it to learn from."""
    from tlkit.backbones import find_backbone

    size = image_size or (find_backbone(backbone).size if backbone else 224)
    with _tensorflow_quietly():
        from tlkit.inference import inspect as look
        from tlkit.strategy import measure_axes
    images = look(data, group_by=group_by, strict=strict, size=size)
    table, problems = images.table, images.problems
    click.echo(f"{data}: {len(table):,} usable images in {len(images.class_names)} classes")
    parts = [part for part in ("train", "val", "test") if (table["part"] == part).any()]
    for name in images.class_names:
        mine = table[table["label"] == name]
        split_up = "".join(f"  {part} {int((mine['part'] == part).sum()):,}" for part in parts)
        click.echo(f"  {name:<24} {len(mine):>7,}{split_up}")
    if len(table):
        shorter = table[["width", "height"]].astype(int).min(axis=1)
        formats = ", ".join(f"{n:,} {kind}" for kind, n in table["format"].value_counts().items())
        click.echo(f"shorter side {shorter.min()} to {shorter.max()} px (median {int(shorter.median())}); {formats}")
    _print_problems(problems)
    if csv_file:
        from tlkit.files import write_atomically

        write_atomically(Path(csv_file), problems.to_csv(index=False))
    if not fast and len(table):
        _print_checkup(images, problems, backbone or "nano", size, folder)
    if backbone:
        axes = measure_axes(images, backbone, image_size=image_size, verbose=sys.stdout.isatty())
        click.echo("")
        for one in axes["blocks"]:
            low, high = one["accuracy_95"]
            click.echo(
                f"block {one['block']:>2}  {one['features']:>5} features  linear probe {one['accuracy']:>6.1%}  "
                f"({low:.1%} to {high:.1%}, n = {axes['n']:,})"
            )
        for line in axes["sentences"]:
            click.echo(f"- {line}")


@main.command("augment")
@click.argument("data")
@click.option("--preset", metavar="NAME|FILE", help="none, light, standard, strong, trivial, or a file")
@click.option("--out", metavar="FILE", help="draw what training will see into a picture file")
@click.option("--check", is_flag=True, help="measure what it does to the classes")
@click.option("--search", is_flag=True, help="choose the safe fields that help a probe")
@click.option("--backbone", metavar="NAME", default="nano", help="whose features judge; default nano")
@click.option("--allow", multiple=True, metavar="FIELD", help="keep it though it is unsafe; repeatable")
@click.option("--json", "json_file", metavar="FILE", help="write the verdict on every field")
@click.option("--write", metavar="FILE", help="write the augmentation for `finetune --augment FILE`")
@click.option("--image-size", type=click.IntRange(16), metavar="N", default=224, help="of --out; 224")
@click.option("--max-minutes", type=float, metavar="M", default=5.0, help="of --search; 5")
@click.option("--seed", type=int, default=0, help="default 0")
def augment_(data: str, **settings: Any) -> None:
    """Show, check or choose augmentation for DATA. Without a preset, every field at its full range is checked."""
    from tlkit.backbones import find_backbone
    from tlkit.images import check_exists
    from tlkit.spec import check_fields
    from tlkit.strategy import find_augmentation

    asked = find_augmentation(settings["preset"]) if settings["preset"] else None
    check_fields(settings["allow"])
    find_backbone(settings["backbone"])
    check_exists(data)
    with _tensorflow_quietly():
        from tlkit.strategy import explore_augmentation
    explore_augmentation(data, asked, say=click.echo, **{k: v for k, v in settings.items() if k != "preset"})


@main.command("lr-find")
@click.argument("data")
@click.option("--backbone", metavar="NAME", default="nano", help="see `tlkit backbones`; default nano")
@click.option("--unfreeze", metavar="N|all", default="0", help="top blocks that train; default 0, the head alone")
@click.option("--optimizer", metavar="NAME", default="adam", help="adam (default), adamw or sgd")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", default=32, help="default 32")
@click.option("--image-size", type=click.IntRange(1), metavar="N", help="pixels; default native")
@click.option("--weights", metavar="NAME|FILE", default="imagenet", help="imagenet (default), none, or a file")
@click.option("--csv", "csv_file", metavar="FILE", help="write rate and loss of each step")
def lr_find(data: str, csv_file: str | None, unfreeze: str, **settings: Any) -> None:
    """Suggest a learning rate for DATA by training while it rises."""
    from tlkit.images import check_exists
    from tlkit.spec import Stage

    blocks = int(unfreeze) if unfreeze.isdecimal() else unfreeze
    Stage(1, 1e-3, unfreeze=blocks, optimizer=settings["optimizer"])  # says what is wrong with the words
    check_exists(data)
    with _tensorflow_quietly():
        from tlkit.images import scan
        from tlkit.strategy import suggest_learning_rate
    found = suggest_learning_rate(scan(data), unfreeze=blocks, **settings)
    highest, lowest = max(found.losses), min(found.losses)
    for rate, loss in list(zip(found.rates, found.losses, strict=True))[:: max(1, len(found.losses) // 20)]:
        bar = "#" * (1 + round(40 * (loss - lowest) / max(highest - lowest, 1e-9)))
        click.echo(f"{rate:>9.1e}  {loss:>8.4f}  {bar}")
    click.echo(f"suggestion: {found.suggestion:.1e} (where the loss falls fastest; for a constant rate)")
    if csv_file:
        from tlkit.files import write_atomically

        rows = [f"{rate:.6e},{loss:.6f}" for rate, loss in zip(found.rates, found.losses, strict=True)]
        write_atomically(Path(csv_file), "\n".join(["learning_rate,loss", *rows]) + "\n")


@main.command()
@click.argument("run")
@click.argument("data", required=False)
@click.option("--views", metavar="HOW", help="also average over views: flip or ten-crop")
@click.option("--json", "as_json", is_flag=True, help="print all numbers as JSON")
def evaluate(run: str, data: str | None, views: str | None, as_json: bool) -> None:
    """Evaluate RUN on DATA, or on its own validation part."""
    import json

    with _tensorflow_quietly():
        from tlkit.inference import evaluate_run
    scores = evaluate_run(run, data, views=views)
    if as_json:
        click.echo(json.dumps(scores, indent=2))
        return
    low, high = scores["accuracy_95"]
    click.echo(
        f"accuracy {scores['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, n = {scores['n']:,}), "
        f"macro-F1 {scores['macro_f1']:.3f}, log loss {scores['log_loss']:.3f}, ECE {scores['ece']:.3f}"
    )
    click.echo(f"{'class':<24} precision  recall      F1  images")
    for name, one in scores["per_class"].items():
        click.echo(f"{name:<24} {one['precision']:>9.3f} {one['recall']:>7.3f} {one['f1']:>7.3f} {one['support']:>7}")
    if views:
        found = scores["views"]
        click.echo(
            f"averaged over {views}: accuracy {found['accuracy']:.1%}, {100 * found['gain']:+.1f} points "
            f"(±{196 * found['gain_error']:.1f}), {found['times_as_long']:.1f} times as long"
        )
    if scores["left_out"]:
        click.echo(f"{scores['left_out']} files were left out; `tlkit inspect` names them")


@main.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True)
@click.option("--csv", "csv_file", metavar="FILE", help="write the answers to a CSV")
@click.option("--top", type=click.IntRange(1), default=3, metavar="N", help="classes per image; 3")
def predict(model: str, files: Sequence[str], csv_file: str | None, top: int) -> None:
    """Classify FILES (files or folders) by MODEL, a run or an exported folder."""
    with _tensorflow_quietly():
        from tlkit.inference import predict as answer
    table = answer(model, files, top=top)
    if csv_file:
        from tlkit.files import write_atomically

        write_atomically(Path(csv_file), table.to_csv(index=False))
        bad = int((table["problem"] != "").sum())
        click.echo(f"{len(table):,} files, {bad:,} with a problem: {csv_file}")
        return
    for row in table.to_dict("records"):
        if row["problem"]:
            click.echo(f"{row['path']}  ({row['problem']})")
            continue
        names = ["prediction", *[f"top{i}" for i in range(2, top + 1)]]
        answers = [
            f"{row[name]} {row['probability' if name == 'prediction' else f'{name}_probability']:.3f}"
            for name in names
            if name in row
        ]
        click.echo(f"{row['path']}  {'' if row['sure'] else 'unsure: '}{'  '.join(answers)}")


@main.command()
@click.argument("run")
@click.option("--to", metavar="FOLDER", help="default RUN/saved_model")
@click.option("--max-error", type=float, metavar="SHARE", help='serve what is not so sure as "unsure"')
@click.option(
    "--format", "target", metavar="NAME", default="savedmodel", help="savedmodel, litert, litert-int8, onnx, keras"
)
@click.option("--force", is_flag=True, help="keep 8-bit integers that agree on less than 95 %")
def export(run: str, to: str | None, max_error: float | None, target: str, force: bool) -> None:
    """Write RUN's model for deployment and prove that it equals the trained one."""
    from tlkit.spec import check_max_error

    check_max_error(max_error)
    with _tensorflow_quietly():
        from tlkit.inference import export_run, exports_of
    folder, proof = export_run(run, to, target=target, max_error=max_error, force=force)
    click.echo(f"written to {folder}")
    if proof is None:
        click.echo("parity not measured: the run's images are not where they were")
        return
    click.echo(
        f"equals the trained model on {proof['top1_agreement']:.0%} of {proof['n']} files, "
        f"largest difference {proof['max_difference']:.1e}"
    )
    if "accuracy" in proof:
        click.echo(f"accuracy {proof['accuracy_before']:.1%} to {proof['accuracy']:.1%}")
    click.echo(f"{'format':<12}  agrees  difference  {'size':>9}  {'an image':>9}")
    for one in exports_of(run).itertuples():
        size = "" if one.bytes != one.bytes else f"{one.bytes / 1e6:.1f} MB"  # an older run's is not known
        speed = "" if one.milliseconds_an_image != one.milliseconds_an_image else f"{one.milliseconds_an_image:.1f} ms"
        click.echo(f"{one.format:<12} {one.top1_agreement:>7.1%}  {one.max_difference:>10.1e}  {size:>9}  {speed:>9}")


@main.command("serve")
@click.argument("run")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", help="default 127.0.0.1, this machine alone")
@click.option("--port", type=int, metavar="N", default=8000, help="default 8000; 0 takes any that is free")
def serve_(run: str, host: str, port: int) -> None:
    """Try RUN (or an exported folder) out: a local page, and a JSON endpoint at /predict."""
    with _tensorflow_quietly():
        from tlkit.serve import serve
    serve(run, host=host, port=port, say=click.echo)


@main.command("report")
@click.argument("runs", nargs=-1, required=True)
@click.option("--robustness", is_flag=True, help="also measure accuracy on worsened pictures (minutes)")
@click.option("--out", metavar="FILE", help="of several RUNS' leaderboard; default leaderboard.html beside them")
def report_(runs: Sequence[str], robustness: bool, out: str | None) -> None:
    """Write the report page of a run again, or rank several RUNS on the images they share."""
    from tlkit.runs import open_run

    for one in runs:
        open_run(one)
    with _tensorflow_quietly():
        from tlkit.report import report
    page = report(runs, robustness=robustness, out=out, verbose=sys.stdout.isatty(), say=click.echo)
    click.echo(f"written to {page}")


@main.command("explain")
@click.argument("run")
@click.argument("files", nargs=-1)
@click.option("--out", metavar="FILE", default="explained.png", help="picture file; default explained.png")
@click.option("--method", metavar="NAME", default="grad-cam", help="grad-cam (default) or occlusion")
@click.option("--class", "of_class", metavar="NAME", help="evidence for this class; default the answer")
@click.option("--filters", is_flag=True, help="draw the first layer's filters instead")
@click.option("--typical", is_flag=True, help="draw what each class (or --class) answers to most")
def explain_(run: str, files: Sequence[str], **settings: Any) -> None:
    """Draw where in FILES the answers of RUN come from."""
    from tlkit.runs import open_run

    open_run(run)
    with _tensorflow_quietly():
        from tlkit.inference import explain_files
    for line in explain_files(run, files, **settings):
        click.echo(line)


@main.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", metavar="RUN", required=True, help="folder of the new run")
@click.option("--force", is_flag=True, help="replace an earlier run in RUN")
def ensemble(runs: Sequence[str], out: str, force: bool) -> None:
    """Average RUNS in one exportable model, and say what that gains."""
    from tlkit.ensemble import check_members
    from tlkit.ensemble import ensemble as average

    check_members(runs)
    with _tensorflow_quietly():
        import keras  # noqa: F401
    run = average(runs, out, force=force, say=click.echo)
    for part in ("validation", "test"):
        score = run.metrics[part]
        if score:
            low, high = score["accuracy_95"]
            click.echo(
                f"{part:<11} accuracy {score['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, n = {score['n']:,}), "
                f"log loss {score['log_loss']:.3f}"
            )
    click.echo(f"run         {run.folder}")


@main.command()
def backbones() -> None:
    """List the pretrained backbones."""
    from tlkit.backbones import BACKBONES, cached_file

    click.echo(f"{'name':<22} parameters  size  blocks  weights  {'licence of weights':<22} here")
    for name, one in BACKBONES.items():
        megabytes = f"{one.parameters * (2 if one.shipped else 4) / 1e6:,.0f} MB"
        here = "yes" if cached_file(one) else "no"
        click.echo(
            f"{name:<22} {one.parameters / 1e6:>8.1f} M {one.size:>5} {one.blocks:>7} {megabytes:>8}  {one.licence:<22} {here}"
        )
    click.echo(
        "All are trained on ImageNet's images, which are for research and education; nano, which comes with tlkit, on a small part "
        "of them (see tlkit/backbones/NANO.md). here: on this machine."
    )
    click.echo(
        "Others: one's own .keras file or SavedModel folder; hub:HANDLE or hub:FOLDER, a TF-Hub module, fine-tuned as a whole or not at "
        "all; kerashub:PRESET or kerashub:FOLDER (pip install 'tlkit[kerashub]'), such as kerashub:resnet_18_imagenet."
    )


@main.command()
def recipes() -> None:
    """List the recipes."""
    from tlkit.recipes import RECIPES

    click.echo(f"{'auto':<16} the default: a tournament of strategies, decided by held-out images of your own")
    for name, recipe in RECIPES.items():
        stages = " -> ".join(
            (f"{stage.solver} head" + (" on all blocks" if recipe.head.taps else ""))
            if stage.solver != "gradient"
            else ("head" if stage.unfreeze == 0 else f"{stage.unfreeze} blocks")
            + f" x{stage.epochs} @{stage.learning_rate:g}"
            for stage in recipe.stages
        )
        click.echo(f"{name:<16} {stages}\n{'':<16} {recipe.why}")


@main.command()
@click.option("--clear", metavar="WHICH", help="pixels, features, safety, or all")
@click.option("--unused-days", type=float, default=0.0, metavar="D", help="only what was not opened for D days")
def cache(clear: str | None, unused_days: float) -> None:
    """Show what earlier runs keep on disk so that nothing is computed twice, or clear it."""
    from tlkit.store import cache_folder, caches, clear_caches

    if clear is not None:
        count, freed = clear_caches(clear, unused_days)
        click.echo(f"cleared {count} caches, {freed / 1e9:.2f} GB")
        return
    there = caches()
    for one in there:
        days = max(0.0, time.time() - one.used) / 86400
        click.echo(f"{one.kind:<9} {one.bytes / 1e9:>8.2f} GB  unused for {days:>5.1f} days  {one.about}")
    click.echo(f"{len(there)} caches, {sum(one.bytes for one in there) / 1e9:.2f} GB in {cache_folder()}")


# -- helpers ----------------------------------------------------------------------------------------------


def _check_names(data: str, settings: dict[str, Any]) -> None:
    """Wrong names fail in a tenth of a second, before TensorFlow is imported."""
    from tlkit.errors import unknown
    from tlkit.images import check_exists
    from tlkit.spec import FITS, check_fields, check_max_error

    if settings["backbone"] not in (None, "auto"):
        from tlkit.backbones import check_backbone_name

        for name in settings["backbone"].split(","):
            check_backbone_name(name.strip())
    if settings["recipe"] and not settings["recipe"].endswith(".py"):
        from tlkit.strategy import AUTO, find_recipe

        if settings["recipe"] != AUTO:
            find_recipe(settings["recipe"])
    if settings["augment"]:
        from tlkit.strategy import find_augmentation

        find_augmentation(settings["augment"])
    check_fields(settings["allow"])
    check_max_error(settings["max_error"])
    if settings["fit"] and settings["fit"] not in FITS:
        raise unknown("fit", settings["fit"], FITS)
    check_exists(data)


def _print_checkup(images: Any, problems: Any, backbone: str, size: int, folder: str | None) -> None:
    """What the data doctor found, the most suspicious of each kind, and where the rest is."""
    from tlkit.inference import check_up

    found = check_up(images, backbone=backbone, size=size, verbose=sys.stdout.isatty())
    click.echo("")
    for line in found.sentences():
        click.echo(f"- {line}")
    probable = found.label_errors[found.label_errors["probable"]]
    for row in probable.head(5).itertuples():
        click.echo(f"  label?     {row.path}: labelled {row.label} ({row.probability:.1%}), perhaps {row.suggested}")
    for row in found.duplicates.head(5).itertuples():
        click.echo(f"  {row.kind:<10} {row.path} = {row.other}" + (" (across parts)" if row.leak else ""))
    for row in found.outliers.head(5).itertuples():
        click.echo(f"  outlier    {row.path}: {row.label}")
    if folder:
        from tlkit.errors import RunError
        from tlkit.files import write_atomically

        Path(folder).mkdir(parents=True, exist_ok=True)
        tables = {"label_errors": found.label_errors, "duplicates": found.duplicates, "outliers": found.outliers}
        tables |= {"problems": problems, "classes": found.classes}
        files = {name: Path(folder) / f"{name}.csv" for name in tables}
        for name, file in files.items():
            header = ",".join(tables[name].columns)
            if file.is_file() and header != file.read_text(encoding="utf-8", errors="replace").partition("\n")[0]:
                raise RunError(f"'{file}' is none that `tlkit inspect` wrote. Nothing was written. Give another --out.")
        for name, file in files.items():
            write_atomically(file, tables[name].to_csv(index=False))
        click.echo(f"all of it in {folder}")


def _print_problems(problems: Any) -> None:
    if not len(problems):
        click.echo("no problems")
        return
    for (severity, kind, action), rows in problems.groupby(["severity", "problem", "action"], sort=True):
        first = rows.iloc[0]
        click.echo(f"{severity:<8} {len(rows):>6,} {kind} ({action}), such as {first['path']}: {first['detail']}")


@contextlib.contextmanager
def _tensorflow_quietly() -> Iterator[None]:
    """Import TensorFlow without its start-up lines, which it writes past Python; replay them if the import fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
            yield
        except BaseException:
            os.dup2(kept, 2)
            hidden.seek(0)
            sys.stderr.write(hidden.read().decode("utf-8", "replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
