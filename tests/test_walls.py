"""The walls of the house: who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    "spec": 0,
    "errors": -1,  # the ground: every floor raises them
    "files": 0,
    "graph": 0,
    "savedmodel": 0,
    "backbones": 1,
    "augment": 1,
    "images": 1,
    "decode": 1,
    "store": 1,
    "runs": 1,
    "recipes": 1,
    "model": 2,
    "batches": 2,
    "pixels": 2,
    "frozen": 2,
    "keras_files": 2,
    "linear": 2,
    "features": 3,
    "train": 4,
    "evaluate": 4,
    "export": 4,
    "targets": 5,
    "evidence": 4,
    "explain": 4,
    "robustness": 6,
    "profile": 5,
    "calibrate": 5,
    "lr_find": 5,
    "tournament": 6,
    "safety": 5,
    "sheet": 5,
    "search": 6,
    "doctor": 5,
    "ensemble": 7,
    "strategy": 7,
    "inference": 6,
    "report": 8,
    "charts": 0,
    "serve": 8,
    "finetune": 9,
    "demo": 10,
    "cli": 11,
}
FENCES = {  # package -> the only modules that may import it
    "click": {"cli"},
    "albumentations": {"augment"},
    "cv2": {"augment"},
    "tensorflow_hub": {"backbones.hub"},
    "keras_hub": {"backbones.kerashub"},
    "flask": {"serve"},
}
WITHOUT_KERAS = {
    "spec",
    "errors",
    "files",
    "graph",
    "images",
    "recipes",
    "strategy",
    "ensemble",
    "finetune",
    "demo",
    "cli",
    "runs",
    "inference",
}
KERAS_AND_NUMPY_ONLY = {"model", "batches", "features", "train", "profile", "tournament", "lr_find"}


def modules() -> list[tuple[str, Path]]:
    found = []
    for base, prefix in ((ROOT / "tlkit", ""), (ROOT / "recipes", "recipes.")):
        for file in base.rglob("*.py"):
            name = prefix + ".".join(file.relative_to(base).with_suffix("").parts)
            if name not in ("__init__", "__main__", "_serve_files"):
                found.append((name.removesuffix(".__init__"), file))
    return sorted(found)


def imports(file: Path, *, at_import_time: bool = False) -> list[tuple[int, str]]:
    """(line, dotted name) of every import; at_import_time leaves out those inside functions and TYPE_CHECKING."""
    found: list[tuple[int, str]] = []

    def visit(node: ast.AST) -> None:
        if at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write imports in full"
            found.extend((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


def test_there_are_modules_to_look_at() -> None:
    assert {"cli", "finetune", "recipes.small_similar", "backbones.table"} <= {name for name, _ in modules()}


@pytest.mark.parametrize(("name", "file"), modules(), ids=[name for name, _ in modules()])
def test_a_module_imports_only_from_floors_below(name: str, file: Path) -> None:
    own = name.split(".")[0]
    for line, target in imports(file):
        parts = target.split(".")
        if parts[0] != "tlkit" or len(parts) < 2 or parts[1] == own or parts[1] not in FLOORS:
            continue
        assert FLOORS[parts[1]] < FLOORS[own], f"{file.name}:{line} ({own}, floor {FLOORS[own]}) imports {target}"


def test_every_module_has_a_floor() -> None:
    assert {name.split(".")[0] for name, _ in modules()} <= set(FLOORS)


@pytest.mark.parametrize(("name", "file"), modules(), ids=[name for name, _ in modules()])
def test_fenced_packages_stay_behind_their_fence(name: str, file: Path) -> None:
    for line, target in imports(file):
        allowed = FENCES.get(target.split(".")[0])
        assert allowed is None or name in allowed, f"{file.name}:{line} imports {target}, which only {allowed} may"


@pytest.mark.parametrize(("name", "file"), modules(), ids=[name for name, _ in modules()])
def test_light_modules_import_no_keras(name: str, file: Path) -> None:
    if name.split(".")[0] in WITHOUT_KERAS | {"backbones"}:
        heavy = [
            t for _, t in imports(file, at_import_time=True) if t.split(".")[0] in ("keras", "tensorflow", "sklearn")
        ]
        assert not heavy, f"{file.name} imports {heavy} when it is imported"


@pytest.mark.parametrize("name", sorted(KERAS_AND_NUMPY_ONLY))
def test_building_and_training_import_no_tensorflow(name: str) -> None:
    assert not [
        t for _, t in imports(ROOT / "tlkit" / f"{name}.py") if t.split(".")[0] in ("tensorflow", "pandas", "sklearn")
    ]


def test_help_imports_neither_keras_nor_pandas_nor_numpy() -> None:
    code = (
        "import sys; sys.argv = ['tlkit', '--help']\n"
        "from tlkit.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('keras', 'tensorflow', 'pandas', 'numpy', 'PIL') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "finetune" in done.stdout


def test_a_public_function_is_not_hidden_by_its_module() -> None:
    code = "import tlkit.augment, tlkit.finetune, tlkit\nfrom tlkit import augment\nassert callable(augment) and callable(tlkit.finetune)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists_and_has_a_docstring() -> None:
    import tlkit

    for name in tlkit.__all__:
        assert getattr(tlkit, name).__doc__, name


def test_nothing_pickles_and_nothing_turns_safe_mode_off() -> None:
    for base in (ROOT / "tlkit", ROOT / "recipes", ROOT / "examples", ROOT / "benchmarks"):
        for file in base.rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert "safe_mode=False" not in text, file
            assert "import pickle" not in text and "allow_pickle=True" not in text, file
