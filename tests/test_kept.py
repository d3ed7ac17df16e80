"""The keys that a function keeps, and the names that keys keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gecaso.keys import Key, as_key, naming, owner_of
from gecaso.keys.canonical import typed
from gecaso.keys.kept import LARGEST, MOST, keeping


def f(x: object) -> None: ...


OWNER = owner_of(f, arity=1)


def test_a_key_asked_for_again_is_the_same_one() -> None:
    key_of = keeping(OWNER)
    assert key_of(7) is key_of(7) == Key(OWNER, 7)


def test_what_is_equal_in_python_and_no_equal_argument_has_its_own_key() -> None:
    key_of = keeping(OWNER)
    keys = [key_of(typed(one)) for one in (1, True, 1.0, "1", b"1")]
    assert len(set(keys)) == len({str(key) for key in keys}) == 5


def test_no_more_than_a_bound_are_kept() -> None:
    key_of = keeping(OWNER)
    first = key_of(0)
    for number in range(MOST + 1):
        key_of(number)
    assert key_of(0) is not first


@pytest.mark.parametrize(
    "large", ["x" * LARGEST, 1 << 8 * LARGEST, ("a", "x" * LARGEST), list(range(1000))]
)
def test_a_large_key_is_not_kept(large: object) -> None:
    key_of, form = keeping(OWNER), typed(large)
    assert key_of(form) is not key_of(form)
    assert key_of(form) == key_of(form)


@pytest.mark.parametrize("small", [7, "user", 1.5, ("a", 2), None])
def test_a_small_key_is_kept_of_whatever_kind_it_is(small: object) -> None:
    key_of, form = keeping(OWNER), typed(small)
    assert key_of(form) is key_of(form)


def test_a_key_has_the_name_that_each_storage_gives_it() -> None:
    asked: list[str] = []

    def make(prefix: str) -> Callable[[Key], str]:
        def name(key: Key) -> str:
            asked.append(prefix)
            return f"{prefix}{key}"

        return naming(name)

    one, two, key = make("one:"), make("two:"), as_key("x")
    assert [one(key), one(key), two(key), two(key), one(key)] == [
        "one:x",
        "one:x",
        "two:x",
        "two:x",
        "one:x",
    ]
    assert asked == ["one:", "two:", "one:"]
