"""Import rules: functional_models -> builders, plots; no cycles; specs need no numeric library."""

import ast
import re
from collections.abc import Container, Iterator, Mapping
from functools import cache
from pathlib import Path

import networkx as nx
import pytest
from python_process import run_python

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "builders": {"plots", "functional_models"},
    "plots": {"builders", "functional_models"},
    "functional_models": set(),
}
NUMERIC_LIBRARIES = {"keras", "keras_hub", "keras_nlp", "tensorflow", "jax", "torch", "numpy"}
MUST_START_FAST = (
    "builders/spec.py",
    *(f"builders/{path.name}" for path in (ROOT / "builders").glob("*_fields.py")),
    "builders/variants.py",
    "builders/registry.py",
    *(f"builders/published/{path.name}" for path in (ROOT / "builders/published").glob("*.py")),
)
SOURCES = sorted(path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py"))


def imported_packages(tree: ast.AST) -> set[str]:
    """Return the top-level packages of all absolute imports in a tree."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and node.args:  # import_module("name"), __import__("name")
            called, first = ast.unparse(node.func).split(".")[-1], node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names.add(str(first.value).split(".")[0])
    return names


def module_of(path: Path) -> str:
    """Return the dotted name of the module in a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.AST, modules: Container[str]) -> set[str]:
    """Return those of `modules` that a tree imports, also in functions and under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules else str(node.module) for name in inner}
        elif isinstance(node, ast.Call) and node.args:
            called, first = ast.unparse(node.func).split(".")[-1], node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names.add(str(first.value))
    return {name for name in names if name in modules}


def import_cycles(trees: Mapping[str, ast.AST]) -> list[list[str]]:
    """Return the groups of modules that import each other."""
    edges = [
        (name, other) for name, tree in trees.items() for other in imported_modules(tree, trees)
    ]
    components = nx.strongly_connected_components(nx.DiGraph(edges))
    return sorted(sorted(cycle) for cycle in components if len(cycle) > 1)


def module_level_imports(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the imports of a module outside functions and `if TYPE_CHECKING:`."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        waiting += list(ast.iter_child_nodes(node))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import plots.graph", {"plots"}),
        ("def f():\n    from functional_models import data", {"functional_models"}),
        ("from . import spec", set()),
        ("import importlib\nimportlib.import_module('plots')", {"importlib", "plots"}),
    ],
)
def test_imported_packages_finds_imports_anywhere(code: str, found: set[str]) -> None:
    assert imported_packages(ast.parse(code)) == found


@pytest.mark.parametrize(
    ("code", "runs"),
    [
        ("try:\n    import tensorflow\nexcept ImportError:\n    pass", True),
        ("class A:\n    import tensorflow as tf", True),
        ("def f():\n    import tensorflow", False),
        ("if TYPE_CHECKING:\n    import tensorflow", False),
    ],
)
def test_module_level_imports_excludes_functions_and_type_checking(code: str, runs: bool) -> None:
    assert bool(list(module_level_imports(ast.parse(code)))) is runs


def test_all_source_files_are_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} >= {"builders"}
    for name in MUST_START_FAST:
        assert ROOT / name in SOURCES


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_file_imports_a_higher_layer(package: str) -> None:
    files = [path for path in SOURCES if path.is_relative_to(ROOT / package)]
    found = {path: imported_packages(parse(path)) & FORBIDDEN[package] for path in files}
    assert [path for path in found if found[path]] == []


@pytest.mark.parametrize(
    "code",
    [
        "import a.b",
        "from a import b",
        "def f():\n    from a.b import name",
        "import_module('a.b')",
        "if TYPE_CHECKING:\n    from a.b import Name",
    ],
)
def test_import_cycles_are_found_wherever_the_import_is(code: str) -> None:
    trees = {"a": ast.parse(""), "a.b": ast.parse("import a.c"), "a.c": ast.parse(code)}
    assert import_cycles(trees) == [["a.b", "a.c"]]
    assert import_cycles({**trees, "a.c": ast.parse("import a")}) == []


def test_there_are_no_import_cycles() -> None:
    assert import_cycles({module_of(path): parse(path) for path in SOURCES}) == []


def test_no_file_imports_tensorflow_at_module_level() -> None:
    found = [
        f"{path}:{statement.lineno}"
        for path in SOURCES
        for statement in module_level_imports(parse(path))
        if "tensorflow" in imported_packages(statement)
    ]
    assert found == []


@pytest.mark.parametrize("name", MUST_START_FAST)
def test_specs_and_variants_import_no_numeric_library(name: str) -> None:
    assert not imported_packages(parse(ROOT / name)) & NUMERIC_LIBRARIES


def test_listing_variants_and_creating_specs_imports_no_numeric_library() -> None:
    code = (
        "import sys, builders\n"
        "for name in builders.list_variants():\n"
        "    spec = builders.variant(name)\n"
        "    assert builders.TransformerSpec.from_json(spec.to_json()) == spec\n"
        f"print(sorted({NUMERIC_LIBRARIES!r} & set(sys.modules)))\n"
    )
    assert run_python(code).strip() == "[]"


def builders_names() -> set[str]:
    """Return the names of classes, functions and layers of builders."""
    names: set[str] = set()
    for path in (ROOT / "builders").rglob("*.py"):
        tree = parse(path)
        defined = (ast.ClassDef, ast.FunctionDef)
        names |= {node.name for node in tree.body if isinstance(node, defined)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".layer"):
                names |= {str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return names


def general_terms() -> set[str]:
    """Return names that are not specific to builders: Keras operations and terms of the field."""
    import keras

    from plots.layers import ROLES

    operations, waiting = set[str](), [keras.Operation]
    while waiting:
        operation = waiting.pop()
        operations.add(operation.__name__)
        waiting += operation.__subclasses__()
    terms = {"ALiBi", "causal_mask", "encoder_decoder", "layer_norm", "no_norm", "padding_mask"}
    return operations | terms | set(ROLES)


def test_plots_contains_no_names_of_builders() -> None:
    """Not even in strings, where renaming something in builders would silently change the plots."""
    names = builders_names()
    assert {"AttentionScores", "weighted_values"} <= names
    compound = re.compile(r"_|[a-z][A-Z]|[A-Z]{2}")  # several words, so not plain English
    compound_names = {name.strip("_") for name in names if compound.search(name.strip("_"))}
    single_words = {name for name in names if name[0].isupper()} - compound_names
    allowed = general_terms()
    found = []
    for path in (ROOT / "plots").rglob("*.py"):
        text = path.read_text("utf-8")
        words = compound_names & set(re.findall(r"\w+", text))
        quoted = single_words & set(re.findall(r"""["'](\w+)["']""", text))
        found += [f"{path.relative_to(ROOT)}: {n}" for n in sorted((words | quoted) - allowed)]
    assert not found
