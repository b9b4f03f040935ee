"""Uploads a run to a model hub: its model, export, plan, numbers and card, without paths and names of this machine.

What tells of a person's images is left out unless it is asked for: the names and hashes of the images (split.csv,
predictions.csv, problems.csv and the tables of the data doctor), and report.html, which shows images. In what is
uploaded, absolute paths are replaced by their last part, and names of images by "an image".
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tlkit.errors import RunError
from tlkit.folders import CARD, JUDGED, PLAN
from tlkit.manifest import MANIFEST, Manifest, digest
from tlkit.plan.plan import Plan
from tlkit.progress import log
from tlkit.reporting.card import card_text
from tlkit.runs.folder import Run, _of_model, open_run
from tlkit.runs.hub import EXPORT, check_upload, upload
from tlkit.runs.verify import verify

NUMBERS = (PLAN, "metrics.json", "report.json", "history.csv")
OF_DATA = (
    "split.csv",
    "predictions.csv",
    "problems.csv",
    "mistakes.csv",
    "label_errors.csv",
    "duplicates.csv",
    "outliers.csv",
    "report.html",
)
AN_IMAGE = "an image"
# of two parts or more, so that "and/or" and "/predict" are none
_PART = r"[^\s'\"<>|:;,()&\\/]"
_ABSOLUTE = re.compile(rf"(?<![\w:/\\.<])(?:[A-Za-z]:[\\/]|~?/|\\\\)(?:{_PART}+[\\/])+{_PART}*")
_IN_PAGE = re.compile(r"(data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+|</?[a-z][^<>]*>)")


def push(run: Run | str | Path, to: str, *, public: bool = False, revision: str = "", with_data: bool = False) -> str:
    """Upload a run to Hugging Face's hub, as one commit.

    Args:
        run: A finished run with its SavedModel.
        to: "hf://USER/NAME". The repository is made if there is none.
        public: Make it for everyone to read. One that everyone can read is not written to without this.
        revision: A branch, made if there is none; "" for the main branch.
        with_data: Also upload report.html, which shows images, and the tables with the names and hashes of the images.

    Returns:
        The commit.

    Raises:
        SpecError: `to` is no repository.
        RunError: The run is not finished or damaged, there is no token or network, the hub refuses the upload, or
            huggingface_hub is not installed.
    """
    handle = check_upload(f"{to}@{revision}" if revision else to)
    run = run if isinstance(run, Run) else open_run(run)
    with tempfile.TemporaryDirectory(prefix="tlkit-push-") as scratch:
        files = staged(run, Path(scratch), with_data=with_data)
        kept = () if (run.folder / CARD).is_file() else (CARD,)  # one that was filled in at the hub
        commit = upload(handle, files, public=public, kept=kept)
    if not with_data:
        log.info("left out  the names of images and report.html, which shows some; `with_data` uploads them")
    return commit


def staged(run: Run, scratch: Path, *, with_data: bool = False) -> dict[str, Path]:
    """The files of a run as they are uploaded, by name; those that differ from the run's are written to `scratch`.

    They have a manifest of their own, so that they are a run for whoever downloads them.
    """
    _check_sound(run)
    clean = cleaner(run, keep_images=with_data)
    files: dict[str, Path] = {}
    for name in (*NUMBERS, *(OF_DATA if with_data else ())):
        file = run.folder / name
        if file.is_file():
            files[name] = scratch / name
            files[name].write_text(_cleaned(name, file.read_text(encoding="utf-8"), clean), encoding="utf-8")
    for name in ("model.keras", *JUDGED):
        if (run.folder / name).is_file():
            files[name] = _without_paths(run.folder / name, scratch / name, clean)
    for file in _below(run.folder / "modules"):
        files[file.relative_to(run.folder).as_posix()] = file
    values = json.loads(files[PLAN].read_text(encoding="utf-8"))
    listed = {name: digest(file) for name, file in files.items()}
    Manifest(listed, (EXPORT,), _of_model(values)).write(scratch)
    files[MANIFEST] = scratch / MANIFEST
    for file in _below(run.saved_model):
        files[file.relative_to(run.folder).as_posix()] = file
    card = run.folder / CARD
    files[CARD] = scratch / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else card_text(run)
    files[CARD].write_text(clean(text), encoding="utf-8")
    return files


def _check_sound(run: Run) -> None:
    if not (run.saved_model / "saved_model.pb").is_file():
        raise RunError(f"The run '{run.folder}' has no saved_model. Write it with `tlkit export {run.folder}`.")
    found = verify(run.folder)
    spoiled = [*found.damaged, *found.missing]
    if spoiled:
        raise RunError(
            f"'{run.folder / spoiled[0]}' is not as it was written. Nothing was uploaded. All that is damaged: "
            f"`tlkit verify {run.folder}`."
        )


def _below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != ".DS_Store")


def cleaner(run: Run, *, keep_images: bool = False) -> Callable[[str], str]:
    """Return the function that takes paths of this machine, and names of a run's images, out of a text.

    keep_images: leave the names of images, which are relative to the data, as they are.
    """
    given = {str(one) for one in _places(run, run.plan)}
    places = {place: Path(place).name or "/" for place in given if {"/", "\\"} & set(place)}
    known = sorted(places, key=len, reverse=True)
    above = sorted({str(one) for one in (Path.cwd(), Path.home()) if len(one.parts) > 1}, key=len, reverse=True)
    below = re.compile(f"(?:{'|'.join(map(re.escape, above))})((?:[\\\\/]{_PART}+)*)") if above else _ABSOLUTE
    images: list[str] = []
    if not keep_images:
        for name in ("split.csv", "problems.csv"):
            if (run.folder / name).is_file():
                images += [one for one in run.read_csv(name)["path"] if "/" in one or "." in one]
        images.sort(key=len, reverse=True)

    def clean(text: str) -> str:
        for place in known:
            text = text.replace(place, places[place])
        text = below.sub(lambda found: re.split(r"[\\/]", found[0])[-1], text)  # these may have blanks
        text = _ABSOLUTE.sub(lambda found: re.split(r"[\\/]", found[0].rstrip("\\/"))[-1], text)
        for image in images:
            if image in text:
                text = text.replace(image, AN_IMAGE)
        return text

    return clean


def _places(run: Run, plan: Plan) -> Iterable[object]:
    """The paths that a run's files may name, which may have blanks, so that no pattern finds them."""
    job = plan.job
    given = [job.data, job.backbone, job.weights, job.from_run, job.recipe, job.augment, plan.backbone.name]
    for one in (*given, *plan.ensemble_of, run.folder, run.folder.absolute(), run.folder.resolve()):
        if isinstance(one, str | Path) and not re.match(r"[a-z]+:", str(one)):
            yield one


