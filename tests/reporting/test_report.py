"""The report page: what it holds, that it needs nothing but itself, and that it is made again from the run folder."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tlkit import DataError, Recipe, RunError, SpecError, Stage, finetune, open_run, report
from tlkit.data.images import problem
from tlkit.doctor.checkup import Checkup
from tlkit.doctor.labels import LabelNoise
from tlkit.finetuning.words import result_lines
from tlkit.folders import FILES
from tlkit.reporting import report as report_module
from tlkit.reporting.charts import Axis, lines, reliability
from tlkit.reporting.findings import Analysis, ClassScore, Findings, ReportInputs, Score, _checkup, collect
from tlkit.reporting.leaderboard import rank
from tlkit.reporting.sections import confusion, robustness, summary
from tlkit.reporting.sections import reliability as reliability_section
from tlkit.reporting.sections.confusion import confusion_order
from tlkit.reporting.sections.summary import _weakest, next_steps

SECTIONS = [
    "summary",
    "curves",
    "confusion",
    "mistakes",
    "data-problems",
    "explain",
    "reliability",
    "beyond",
    "safety",
    "decisions",
]


class Page(HTMLParser):
    """Collects what a test asks about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.images += [values] if tag == "img" else []
        self.links += [values[name] for name in ("href", "src", "action", "srcset") if name in values]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def run_folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run with its report, in a folder of this module."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(trained, folder)
    report([folder])
    return folder


def test_the_page_has_its_sections_and_needs_nothing_else(run_folder: Path) -> None:
    page = Page((run_folder / "report.html").read_text(encoding="utf-8"))
    assert [one for one in page.ids if one in SECTIONS] == SECTIONS
    assert "robustness" not in page.ids
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert all(one.startswith(("#", "data:image/jpeg;base64,")) for one in page.links)
    for anchor in [one[1:] for one in page.links if one.startswith("#")]:
        assert anchor in page.ids
    assert len(page.images) >= 8
    assert all(one["alt"].strip() for one in page.images)
    said = " ".join(page.words)
    accuracy = open_run(run_folder).metrics["validation"]["accuracy"]
    assert f"{accuracy:.1%}" in said and "What to do next" in said
    assert f"{open_run(run_folder).metrics['estimate']['accuracy']:.1%} of new images like these" in said


def test_the_learning_curves_are_of_training_and_of_validation_images(run_folder: Path) -> None:
    text = (run_folder / "report.html").read_text(encoding="utf-8")
    for name in ("accuracy", "loss"):
        assert re.search(rf"{name} by epoch: training ends at [\d.]+, validation ends at [\d.]+", text)


def test_each_file_of_a_section_has_one_row_in_the_table_of_sections() -> None:
    rows = [render.__module__.rpartition(".")[2] for render in report_module.SECTIONS]
    files = {file.stem for file in Path(report_module.__file__).with_name("sections").glob("*.py")} - {"__init__"}
    assert sorted(rows) == sorted(files)


def test_the_navigation_names_the_sections_of_the_page_in_their_order(run_folder: Path) -> None:
    text = (run_folder / "report.html").read_text(encoding="utf-8")
    navigation = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', text[text.index("<nav>") : text.index("</nav>")])
    assert navigation == re.findall(r'<section id="([^"]+)">\s*<h2>([^<]+)</h2>', text)
    assert dict(navigation)["confusion"] == "Confusion matrix"


def test_the_same_numbers_are_files_beside_it(run_folder: Path) -> None:
    numbers = json.loads((run_folder / "report.json").read_text(encoding="utf-8"))
    assert numbers["data"]["n"] == 48
    assert numbers["milliseconds_an_image"] > 0
    assert 0 <= numbers["explain"]["without_evidence"] <= 1
    assert {p.name for p in run_folder.iterdir()} == set(FILES)
    for name in ("label_errors", "duplicates", "outliers", "mistakes"):
        assert "path" in pd.read_csv(run_folder / f"{name}.csv").columns
    mistakes = pd.read_csv(run_folder / "mistakes.csv")
    assert (mistakes["label"] != mistakes["prediction"]).all()


def of_data_that_is_gone(run_folder: Path, folder: Path, *, reported: bool) -> Path:
    """A copy of a run, with or without its report, whose data is no longer where the plan says."""
    shutil.copytree(run_folder, folder)
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    plan["job"]["data"] = str(folder.parent / "gone")
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    for name in () if reported else ("report.html", "report.json"):
        (folder / name).unlink()
    return folder


