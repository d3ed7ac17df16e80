"""The options of `cached`: how long values stay, and what is refused at decoration."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from gecaso import Cache, MemoryStorage, cached
from gecaso.errors import ConfigurationError, UnknownOption
from tests.doubles import DictStorage, FakeClock, Loads, OnlyValues

# Not typed, for what is meant to be wrong.
decorate: Any = cached


def same(x: int) -> int:
    return x


def of_value(ttl: Callable[[int], object]) -> Callable[[int], object]:
    return ttl


# -- ttl -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        (60, 60.0),
        (0.5, 0.5),
        (timedelta(minutes=2), 120.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        (of_value(lambda value: value * 10), 70.0),
        (of_value(lambda value: timedelta(seconds=value)), 7.0),
        (of_value(lambda value: f"{value}s"), 7.0),
    ],
)
def test_an_entry_is_fresh_for_its_ttl_and_not_longer(ttl: Any, seconds: float) -> None:
    clock = FakeClock()
    loads = Loads()

    @cached(MemoryStorage(clock=clock), ttl=ttl)
    def f() -> object:
        return loads(7)

    f()
    clock.advance(seconds - 0.001)
    f()
    assert len(loads) == 1
    clock.advance(0.001)
    f()
    assert len(loads) == 2


@pytest.mark.parametrize("ttl", [None, of_value(lambda value: None), float("inf")])
def test_without_a_ttl_entries_stay(ttl: Any) -> None:
    clock = FakeClock()
    loads = Loads()

    @cached(MemoryStorage(clock=clock), ttl=ttl)
    def f() -> object:
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

    decorators: list[Any] = [cached, cached(), cached(MemoryStorage()), Cache().cached()]
    for decorator in decorators:
        for function, name in [
            (stream, "an async generator"),
            (functools.partial(stream), "an async generator"),
            (Callable_(), "an async generator"),
            (lines, "a generator"),
            (staticmethod(lines), "a generator"),
        ]:
            with pytest.raises(TypeError, match=f"is {name} function.*Return a list or a tuple"):
                decorator(function)


def test_what_is_no_function_and_no_storage_is_refused() -> None:
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

    assert decorate(storage)(same)(1) == 1
    assert len(storage.values) == 1


class AnyParams(OnlyValues):
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
            decorate(storage(), **{option: 60})(len)
        assert (caught.value.option, caught.value.nearest) == (option, nearest)
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, ConfigurationError)


def test_parameters_go_to_the_storage_that_takes_them_and_no_other() -> None:
    class Coloured(OnlyValues):
        async def set(self, key: Any, value: Any, *, colour: str = "") -> None:
            self.values[key] = colour

    storage = Coloured()
    colours: list[str] = []
    for f in (
        cached(storage, colour="red")(same),
        cached(storage, params={"colour": "blue"})(same),
        Cache(storage, colour="green").cached()(same),
        Cache(storage, colour="green").cached(colour="grey")(same),
    ):
        f.refresh(1)
        colours += storage.values.values()
    assert colours == ["red", "blue", "green", "grey"]
    for options in ({"taste": 1}, {"params": {"taste": 1}}):
        with pytest.raises(UnknownOption, match="'taste'"):
            decorate(storage, **options)
        with pytest.raises(UnknownOption, match="'taste'"):
            decorate(MemoryStorage(), **options)
