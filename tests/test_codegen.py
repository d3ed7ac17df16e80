"""The path of a hit, compiled with the user's own signature."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecaso.codegen import Compiled, compile_path
from gecaso.entry import Entry
from tests.doubles import FakeClock


def compiled(function: Callable[..., Any], **options: Any) -> Compiled:
    signature = inspect.signature(function)
    keyed = options.pop("keyed", tuple(signature.parameters))
    is_async = inspect.iscoroutinefunction(function)
    return compile_path(function, signature, is_async=is_async, keyed=keyed, **options)


def bound(
    one: Compiled, entries: dict[Any, Entry], clock: Any = lambda: 0.0, on_hit: Any = None
) -> Any:
    """Bind to entries; a miss returns what it was given."""

    def miss(key: Any, args: Any, kwargs: Any) -> Any:
        return key, args, dict(kwargs)

    one.bind(entries, clock, on_hit, miss)
    return one.function


def f_one(x: Any) -> None: ...
def f_two(x: Any, y: Any = 2) -> None: ...
def f_only(x: Any, /, y: Any = 2, *, z: Any = 3) -> None: ...
def f_star(x: Any, *args: Any, z: Any = 3, **more: Any) -> None: ...
def f_bare_star(*, z: Any, a: Any = 1) -> None: ...
def f_all(*args: Any, **kwargs: Any) -> None: ...
def f_positional(x: Any, y: Any = 2, /) -> None: ...
def f_none() -> None: ...


FUNCTIONS: list[Callable[..., Any]] = [
    f_one,
    f_two,
    f_only,
    f_star,
    f_bare_star,
    f_all,
    f_positional,
    f_none,
]


def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except TypeError:
        return TypeError


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@given(
    args=st.lists(st.integers(0, 3), max_size=3),
    kwargs=st.dictionaries(st.sampled_from("xyzab"), st.integers(0, 3), max_size=3),
)
def test_arguments_are_bound_as_python_binds_them(
    function: Callable[..., Any], args: list[int], kwargs: dict[str, int]
) -> None:
    one = compiled(function)
    path = bound(one, {})
    got = outcome(path, *args, **kwargs)
    try:
        expected = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        assert got is TypeError
        assert outcome(one.typed_key, *args, **kwargs) is TypeError
        assert outcome(one.split, *args, **kwargs) is TypeError
        return
    expected.apply_defaults()
    key, positional, named = got
    again = inspect.signature(function).bind(*positional, **named)
    again.apply_defaults()
    assert again.arguments == expected.arguments
    assert one.typed_key(*args, **kwargs) == key
    assert one.split(*args, **kwargs) == (positional, named)


def test_an_int_and_a_str_are_their_own_keys_and_nothing_else_is() -> None:
    one = compiled(f_one)
    assert (one.typed_key(7), one.typed_key("7")) == (7, "7")
    others: list[Any] = [7.0, True, b"7", None, (7,), [7]]
    assert len({one.typed_key(other) for other in others} - {7, "7"}) == len(others)

    class Seven(int):
        pass

    class Liar(str):
        __slots__ = ()
        __class__ = str  # type: ignore[assignment]  # pretends

    with pytest.raises(TypeError, match="cannot be part of a key"):
        one.typed_key(Seven(7))
    with pytest.raises(TypeError, match="cannot be part of a key"):
        one.typed_key(Liar("7"))


def test_a_hit_is_fresh_and_counted() -> None:
    clock = FakeClock(0.0)
    one = compiled(f_one)
    path = bound(one, {7: Entry("value", 0.0, 10.0)}, clock)
    assert path(7) == path(x=7) == "value"
    assert one.hits(False) == 2
    clock.advance(10)
    assert path(7) == (7, (7,), {})
    assert one.hits(True) == 2
    assert one.hits(False) == 0


def test_on_hit_is_told_and_may_find_the_entry_gone() -> None:
    entry = Entry("value", 0.0)
    seen: list[Entry] = []
    path = bound(compiled(f_one), {7: entry}, on_hit=seen.append)
    assert path(7) == "value"
    assert seen == [entry]

    def gone(entry: Entry) -> None:
        raise KeyError(entry)

    assert bound(compiled(f_one), {7: entry}, on_hit=gone)(7) in ("value", (7, (7,), {}))


def test_a_coroutine_function_awaits_the_miss() -> None:
    async def f(x: int) -> str:
        return "called"

    async def miss(key: Any, args: Any, kwargs: Any) -> str:
        return "missed"

    one = compiled(f)
    one.bind({1: Entry("hit", 0.0)}, lambda: 0.0, None, miss)
    assert inspect.iscoroutinefunction(one.function)
    assert asyncio.run(one.function(1)) == "hit"
    assert asyncio.run(one.function(2)) == "missed"


def test_without_a_key_the_function_is_called_if_so_wanted() -> None:
    def f(x: Any, *, y: int = 1) -> Any:
        return ("called", x, y)

    errors: list[BaseException] = []
    path = bound(compiled(f, on_key_error=errors.append), {})
    thing = object()
    assert path(thing, y=2) == ("called", thing, 2)
    assert [type(error).__name__ for error in errors] == ["UnkeyableArgument"]
    assert path(1) == ((1, 1), (1,), {"y": 1})
    with pytest.raises(TypeError, match="x cannot be part of a key"):
        bound(compiled(f), {})(thing)


def test_a_key_function_replaces_the_arguments() -> None:
    def key_of(x: Any, y: Any, *, z: Any) -> Any:
        return x, z

    one = compiled(f_only, key_of=key_of)
    path = bound(one, {(1, 3): Entry("hit", 0.0)})
    assert path(1, 5) == "hit"
    assert path(1, z=4)[0] == (1, 4)


def test_parameters_that_are_not_keyed_reach_the_miss_all_the_same() -> None:
    path = bound(compiled(f_two, keyed=("x",)), {})
    assert path(1, object)[0] == path(1)[0] == 1
    assert path(1, "y")[1] == (1, "y")


def test_instances_have_entries_of_their_own() -> None:
    class C:
        def get(self, x: int) -> None: ...

    one, two = C(), C()
    instances = {id(one): {7: Entry("of one", 0.0)}, id(two): {7: Entry("of two", 0.0)}}
    path = bound(compiled(C.get, keyed=("x",), instances=instances), {7: Entry("of none", 0.0)})
    assert (path(one, 7), path(two, 7)) == ("of one", "of two")
    assert path(C(), 7)[0] == 7


def test_names_inside_give_way_to_those_of_parameters() -> None:
    names = ["_gecaso_", "_gecaso__", "_gecaso_entries", "_gecaso___miss", "type", "id", "KeyError"]
    space: dict[str, Any] = {}
    exec(f"def f({', '.join(names)}): pass", space)
    values = tuple(range(len(names)))
    assert bound(compiled(space["f"]), {})(*values) == (values, values, {})
