"""Every ``>>>`` example of a docstring runs and shows what it says; it may ``await``."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import importlib
import inspect
import io
import traceback
from collections.abc import Callable

import pytest

from tests.test_layout import MODULES

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
checker = doctest.OutputChecker()


def examples_of(name: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    return [test for test in found if test.examples]


def shown(example: doctest.Example, test: doctest.DocTest, runner: asyncio.Runner) -> str:
    """Run one example and return what a prompt would show."""
    output = io.StringIO()
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    place = f"<{test.name}, example in line {(test.lineno or 0) + example.lineno + 1}>"
    with contextlib.redirect_stdout(output):
        try:
            result = eval(compile(example.source, place, "single", flags), test.globs)
            if inspect.iscoroutine(result):
                runner.run(result)
        except Exception as error:
            if example.exc_msg is None:
                raise
            print("".join(traceback.format_exception_only(error)), end="")
    return output.getvalue()


def run(test: doctest.DocTest) -> None:
    with asyncio.Runner() as runner:
        for example in test.examples:
            wanted = example.want if example.exc_msg is None else example.exc_msg
            got = shown(example, test, runner)
            flags = FLAGS | sum(flag for flag, is_set in example.options.items() if is_set)
            assert checker.check_output(wanted, got, flags), (
                f"{test.name}: {example.source}shows {got!r}, not {wanted!r}"
            )


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, on_test_servers: Callable[[str], str]) -> None:
    for test in examples_of(name):
        for example in test.examples:
            example.source = on_test_servers(example.source)
        run(test)


SAMPLE = """
>>> import asyncio
>>> await asyncio.sleep(0, "slept")
'slept'
>>> 1 / 0
Traceback (most recent call last):
ZeroDivisionError: division by zero
>>> 1 + 1
{}
"""


def test_an_example_may_await_and_fail_and_must_show_what_it_says() -> None:
    parse = doctest.DocTestParser().get_doctest
    run(parse(SAMPLE.format(2), {}, "sample", None, 0))
    with pytest.raises(AssertionError, match="shows '2"):
        run(parse(SAMPLE.format(3), {}, "sample", None, 0))
