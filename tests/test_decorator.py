"""`cached`: what it makes of a function, and what it refuses."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import pytest

from gecaso import BaseStorage, Cache, LRUStorage, MemoryStorage, NullStorage, cached
from tests.doubles import DictStorage, FakeClock, Loads, asyncio_iscoroutinefunction

# Not typed, for options of any kind.
decorate: Any = cached


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
    assert getattr(decorated, "__wrapped__") is area  # noqa: B009 - no checker knows it
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
    assert asyncio_iscoroutinefunction(decorated)
    assert getattr(decorated, "__wrapped__") is user  # noqa: B009 - no checker knows it
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
        f: Any = decorate(LRUStorage(maxsize=9), **options)(names_of_module["f"])
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
    def f(x: int, y: int = 2, *, z: int = 3) -> object:
        return loads((x, y, z))

    assert f(1) == f(x=1) == f(1, 2) == f(1, y=2) == f(y=2, x=1) == f(1, z=3) == (1, 2, 3)
    assert len(loads) == 1
    assert f.stats.hits == 5


def test_values_of_other_types_are_other_entries() -> None:
    loads = Loads()

    @cached
    def f(x: object) -> object:
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
    def f(*args: object, **kwargs: object) -> object:
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
async def test_values_that_are_false_are_values(
    storage: Callable[[], BaseStorage], value: object
) -> None:
    loads = Loads()

    @cached(storage())
    async def f() -> object:
        return loads(value)

    assert await f() == await f() == value
    assert len(loads) == 1


async def test_a_condition_says_what_is_stored() -> None:
    clock = FakeClock()
    loads = Loads()

    @cached(MemoryStorage(clock=clock), condition=lambda value: value is not None)
    async def f(x: object) -> object:
        return loads(x)

    assert await f(1) == await f(1) == 1
    assert await f(None) is await f(None) is None
    assert loads.seen == [1, None, None]
    assert f.stats.uncacheable == 1  # the second found the mark, and loaded for itself
