"""Weights by name: "timm:NAME", "hf://USER/REPO[/FILE][@REVISION]" and "torchvision:FILE", or a folder of such files.

`read_card` finds out what their publisher says of them. `fetch` gets the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tlkit.backbones import huggingface
from tlkit.backbones.checkpoint import SUFFIXES
from tlkit.backbones.download import (
    TORCHVISION,
    NotDownloaded,
    check_digest,
    digest_of,
    digits_in,
    download,
    models_folder,
)
from tlkit.backbones.normalise import mean_and_deviation, pixels_of
from tlkit.errors import WeightsError

HANDLES = ("timm:", "hf://", "torchvision:")
FILES = ("model.safetensors", "pytorch_model.bin", "model.onnx")  # of a repository or folder, the first there is
CONFIG = "config.json"
MODEL_CARD = "README.md"
_PIN = re.compile(r"#sha256=([0-9a-f]{64})$")
_NAME = r"[A-Za-z0-9][\w.-]*"
_REPO = re.compile(rf"({_NAME}/{_NAME})((?:/{_NAME})*)(?:@([\w./-]+))?")
_TORCHVISION_FILE = re.compile(rf"({_NAME})-[0-9a-f]{{8}}\.pth")
_RESTRICTED = re.compile(r"\bnc\b|non-?commercial|research|dinov3|amlr|\bother\b", re.IGNORECASE)


@dataclass(frozen=True)
class Handle:
    """The name of public weights.

    repo: "USER/REPO" at Hugging Face; "" for one of torchvision's files. file: "" for the repository's usual one.
    revision: a branch, tag or commit; "" for the main branch. sha256: of the file; "" where it is not known yet.
    """

    repo: str
    file: str
    revision: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        pin = f"#sha256={self.sha256}" if self.sha256 else ""
        if not self.repo:
            return f"torchvision:{self.file}{pin}"
        file = f"/{self.file}" if self.file else ""
        return f"hf://{self.repo}{file}" + (f"@{self.revision}" if self.revision else "") + pin

    @property
    def short(self) -> str:
        """The handle for a person to read: without hashes, and of a commit only its first digits."""
        commit = re.fullmatch("[0-9a-f]{40}", self.revision)
        return str(dataclasses.replace(self, sha256="", revision=self.revision[:8] if commit else self.revision))


@dataclass(frozen=True)
class Card:
    """What is known of public weights before they are downloaded.

    source: their handle, with the commit, or the file on this machine.
    architecture: the name of the network in timm or torchvision. pixels: how the images were normalised, see
        `NormalisedNetwork`. size: pixels of each side of the images. licence: of the weights. Each is "" or None if the
        publisher does not say it. settings: what else the publisher says that is worth showing.
    """

    source: Handle | Path
    architecture: str = ""
    pixels: str = ""
    size: int | None = None
    licence: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The handle or the file, for a person to read."""
        return self.source.short if isinstance(self.source, Handle) else str(self.source)

    @property
    def restricted(self) -> bool:
        """Whether the licence forbids commercial use, or has terms of its own that have to be accepted."""
        return bool(_RESTRICTED.search(self.licence))

    def sentence(self) -> str:
        """What the publisher says, for the plan."""
        size = f"{self.size} px" if self.size else ""
        licence = f"licence {self.licence or 'not stated'}"
        said = (self.architecture, _in_words(self.pixels) if self.pixels else "", size, licence)
        more = tuple(f"{key} {value}" for key, value in self.settings.items())
        return ", ".join(one for one in (*said, *more) if one)


def _in_words(pixels: str) -> str:
    mean, deviation = (" ".join(f"{one:g}" for one in numbers) for numbers in mean_and_deviation(pixels))
    return f"mean {mean}, deviation {deviation}"


def is_handle(weights: str) -> bool:
    """Whether weights are given by the name of a public place."""
    return weights.startswith(HANDLES)


