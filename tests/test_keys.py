"""Keys: when they are equal, and the text other processes know them by."""

from __future__ import annotations

import copy
import inspect
import json
import pathlib
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecaso.errors import UnkeyableArgument
from gecaso.keys import (
    Key,
    as_key,
    owner_of,
    owner_of_instance,
    prefixed_key,
)
from gecaso.keys.canonical import typed
from tests import keyed_values as kv


class Storage:
    """Stands for a shared storage: something that can be referenced weakly."""


def f(x: int, y: int = 2) -> None: ...


def g(x: int, y: int = 2) -> None: ...


def key(*elements: object, function: Callable[..., Any] = f, **options: Any) -> Key:
    owner = owner_of(function, arity=len(elements), **options)
    parts = tuple(typed(element) for element in elements)
    return Key(owner, parts[0] if len(parts) == 1 else parts)


def test_bound_calls_that_mean_the_same_have_one_key() -> None:
    signature = inspect.signature(f)
    keys: set[Key] = set()
    for bound in (
        signature.bind(1),
        signature.bind(x=1),
        signature.bind(1, y=2),
        signature.bind(1, 2),
    ):
        bound.apply_defaults()
        keys.add(key(*bound.arguments.values()))
    assert keys == {key(1, 2)}
    assert len({str(k) for k in keys}) == 1


def test_one_one_point_nought_true_and_text_are_four_keys_nested_too() -> None:
    for wrap in kv.WRAPS:
        keys = [key(wrap(value)) for value in (1, 1.0, True, "1")]
        assert len(set(keys)) == len({str(k) for k in keys}) == 4


def test_text_with_and_without_a_space_differs() -> None:
    assert key("a b") != key("ab")
    assert key("a", "b") != key("ab", "") != key("", "ab")
    texts = {str(k) for k in (key("a b"), key("ab"), key("a", "b"), key("ab", ""), key("", "ab"))}
    assert len(texts) == 5


def test_a_key_is_no_other_kind_of_thing() -> None:
    assert as_key("a") != "a"
    assert as_key("a") == as_key(as_key("a"))


scalars = st.integers() | st.text(max_size=4) | st.binary(max_size=4) | st.floats() | st.none()
elements = st.lists(scalars, max_size=4)


@given(elements, elements, st.booleans())
def test_keys_are_equal_exactly_when_their_texts_are(one: Any, other: Any, hash_key: bool) -> None:
    if len(one) != len(other):
        return
    first, second = key(*one, hash_key=hash_key), key(*other, hash_key=hash_key)
    assert (first == second) == (str(first) == str(second))


@given(elements, elements)
def test_calls_with_other_numbers_of_arguments_have_other_texts(one: Any, other: Any) -> None:
    if len(one) != len(other):
        assert str(key(*one)) != str(key(*other))


def test_the_text_is_65_characters_for_every_number_of_arguments() -> None:
    for arguments in ((), (1,), ("x" * 10_000,), (1, "a", 2.0), ([1], {"a": 1})):
        assert re.fullmatch("[0-9a-f]{32}_[0-9a-f]{32}", str(key(*arguments)))


def test_the_text_of_a_call_has_not_changed() -> None:
    # A change here empties everybody's shared caches: it needs a line in the changelog.
    assert (
        str(key(7, "a", function=json.dumps))
        == "eb4a2a8aa9a920c8bf79dc47022b232d_3153b4e3ae1221422a480bc232a0ed7b"
    )
    assert (
        str(key(7, function=json.dumps, namespace="app", version=2))
        == "68aed7f383e06348a4877fbe65498089_a140891bc3be51f138d3236662fd0665"
    )
    assert (
        str(as_key((1, "a"))) == "bbf7769fea5c8d41a9068bd6edbb2c13_24986ab9e7f1d064a4b4d9ce4644a6c9"
    )


def test_processes_with_other_hash_seeds_agree_on_the_text() -> None:
    code = "from tests.test_keys import key; print(key({'a', 'b', 'c'}, {'x': 1.5, 'y': None}))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            cwd=pathlib.Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert texts == {str(key({"c", "b", "a"}, {"y": None, "x": 1.5}))}


def test_a_readable_key_shows_the_function_and_its_arguments() -> None:
    text = str(key(7, "it's", 1.0, True, None, b"\x00", -0.0, hash_key=False))
    assert text == "tests.test_keys.f(7,'it%27s',1.0,True,None,b'00',-0.0)"
    assert re.fullmatch(r"tests\.test_keys\.f\(#[0-9a-f]{32}\)", str(key([1], hash_key=False)))
    assert str(key(hash_key=False)) == "tests.test_keys.f()"


def test_text_given_directly_is_the_key_and_anything_else_has_a_digest() -> None:
    assert str(as_key("user:7")) == "user:7"
    assert re.fullmatch("[0-9a-f]{32}_[0-9a-f]{32}", str(as_key(7)))
    assert len({str(as_key(value)) for value in (1, "1", 1.0, True, b"1", (1,))}) == 6


def test_a_key_without_an_encoding_is_refused() -> None:
    with pytest.raises(UnkeyableArgument) as caught:
        as_key(object())
    assert caught.value.argument == "key"


def test_what_a_key_callable_returns_is_prefixed() -> None:
    assert str(prefixed_key("a", "app:")) == "app:a"
    assert prefixed_key("a") == as_key("a")
    assert prefixed_key((1,), "app:") == prefixed_key((1,), "app:") != prefixed_key((1,))
    assert prefixed_key(as_key(1), "app:") is not None
    assert prefixed_key(key(1), "app:") == key(1)


def test_the_repr_shows_owner_and_arguments() -> None:
    assert repr(key(7, "a")) == "<Key tests.test_keys.f(7,'a')>"
    assert repr(as_key("a")) == "<Key direct('a')>"
    assert repr(owner_of(f, arity=2)) == "<owner tests.test_keys.f, arity 2>"
    assert "private" in repr(owner_of_instance(owner_of(f), Storage()))


def test_a_direct_key_travels_and_the_key_of_a_function_says_why_not() -> None:
    for value in ("a", 1, None, (1, "a"), {"a": 1.0}):
        there = pickle.loads(pickle.dumps(as_key(value)))
        assert there == as_key(value)
        assert str(there) == str(as_key(value))
    assert copy.copy(key(1)) == copy.deepcopy(key(1)) == key(1)
    with pytest.raises(TypeError, match="str\\(key\\)"):
        pickle.dumps(key(1))
