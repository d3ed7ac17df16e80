"""Two functions of one name may not read each other's entries."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from gecaso.errors import AmbiguousFunction
from gecaso.keys import owner_of
from gecaso.keys.ambiguity import check_ambiguous
from tests import keyed_values as kv
from tests.test_keys import Storage


def made(source: str, **closure: object) -> Any:
    """Return a function called ``same`` of the module ``shop``, made from ``source``."""
    scope: dict[str, Any] = {"__name__": "shop", **closure}
    exec(source, scope)
    return scope["same"]


def check(function: Any, storage: object) -> None:
    check_ambiguous(function, owner_of(function), storage)


def test_a_lambda_is_refused_on_a_shared_storage() -> None:
    with pytest.raises(AmbiguousFunction) as caught:
        check(lambda: 0, Storage())
    assert "key=" in str(caught.value)
    assert "namespace=" in str(caught.value)


ONE = "def same(x, y=1):\n    return [x + 1 for _ in (0,)]"


@pytest.mark.parametrize(
    "other",
    [
        "def same(x, y=1):\n    return [x + 2 for _ in (0,)]",
        "def same(x, y=1):\n    return [x - 1 for _ in (0,)]",
        "def same(x, y=1):\n    return [x + 1.0 for _ in (0,)]",
        "def same(x, y=2):\n    return [x + 1 for _ in (0,)]",
        "def same(x, *, y=1):\n    return [x + 1 for _ in (0,)]",
        "async def same(x, y=1):\n    return [x + 1 for _ in (0,)]",
        "def same(x, y=1):\n    return [z + 1 for _ in (0,)]",
    ],
)
def test_two_live_functions_of_one_name_and_other_code_are_refused(other: str) -> None:
    storage = Storage()
    first, second = made(ONE), made(other)
    check(first, storage)
    with pytest.raises(AmbiguousFunction, match=r"shop\.same"):
        check(second, storage)
    check(second, Storage())
    del first
    gc.collect()
    check(second, storage)


def test_the_same_code_elsewhere_in_the_file_is_no_second_function() -> None:
    storage = Storage()
    first, second = made(ONE), made("\n\n" + ONE)
    check(first, storage)
    check(first, storage)
    check(second, storage)


def counter(start: Any) -> Callable[[], Any]:
    def same() -> Any:
        return start, helper()

    def helper() -> Any:
        return start, same

    return same


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (1, 1, True),
        ([1], [1], True),
        (1, 1.0, False),
        (1, 2, False),
        (kv.Opaque(), kv.Opaque(), False),
        (counter(1), counter(1), True),
        (counter(1), counter(2), False),
    ],
)
def test_closure_values_tell_two_functions_apart(one: Any, other: Any, alike: bool) -> None:
    storage = Storage()
    first, second = counter(one), counter(other)
    check(first, storage)
    if alike:
        check(second, storage)
    else:
        with pytest.raises(AmbiguousFunction):
            check(second, storage)
