"""What can be decorated: everything that can be called, and tells what it takes."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import operator
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from gecaso import MemoryStorage, NullStorage, cached
from tests.doubles import DictStorage, Loads

# Not typed, for callables of any kind.
decorate: Any = cached


def area(width: int, height: int = 2, *, unit: str = "m") -> str:
    return f"{width * height}{unit}"


async def area_later(width: int, height: int = 2, *, unit: str = "m") -> str:
    return area(width, height, unit=unit)


async def test_partials() -> None:
    plain = decorate(functools.partial(area, 3, unit="km"))
    later = decorate(functools.partial(functools.partial(area_later, 3), unit="km"))
    assert not inspect.iscoroutinefunction(plain)
    assert inspect.iscoroutinefunction(later)
    assert plain() == plain(2) == await later() == await later(height=2) == "6km"
    assert plain(4) == await later(4) == "12km"
    assert plain.stats.loads == later.stats.loads == 2


async def test_instances_that_can_be_called() -> None:
    class Base:
        async def __call__(self, x: int) -> int:
            return x

    class Sub(Base):
        """Inherits its colour."""

    class Plain:
        def __call__(self, x: int) -> int:
            return x

    later, plain = decorate(Sub()), decorate(Plain())
    assert inspect.iscoroutinefunction(later)
    assert await later(1) == await later(x=1) == plain(1) == plain(1) == 1
    assert later.stats.loads == plain.stats.loads == 1


def test_builtins_and_classes() -> None:
    length, add = decorate(len), decorate(operator.add)
    assert length([1, 2]) == length([1, 2]) == add(1, 1) == 2
    assert length.stats.loads == 1

    class Thing:
        def __init__(self, x: int) -> None:
            self.x = x

    thing = decorate(Thing)
    assert thing(1) is thing(x=1)
    assert thing(2).x == 2


def test_a_method_of_an_instance_is_a_function() -> None:
    class Repo:
        def get(self, x: int) -> tuple[object, int]:
            return self, x

    one, two = Repo(), Repo()
    storage = MemoryStorage()
    of_one, of_two = decorate(storage)(one.get), decorate(storage)(two.get)
    assert inspect.isfunction(of_one) is inspect.isfunction(of_two) is True
    for _ in range(2):
        assert of_one(1) == (one, 1)
        assert of_two(1) == (two, 1)
    of_one.invalidate(1)
    assert of_two.peek(1) == (two, 1)
    unbound = decorate(storage)(Repo.get)
    assert unbound(one, 1) == (one, 1)


def test_other_decorators_below_and_above() -> None:
    def traced(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    below = decorate(traced(area))
    assert below(3) == below(3, 2) == below(width=3) == "6m"
    assert below.stats.loads == 1
    above: Any = traced(decorate(area))
    assert above(3) == above(3, 2) == "6m"
    assert above.stats.loads == 1
    twice = decorate(decorate(area))
    assert twice(3) == twice(3) == "6m"


def test_an_abstract_method_stays_abstract() -> None:
    class Base(ABC):
        @cached
        @abstractmethod
        def get(self) -> int: ...

    class Made(Base):
        @cached
        def get(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] - self is of another class
            return 1

    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]  # pyright: ignore - meant to be wrong
    assert Made().get() == 1


def test_a_property_above_is_a_property() -> None:
    class Repo:
        @property
        @cached(MemoryStorage())
        def rows(self) -> list[int]:
            return [1]

    one = Repo()
    assert one.rows is one.rows
    assert one.rows is not Repo().rows


def test_a_function_is_its_own_copy_and_goes_when_nobody_has_it() -> None:
    function = decorate(lambda x: x)  # pyright: ignore[reportUnknownLambdaType] - any function
    assert copy.copy(function) is copy.deepcopy(function) is function
    function(1)
    gone = weakref.ref(function)
    del function
    gc.collect()
    assert gone() is None


# -- names of arguments --------------------------------------------------------------------------


async def test_arguments_may_have_the_names_of_ours() -> None:
    @cached(MemoryStorage())
    def f(**names: int) -> dict[str, int]:
        return names

    @cached(MemoryStorage())
    async def g(value: int, self: int = 0, **names: int) -> int:
        return value

    names = {"self": 1, "value": 2, "key": 3, "args": 4, "function": 5, "storage": 6}
    assert f(**names) == f(**names) == names
    assert f.key(**names) == f.key(**names)
    f.put({}, **names)
    assert f.peek(**names) == {}
    assert f.refresh(**names) == names
    f.invalidate(**names)
    assert f.future(**names).result(10) == names
    await g.put(7, value=2, self=1, key=3)
    assert await g.peek(2, self=1, key=3) == await g(2, 1, key=3) == 7
    await g.invalidate(value=2, self=1, key=3)
    assert await g.refresh(2, self=1, key=3) == 2


def test_arguments_of_methods_may_have_the_names_of_ours() -> None:
    class Repo:
        @cached(MemoryStorage())
        def get(self, value: int, key: int = 0) -> int:
            return value

    one = Repo()
    one.get.put(9, value=3, key=1)
    assert one.get(3, 1) == one.get.peek(value=3, key=1) == 9


# -- results that the first caller would use up --------------------------------------------------


@pytest.mark.parametrize("storage", [MemoryStorage, NullStorage, DictStorage])
def test_what_is_used_up_by_its_first_caller_is_refused(storage: Callable[[], Any]) -> None:
    async def stream() -> AsyncIterator[int]:
        yield 1

    def made(kind: str) -> object:
        return area_later(1) if kind == "coroutine" else (x for x in "ab")

    f = decorate(storage())(made)
    for kind in ("generator", "coroutine"):
        for _ in range(2):
            with pytest.raises(TypeError, match=f"returned a {kind}, which its first caller would"):
                f(kind)
    with pytest.raises(TypeError, match="returned a async_generator"):
        decorate(MemoryStorage())(lambda: stream())()  # noqa: PLW0108 - one that hides its kind
    assert f.stats.errors == f.stats.loads == 4


def test_iterators_that_a_coroutine_returns_are_refused_too() -> None:
    async def rows() -> Iterator[int]:
        return (x for x in range(3))

    with pytest.raises(TypeError, match="return a list or a tuple"):
        asyncio.run(decorate(MemoryStorage())(rows)())


def test_a_future_may_be_awaited_by_each() -> None:
    loads = Loads()

    async def use() -> list[int]:
        @cached
        def f() -> asyncio.Future[int]:
            loads(1)
            return asyncio.ensure_future(asyncio.sleep(0, 7))

        return [await f(), await f()]

    assert asyncio.run(use()) == [7, 7]
    assert len(loads) == 1