def test_a_report_is_made_without_the_images_when_they_are_gone_and_there_is_none(
    run_folder: Path, tmp_path: Path, reported: None, said: list[str]
) -> None:
    folder = of_data_that_is_gone(run_folder, tmp_path / "run", reported=False)
    for _ in range(2):
        page = Page(report([folder]).read_text(encoding="utf-8"))
        assert [one for one in page.ids if one in SECTIONS] == SECTIONS
        assert not page.images and any("gone" in line for line in said)


def test_a_report_with_images_is_never_replaced_by_one_without(
    run_folder: Path, tmp_path: Path, reported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = of_data_that_is_gone(run_folder, tmp_path / "run", reported=True)
    before = {name: (folder / name).read_bytes() for name in ("report.html", "report.json", "mistakes.csv")}
    with pytest.raises(DataError, match=r"48 of the 48 images .*gone.*Give|give `moved_to`.* is kept as it is"):
        report([folder])
    (folder / "report.json").write_text("{")
    with pytest.raises(DataError, match="is kept as it is"):
        report([folder])
    assert {name: (folder / name).read_bytes() for name in before} == before | {"report.json": b"{"}
    monkeypatch.setattr(report_module, "write_report", lambda inputs, **settings: len(inputs.dataset))
    assert report([open_run(folder, run_folder_data(run_folder))]) == 48


def run_folder_data(run_folder: Path) -> Path:
    return open_run(run_folder).plan.job.data


@pytest.mark.slow
def test_of_very_many_images_a_sample_is_checked_and_the_page_says_so(
    run_folder: Path, tmp_path: Path, reported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    monkeypatch.setattr("tlkit.reporting.findings.CHECKED", 20)
    page = Page(report([folder]).read_text(encoding="utf-8"))
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["data"]["n"] == 20
    assert any("20 of 48 images were checked" in words for words in page.words)


def test_what_names_hold_is_shown_and_not_run(run_folder: Path, tmp_path: Path, reported: None) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    (folder / "manifest.json").unlink()
    for name in ("plan.json", "metrics.json", "predictions.csv"):
        text = (folder / name).read_text(encoding="utf-8").replace("green", "<img src=x onerror=alert(1)>")
        (folder / name).write_text(text, encoding="utf-8")
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    plan["job"]["data"] = str(tmp_path / "gone")
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    (folder / "report.html").unlink()
    page = Page(report([folder]).read_text(encoding="utf-8"))
    assert not page.images
    assert any("<img src=x onerror=alert(1)>" in words for words in page.words)


@pytest.mark.slow
def test_robustness_is_measured_when_asked_for_and_kept_in_the_next_report(
    run_folder: Path, tmp_path: Path, reported: None
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    assert "robustness" in Page(report([folder], robustness=True).read_text(encoding="utf-8")).ids
    assert "robustness" in Page(report([folder]).read_text(encoding="utf-8")).ids


@pytest.mark.slow
def test_finetune_writes_the_report_and_says_where(
    folder: Path, tmp_path: Path, tiny: dict[str, Any], unserved: None, reported: None, said: list[str]
) -> None:
    recipe = Recipe("short", stages=(Stage(1, 1e-3), Stage(1, 1e-4, unfreeze=1)))
    run = finetune(folder, recipe=recipe, out=tmp_path / "run", **tiny)
    assert (run.folder / "report.html").is_file()
    assert said[-1].startswith("report ")
    assert "<polyline" in (run.folder / "report.html").read_text(encoding="utf-8")  # two epochs make a curve
    again = finetune(folder, recipe=recipe, out=tmp_path / "run", force=True, report=False, **tiny)
    assert not (again.folder / "report.html").exists()  # the old one is not of this run


def test_classes_that_are_confused_stand_together() -> None:
    matrix = np.eye(6, dtype=int) * 20
    for a, b in ((0, 3), (3, 5), (1, 4)):
        matrix[a, b] = matrix[b, a] = 8
    order = confusion_order(matrix)
    assert sorted(order) == list(range(6))
    assert abs(order.index(0) - order.index(3)) == 1 == abs(order.index(3) - order.index(5))
    assert abs(order.index(1) - order.index(4)) == 1
    assert confusion_order(np.eye(2, dtype=int)) == [0, 1]


def answers(right: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(len(right))],
            "label": ["a"] * len(right),
            "prediction": ["a" if one == "1" else "b" for one in right],
        }
    )


def test_runs_are_ranked_on_common_images_with_paired_intervals() -> None:
    good, worse, other = "1" * 90 + "0" * 10, "1" * 60 + "0" * 40, "1" * 89 + "0" * 11
    rows = rank(["w", "g", "o"], [answers(worse), answers(good), answers(other)], {f"{i}.png" for i in range(100)})
    assert [row["run"] for row in rows] == ["g", "o", "w"]
    assert rows[0]["behind"] == "the best"
    assert rows[2]["surely_behind"] and not rows[1]["surely_behind"]
    assert rows[2]["behind"].startswith("-30.0")


def test_runs_that_differ_on_one_patient_are_not_ranked_as_if_on_many_images() -> None:
    good, worse = "1" * 100, "1" * 80 + "0" * 20
    names, paths = ["w", "g"], [f"{i}.png" for i in range(100)]
    tables = [answers(worse), answers(good)]
    plain = rank(names, tables, set(paths))
    grouped = rank(names, tables, set(paths), {path: str(number // 20) for number, path in enumerate(paths)})
    assert plain[1]["surely_behind"] and not grouped[1]["surely_behind"]
    assert plain[1]["low"] > grouped[1]["low"] and plain[0]["low"] > grouped[0]["low"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_proposed_threshold_is_not_praised_on_the_images_that_chose_it(
    run_folder: Path, tmp_path: Path, split: str
) -> None:
    """On validation images all above 0.8 are right; on test images every second one is wrong."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    (folder / "manifest.json").unlink()
    columns = pd.read_csv(folder / "predictions.csv").columns
    rows = {**dict.fromkeys(columns, 0.0), "path": [f"{i}.png" for i in range(40)], "split": "validation"}
    table = pd.DataFrame({**rows, "label": "red", "probability": np.linspace(0.99, 0.4, 40)})
    table["prediction"] = np.where(table["probability"] > 0.8, "red", "blue")
    if split == "test":
        answers = np.where(np.arange(40) % 2, "red", "blue")
        table = pd.concat([table, table.assign(path="t" + table["path"], split="test", prediction=answers)])
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        before = metrics["calibration"]["before"]
        metrics["test"], before["test"] = metrics["validation"], before["validation"]
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    table.to_csv(folder / "predictions.csv", index=False)
    found = collect(ReportInputs(open_run(folder), None, None), Analysis())  # type: ignore[arg-type]
    said = reliability_section.render(found).html.partition("If the model answered only")[2]
    words = {
        "validation": "chosen on these images, so new ones may do worse",
        "test": "chosen on the validation images",
    }
    wrong = {"validation": "0.0%", "test": "53.8%"}
    assert words[split] in said and f"{wrong[split]} of those answers would be wrong" in said


def test_a_leaderboard_of_two_runs_is_written_and_one_of_strangers_refused(
    run_folder: Path, tmp_path: Path, said: list[str]
) -> None:
    for name in ("one", "two"):
        shutil.copytree(run_folder, tmp_path / name)
    page = report([tmp_path / "one", tmp_path / "two"])
    assert page == tmp_path / "leaderboard.html"
    assert len(said) == 3 and said[0].split()[0] == "accuracy" and "the best" in said[1]
    assert "no clear difference" in page.read_text(encoding="utf-8")
    (tmp_path / "two" / "manifest.json").unlink()
    table = pd.read_csv(tmp_path / "two" / "predictions.csv")
    table.assign(path="other/" + table["path"]).to_csv(tmp_path / "two" / "predictions.csv", index=False)
    with pytest.raises(SpecError, match="no image in common"):
        report([tmp_path / "one", tmp_path / "two"])


def test_what_is_no_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run"):
        report([tmp_path])


def row(what: str, severity: int | None, strength: float, lost: float) -> dict[str, Any]:
    scores = {"n": 20, "accuracy": 0.9 - lost, "accuracy_95": [0.6, 0.95], "lost": lost, "lost_error": 0.1}
    return {"what": what, "severity": severity, "strength": strength, **scores}


def test_robustness_names_the_worst_corruption_and_reads_an_earlier_versions_table(run_folder: Path) -> None:
    inputs = ReportInputs(open_run(run_folder), None, None)  # type: ignore[arg-type]
    findings = collect(inputs, Analysis())
    table = [row("untouched", 0, 0.0, 0.0), row("shot_noise", 3, 12.0, 0.2), row("fgsm", None, 1.0, 0.5)]
    section = robustness.render(dataclasses.replace(findings, robustness=table))
    assert section is not None and "shot noise (severity 3): it costs 20 points" in section.html
    earlier = [{k: v for k, v in one.items() if k != "severity"} | {"lost": 0.0} for one in table]
    section = robustness.render(dataclasses.replace(findings, robustness=earlier))
    assert section is not None and "No corruption lowers" in section.html and "strength 12" in section.html
    assert robustness.render(dataclasses.replace(findings, robustness=None)) is None


def test_the_next_step_names_leaks_before_all_else(run_folder: Path) -> None:
    inputs = ReportInputs(open_run(run_folder), None, None)  # type: ignore[arg-type]
    without = next_steps(collect(inputs, Analysis()))
    assert not any("duplicate" in line for line in without)
    assert any("no test split" in line for line in without)
    nothing = pd.DataFrame({"probable": np.zeros(0, bool)})
    pairs = pd.DataFrame({"split": ["train"], "other_split": ["validation"], "leak": [True], "kind": ["near"]})
    pairs = pairs.assign(path="a.png", other="b.png", label="a", other_label="a")
    found = Checkup(nothing, pairs, nothing, pd.DataFrame(), 48, "nano", LabelNoise(0.9), True, 96, 1.0)
    steps = next_steps(collect(inputs, Analysis(found)))
    assert steps[0].startswith("1 duplicate pair of images lies in the validation split")
    assert "tlkit predict" in steps[-1]


def test_the_report_judges_labels_as_inspect_does_whatever_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("tlkit.reporting.findings.check_data", lambda dataset, **settings: asked.append(settings))
    for seed in (0, 5):
        _checkup(None, None, SimpleNamespace(label_judge="nano", seed=seed))  # type: ignore[arg-type]
    assert asked[0].get("seed", 0) == asked[1].get("seed", 0) == 0


def findings_of(run_folder: Path, tmp_path: Path, **numbers: Any) -> Findings:
    """What a report shows of the run, with other numbers in its metrics.json."""
    shutil.copytree(run_folder, tmp_path / "run")
    run = open_run(tmp_path / "run")
    run.write_json("metrics.json", {**run.metrics, **numbers})
    return collect(ReportInputs(run, None, None), Analysis())  # type: ignore[arg-type]


def test_a_class_without_images_is_not_measured_and_not_listed_first(run_folder: Path, tmp_path: Path) -> None:
    score = json.loads((run_folder / "metrics.json").read_text())["validation"]
    old = {**score["per_class"], "green": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}}
    found = findings_of(run_folder, tmp_path, validation={**score, "per_class": old})
    html = confusion.render(found).html
    rows = re.findall(r"<tr><td>(\w+)</td>(.*?)</tr>", html[html.index("Precision, recall") :], re.DOTALL)
    assert rows[-1] == ("green", '<td colspan="3">not measured</td><td>0</td>')
    assert any("1 class has no validation images ('green')" in step for step in next_steps(found))
    assert "the 2 of 3 classes that have validation images" in summary.render(found).html


@pytest.mark.parametrize(
    ("found", "images", "words"),
    [(1, 2, "may be chance with so few images"), (10, 40, "is the weakest class (F1 0.40 on 40 images)")],
)
def test_a_weakest_class_is_named_only_where_its_images_bear_it(found: int, images: int, words: str) -> None:
    matrix = np.array([[found, images - found, 0], [images - found, 30, 8], [0, 0, 30]])
    recalls = (found / images, 0.8, 1.0)
    rows = zip("abc", recalls, (0.4, 0.8, 0.9), matrix.sum(1).tolist(), strict=True)
    classes = tuple(ClassScore(name, recall, recall, f1, count) for name, recall, f1, count in rows)
    accuracy = matrix.trace() / matrix.sum()
    (step,) = _weakest(Score(int(matrix.sum()), accuracy, (0.5, 0.9), 0.8, 0.5, 0.1, classes, matrix))
    assert step.startswith("'a' ") and words in step


def test_a_threshold_that_answers_nothing_is_not_praised(run_folder: Path, tmp_path: Path) -> None:
    nothing = {"n": 12, "coverage": 0.0, "answered": 0, "error": None}
    refusal = {"max_error": 0.05, "threshold": 1.01, "assured": False, "validation": nothing, "test": None}
    html = reliability_section.render(findings_of(run_folder, tmp_path, refusal=refusal)).html
    assert "No threshold keeps errors at or below 5.0%" in html and "That keeps errors" not in html


def test_groups_across_given_splits_stand_beside_the_estimate(run_folder: Path, tmp_path: Path) -> None:
    plan = json.loads((run_folder / "plan.json").read_text())
    evidence = {"sentences": [], "groups": 6, "groups_across_parts": 4, "held_out_but_trained_on_before": 2}
    plan["decisions"].append({"what": "split", "chosen": "as given", "why": "", "evidence": evidence})
    found = findings_of(run_folder, tmp_path)
    assert "<b>But" not in summary.render(found).html
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan))
    run = open_run(tmp_path / "run")
    html = summary.render(collect(ReportInputs(run, None, None), Analysis())).html  # type: ignore[arg-type]
    assert html.index("But 4 of 6 groups") < html.index('class="tiles"') and "2 validation or test images" in html
    lines_after = [line for line in result_lines(run) if line][1:3]
    assert all(line.startswith("but ") for line in lines_after) and "on new groups" in lines_after[0]


def test_a_run_without_an_estimate_says_what_its_validation_images_chose(run_folder: Path, tmp_path: Path) -> None:
    told = open_run(run_folder).metrics["estimate"]
    html = summary.render(findings_of(run_folder, tmp_path, estimate=None)).html
    assert told["also_chose"] and f"These images also chose {' and '.join(told['also_chose'])}, so" in html


def test_the_next_steps_begin_with_classes_that_were_lost_or_are_not_measured(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    run = open_run(tmp_path / "run")
    rows = [problem("red", "red", "class-not-measured", f"class 'red' has no {part} images") for part in "abcdef"]
    run.write_table("problems.csv", pd.DataFrame(rows))
    steps = next_steps(collect(ReportInputs(run, None, None), Analysis()))  # type: ignore[arg-type]
    assert steps[0] == "Class 'red' has no a images." and "problems.csv names all 6" in steps[4]


def test_charts_tell_in_words_what_they_show_and_escape_names() -> None:
    drawn = lines({"<a>": [(1, 0.5), (2, 0.7)]}, title="it <rises>", x=Axis("x"), y=Axis("y", percent=True))
    assert "&lt;rises&gt;" in drawn and "<a>" not in drawn and 'role="img"' in drawn
    one = lines({"a": [(3, 0.5)]}, title="one point", x=Axis("x"), y=Axis("y"))
    assert "nan" not in one
    assert "confidence 90%: 80% of 10 images correct" in reliability([(0.9, 0.8, 10)], title="r")


@pytest.fixture
def clothing_run(shared: Path, imagenet: Path, tmp_path: Path, reported: None) -> Path:
    """A run on photographs of ten classes that makes mistakes."""
    recipe = Recipe("head", stages=(Stage(1, 1e-3, solver="logistic"), Stage(2, 1e-4, unfreeze=1)))
    settings = {"backbone": "mobilenetv2_0.35", "image_size": 128, "augment": "light", "max_error": 0.1}
    data = shared / "data" / "clothing" / "splits.csv"
    return finetune(data, recipe=recipe, out=tmp_path / "run", **settings).folder  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "images"),
    [("run_folder", 8), pytest.param("clothing_run", 60, marks=[pytest.mark.real, pytest.mark.long])],
)
def test_the_page_in_a_real_browser(which: str, images: int, request: pytest.FixtureRequest) -> None:
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no Chromium on this machine (on Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    report_page = (request.getfixturevalue(which) / "report.html").as_uri()
    said: list[str] = []
    requests: list[str] = []
    with sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = play.chromium.launch(executable_path=browser, args=flags)
        for width in (390, 1280):
            for scheme in ("light", "dark"):
                context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
                page = context.new_page()
                page.on("console", lambda message: said.append(message.text))
                page.on("pageerror", lambda error: said.append(str(error)))
                page.on("request", lambda request: requests.append(request.url))
                page.goto(report_page)
                assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
                for section in SECTIONS:
                    box = page.locator(f"#{section}").bounding_box()
                    assert box is not None and box["width"] > 0.8 * min(width, 1120) - 40 and box["height"] > 60
                shown = page.evaluate(
                    "[...document.images].map(i => [i.alt.length > 0, i.naturalWidth > 0, "
                    "i.getBoundingClientRect().right <= innerWidth + 1])"
                )
                assert len(shown) >= images and all(all(one) for one in shown)
                beside = page.evaluate("[...document.querySelectorAll('figure')].map(f => f.innerText.trim().length)")
                assert min(beside) > 3
                context.close()
        scriptless = chromium.new_context(java_script_enabled=False)
        page = scriptless.new_page()
        page.goto(report_page)
        assert page.locator("#summary").is_visible()
        if page.locator(".matrix a").count():  # a number of the confusion matrix leads to its images
            page.locator(".matrix a").first.click()
            assert "#pair-" in page.url
        else:
            assert which == "run_folder", "only a run without a mistake has none"
        chromium.close()
    assert said == []
    assert {url for url in requests if not url.startswith("data:")} == {report_page}
