"""The pages of the documentation, their code blocks, and how a block is run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHER_TOOL = "the other tool"

ELSEWHERE = ROOT / "docs" / "keras.md"  # tests/test_docs.py runs it, with a stand-in for wandb

NOT_RUN = {  # what a command or a block holds -> why it is not run here. Each must still be needed by a page
    r"--resume runs/": "needs a run that was stopped; tests/finetuning/test_resume.py stops some",
    r"^docker |^RUN=": "needs Docker; tests/test_docker.py checks the files",
    r"^curl |serving_client|localhost:8501": "needs a server; tests/runs/test_serve.py asks one",
    r"^tlkit adapt ": "needs 16 images of a new site or more; tests/runs/test_check.py adapts a run",
    r"^tlkit serve ": "does not end; tests/runs/test_serve.py starts it",
    r"^pip install|^python3 -m venv": "changes the environment; .ci/run runs the commands of README",
    r"hub:https:|kerashub:resnet|timm:|hf://|torchvision:": "needs the network; tests/backbones use the loopback",
    r"resnet18-f37072fd": "needs PyTorch's file; tests/backbones read such files",
    r"train_on_machines": "needs a Ray cluster; tests/cluster/test_machines.py begins one",
    r"--on ray": "starts a cluster; tests/cluster does so",
    r"--weights FOLDER": "needs a folder of weights; tests/backbones make one",
}


@dataclass(frozen=True)
class Block:
    """A code block of a page. language: "" for commands. skipped: why it is not run, as the page says; "" if it is."""

    language: str
    text: str
    skipped: str
    line: int

    def commands(self) -> list[str]:
        """The commands of a block, without comments; lines that end in a backslash are joined."""
        text = re.sub(r"\\\n\s*", "", self.text)
        return [line for one in text.splitlines() if (line := re.sub(r"\s+#\s.*", "", one).strip())]

    def lines_of_code(self) -> int:
        """Lines without blank ones, comments and imports."""
        lines = [line.strip() for line in self.text.splitlines()]
        return sum(not re.match(r"#|import |from .* import ", line) for line in lines if line)


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    pattern = r"(?:<!-- not run: ([^>]+) -->\n)?^( *)```([\w{}-]*)[^\n]*\n(.*?)^\2```"
    return [
        Block(
            found[3],
            re.sub(rf"^{found[2]}", "", found[4], flags=re.MULTILINE),
            found[1] or "",
            text[: found.start(3)].count("\n") + 1,
        )
        for found in re.finditer(pattern, text, flags=re.MULTILINE | re.DOTALL)
    ]


def reason(code: str) -> str | None:
    """Which pattern of NOT_RUN a command or a block of Python matches; None if it is run."""
    return next((pattern for pattern in NOT_RUN if re.search(pattern, code)), None)


def words_of(command: str, names: dict[str, str]) -> list[str]:
    """A command as words, with the names that stand for the reader's own things replaced, and less to compute."""
    words = [",".join(names.get(part, part) for part in word.split(",")) for word in shlex.split(command)]
    if words[1] == "augment":
        words += ["--backbone", names["mobilenetv2"]]
    return words + (["--epochs", "2"] if "scratch" in words else [])


def toctrees() -> list[list[str]]:
    """The entries of each list of pages in docs/index.md."""
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    lists = re.findall(r"^```\{toctree\}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [[line for line in one.splitlines() if line and not line.startswith(":")] for one in lists]
