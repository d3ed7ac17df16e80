"""Caching is switched off by a block, for as long as the outermost lasts, or by the environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import gecaso

PROGRAM = """
import gecaso
@gecaso.cached
def number():
    return [1]
print(number() is number())
"""


@gecaso.cached
def made() -> list[int]:
    return [1]


def test_the_inner_of_two_blocks_does_not_switch_caching_on() -> None:
    assert made() is made()
    with gecaso.disabled():
        with gecaso.disabled():
            assert made() is not made()
        assert made() is not made()
    assert made() is made()


@pytest.mark.process
@pytest.mark.parametrize(
    ("value", "is_cached"), [("1", "False"), ("yes", "False"), ("0", "True"), ("", "True")]
)
def test_the_environment_switches_caching_off(value: str, is_cached: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "GECASO_DISABLE": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == is_cached
