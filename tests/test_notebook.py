"""What results show of themselves in a notebook: all of it escaped, small, and without scripts and colours."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from tests.conftest import write_folder
from tlkit import Augmentation, Run, SpecError, compare_runs, open_run, scan
from tlkit.data.images import PROBLEM_COLUMNS, ImageSet, problem
from tlkit.doctor.checkup import Checkup
from tlkit.doctor.labels import LabelNoise
from tlkit.notebook import MOST_ROWS, card, in_notebook, rows
from tlkit.progress import bar, log
from tlkit.reporting.leaderboard import Comparison
from tlkit.safety.verdict import Safety, Verdict

EVIL = "<script>alert('x')</script>\n&\x1b[31m"
ALLOWED = {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}


class Seen(HTMLParser):
    """The tags, the attributes and the text of a page; the tags must be balanced."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self.open = set[str](), set[str](), "", list[str]()
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def checked(page: str) -> str:
    """The text of a card, which has only plain tags, takes the page's colours, and is small."""
    seen = Seen(page)
    assert seen.tags <= ALLOWED and seen.attributes <= {"style", "scope"}
    assert not re.search(r"(?<![-\w])color:|background:(?!none)|url\(|position:", page)
    assert len(page) < 20_000 and "\x1b" not in page
    return seen.text


def a_set(names: list[str], count: int = 3) -> ImageSet:
    table = pd.DataFrame(
        {"path": [f"{n}/{i}.png" for n in names for i in range(count)], "label": [n for n in names for _ in range(3)]}
    ).assign(split="train", group="", sha256="", format="PNG", width=8, height=8)
    found = pd.DataFrame([problem(f"{EVIL}.png", names[0], "truncated", EVIL)], columns=list(PROBLEM_COLUMNS))
    return ImageSet(Path("data"), table, tuple(names), found)


def test_an_image_set_shows_its_classes_splits_and_problems_escaped() -> None:
    text = checked(a_set([EVIL, "cat"])._repr_html_())
    assert "6 images, 2 classes" in text and "train" in text and "<script>" in text and "1 truncated" in text


def test_a_set_of_many_classes_shows_a_few_rows_and_the_count_of_the_others() -> None:
    text = checked(a_set([f"class {i:03d}" for i in range(500)])._repr_html_())
    assert f"and {500 - MOST_ROWS} more" in text


def test_printing_a_set_takes_one_line(tmp_path: Path) -> None:
    (tmp_path / "data" / "red").mkdir(parents=True)
    (tmp_path / "data" / "red" / "junk.png").write_bytes(b"junk")
    found = scan(write_folder(tmp_path / "data", per_class=2))
    assert repr(found) == f"ImageSet('{tmp_path / 'data'}': 6 images, 3 classes, 1 problem)"
    assert "no problems found" in checked(scan(write_folder(tmp_path / "clean", per_class=2))._repr_html_())


def test_a_checkup_shows_sentences_and_the_worst_findings() -> None:
    errors = pd.DataFrame(
        [(EVIL, "cat", "train", "dog", 0.1, 0.9, True, 0.8, False)],
        columns=[
            "path",
            "label",
            "split",
            "suggested",
            "probability",
            "suggested_probability",
            "probable",
            "wrong",
            "surprising",
        ],
    )
    pairs = pd.DataFrame(
        [("a.png", EVIL, "cat", "cat", "train", "test", "near", 0.1, True)],
        columns=["path", "other", "label", "other_label", "split", "other_split", "kind", "distance", "leak"],
    )
    alone = pd.DataFrame([("b.png", "cat", "train", 3.0)], columns=["path", "label", "split", "distance"])
    classes = pd.DataFrame([("cat", 10, 0.5), ("dog", 10, 0.5)], columns=["label", "images", "share"])
    noise = LabelNoise(*[1.0] * len(LabelNoise.__dataclass_fields__))
    text = checked(Checkup(errors, pairs, alone, classes, 20, "nano", noise, True, 96, 1.0)._repr_html_())
    assert "Checkup of 20 images" in text and "80%" in text and "across splits" in text and "3.0" in text


def test_a_safety_check_shows_each_verdict() -> None:
    verdicts = (
        Verdict("rotate", "limited", 30.0, 10.0, 40, f"6 becomes 9 {EVIL}"),
        Verdict("flip_vertical", "unsafe", 0.5, None, 40, "why", allowed=True),
    )
    text = checked(Safety(Augmentation(), Augmentation(), verdicts, {}, 40)._repr_html_())
    assert "safe up to 10°" in text and "unsafe (allowed anyway)" in text and "none" in text


def test_a_comparison_shows_and_prints_the_ranking() -> None:
    row = {"accuracy": 0.9, "low": 0.8, "high": 0.95, "behind": "the best", "backbone": "nano", "recipe": "x"}
    compared = Comparison("50 test images", ({**row, "run": "a"}, {**row, "run": EVIL, "behind": "-3.0 ± 2 points"}))
    assert "Runs compared on 50 test images" in checked(compared._repr_html_())
    assert len(str(compared).splitlines()) == 3 and "90.0%" in str(compared)
    with pytest.raises(SpecError, match="two or more"):
        compare_runs(["a"])


def test_a_folder_that_is_no_run_is_shown_as_such(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    assert "plan" in checked(Run(tmp_path)._repr_html_())
    assert checked(Run(tmp_path / EVIL[:8])._repr_html_())


@pytest.mark.slow
def test_a_run_shows_its_accuracy_and_its_export(trained: Path, tmp_path: Path) -> None:
    run = open_run(trained)
    text = checked(run._repr_html_())
    for said in ("3 classes", "32 px", "95 % interval", "the same class as the trained model"):
        assert said in text, text
    (tmp_path / "plan.json").write_text((trained / "plan.json").read_text())
    assert "not finished" in checked(Run(tmp_path)._repr_html_())
    assert "the best" in checked(compare_runs([trained, run])._repr_html_())


def test_the_title_is_escaped_and_a_table_without_rows_is_left_out() -> None:
    assert "&lt;b&gt;" in card("<b>") and rows(["a"], []) == ""


def test_a_bar_in_a_notebook_is_drawn_replaced_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    fake = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=True))
    shown = SimpleNamespace(HTML=str, display=lambda page, display_id, update=False: drawn.append(page))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setattr(log, "isEnabledFor", lambda level: True)
    assert in_notebook()
    with pytest.raises(KeyError), bar(1000, "image") as update:
        for done in range(501):
            update(done)
        raise KeyError
    assert drawn[0] == '<progress value="0" max="1000"></progress> 0 of 1,000 images'
    assert drawn[-1] == "" and 40 < len(drawn) < 60
