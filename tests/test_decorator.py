"""`cached`: what it makes of a function, and what it refuses."""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from gecaso import Cache, LRUStorage, MemoryStorage, NullStorage, cached
from gecaso.errors import (
    ConfigurationError,
    UnknownOption,
)
from tests.doubles import DictStorage, FakeClock, Loads


def decorators() -> list[Any]:
    memory = MemoryStorage()
    return [
        pytest.param(cached, id="bare"),
        pytest.param(cached(), id="called"),
        pytest.param(cached(ttl=60), id="options"),
        pytest.param(cached(memory), id="storage"),
        pytest.param(cached(memory, ttl=60, namespace="n"), id="storage and options"),
        pytest.param(cached(Cache(memory)), id="cache"),
        pytest.param(Cache(memory).cached(), id="method of a cache"),
        pytest.param(cached(NullStorage()), id="null"),
        pytest.param(cached(LRUStorage(MemoryStorage())), id="lru"),
        pytest.param(cached(DictStorage()), id="three methods"),
    ]


@pytest.mark.smoke
@pytest.mark.parametrize("decorate", decorators())
def test_a_plain_function_stays_one(decorate: Any) -> None:
    def area(width: int, /, height: int = 2, *rest: int, unit: str = "m", **more: int) -> str:
        """Say how large it is."""
        return f"{width * height}{unit}{sum(rest)}{more}"

    decorated = decorate(area)
    assert decorated.__name__ == "area"
    assert decorated.__qualname__ == area.__qualname__
    assert decorated.__module__ == __name__
    assert decorated.__doc__ == "Say how large it is."
    assert inspect.signature(decorated) == inspect.signature(area)
    assert inspect.signature(decorated, follow_wrapped=False).parameters.keys() == (
        inspect.signature(area).parameters.keys()
    )
    assert typing.get_type_hints(decorated) == typing.get_type_hints(area)
    assert inspect.isfunction(decorated)
    assert not inspect.iscoroutinefunction(decorated)
    assert decorated.__wrapped__ is area
    assert decorated(3) == decorated(3) == area(3)
    assert decorated(3, 4, 5, unit="km", a=1) == area(3, 4, 5, unit="km", a=1)


@pytest.mark.smoke
@pytest.mark.parametrize("decorate", decorators())
async def test_a_coroutine_function_stays_one(decorate: Any) -> None:
    async def user(id: int, *, full: bool = False) -> dict[str, Any]:
        """Return a user."""
        return {"id": id, "full": full}

    decorated = decorate(user)
    assert decorated.__name__ == "user"
    assert decorated.__doc__ == "Return a user."
    assert inspect.signature(decorated) == inspect.signature(user)
    assert inspect.isfunction(decorated)
    assert inspect.iscoroutinefunction(decorated)
    assert asyncio.iscoroutinefunction(decorated)
    assert decorated.__wrapped__ is user
    assert await decorated(7) == await decorated(id=7) == {"id": 7, "full": False}
    assert await decorated(7, full=True) == {"id": 7, "full": True}


def test_the_attributes_of_a_function_survive() -> None:
    def f() -> None: ...

    f.mark = "kept"  # type: ignore[attr-defined]  # as other decorators do
    assert getattr(cached(f), "mark") == "kept"  # noqa: B009 - no checker knows it


@pytest.mark.parametrize("options", [{}, {"key": "k"}, {"on_key_error": "call"}])
def test_wrong_arguments_are_refused_as_the_function_refuses_them(options: Any) -> None:
    @cached(MemoryStorage(), **options)
    def f(x: int, /, *, y: int = 0) -> int:
        return x + y

    call: Callable[..., Any] = f
    for args, kwargs in [((), {}), ((1, 2), {}), ((), {"x": 1}), ((1,), {"z": 1})]:
        with pytest.raises(TypeError, match="argument"):
            call(*args, **kwargs)
    assert f.stats.loads == 0


def test_names_of_parameters_do_not_collide_with_names_inside() -> None:
    names = ["type", "int", "str", "id", "KeyError", "Exception", "typed", "get", "now", "key"]
    names += ["miss", "entry", "hits", "_gecaso_get", "_gecaso_key", "__class__", "self", "cls"]
    source = f"def f({', '.join(names)}, *args, **kwargs): return ({', '.join(names)})"
    for options in [{}, {"on_key_error": "call"}, {"key": "{type}:{id}"}]:
        names_of_module: dict[str, Any] = {}
        exec(source, names_of_module)
        f = cached(LRUStorage(maxsize=9), **options)(names_of_module["f"])  # type: ignore[call-overload]  # options of any kind
        values = tuple(range(len(names)))
        assert f(*values) == values
        assert f(*values) == values
        assert (f.stats.hits, f.stats.loads) == (1, 1)


