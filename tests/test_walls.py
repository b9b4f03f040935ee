"""The walls between rooms: which room may import which, and what an import may load."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROOMS = (  # a module imports only from its own room and those before it; files directly in tlkit/ are the ground
    "ground",
    "cluster",
    "plan",
    "recipes",
    "data",
    "backbones",
    "models",
    "features",
    "training",
    "evaluation",
    "deployment",
    "doctor",
    "safety",
    "strategy",
    "runs",
    "reporting",
    "finetuning",
    "cli",
)
# "module -> module" that still breaks the order; must equal what is found, and only shrinks
KNOWN_UPWARD: set[str] = set()

FENCES = {  # package -> the only room or module that may import it
    "click": "cli",
    "albumentations": "data.augment data.corruptions",
    "cv2": "data.augment data.corruptions",
    "jinja2": "reporting.page",
    "tensorflow_hub": "backbones.hub",
    "keras_hub": "backbones.kerashub",
    "huggingface_hub": "backbones.huggingface runs.hub",
    "flask": "runs.serve deployment.requests deployment.guard",
    "waitress": "deployment.server",
    "mlflow": "runs.trackers",
    "IPython": "notebook",
    "fsspec": "data.sources.remote",
    "datasets": "data.sources.arrow",
    "ray": "cluster",
}
WITHOUT_KERAS = {  # rooms and modules that import neither Keras nor TensorFlow nor scikit-learn, nor a module that does
    "cache",
    "errors",
    "files",
    "folders",
    "manifest",
    "stats",
    "tables",
    "devices",
    "environment",
    "notebook",
    "progress",
    "quiet",
    "drawing",
    "cluster",
    "plan",
    "recipes",
    "data.limits",
    "data.images",
    "data.headers",
    "data.preprocessing",
    "data.reference",
    "data.sources",
    "data.scan",
    "data.split",
    "data.examples",
    "backbones",
    "deployment.requests",
    "runs.folder",
    "runs.verify",
    "reporting.charts",
    "finetuning.resolve",
    "finetuning.words",
    "cli",
}
WITH_KERAS = {"backbones.saved_model_layer", "backbones.registered"}  # in a room without
KERAS_AND_NUMPY_ONLY = {  # these run on every Keras backend
    "models.classifier",
    "models.head",
    "models.blocks",
    "models.batch_norm",
    "features.extract",
    "features.table",
    "training",
    "strategy.axes",
    "strategy.tournament",
}


def modules() -> list[tuple[str, Path]]:
    """(name without `tlkit.`, file) of every module except `tlkit/__init__` and the worker, a program of its own."""
    found = []
    for base, prefix in ((ROOT / "tlkit", ""), (ROOT / "recipes", "recipes.")):
        for file in base.rglob("*.py"):
            name = prefix + ".".join(file.relative_to(base).with_suffix("").parts)
            if name not in ("__init__", "__main__", "deployment._worker"):
                found.append((name.removesuffix(".__init__"), file))
    return sorted(found)


FILES = dict(modules())


@functools.cache
def tree_of(file: Path) -> ast.Module:
    """The file's syntax tree, which many tests read and none changes."""
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def imports(file: Path, *, at_import_time: bool = False) -> list[tuple[int, str]]:
    """(line, dotted name) of every import except those for type checkers.

    at_import_time: leaves out the imports inside functions.
    """
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

    visit(tree_of(file))
    return found


@functools.cache
def own_imports(name: str, *, at_import_time: bool = False) -> list[tuple[int, str]]:
    """(line, module) of the imports of tlkit's own modules, named without `tlkit.`."""
    found = []
    for line, target in imports(FILES[name], at_import_time=at_import_time):
        parts = target.split(".")[1:] if target.split(".")[0] == "tlkit" else []
        while parts and ".".join(parts) not in FILES:
            parts.pop()
        if parts:
            found.append((line, ".".join(parts)))
    return found


def room_of(name: str) -> str:
    """The room of a module. Files directly in tlkit/ are the ground."""
    first = name.split(".")[0]
    return "ground" if first not in ROOMS and name == first else first


def listed(name: str, names: set[str]) -> bool:
    """Whether a module is one of these, or in a room that is one of these."""
    return any(name == one or name.startswith(f"{one}.") for one in names)


def test_there_are_modules_to_look_at() -> None:
    assert {"cli.main", "finetuning.finetune", "recipes.small_similar", "backbones.table", "stats"} <= set(FILES)
    for names in (
        WITHOUT_KERAS,
        WITH_KERAS,
        KERAS_AND_NUMPY_ONLY,
        {one for f in FENCES.values() for one in f.split()},
    ):
        assert all(any(listed(name, {one}) for name in FILES) for one in names)