def parse_handle(weights: str) -> Handle:
    """Return the parts of a handle. Raises WeightsError if it is not written as one.

    >>> parse_handle("timm:resnext50_32x4d.tv_in1k@main")
    Handle(repo='timm/resnext50_32x4d.tv_in1k', file='', revision='main', sha256='')
    """
    pin = _PIN.search(weights)
    sha256, name = (pin[1], weights[: pin.start()]) if pin else ("", weights)
    if name.startswith("torchvision:"):
        file = name.removeprefix("torchvision:")
        if not _TORCHVISION_FILE.fullmatch(file):
            raise WeightsError(
                f"'{weights}' is not the name of one of torchvision's files. Expected its name with the digits of its "
                "SHA-256, such as torchvision:resnext50_32x4d-7cdf4587.pth."
            )
        return Handle("", file, "", sha256)
    path = f"timm/{name.removeprefix('timm:')}" if name.startswith("timm:") else name.removeprefix("hf://")
    found = _REPO.fullmatch(path)
    if found is None or ".." in path:
        raise WeightsError(
            f"'{weights}' is not the name of weights at Hugging Face. Expected timm:NAME, such as "
            "timm:resnext50_32x4d.tv_in1k, or hf://USER/REPO, hf://USER/REPO/FILE or hf://USER/REPO@REVISION."
        )
    return Handle(found[1], found[2].removeprefix("/"), found[3] or "", sha256)


def check_handle(weights: str) -> None:
    """Raise WeightsError for a handle that is written wrongly or that needs a package. Takes no network."""
    if is_handle(weights) and parse_handle(weights).repo:
        huggingface.check_installed()


def read_card(weights: str) -> Card | None:
    """Return what is known of weights by name, or of a folder or file with timm's config.json beside it.

    Returns None for "imagenet", "none" and other files. Downloads config.json and the model card of a repository at
    Hugging Face, unless they are in its cache.

    Raises WeightsError if the handle is wrong, if they cannot be downloaded, or if config.json cannot be used.
    """
    if is_handle(weights):
        return _public_card(weights)
    path = Path(weights)
    if path.is_dir():
        return _folder_card(path)
    if path.is_file() and path.suffix in SUFFIXES and (path.parent / CONFIG).is_file():
        given = _json(path.parent / CONFIG)
        return _card(path, given, _model_card(path.parent / MODEL_CARD)) if "architecture" in given else None
    return None


@lru_cache(maxsize=32)
def _public_card(weights: str) -> Card:
    handle = parse_handle(weights)
    if not handle.repo:
        found = _TORCHVISION_FILE.fullmatch(handle.file)
        assert found is not None
        # torchvision's README: its weights are BSD-3-Clause, but for those named SWAG
        return Card(handle, found[1], licence="CC-BY-NC-4.0" if "_swag" in found[1] else "BSD-3-Clause")
    config = huggingface.hub_file(handle.repo, CONFIG, handle.revision)
    if config is not None:
        handle = dataclasses.replace(handle, revision=huggingface.commit_of(config))
    about = huggingface.hub_file(handle.repo, MODEL_CARD, handle.revision)
    return _card(handle, _json(config) if config else {}, _model_card(about))


def _folder_card(folder: Path) -> Card:
    named = [folder / name for name in FILES if (folder / name).is_file()]
    files = named or sorted(one for one in folder.iterdir() if one.suffix in SUFFIXES)
    if not files or (len(files) > 1 and not named):
        found = ", ".join(one.name for one in files[:4]) or "none"
        raise WeightsError(
            f"The folder '{folder}' has {len(files)} weights files ({found}). Expected {FILES[0]} and {CONFIG}. "
            "Or give a file."
        )
    config = folder / CONFIG
    return _card(files[0], _json(config) if config.is_file() else {}, _model_card(folder / MODEL_CARD))


def _card(source: Handle | Path, config: Mapping[str, Any], model_card: str) -> Card:
    """Make a card from a config.json, as timm writes it, and the licence in a model card."""
    of = source.repo if isinstance(source, Handle) else str(source.parent)
    given = config.get("pretrained_cfg", config)
    if not isinstance(given, Mapping):
        raise WeightsError(f"{CONFIG} of '{of}' has no settings under pretrained_cfg. Expected one that timm wrote.")
    licences = [one for one in (given.get("license"), model_card) if isinstance(one, str) and one]
    settings = {
        "interpolation": given.get("interpolation"),
        "crop": given.get("crop_pct"),
        "classes": given.get("num_classes", config.get("num_classes")),
    }
    architecture = config.get("architecture", given.get("architecture", ""))
    return Card(
        source,
        architecture=architecture if isinstance(architecture, str) else "",
        pixels=_pixels(given, of),
        size=_size(given, of),
        licence=" and ".join({one.lower(): one for one in reversed(licences)}.values()),
        settings={key: value for key, value in settings.items() if isinstance(value, str | int | float)},
    )


