"""The list of mutants is up to date; ``scripts/mutants`` shows that tests notice them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutation import ALL, Mutant

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code_and_is_python(mutant: Mutant) -> None:
    if not (ROOT / mutant.path).exists():
        pytest.skip("the checkout is not here")
    changed = mutant.applied(ROOT)
    ast.parse(changed)
    assert changed != (ROOT / mutant.path).read_text()
    for path in mutant.tests:
        assert (ROOT / path.partition("::")[0]).exists(), path


def test_no_two_mutants_have_the_same_name() -> None:
    names = [mutant.name for mutant in ALL]
    assert sorted(set(names)) == sorted(names)
