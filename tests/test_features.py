"""The page of features counts right, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "features.md").read_text()
ROW = re.compile(
    r"^\| (\d+) \| .+? \| (yes|in part|planned) \| .* \| (?:`(\S+)` )?\|$", re.MULTILINE
)
ROWS: list[tuple[str, str, str]] = ROW.findall(PAGE)


def test_there_are_as_many_rows_as_features() -> None:
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 205))


def test_the_page_counts_right() -> None:
    count = Counter(state for _, state, _ in ROWS)
    said = f"Now: {count['yes']} yes, {count['in part']} in part, {count['planned']} planned."
    assert said in PAGE


@pytest.mark.parametrize("shown_by", sorted({test for _, _, test in ROWS if test}))
def test_what_shows_a_feature_exists(shown_by: str) -> None:
    file, _, name = shown_by.partition("::")
    assert (ROOT / file).exists()
    if name:
        tree = ast.parse((ROOT / file).read_text())
        defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, defined)}