def _pixels(given: Mapping[str, Any], of: str) -> str:
    if given.get("mean") is None and given.get("std") is None:
        return ""
    mean, deviation = _numbers(given, "mean", of), _numbers(given, "std", of)
    if min(deviation) <= 0:
        raise WeightsError(f"{CONFIG} of '{of}' has the std {deviation}. Expected numbers above 0.")
    return pixels_of(mean, deviation)


def _numbers(given: Mapping[str, Any], name: str, of: str) -> list[float]:
    values = given.get(name)
    numbers = isinstance(values, list) and all(isinstance(one, int | float) for one in values)
    if not isinstance(values, list) or not numbers or len(values) != 3 or not all(map(math.isfinite, values)):
        raise WeightsError(f"{CONFIG} of '{of}' has the {name} {values!r}. Expected three numbers, for RGB.")
    return values


def _size(given: Mapping[str, Any], of: str) -> int | None:
    size = given.get("input_size")
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 3 or size[0] != 3 or size[1] != size[2] or not _is_size(size[1]):
        raise WeightsError(f"{CONFIG} of '{of}' has the input_size {size!r}. Expected [3, n, n]: square RGB images.")
    return int(size[1])


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 4096


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"'{file}' cannot be read: {error}. Expected the config.json that timm writes.") from error
    if not isinstance(values, dict):
        raise WeightsError(f"'{file}' holds no JSON object. Expected the config.json that timm writes.")
    return values


def _model_card(file: Path | None) -> str:
    """Return the licence in the front matter of a model card; "" if there is none."""
    if file is None or not file.is_file():
        return ""
    front = re.match(r"---\s*\n(.*?)\n---", file.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    lines = front[1] if front else ""
    fields = dict(re.findall(r"^(license(?:_name)?):[ \t]*['\"]?([\w.+ -]+?)['\"]?[ \t]*$", lines, re.MULTILINE))
    return fields.get("license_name") or fields.get("license", "")


def fetch(card: Card, *, accept_licence: bool) -> Path:
    """Return the weights file that a card describes, downloaded unless it is on this machine.

    accept_licence: whether the person accepts a licence that forbids commercial use, or has terms of its own. It is not
        asked for a file that was given by its path.

    Raises WeightsError if the licence has to be accepted, if the file cannot be downloaded, or if it is damaged.
    """
    handle = card.source
    if isinstance(handle, Path):
        return handle
    if card.restricted and not accept_licence:
        raise WeightsError(
            f"The weights {card.name} have the licence {card.licence}, which does not allow every use, such as a "
            f"commercial one. Read it at {_page(handle)}, and give `accept_licence` if you accept it, or choose other "
            "weights."
        )
    file = _from_hub(handle) if handle.repo else _from_torchvision(handle)
    check_digest(file, handle.sha256 or None, card.name)
    return file


def pinned(card: Card, file: Path) -> str:
    """Return weights by name as a plan keeps them: with the commit and the SHA-256, so that a repeat takes the same.

    card: of a handle. file: from `fetch`.
    """
    assert isinstance(card.source, Handle)
    revision = huggingface.commit_of(file) if card.source.repo else ""
    name = file.name if not card.source.repo else card.source.file or file.name
    return str(dataclasses.replace(card.source, file=name, revision=revision, sha256=digest_of(file, "")))


def _page(handle: Handle) -> str:
    return f"{huggingface.HUB}/{handle.repo}" if handle.repo else "https://github.com/pytorch/vision"


def _from_hub(handle: Handle) -> Path:
    for name in (handle.file,) if handle.file else FILES:
        file = huggingface.hub_file(handle.repo, name, handle.revision)
        if file is not None:
            check_digest(file, huggingface.published_sha256(file), handle.short)
            return file
    wanted = f"no file '{handle.file}'" if handle.file else f"none of {', '.join(FILES)}"
    raise WeightsError(
        f"'{handle.repo}' has {wanted}. Give the name of its weights file: "
        f"`weights=hf://{handle.repo}/FILE`. Expected {', '.join(SUFFIXES)}."
    )


def _from_torchvision(handle: Handle) -> Path:
    target, url = models_folder() / handle.file, TORCHVISION + handle.file
    if target.is_file():
        check_digest(target, digits_in(handle.file), handle.short)
        return target
    try:
        return download(url, target, digits_in(handle.file))
    except NotDownloaded as reason:
        raise WeightsError(
            f"{handle.file} is not on this machine and cannot be downloaded ({reason}). Expected '{target}'. "
            f"Download {url} elsewhere and put it there, or give it as `weights=FILE`."
        ) from None
