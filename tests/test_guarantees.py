"""Every promise names tests that show it, and every test named on the page exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
PROMISES = ["G1", "G2", "G3", "G4", "G5", "G5b", "G6", "G7", "G8", "G9", "G10", "G11"]
SECTION = re.compile(r"^## (G\d+b?) (.*?)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
IN_ONE_FILE = re.compile(r"^\* `(tests/\S+\.py)`: (.+)$", re.MULTILINE)


def named(text: str) -> list[tuple[str, str]]:
    """Return the file and the name of each test that a text names."""
    return [
        (file, name)
        for file, names in IN_ONE_FILE.findall(text)
        for name in re.findall(r"`(\w+)`", names)
    ]


@cache
def functions_in(file: str) -> set[str]:
    path = ROOT / file
    if not path.exists():
        return set()
    tree = ast.parse(path.read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("file", "name"), sorted(set(named(PAGE))))
def test_a_test_named_on_the_page_exists(file: str, name: str) -> None:
    assert name.startswith("test_")
    assert name in functions_in(file)


def test_every_promise_names_tests_that_show_it() -> None:
    shown = {promise: named(text) for promise, _, text in SECTION.findall(PAGE)}
    assert list(shown) == PROMISES
    assert [promise for promise, tests in shown.items() if not tests] == []


def test_every_name_that_looks_like_a_test_is_in_a_list_that_is_checked() -> None:
    assert sorted(re.findall(r"`(test_\w+)`", PAGE)) == sorted(name for _, name in named(PAGE))


def test_the_table_has_the_promises_and_their_titles() -> None:
    table = dict(re.findall(r"^\| \*\*(G\d+b?)\*\* (.+?) \|", PAGE, re.MULTILINE))
    assert table == {promise: title for promise, title, _ in SECTION.findall(PAGE)}


CATALOGUE = PAGE.partition("\n## The catalogue\n")[2]
ENTRIES = re.findall(r"^\| ([^|]+) \| (closed|bounded|yours|not built) \|", CATALOGUE, re.MULTILINE)


@pytest.mark.parametrize("entry", [entry for entry, _ in ENTRIES])
def test_an_entry_of_the_catalogue_has_a_test_named_like_it(entry: str) -> None:
    name = "test_" + re.sub(r"[ –-]", "_", entry.replace("'", ""))
    assert name in [test for _, test in named(CATALOGUE)]


def test_every_test_of_the_catalogue_is_on_the_page() -> None:
    files = sorted((ROOT / "tests" / "catalogue").glob("test_*.py"))
    tests = [
        (f"tests/catalogue/{file.name}", name)
        for file in files
        for name in functions_in(f"tests/catalogue/{file.name}")
        if name.startswith("test_")
    ]
    assert sorted(tests) == sorted(named(CATALOGUE))
    assert len(ENTRIES) == 29