def _cleaned(name: str, text: str, clean: Callable[[str], str]) -> str:
    if name.endswith(".json"):
        return json.dumps(_each_text(json.loads(text), clean), indent=2, ensure_ascii=False) + "\n"
    if name.endswith(".html"):  # neither pictures nor markup, whose slashes are no paths
        return "".join(part if number % 2 else clean(part) for number, part in enumerate(_IN_PAGE.split(text)))
    return clean(text)


def _each_text(value: Any, clean: Callable[[str], str]) -> Any:
    """JSON values with every text cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(name): _each_text(one, clean) for name, one in value.items()}
    return [_each_text(one, clean) for one in value] if isinstance(value, list) else value


def _without_paths(file: Path, copy: Path, clean: Callable[[str], str]) -> Path:
    """A Keras file whose configuration names no path of this machine: the file itself if it names none."""
    if file.suffix != ".keras":
        return file
    with zipfile.ZipFile(file) as old:
        before = old.read("config.json").decode("utf-8")
        after = json.dumps(_each_text(json.loads(before), clean))
        if json.loads(after) == json.loads(before):
            return file
        with zipfile.ZipFile(copy, "w") as new:
            for one in old.infolist():
                if one.filename == "config.json":
                    new.writestr(one, after)
                    continue
                with old.open(one) as source, new.open(one, "w") as target:
                    shutil.copyfileobj(source, target, 2**20)
    return copy