def test_every_module_is_in_a_room() -> None:
    assert {room_of(name) for name in FILES} == set(ROOMS)


def test_a_module_imports_only_from_its_room_and_those_before() -> None:
    upward = {
        f"{name} -> {target}"
        for name in FILES
        for _, target in own_imports(name)
        if ROOMS.index(room_of(name)) < ROOMS.index(room_of(target))
    }
    assert upward == KNOWN_UPWARD


def test_no_modules_import_each_other_in_a_circle() -> None:
    below = {name: {target for _, target in own_imports(name, at_import_time=True)} for name in FILES}
    while free := {name for name, targets in below.items() if not targets & set(below)}:
        below = {name: targets for name, targets in below.items() if name not in free}
    assert not below, "these wait for each other: " + "; ".join(
        f"{n} for {sorted(t & set(below))}" for n, t in below.items()
    )


@pytest.mark.parametrize(("name", "file"), modules(), ids=[name for name, _ in modules()])
def test_fenced_packages_stay_behind_their_fence(name: str, file: Path) -> None:
    for line, target in imports(file):
        allowed = FENCES.get(target.split(".")[0])
        assert allowed is None or listed(name, set(allowed.split())), (
            f"{file}:{line} imports {target}: only {allowed} may"
        )


@pytest.mark.parametrize("name", [name for name in FILES if listed(name, WITHOUT_KERAS - WITH_KERAS)])
def test_light_modules_reach_no_keras_when_imported(name: str) -> None:
    if listed(name, WITH_KERAS):
        return
    seen, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        heavy = [
            t
            for _, t in imports(FILES[one], at_import_time=True)
            if t.split(".")[0] in ("keras", "tensorflow", "sklearn")
        ]
        assert not heavy, f"{name} imports {one}, which imports {heavy}"
        seen.add(one)
        waiting += [target for _, target in own_imports(one, at_import_time=True) if target not in seen]


@pytest.mark.parametrize("name", [name for name in FILES if listed(name, KERAS_AND_NUMPY_ONLY)])
def test_building_and_training_import_no_tensorflow(name: str) -> None:
    assert not [t for _, t in imports(FILES[name]) if t.split(".")[0] in ("tensorflow", "pandas", "sklearn")]


def test_help_imports_neither_keras_nor_pandas_nor_numpy_nor_scipy() -> None:
    code = (
        "import sys; sys.argv = ['tlkit', '--help']\n"
        "from tlkit.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('keras', 'tensorflow', 'pandas', 'numpy', 'scipy', 'PIL') if m in sys.modules], "
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "finetune" in done.stdout


def test_a_public_name_is_never_hidden_by_a_module() -> None:
    """Importing a module sets its name in the package, replacing whatever `tlkit` exports by that name."""
    import tlkit

    assert not set(tlkit.__all__) & {name.split(".")[0] for name in FILES}


def test_every_public_name_exists_and_has_a_docstring() -> None:
    import tlkit

    for name in tlkit.__all__:
        assert getattr(tlkit, name).__doc__, name
        assert name in dir(tlkit)


def test_the_front_door_takes_each_name_from_where_it_is_defined() -> None:
    import tlkit

    for name, home in tlkit._HOME.items():
        public = getattr(tlkit, name)
        assert public is getattr(importlib.import_module(f"tlkit.{home}"), name)
        assert getattr(public, "__module__", "").startswith(f"tlkit.{home}"), name


def test_nothing_pickles_and_nothing_turns_safe_mode_off() -> None:
    for base in (ROOT / "tlkit", ROOT / "recipes", ROOT / "examples", ROOT / "benchmarks"):
        for file in base.rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert "safe_mode=False" not in text, file
            assert "import pickle" not in text and "allow_pickle=True" not in text, file


def test_only_the_command_line_speaks_of_its_options() -> None:
    """The library names parameters in backticks, which the command line translates into options.

    Whole commands may be shown.
    """
    spoken = []
    for file in (ROOT / "tlkit").rglob("*.py"):
        if "cli" in file.relative_to(ROOT / "tlkit").parts:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(r"(?<![\w-])--[a-z]", line.split("tlkit ")[0]):
                spoken.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not spoken, "\n".join(spoken)


# Functions that are still too large. Each of these sets must equal what is found, and only shrinks.
MOST_PARAMETERS, MOST_LINES = 8, 60
MANY_PARAMETERS = {
    "finetuning.finetune.finetune",  # takes the fields of Job as keywords
}
LONG: set[str] = set()
ANY_KEYWORDS = {  # **settings: the first four are Keras' own signatures
    "backbones.kerashub.call",
    "backbones.saved_model_layer.__init__",
    "models.drop_connect.__init__",  # as Keras' own layers
    "deployment.formats.quantization.call",  # as `clone_model` calls it
    "data.augment.apply",  # albumentations' own signature
}
LATE_IMPORTS: set[str] = set()


@functools.cache
def functions() -> list[tuple[str, ast.FunctionDef]]:
    """Every function and method of the library except click's commands, by module and name."""
    return [
        (f"{name}.{node.name}", node)
        for name, file in modules()
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.FunctionDef) and room_of(name) != "cli"
    ]


