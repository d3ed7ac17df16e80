"""The house is in order: names, sizes, and imports that only point down."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gecaso

ROOT = Path(__file__).parents[1]
PACKAGE = Path(gecaso.__path__[0])

# Lowest first; modules of one layer may import each other, but not in a circle. A module that is
# not named here has its place between what it imports and what imports it.
LAYERS = [
    ["gecaso.errors", "gecaso.entry"],
    ["gecaso.keys", "gecaso.packing"],
    ["gecaso.breaker", "gecaso.loops", "gecaso.storage"],
    ["gecaso.storages"],
    ["gecaso.freshness", "gecaso.flight"],
    ["gecaso.cache"],
    ["gecaso.decorator"],
    ["gecaso.config"],
    ["gecaso"],
    ["gecaso.web", "gecaso.objects", "gecaso.cli", "gecaso.testing"],
]
CLIENT_LIBRARIES = {"redis", "hiredis", "aiomcache", "asyncpg"}
# What takes time to import, and is imported by the functions that need it.
AT_FIRST_USE = {
    *("anyio", "anyio.from_thread", "anyio.to_thread", "ormsgpack", "typing_extensions"),
    *("decimal", "difflib", "fractions", "hashlib", "ipaddress", "json", "pathlib", "pickle"),
    *("random", "uuid", "zlib", "zoneinfo"),
    *("gecaso.keys.ambiguity", "gecaso.event_kinds", "gecaso.guard", "gecaso.network_loading"),
    *("gecaso.packing", "gecaso.packing.shapes", "gecaso.keys.templates"),
}
MODULES = ["gecaso", *(m.name for m in pkgutil.walk_packages([str(PACKAGE)], "gecaso."))]


def module_path(name: str) -> Path:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


# -- names ---------------------------------------------------------------------------------------


def constants_classes_functions(name: str) -> tuple[bool, bool, str]:
    """Sort as the linter does."""
    return not name.isupper(), not name[0].isupper(), name


@pytest.mark.smoke
@pytest.mark.parametrize("name", MODULES)
def test_all_of_a_module_is_sorted_and_every_name_exists(name: str) -> None:
    module = importlib.import_module(name)
    if not name.rpartition(".")[2].startswith("_"):
        assert hasattr(module, "__all__"), f"{name} does not say which of its names are public"
    names = list(getattr(module, "__all__", []))
    assert names == sorted(set(names), key=constants_classes_functions)
    assert [missing for missing in names if not hasattr(module, missing)] == []


@pytest.mark.smoke
@pytest.mark.process
@pytest.mark.parametrize("name", ["gecaso", "gecaso.storages"])
def test_importing_the_package_imports_no_client_library(name: str) -> None:
    code = f"import {name}, sys; print(*(m.partition('.')[0] for m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert CLIENT_LIBRARIES & set(run.stdout.split()) == set()


@pytest.mark.smoke
@pytest.mark.process
@pytest.mark.parametrize(
    "program",
    ["", "f = gecaso.cached(lambda x: x); f(1), f(x='a')"],
    ids=["import", "a function over memory"],
)
def test_nothing_is_imported_that_only_some_programs_use(program: str) -> None:
    code = (
        "import sys, asyncio; before = set(sys.modules)\n"  # what asyncio imports costs no more
        f"import gecaso\n{program}\nprint(*set(sys.modules) - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    more = set(run.stdout.split())
    assert "gecaso.cache" in more
    assert more & AT_FIRST_USE == set()


def test_every_package_is_built() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = [name for name in MODULES if is_package(name)]
    assert sorted(declared["packages"]) == sorted(packages)


# -- imports -------------------------------------------------------------------------------------


@cache
def imports(name: str) -> frozenset[str]:
    """Return the modules of gecaso that this one imports, wherever in its text."""
    tree = ast.parse(module_path(name).read_text())
    found = {target for node in run_nodes(tree) for target in targets(node, name)}
    return frozenset(found - {name})


def run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, but not what only type checkers see."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from run_nodes(other)
        else:
            yield from run_nodes(child)


def targets(node: ast.AST, importer: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in MODULES)
    elif isinstance(node, ast.ImportFrom):
        source = absolute(node, importer)
        for alias in node.names:
            name = f"{source}.{alias.name}"
            if name in MODULES:
                yield name
            elif source in MODULES:
                yield source


def absolute(node: ast.ImportFrom, importer: str) -> str:
    """Return the full name of the module that ``from ... import`` names."""
    if node.level == 0:
        return node.module or ""
    parents = importer.split(".") if is_package(importer) else importer.split(".")[:-1]
    parents = parents[: len(parents) - node.level + 1]
    return ".".join([*parents, node.module] if node.module else parents)


def is_package(name: str) -> bool:
    return module_path(name).name == "__init__.py"


def layer(name: str) -> int | None:
    """Return the rank of a module; those of a package have the rank of the package."""
    for rank, names in enumerate(LAYERS):
        if name in names or (name.count(".") > 1 and name.rpartition(".")[0] in names):
            return rank
    return None


def reachable(name: str) -> set[str]:
    seen: set[str] = set()
    todo = [name]
    while todo:
        new = imports(todo.pop()) - seen
        seen |= new
        todo += new
    return seen


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_point_down(name: str) -> None:
    own = layer(name)
    if own is not None:
        ranks = {other: layer(other) for other in reachable(name)}
        assert [other for other, rank in ranks.items() if rank is not None and rank > own] == []


def test_no_module_imports_itself_through_others() -> None:
    TopologicalSorter({name: imports(name) for name in MODULES}).prepare()


# -- sizes ---------------------------------------------------------------------------------------

FOLDERS = ["gecaso", "storages", "tests", "examples", "benchmarks", "scripts"]
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of its body, without the docstring."""
    body = function.body[ast.get_docstring(function) is not None :]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


# A module of tests is as long as what it tests has cases.
SHORT = [path for path in SOURCES if "tests" not in path.relative_to(ROOT).parts]


@pytest.mark.parametrize("path", SHORT, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert [f.name for f in functions(ast.parse(text)) if length(f) > 50] == []