def test_defaults_are_the_objects_of_the_function() -> None:
    marker = object()

    @cached(ignore=("default",))
    def f(x: int, default: object = marker) -> object:
        return default

    assert f(1) is marker
    assert inspect.signature(f, follow_wrapped=False).parameters["default"].default is marker


# -- one entry or several ------------------------------------------------------------------------


def test_calls_that_mean_the_same_are_one_entry() -> None:
    loads = Loads()

    @cached
    def f(x: int, y: int = 2, *, z: int = 3) -> Any:
        return loads((x, y, z))

    assert f(1) == f(x=1) == f(1, 2) == f(1, y=2) == f(y=2, x=1) == f(1, z=3) == (1, 2, 3)
    assert len(loads) == 1
    assert f.stats.hits == 5


def test_values_of_other_types_are_other_entries() -> None:
    loads = Loads()

    @cached
    def f(x: object) -> Any:
        return loads(x)

    values = [1, 1.0, True, "1", b"1", None, False, 0, 0.0, "", (1,), [1], {1: 1}, {1}, {"1": 1}]
    for _ in range(2):
        for value in values:
            got = f(value)
            assert (type(got), got) == (type(value), value)
    assert len(loads) == len(values)


def test_nan_is_one_entry_and_nested_arguments_are_told_apart() -> None:
    loads = Loads()

    @cached
    def f(*args: object, **kwargs: object) -> Any:
        return loads((args, kwargs))

    f(float("nan"))
    f(float("nan"))
    f([1, [2, {"a": (3,)}]], b={"x": 1, "y": 2}, a=1)
    f([1, [2, {"a": (3,)}]], a=1, b={"y": 2, "x": 1})
    assert len(loads) == 2
    f([1, [2, {"a": [3]}]], b={"x": 1, "y": 2}, a=1)
    f([1, [2, {"a": (3.0,)}]], b={"x": 1, "y": 2}, a=1)
    f("a b")
    f("ab")
    f("a", "b")
    assert len(loads) == 7


def test_functions_do_not_share_entries_on_one_storage() -> None:
    storage = MemoryStorage()

    def make(result: str) -> Any:
        @cached(storage)
        def f(x: int) -> str:
            return result

        return f

    first, second = make("first"), make("second")
    assert (first(1), second(1), first(1)) == ("first", "second", "first")


def test_bare_and_called_functions_have_a_storage_of_1024_entries_each() -> None:
    decorate = cached()

    def f(x: int) -> int:
        return x

    def g(x: int) -> int:
        return x

    for made in (decorate(f), decorate(g), cached(f)):
        assert made.cache_info().maxsize == 1024
        for x in range(1100):
            made(x)
        assert made.cache_info().currsize == 1024


# -- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "storage", [MemoryStorage, DictStorage, lambda: MemoryStorage(isolate=True)]
)
@pytest.mark.parametrize("value", [None, False, 0, "", [], ()])
async def test_values_that_are_false_are_values(storage: Callable[[], Any], value: object) -> None:
    loads = Loads()

    @cached(storage())
    async def f() -> Any:
        return loads(value)

    assert await f() == await f() == value
    assert len(loads) == 1


async def test_a_condition_says_what_is_stored() -> None:
    clock = FakeClock()
    loads = Loads()

    @cached(MemoryStorage(clock=clock), condition=lambda value: value is not None)
    async def f(x: object) -> Any:
        return loads(x)

    assert await f(1) == await f(1) == 1
    assert await f(None) is await f(None) is None
    assert loads.seen == [1, None, None]
    assert f.stats.uncacheable == 1  # the second found the mark, and loaded for itself


# -- ttl -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        (60, 60.0),
        (0.5, 0.5),
        (timedelta(minutes=2), 120.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        (lambda value: value * 10, 70.0),
        (lambda value: timedelta(seconds=value), 7.0),
        (lambda value: f"{value}s", 7.0),
    ],
)
def test_an_entry_is_fresh_for_its_ttl_and_not_longer(ttl: Any, seconds: float) -> None:
    clock = FakeClock()
    loads = Loads()

    @cached(MemoryStorage(clock=clock), ttl=ttl)
    def f() -> Any:
        return loads(7)

    f()
    clock.advance(seconds - 0.001)
    f()
    assert len(loads) == 1
    clock.advance(0.001)
    f()
    assert len(loads) == 2


@pytest.mark.parametrize("ttl", [None, lambda value: None, float("inf")])
def test_without_a_ttl_entries_stay(ttl: Any) -> None:
    clock = FakeClock()
    loads = Loads()

    @cached(MemoryStorage(clock=clock), ttl=ttl)
    def f() -> Any:
        return loads(7)

    f()
    clock.advance(1e12)
    f()
    assert len(loads) == 1