def parameters(node: ast.FunctionDef) -> list[str]:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [one.arg for one in arguments if one.arg not in ("self", "cls")]


def lines_of_code(node: ast.FunctionDef) -> int:
    """Lines of the body without its docstring."""
    first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
    return (node.end_lineno or 0) - first.lineno + 1


def test_no_function_takes_more_than_eight_parameters() -> None:
    assert {name for name, node in functions() if len(parameters(node)) > MOST_PARAMETERS} == MANY_PARAMETERS


def test_no_function_takes_any_keyword() -> None:
    assert {name for name, node in functions() if node.args.kwarg} == ANY_KEYWORDS


def test_no_function_is_longer_than_sixty_lines() -> None:
    assert {name for name, node in functions() if lines_of_code(node) > MOST_LINES} == LONG


def test_imports_stand_at_the_top_but_in_the_command_line_and_where_a_backbone_is_chosen() -> None:
    late = {
        name
        for name, node in functions()
        if room_of(name) != "backbones"
        for inner in ast.walk(node)
        if isinstance(inner, ast.ImportFrom) and (inner.module or "").split(".")[0] == "tlkit"
    }
    assert late == LATE_IMPORTS


MESSAGES = {
    "detail",
    "error",
    "fault",
    "line",
    "message",
    "note",
    "outcome",
    "reason",
    "said",
    "sentence",
    "text",
    "why",
}
ASKS_TEXT = {
    "startswith",
    "endswith",
    "removeprefix",
    "removesuffix",
    "partition",
    "rpartition",
    "find",
    "index",
    "count",
}


def branches_on_english(tree: ast.AST) -> list[int]:
    """Lines that compare with the words of a message.

    They compare with a literal of several words, or a literal with what is called a message.
    """

    def is_phrase(node: ast.AST) -> bool:
        return isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip()

    def is_message(node: ast.AST) -> bool:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
            return is_message(node.args[0])
        name = getattr(node, "id", getattr(node, "attr", None))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            name = node.slice.value
        return str(name).removesuffix("s") in MESSAGES

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            words = any(
                isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.strip() for one in sides
            )
            if any(map(is_phrase, sides)) or (words and any(map(is_message, sides))):
                found.append(node.lineno)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKS_TEXT:
            literal = any(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in node.args)
            if any(map(is_phrase, node.args)) or (literal and is_message(node.func.value)):
                found.append(node.lineno)
    return found


def test_what_branches_on_english_is_found() -> None:
    for code in (
        "if 'time limit' in note: pass",
        "if outcome.startswith('dropped'): pass",
        "ok = 'megapixels' in fault",
        "ok = str(error) == 'gone'",
        "x = words.removesuffix(' of all')",
        "ok = row['why'] != 'asked'",
    ):
        assert branches_on_english(ast.parse(code)), code
    for code in (
        "ok = kind == 'dropped'",
        "ok = 'rotate' in fields",
        "ok = name.startswith('.')",
        "ok = note in notes",
    ):
        assert not branches_on_english(ast.parse(code)), code


def test_no_code_branches_on_the_words_of_a_message() -> None:
    found = [f"{file}:{line}" for _, file in modules() for line in branches_on_english(tree_of(file))]
    assert not found, "\n".join(found)


def test_each_planted_fault_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/planted_faults.py changes a line of the code for each, which must be there once."""
    if (ROOT / ".planted").is_dir():
        pytest.skip("this is a copy with a fault in it")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    planted = importlib.import_module("planted_faults")
    faults = planted.FAULTS + planted.PRACTICES
    assert len({planted.file_of(one, ROOT) for one in faults}) > 10 and len({one.name for one in faults}) == 20
