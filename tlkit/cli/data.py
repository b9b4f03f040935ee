"""The commands on data before a run: `inspect`, `convert`, `augment` and `lr-find`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tlkit.cli.group import log_shown, main
from tlkit.cli.output import ask_json, json_option, show_json, wants_json
from tlkit.disk import check_writable
from tlkit.plan.address import redacted_url
from tlkit.quiet import _tensorflow_quietly
from tlkit.words import counted, shown


@main.command()
@click.argument("data")
@click.option("--group-by", metavar="COLUMN", help="CSV column whose values stay together")
@click.option("--columns", metavar="PATH=NAME,...", help="a table's columns, such as path=photo,label=kind")
@click.option("--csv", "csv_file", metavar="FILE", help="write every problem to a CSV")
@click.option("--strict", is_flag=True, help="treat any problem as an error")
@click.option("--fast", is_flag=True, help="do not look for label errors and near duplicates")
@click.option("--out", "folder", metavar="FOLDER", help="write all findings to CSV files in FOLDER")
@click.option("--backbone", metavar="NAME", help="also measure data size and similarity to ImageNet")
@click.option("--image-size", type=click.IntRange(1), metavar="N", help="pixels; default the backbone's own")
@json_option
def inspect(
    data: str,
    group_by: str | None,
    columns: str | None,
    csv_file: str | None,
    strict: bool,
    fast: bool,
    folder: str | None,
    backbone: str | None,
    image_size: int | None,
) -> None:
    """Report what is in DATA and what is wrong with it.

    With --backbone, also report how much data there is for its features."""
    from tlkit.backbones import find_backbone

    if csv_file:
        check_writable(csv_file)
    if folder:
        check_writable(Path(folder) / "problems.csv", makes_folders=True)
    with _tensorflow_quietly():
        from tlkit.data.classes import check_no_class_is_lost, losses, sentences
        from tlkit.data.split import check_held_out_classes, too_few_classes
        from tlkit.data.targets import about_regression
        from tlkit.doctor.checkup import inspect as inspect_data
        from tlkit.errors import DataError
        from tlkit.files import csv_text, write_atomically
        from tlkit.finetuning.resolve import default_backbone
        from tlkit.strategy.axes import measure_axes
    size = image_size or find_backbone(backbone or default_backbone()[0]).size  # as `finetune` decodes by default
    with log_shown(lines=False):
        images = inspect_data(data, group_by=group_by, columns=columns, strict=strict, size=size)
    table, problems = images.table, images.problems
    if csv_file:
        write_atomically(Path(csv_file), csv_text(problems))
    if len(images.class_names) < 2:
        if wants_json():
            show_json(_facts(data, images, []))
        else:
            _print_problems(problems)
        raise DataError(too_few_classes(images))
    attention = [one.sentence() for one in losses(images) if not one.used] + sentences(images)
    facts = _facts(data, images, attention)
    if not wants_json():
        _print_images(facts, about_regression(list(table["label"])))
        _print_problems(problems)
    try:
        check_no_class_is_lost(images)
        check_held_out_classes(images)
    except DataError:
        if wants_json():
            show_json(facts)
        raise
    with log_shown(lines=False):
        if not fast and len(table):
            facts["checkup"] = _checkup(images, problems, backbone or "nano", size, folder)
        if backbone:
            facts["axes"] = measure_axes(images, backbone, image_size=image_size)
    if wants_json():
        show_json(facts)
    elif backbone:
        _print_axes(facts["axes"])


def _facts(data: str, images: Any, attention: list[str]) -> dict[str, Any]:
    """What `inspect` says of an image set, as values."""
    table = images.table
    splits = [split for split in ("train", "validation", "test") if (table["split"] == split).any()]
    classes = {}
    for name in images.class_names:
        of_class = table[table["label"] == name]
        counts = {split: int((of_class["split"] == split).sum()) for split in splits}
        classes[name] = {"images": len(of_class), **counts}
    facts = {
        "data": redacted_url(data),
        "images": len(table),
        "splits": splits,
        "classes": classes,
        "attention": attention,
    }
    if len(table):
        shorter = table[["width", "height"]].astype(int).min(axis=1)
        sides = {"least": int(shorter.min()), "most": int(shorter.max()), "median": int(shorter.median())}
        facts |= {
            "shorter_side": sides,
            "formats": {kind: int(n) for kind, n in table["format"].value_counts().items()},
        }
    return {**facts, "problems": images.problems}


def _print_images(facts: dict[str, Any], quantities: str) -> None:
    """Print how many images there are, by class. quantities: why the labels look like numbers; "" if they do not."""
    from tlkit.tables import Column, shown_table

    classes = "" if quantities else f" in {counted(len(facts['classes']), 'class', 'classes')}"
    click.echo(f"{shown(facts['data'])}: {counted(facts['images'], 'usable image')}{classes}")
    for line in facts["attention"]:
        click.echo(f"attention: {shown(line)}")
    headers = [Column("class"), *[Column(one, right=True) for one in ("images", *facts["splits"])]]
    rows = [(shown(name), *[f"{n:,}" for n in counts.values()]) for name, counts in facts["classes"].items()]
    click.echo(quantities or shown_table(headers, rows))
    if facts["images"]:
        sides, formats = facts["shorter_side"], ", ".join(f"{n:,} {kind}" for kind, n in facts["formats"].items())
        click.echo(f"shorter side {sides['least']} to {sides['most']} px (median {sides['median']}); {formats}")


def _print_axes(axes: dict[str, Any]) -> None:
    from tlkit.tables import Column, shown_table

    click.echo("")
    probed = [
        (
            one["block"],
            one["features"],
            f"{one['accuracy']:.1%}",
            f"{one['accuracy_95'][0]:.1%} to {one['accuracy_95'][1]:.1%}",
            f"{axes['n']:,}",
        )
        for one in axes["blocks"]
    ]
    names = ("block", "features", "ridge probe", "95 % interval", "n")
    click.echo(shown_table([Column(name, right=True) for name in names], probed))
    for line in axes["sentences"]:
        click.echo(f"- {shown(line)}")


@main.command("convert")
@click.argument("data")
@click.argument("clean")
@click.option("--group-by", metavar="COLUMN", help="CSV column that is written into labels.csv as group")
@json_option
def convert_(data: str, clean: str, group_by: str | None) -> None:
    """Write a cleaned copy of DATA into the new folder CLEAN.

    What a model reads as it is, is copied; other usable images become PNG, with the pixels that a model would see."""
    from tlkit.data.scan import check_exists

    check_exists(data)
    with _tensorflow_quietly():
        from tlkit.data.clean import clean_copy, left_out
    with log_shown(lines=False):
        table = clean_copy(data, clean, group_by=group_by)
    copied = int(table["copied"].sum())
    if wants_json():
        show_json({"written": clean, "images": len(table), "copied": copied, "left_out": left_out(clean)})
        return
    click.echo(
        f"{clean}: {counted(len(table), 'image')}, {copied:,} copied, {len(table) - copied:,} converted to PNG, "
        f"{counted(left_out(clean), 'file')} left out (labels.csv, problems.csv)"
    )


@main.command("augment")
@click.argument("data")
@click.option("--columns", metavar="PATH=NAME,...", help="a table's columns, such as path=photo,label=kind")
@click.option("--preset", metavar="NAME|FILE", help="none, light, standard, strong, trivial, or a file")
@click.option("--out", metavar="FILE", help="draw what training will see into an image file")
@click.option("--check", is_flag=True, help="measure whether it keeps the classes")
@click.option("--search", is_flag=True, help="choose the safe fields that help a probe")
@click.option("--backbone", metavar="NAME", default="nano", help="backbone of the probes that judge; default nano")
@click.option("--allow", multiple=True, metavar="FIELD", help="keep FIELD although it is unsafe; repeatable")
@click.option("--json", "json_file", metavar="FILE", help="write the verdict on every field as JSON; - for stdout")
@click.option("--write", metavar="FILE", help="write the augmentation for `finetune --augment FILE`")
@click.option("--image-size", type=click.IntRange(16), metavar="N", default=224, help="pixels, for --out; default 224")
@click.option("--max-minutes", type=float, metavar="M", default=5.0, help="time limit of --search; default 5")
@click.option("--seed", type=int, default=0, help="default 0")
def augment_(data: str, columns: str | None, **settings: Any) -> None:
    """Draw, check or choose augmentation for DATA.

    Without --preset, every field is checked at its full range."""
    import json
    import tempfile

    from tlkit.backbones import find_backbone
    from tlkit.data.scan import check_exists
    from tlkit.plan.augmentation import check_fields, find_augmentation

    asked = find_augmentation(settings["preset"]) if settings["preset"] else None
    check_fields(settings["allow"])
    find_backbone(settings["backbone"])
    check_exists(data)
    to_stdout = settings["json_file"] == "-"
    if to_stdout:
        ask_json()
    for name in ("json_file", "write", "out"):
        if settings[name] and not (name == "json_file" and to_stdout):
            check_writable(settings[name], makes_folders=name == "out")
    with _tensorflow_quietly():
        from tlkit.data.scan import scan
        from tlkit.safety.explore import Files, explore_augmentation
    minutes = settings["max_minutes"] if settings["search"] else None
    same = {name: settings[name] for name in ("check", "backbone", "allow", "seed")}
    with tempfile.TemporaryDirectory() as scratch, log_shown(is_result=True):
        verdicts = str(Path(scratch) / "verdicts.json") if to_stdout else settings["json_file"]
        files = Files(verdicts, settings["write"], settings["out"], settings["image_size"])
        explore_augmentation(scan(data, columns=columns), asked, search_minutes=minutes, files=files, **same)
        if to_stdout:
            show_json(json.loads(Path(verdicts).read_text(encoding="utf-8")))


@main.command("lr-find")
@click.argument("data")
@click.option("--columns", metavar="PATH=NAME,...", help="a table's columns, such as path=photo,label=kind")
@click.option("--backbone", metavar="NAME", default="nano", help="see `tlkit backbones`; default nano")
@click.option("--unfreeze", metavar="N|all", default="0", help="top blocks to train; default 0, only the head")
@click.option("--optimizer", metavar="NAME", default="adam", help="adam (default), adamw or sgd")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", default=32, help="default 32")
@click.option("--image-size", type=click.IntRange(1), metavar="N", help="pixels; default the backbone's own")
@click.option("--weights", metavar="NAME|FILE", default="imagenet", help="imagenet (default), none, file or timm:NAME")
@click.option("--csv", "csv_file", metavar="FILE", help="write the rate and loss of each step")
@json_option
def lr_find(data: str, columns: str | None, csv_file: str | None, unfreeze: str, **settings: Any) -> None:
    """Suggest a learning rate for DATA by a short range test."""
    from tlkit.data.scan import check_exists
    from tlkit.plan.recipe import Stage

    blocks = int(unfreeze) if unfreeze.isdecimal() else unfreeze
    Stage(1, 1e-3, unfreeze=blocks, optimizer=settings["optimizer"])  # raises SpecError for invalid options
    check_exists(data)
    if csv_file:
        check_writable(csv_file)
    with _tensorflow_quietly():
        from tlkit.data.scan import scan
        from tlkit.training.learning_rate import suggest_learning_rate
    with log_shown(lines=False):
        found = suggest_learning_rate(scan(data, columns=columns), unfreeze=blocks, **settings)
    if wants_json():
        show_json({"suggestion": found.suggestion, "learning_rate": found.rates, "loss": found.losses})
    else:
        _show_rates(found)
    if csv_file:
        from tlkit.files import write_atomically

        rows = [f"{rate:.6e},{loss:.6f}" for rate, loss in zip(found.rates, found.losses, strict=True)]
        write_atomically(Path(csv_file), "\n".join(["learning_rate,loss", *rows]) + "\n")


def _show_rates(found: Any) -> None:
    """Print the losses of a range test as bars, and the rate that it suggests."""
    highest, lowest = max(found.losses), min(found.losses)
    for rate, loss in list(zip(found.rates, found.losses, strict=True))[:: max(1, len(found.losses) // 20)]:
        bar = "#" * (1 + round(40 * (loss - lowest) / max(highest - lowest, 1e-9)))
        click.echo(f"{rate:>9.1e}  {loss:>8.4f}  {bar}")
    click.echo(f"suggestion: {found.suggestion:.1e} (where the loss falls fastest; for a constant rate)")


def _checkup(images: Any, problems: Any, backbone: str, size: int, folder: str | None) -> dict[str, Any]:
    """What the data doctor found, as values. Prints the most suspicious cases; writes all of it to CSV files."""
    from tlkit.doctor.checkup import check_up

    found = check_up(images, backbone=backbone, size=size)
    if not wants_json():
        _print_checkup(found)
    if folder:
        _write_checkup(found, problems, folder)
    tables = {"label_errors": found.label_errors, "duplicates": found.duplicates, "outliers": found.outliers}
    return {"sentences": list(found.sentences()), **tables}


def _print_checkup(found: Any) -> None:
    click.echo("")
    for line in found.sentences():
        click.echo(f"- {shown(line)}")
    for kind, name in (("probable", "wrong?"), ("surprising", "surprising")):
        for row in found.label_errors[found.label_errors[kind]].head(5).itertuples():
            click.echo(
                f"  {name:<10} {shown(row.path)}: labelled {shown(row.label)} ({row.probability:.1%}), "
                f"perhaps {shown(row.suggested)}"
            )
    for row in found.duplicates.head(5).itertuples():
        click.echo(
            f"  {row.kind:<10} {shown(row.path)} = {shown(row.other)}" + (" (across splits)" if row.leak else "")
        )
    for row in found.outliers.head(5).itertuples():
        click.echo(f"  outlier    {shown(row.path)}: {shown(row.label)}")


def _write_checkup(found: Any, problems: Any, folder: str) -> None:
    from tlkit.errors import RunError
    from tlkit.files import csv_text, write_atomically

    Path(folder).mkdir(parents=True, exist_ok=True)
    tables = {"label_errors": found.label_errors, "duplicates": found.duplicates, "outliers": found.outliers}
    tables |= {"problems": problems, "classes": found.classes}
    files = {name: Path(folder) / f"{name}.csv" for name in tables}
    for name, file in files.items():
        header = file.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if file.is_file() else ""
        if header and not set(header.split(",")) <= set(tables[name].columns):  # an earlier version had fewer
            raise RunError(f"'{file}' was not written by `tlkit inspect`. Nothing was written. Give another --out.")
    for name, file in files.items():
        write_atomically(file, csv_text(tables[name]))
    click.echo(f"all findings written to {folder}", err=wants_json())


def _print_problems(problems: Any) -> None:
    if not len(problems):
        click.echo("no problems found")
        return
    for (severity, kind, action), rows in problems.groupby(["severity", "problem", "action"], sort=True):
        first = rows.iloc[0]
        click.echo(
            f"{severity:<8} {len(rows):>6,} {kind} ({action}), such as {shown(first['path'])}: {shown(first['detail'])}"
        )
