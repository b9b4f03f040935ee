"""The command line: help, errors, and the output of each command."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from tlkit.recipes import RECIPES

from tests.conftest import COLOURS, draw
from tlkit.backbones import BACKBONES
from tlkit.cache import Store, describe
from tlkit.cli.group import in_options, log_shown
from tlkit.cli.main import main
from tlkit.cli.runs import _show_exports
from tlkit.errors import DataError
from tlkit.progress import log

COMMANDS = sorted(main.commands)


def tlkit(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tlkit", *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_fits_one_screen(command: str) -> None:
    shown = CliRunner().invoke(main, [*command.split(), "--help"], terminal_width=80)
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 80


def test_help_is_quick() -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        assert tlkit("--help").returncode == 0
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.3


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["fintune"], "Did you mean 'finetune'?", 2),
        (["finetune", "x", "--bakbone", "vgg16"], "--backbone", 2),
        (["finetune", "x", "--backbone", "vgg61"], "Unknown backbone 'vgg61'. Did you mean 'vgg16'?", 1),
        (["finetune", "x", "--recipe", "smal_similar"], "Did you mean 'small_similar'?", 1),
        (["finetune", "x", "--fit", "crp"], "Did you mean 'crop'?", 1),
    ],
)
def test_a_mistyped_name_suggests_the_nearest_without_starting_tensorflow(
    words: list[str], message: str, code: int
) -> None:
    started = time.perf_counter()
    done = tlkit(*words)
    assert message in done.stderr and done.returncode == code
    assert time.perf_counter() - started < 1.5 and "Traceback" not in done.stderr


def test_a_wrong_path_suggests_the_nearest(folder: Path) -> None:
    done = tlkit("finetune", folder.parent / "dta", "--backbone", "mobilenet_0.25", "--weights", "none")
    assert done.returncode == 1 and f"Did you mean '{folder}'?" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_whole_way_and_nothing_on_stderr(folder: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    run = tmp_path / "run"
    settings = ["--backbone", tiny["backbone"], "--epochs", 2]
    done = tlkit("finetune", folder, *settings, "--out", run)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for word in ("recipe", "stage 1 of 1", "validation", "exported", "next"):
        assert word in done.stdout
    words = map(str, ["finetune", folder, *settings, "--out", run])
    refused = CliRunner().invoke(main, [*words])
    assert refused.exit_code == 1 and "--force" in refused.stderr

    draw(COLOURS["red"], 77).save(tmp_path / "new.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    words = map(str, ["predict", run, *tmp_path.glob("*.png"), "--csv", tmp_path / "out.csv", "--top", 2])
    answer = CliRunner().invoke(main, [*words])
    assert answer.exit_code == 0 and "2 files, 1 with a problem" in answer.output
    table = pd.read_csv(tmp_path / "out.csv")
    columns = ["path", "prediction", "probability", "top2", "top2_probability", "known", "sure", "problem"]
    assert list(table.columns) == columns


def test_evaluate_prints_the_table_and_json(trained: Path) -> None:
    done = CliRunner().invoke(main, ["evaluate", str(trained)])
    assert "accuracy 100.0%" in done.output and "red" in done.output
    assert '"confusion_matrix"' in CliRunner().invoke(main, ["evaluate", str(trained), "--json"]).output


def test_each_speed_says_what_was_timed(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"split": "validation", "n": 8, "top1_agreement": 1.0, "max_difference": 0.0, "bytes": 1e6}
    names = ("savedmodel", "litert", "onnx")
    _show_exports(pd.DataFrame([{**row, "format": name, "milliseconds_an_image": 4.5} for name in names]))
    served, one, many = capsys.readouterr().out.splitlines()[-3:]
    assert served.endswith("4.5 ms  files, decoding included, 16 at a time")
    assert one.endswith("decoded pixels, one at a time") and many.endswith("decoded pixels, 16 at a time")


def test_inspect_writes_over_its_own_tables_and_no_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.DataFrame({"path": ["a.png"], "label": ["a"]})
    found = SimpleNamespace(
        label_errors=table.assign(probable=False, surprising=False), duplicates=table[:0], outliers=table[:0]
    )
    found.classes, found.sentences = table, list
    monkeypatch.setattr("tlkit.doctor.checkup.check_up", lambda *a, **k: found)
    words = ["inspect", str(folder), "--image-size", "32", "--out", str(tmp_path)]
    (tmp_path / "classes.csv").write_text("id,name\n0,mine\n")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1 and "classes.csv' was not written by `tlkit inspect`" in done.stderr
    assert (tmp_path / "classes.csv").read_text() == "id,name\n0,mine\n" and len(list(tmp_path.glob("*.csv"))) == 1
    (tmp_path / "classes.csv").unlink()
    for _ in range(2):
        assert CliRunner().invoke(main, words).exit_code == 0
    assert len(list(tmp_path.glob("*.csv"))) == 5


@pytest.mark.parametrize(("words", "size"), [([], 96), (["--image-size", "64"], 64), (["--backbone", "resnet50"], 224)])
def test_inspect_decodes_as_finetune_does(words: list[str], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlkit.finetuning.resolve.default_backbone", lambda: ("nano", "none was named"))
    asked = []

    def inspected(data: str, **settings: Any) -> None:
        asked.append(settings["size"])
        raise DataError("seen")

    monkeypatch.setattr("tlkit.doctor.checkup.inspect", inspected)
    CliRunner().invoke(main, ["inspect", "data", *words])
    assert asked == [size]


def test_inspect_of_a_folder_around_the_data_finds_them(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "around" / "images")
    done = CliRunner().invoke(main, ["inspect", str(tmp_path / "around"), "--fast", "--image-size", "32"])
    assert done.exit_code == 0 and "24 usable images in 3 classes" in done.output
    assert "1 wrapper-folder (used), such as images" in done.output


def test_inspect_says_at_the_top_what_a_class_has_lost_and_fails_if_nothing_is_left_of_it(
    folder: Path, tmp_path: Path
) -> None:
    for file in sorted((folder / "red").iterdir())[:7]:
        file.write_bytes(b"")
    words = ["inspect", str(folder), "--fast", "--image-size", "32"]
    nearly = CliRunner().invoke(main, words)
    assert nearly.exit_code == 0
    assert "class 'red': 7 of 8 files are left out (7 empty-file), 1 is used" in nearly.output.splitlines()[1]
    for file in (folder / "red").iterdir():
        file.write_bytes(b"")
    lost = CliRunner().invoke(main, words)
    assert lost.exit_code == 1 and "class 'red': 8 of 8 files are left out" in lost.output.splitlines()[1]
    assert "nothing is left of it" in lost.stderr and "red/000.png: 0 bytes" in lost.stderr


def test_a_name_that_the_terminal_cannot_show_is_escaped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "red").rename(folder / "r\u6f22t\x1b[31m")
    (folder / "blue" / "000.png").rename(folder / "blue" / os.fsdecode(b"caf\xe9\n.png"))
    for encoding, name in (("utf-8", "r\u6f22t"), ("cp1252", "r\\u6f22t")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        main(["inspect", str(folder), "--fast", "--image-size", "32"], standalone_mode=False)
        stream.flush()
        printed = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert f"\n{name} [31m" in printed and "blue/caf\\xe9\\n.png" in printed and "\x1b" not in printed


def test_inspect_names_images_of_a_few_pixels(tmp_path: Path) -> None:
    for number in range(12):
        side = (1, 4, 8, 40)[number % 4]
        (tmp_path / "ab"[number // 6]).mkdir(exist_ok=True)
        draw(COLOURS["red"], 6450 + number).resize((side, side)).save(tmp_path / "ab"[number // 6] / f"{number}.png")
    done = CliRunner().invoke(main, ["inspect", str(tmp_path), "--fast", "--image-size", "32"])
    assert done.exit_code == 0 and "9 tiny (used)" in done.output and "1 x 1 pixels" in done.output


def test_inspect_counts_classes_and_problems(folder: Path, tmp_path: Path) -> None:
    (folder / "red" / "page.jpg").write_text("<html></html>")
    words = ["inspect", str(folder), "--csv", str(tmp_path / "p.csv"), "--image-size", "32"]
    done = CliRunner().invoke(main, words)
    assert "24 usable images in 3 classes" in done.output and "1 not-an-image (left out)" in done.output
    assert pd.read_csv(tmp_path / "p.csv")["path"].tolist() == ["red/page.jpg"]


def test_the_tables_list_every_row() -> None:
    shown = CliRunner().invoke(main, ["backbones"]).output
    assert all(f"{name} " in shown for name in BACKBONES)
    assert all(name in CliRunner().invoke(main, ["recipes"]).output for name in RECIPES)


def test_backbones_are_in_order_of_their_years_and_say_where_weights_come_from() -> None:
    shown = CliRunner().invoke(main, ["backbones"]).output
    rows = {
        cells[0]: cells for cells in (re.split(r" {2,}", line) for line in shown.splitlines()) if cells[0] in BACKBONES
    }
    years = [int(cells[1]) for cells in rows.values()]
    assert set(rows) == set(BACKBONES) and years == sorted(years) and min(years) > 1950
    weights = {name: cells[5] for name, cells in rows.items()}
    assert weights["vgg16"] == "Keras (59 MB), or PyTorch files"
    assert weights["vgg11"] == "torchvision (531 MB), or PyTorch files"
    assert weights["nano"] == "tlkit (3 MB), here" and weights["xception"] == "Keras (83 MB)"
    assert weights["seresnet50"] == "PyTorch files, or from scratch"
    assert weights["lenet5"] == "none on ImageNet: from scratch"


def test_the_cache_is_shown_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    assert "0 caches, 0.00 GB" in CliRunner().invoke(main, ["cache"]).output
    with Store(tmp_path / "pixels" / "8-squash-v1").writer(1, (8, 8, 3), "uint8") as writer:
        writer.add(["a"], np.zeros((1, 8, 8, 3), "uint8"))
    describe(tmp_path / "pixels" / "8-squash-v1", "decoded images, 8 x 8 pixels, squash")
    shown = CliRunner().invoke(main, ["cache"]).output
    assert "pixels" in shown and "decoded images, 8 x 8" in shown and "1 cache, " in shown
    wrong = CliRunner().invoke(main, ["cache", "--clear", "pixel"])
    assert wrong.exit_code == 1 and "Did you mean 'pixels'" in wrong.output
    assert "cleared 0 caches" in CliRunner().invoke(main, ["cache", "--clear", "all", "--unused-days", "1"]).output
    assert "cleared 1 cache, " in CliRunner().invoke(main, ["cache", "--clear", "pixels"]).output
    assert not list(tmp_path.glob("pixels/*"))


def test_parameter_names_in_messages_become_options() -> None:
    said = in_options(
        "`image_size` is 8. Leave `weights=none` out, `force` it, or give `from_run=RUN`; `nothing` is none."
    )
    assert said == "--image-size is 8. Leave --weights none out, --force it, or give --from RUN; `nothing` is none."


def test_a_line_is_printed_once_whatever_the_root_logger_does(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        with log_shown():
            log.info("`image_size` is 8")
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr() == ("--image-size is 8\n", "")


def test_allow_accepts_american_spellings(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for name, message in (("color_cast", "missing"), ("color_casts", "Did you mean 'colour_cast'")):
        done = CliRunner().invoke(main, ["augment", str(missing), "--allow", name])
        assert done.exit_code == 1 and message in done.output
