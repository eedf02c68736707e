"""Imports against the plan of the house in docs/design.md: all of them, in functions and for types as well.

`make check` runs this file alone: it reads sources and imports nothing of them.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOTS = ("ddt", "pipelines", "flows")
STAGES = (
    "ingest", "recaption", "score", "select", "train_tokenizer",
    "tokenize_images", "pretrain", "finetune", "evaluate", "promote",
)  # fmt: skip


def sources() -> dict[str, Path]:
    """Every module by its dotted name; a package goes by its own."""
    found = {}
    for path in (path for root in ROOTS for path in (ROOT / root).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = sources()


def imported(source: str, modules: Collection[str]) -> set[str]:
    """Which of `modules` a source imports, wherever in it: of `from a import b`, a.b where that is one."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"from {'.' * node.level}{node.module or ''}: expected a whole name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in modules else str(node.module))
    return names & {*modules}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A chain of imports that ends where it begins; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


GRAPH = {name: imported(path.read_text(), SOURCES) - {name} for name, path in SOURCES.items()}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import two", "import one"),
        ("from two import x", "def f():\n    from one import y"),
        ("import two", "if TYPE_CHECKING:\n    from one import y"),
    ],
)
def test_a_circle_is_found_wherever_its_imports_stand(first: str, second: str) -> None:
    sources = {"one": first, "two": second}
    assert circle({name: imported(source, sources) for name, source in sources.items()})
    assert not circle({"one": imported(first, sources), "two": set()})


def test_submodules_are_told_from_their_package() -> None:
    modules = ["a", "a.b", "a.c"]
    assert imported("from a import b", modules) == {"a.b"}
    assert imported("from a import b, something", modules) == {"a.b", "a"}
    assert imported("import a.c\nimport json", modules) == {"a.c"}


def test_no_import_circles() -> None:
    assert not circle(GRAPH), " imports ".join(circle(GRAPH))


def plan() -> dict[str, set[str]]:
    """The table of docs/design.md: a folder and what it may import, from top to bottom."""
    text = (ROOT / "docs" / "design.md").read_text()
    table = text.partition("| may import |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0].strip("`"): {name.strip(" `") for name in row[2].split(",") if name} for row in rows}


PLAN = plan()


def place(module: str) -> str:
    """The row of the plan that a module belongs to: its own, or its innermost folder's."""
    path = SOURCES[module].relative_to(ROOT)
    if path.as_posix() in PLAN:
        return path.as_posix()
    if len(path.parts) == 2 and path.parts[0] != "flows":
        return f"{path.parts[0]}/*.py"
    return next(folder.as_posix() for folder in path.parents if folder.as_posix() in PLAN)


def crossings() -> Iterator[tuple[str, str]]:
    """Imports from one row of the plan into another."""
    for module, others in GRAPH.items():
        yield from ((module, other) for other in others if place(other) != place(module))


def test_the_plan_names_what_is_there() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    named = set(re.findall(r"`((?:ddt|pipelines|flows|profiles|tests)/[\w/.*]+)`", text))
    assert {name for name in named if not list(ROOT.glob(name))} == set()
    assert {place(module) for module in SOURCES} == PLAN.keys()


def test_the_plan_has_no_folder_below_one_that_it_imports() -> None:
    rows = list(PLAN)
    for i, (name, allowed) in enumerate(PLAN.items()):
        assert allowed <= {*rows[i + 1 :], "ddt"}, f"docs/design.md: {name} imports what stands above it"


def test_imports_keep_to_the_plan() -> None:
    wrong = [
        f"{module} imports {other}: {place(module)} may not import {place(other)}"
        for module, other in crossings()
        if not PLAN[place(module)] & {place(other), *(["ddt"] if other.startswith("ddt") else [])}
    ]
    assert not wrong, "\n".join(wrong)


def test_pipelines_lists_the_stages_and_nothing_else() -> None:
    files = {path.name for path in (ROOT / "pipelines").glob("*.py")}
    assert files == {"__init__.py", "__main__.py", *(f"{stage}.py" for stage in STAGES)}


def test_no_stage_imports_another() -> None:
    stages = {f"pipelines.{stage}" for stage in STAGES}
    assert not {(stage, other) for stage in stages for other in GRAPH[stage] & stages}


def test_sections_need_the_configurations_alone() -> None:
    """params.yaml is read in every step of a flow: without torch, without a model's code."""
    below = {other for module, other in crossings() if module.startswith("ddt.sections")}
    assert {name for name in below if not name.endswith("config")} == set()


# What installs a module of another name: transformers brings tokenizers with it.
DISTRIBUTION = {"PIL": "pillow", "yaml": "pyyaml", "tokenizers": "transformers"}


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """Top names of what a module imports when it is imported: not in functions, not for types alone."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]


def test_the_library_needs_the_base_dependencies_and_no_more() -> None:
    """The plugin of lmms-eval is imported by that program alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {re.split(r"[<>=\[]", name)[0] for name in project["dependencies"]}
    needed = {
        DISTRIBUTION.get(name, name)
        for module, path in SOURCES.items()
        if module.startswith("ddt") and not module.startswith("ddt.eval.lmms")
        for name in imported_at_once(ast.parse(path.read_text()))
        if name not in sys.stdlib_module_names and name not in ROOTS
    }
    assert needed == base