@pytest.mark.parametrize("ttl", [0, -1, 0.0, float("nan"), timedelta(0), "0s", "", "5 parsecs"])
def test_a_ttl_that_is_not_above_zero_is_refused(ttl: Any) -> None:
    with pytest.raises(ValueError, match="ttl must"):
        cached(MemoryStorage(), ttl=ttl)
    with pytest.raises(ValueError, match="ttl must"):
        cached(ttl=ttl)(lambda: None)
    with pytest.raises(ValueError, match="ttl must"):
        Cache(ttl=ttl)


@pytest.mark.parametrize("ttl", [True, False, [], b"5m", object()])
def test_a_ttl_that_is_no_duration_is_refused(ttl: Any) -> None:
    with pytest.raises(TypeError, match="ttl must be seconds, a timedelta or text"):
        cached(MemoryStorage(), ttl=ttl)


async def test_a_ttl_function_that_gives_what_is_no_ttl_fails_the_call() -> None:
    @cached(MemoryStorage(), ttl=lambda value: 0)
    async def f() -> int:
        return 1

    with pytest.raises(ValueError, match="ttl must be above zero"):
        await f()


# -- what is refused at decoration ---------------------------------------------------------------


def test_generator_functions_are_refused() -> None:
    async def stream() -> AsyncIterator[int]:
        yield 1

    def lines() -> Iterator[int]:
        yield 1

    class Callable_:
        async def __call__(self) -> AsyncIterator[int]:
            yield 1

    for decorate in (cached, cached(), cached(MemoryStorage()), Cache().cached()):
        for function, name in [
            (stream, "an async generator"),
            (functools.partial(stream), "an async generator"),
            (Callable_(), "an async generator"),
            (lines, "a generator"),
            (staticmethod(lines), "a generator"),
        ]:
            with pytest.raises(TypeError, match=f"is {name} function.*Return a list or a tuple"):
                decorate(function)  # type: ignore[operator]  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType] - any decorator


def test_what_is_no_function_and_no_storage_is_refused() -> None:
    decorate: Any = cached
    with pytest.raises(TypeError, match="is no storage"):
        decorate("redis://localhost")
    with pytest.raises(TypeError, match=r"is no function; write @cached\(...\) above a def"):
        decorate(MemoryStorage())(42)
    with pytest.raises(TypeError, match=r"write cached\(MemoryStorage\(\)"):
        decorate(MemoryStorage)
    with pytest.raises(TypeError, match=r"write cached\(MemoryStorage\(\)"):
        decorate(MemoryStorage, ttl=60)


def test_a_storage_may_be_callable() -> None:
    class Callable_(DictStorage):
        def __call__(self) -> None: ...

    storage = Callable_()

    @cached(storage)
    def f() -> int:
        return 1

    assert f() == 1
    assert len(storage.values) == 1


class AnyParams(DictStorage):
    async def set(self, key: Any, value: Any, **params: Any) -> None:
        self.values[key] = value


@pytest.mark.parametrize("storage", [MemoryStorage, DictStorage, AnyParams, lambda: None, Cache])
def test_a_misspelt_option_is_refused_with_the_nearest_name(storage: Callable[[], Any]) -> None:
    for option, nearest in [
        ("tll", "ttl"),
        ("conditon", "condition"),
        ("lease_second", "lease_seconds"),
        ("namspace", "namespace"),
        ("ignores", "ignore"),
        ("on_key_eror", "on_key_error"),
    ]:
        with pytest.raises(UnknownOption, match=f"'{option}'. Did you mean {nearest}") as caught:
            cached(storage(), **{option: 60})(lambda: None)  # type: ignore[call-overload]  # pyright: ignore - meant to be wrong
        assert (caught.value.option, caught.value.nearest) == (option, nearest)
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, ConfigurationError)


def test_parameters_go_to_the_storage_that_takes_them_and_no_other() -> None:
    class Coloured(DictStorage):
        async def set(self, key: Any, value: Any, *, colour: str = "") -> None:
            self.sets.append((key, value, {"colour": colour}))

    storage = Coloured()
    cached(storage, colour="red")(lambda_free)(1)
    cached(storage, params={"colour": "blue"})(lambda_free)(1)
    Cache(storage, colour="green").cached()(lambda_free)(1)
    Cache(storage, colour="green").cached(colour="grey")(lambda_free)(1)
    assert [params["colour"] for _, _, params in storage.sets] == ["red", "blue", "green", "grey"]
    for options in ({"taste": 1}, {"params": {"taste": 1}}):
        with pytest.raises(UnknownOption, match="'taste'"):
            cached(storage, **options)  # type: ignore[call-overload]  # pyright: ignore - meant to be wrong
        with pytest.raises(UnknownOption, match="'taste'"):
            cached(MemoryStorage(), **options)  # type: ignore[call-overload]  # pyright: ignore - meant to be wrong


def lambda_free(x: int) -> int:
    return x
