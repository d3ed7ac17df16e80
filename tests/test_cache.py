"""`Cache`: values, and functions that share a storage."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, field
from typing import Any

import pytest

from gecaso import MISSING, BaseStorage, Cache, LRUStorage, MemoryStorage, NullStorage, cached
from gecaso.errors import ConfigurationError, UnkeyableArgument, UnknownOption
from tests.doubles import DictStorage, FakeClock, Loads, OnlyValues


@pytest.fixture(params=["memory", "isolate", "lru", "dict"])
def cache(request: pytest.FixtureRequest) -> Cache:
    storages: dict[str, BaseStorage] = {
        "memory": MemoryStorage(),
        "isolate": MemoryStorage(isolate=True),
        "lru": LRUStorage(MemoryStorage()),
        "dict": DictStorage(),
    }
    return Cache(storages[request.param])


@pytest.mark.smoke
async def test_values_are_set_got_and_removed(cache: Cache) -> None:
    with pytest.raises(KeyError):
        await cache.get("a")
    await cache.set("a", 1)
    await cache.set(("b", 2), [1, 2])
    assert await cache.get("a") == 1
    assert await cache.get(("b", 2)) == [1, 2]
    await cache.remove("a", ("b", 2), "not there")
    with pytest.raises(KeyError, match="'a'"):
        await cache.get("a")
    await cache.set("a", 2)
    await cache.invalidate("a")
    assert await cache.get("a", default=None) is None


async def test_a_miss_may_give_a_default(cache: Cache) -> None:
    assert await cache.get("a", default=None) is None
    assert await cache.get("a", default=7) == 7
    await cache.set("a", None)
    assert await cache.get("a", default=7) is None
    with pytest.raises(KeyError):
        await cache.get("b", default=MISSING)
    assert not MISSING
    assert repr(MISSING) == "MISSING"


async def test_values_that_are_false_are_values(cache: Cache) -> None:
    values: list[Any] = [None, False, 0, "", b"", []]
    for value in values:
        await cache.set("a", value)
        assert await cache.get("a", default="missing") == value
        loads = Loads()
        assert await cache.get_or_create("a", functools.partial(loads, "new")) == value
        assert len(loads) == 0


async def test_keys_of_other_types_are_other_keys(cache: Cache) -> None:
    keys: list[Any] = [1, 1.0, True, "1", (1,), None, b"1"]
    for number, key in enumerate(keys):
        await cache.set(key, number)
    assert [await cache.get(key) for key in keys] == list(range(len(keys)))
    with pytest.raises(UnkeyableArgument):
        await cache.set(object(), 1)


async def test_get_or_create_makes_a_value_once(cache: Cache) -> None:
    loads = Loads()

    async def create() -> Any:
        await asyncio.sleep(0)
        return loads("made")

    results = await asyncio.gather(*[cache.get_or_create("a", create) for _ in range(20)])
    assert results == ["made"] * 20
    assert len(loads) == 1
    assert await cache.get("a") == "made"
    assert await cache.get_or_create("b", lambda: loads("plain")) == "plain"
    assert await cache.get("b") == "plain"


async def test_a_creator_that_fails_leaves_nothing(cache: Cache) -> None:
    async def fail() -> Any:
        raise LookupError("nothing to make")

    for _ in range(2):
        with pytest.raises(LookupError):
            await cache.get_or_create("a", fail)
    assert await cache.get_or_create("a", lambda: 1) == 1


async def test_a_set_during_a_creation_wins() -> None:
    cache = Cache(MemoryStorage())
    gate, started = asyncio.Event(), asyncio.Event()

    async def create() -> str:
        started.set()
        await gate.wait()
        return "old"

    creating = asyncio.create_task(cache.get_or_create("a", create))
    await started.wait()
    await cache.set("a", "new")
    assert await cache.get("a") == "new"
    gate.set()
    await creating
    assert await cache.get("a") == "new"


async def test_a_ttl_is_that_of_the_cache_or_of_the_call() -> None:
    clock = FakeClock()
    cache = Cache(MemoryStorage(clock=clock), ttl="1m")
    await cache.set("default", 1)
    await cache.set("short", 1, ttl=5)
    await cache.set("ever", 1, ttl=None)
    await cache.set("of the value", 90, ttl=lambda value: value)
    await cache.get_or_create("made", lambda: 1)
    await cache.get_or_create("made short", lambda: 1, ttl=5)
    names = ["default", "short", "ever", "of the value", "made", "made short"]

    async def there() -> list[str]:
        return [name for name in names if await cache.get(name, default=None)]

    assert await there() == names
    clock.advance(5)
    assert await there() == ["default", "ever", "of the value", "made"]
    clock.advance(55)
    assert await there() == ["ever", "of the value"]
    clock.advance(30)
    assert await there() == ["ever"]
    for bad in (0, -1, "soon"):
        with pytest.raises(ValueError, match="ttl must"):
            await cache.set("a", 1, ttl=bad)


async def test_a_ttl_that_the_storage_does_not_take_is_refused() -> None:
    class NoTtl(OnlyValues):
        async def set(self, key: Any, value: Any) -> None:
            self.values[key] = value

    with pytest.raises(ConfigurationError, match=r"NoTtl.set takes no ttl.*ttl=None"):
        Cache(NoTtl(), ttl=5)
    with pytest.raises(ConfigurationError, match="takes no ttl"):
        cached(NoTtl(), ttl=5)
    with pytest.raises(ConfigurationError, match="takes no ttl"):
        cached(Cache(NoTtl()), ttl=lambda value: 5)
    cache = Cache(NoTtl())
    with pytest.raises(ConfigurationError, match="takes no ttl"):
        await cache.set("a", 1, ttl=5)
    with pytest.raises(ConfigurationError, match="takes no ttl"):
        await cache.get_or_create("a", lambda: 1, ttl=5)
    await cache.set("a", 1, ttl=None)
    assert await cache.get("a") == 1


async def test_functions_share_the_storage_and_have_their_own_entries() -> None:
    storage = MemoryStorage()
    cache = Cache(storage, ttl=60)

    @cache.cached()
    async def f(x: int) -> str:
        return f"f{x}"

    @cache.cached(ttl=5)
    async def g(x: int) -> str:
        return f"g{x}"

    @cached(cache, key="h:{x}")
    async def h(x: int) -> str:
        return f"h{x}"

    assert (await f(1), await g(1), await h(1)) == ("f1", "g1", "h1")
    assert len(storage) == 3
    assert (f.cache_parameters()["ttl"], g.cache_parameters()["ttl"]) == (60.0, 5.0)
    assert await cache.get(f.key(1)) == "f1"
    assert await cache.get("h:1") == "h1"
    await cache.invalidate(f.key(1), "h:1")
    await f(1)
    await g(1)
    await h(1)
    assert (f.stats.loads, g.stats.loads, h.stats.loads) == (2, 1, 2)


async def test_a_function_needs_no_options_to_be_cached() -> None:
    cache = Cache(MemoryStorage(), ttl=60)

    @cache.cached
    async def f(x: int) -> int:
        return 2 * x

    class Shop:
        @cache.cached
        def price(self, item: str) -> int:
            return len(item)

    assert [await f(2), await f(2), Shop().price("tea")] == [4, 4, 3]
    assert f.stats.loads == 1
    assert f.cache_parameters()["ttl"] == 60.0
    not_a_function: Any = MemoryStorage()
    with pytest.raises(TypeError, match="is no function"):
        cache.cached(not_a_function)


async def test_the_condition_and_parameters_of_a_cache_are_those_of_its_functions() -> None:
    clock = FakeClock()
    cache = Cache(MemoryStorage(clock=clock), condition=bool)
    assert await cache.get_or_create("a", lambda: 0) == 0
    assert await cache.get("a", default="nothing") == "nothing"
    loads = Loads()

    @cache.cached()
    def f(x: int) -> object:
        return loads(x)

    f(0)
    f(0)
    f(1)
    f(1)
    assert loads.seen == [0, 0, 1]


async def test_without_a_storage_it_keeps_1024_entries() -> None:
    cache = Cache()
    for number in range(1100):
        await cache.set(number, number)
    assert await cache.get(1099) == 1099
    assert isinstance(cache.storage, MemoryStorage)
    assert len(cache.storage) == 1024


def test_options_that_nobody_takes_are_refused() -> None:
    with pytest.raises(UnknownOption, match="Did you mean ttl"):
        Cache(tll=5)
    with pytest.raises(TypeError, match="is no storage"):
        Cache("memory://")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - meant to be wrong


async def test_closing_closes_the_storage() -> None:
    class Closeable(DictStorage):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    storage = Closeable()
    async with Cache(storage) as cache:
        await cache.set("a", 1)
        assert storage.closed == 0
    assert storage.closed == 1
    await cache.aclose()
    assert storage.closed == 2
    await Cache(NullStorage()).aclose()


def test_the_repr_tells_name_storage_and_loads() -> None:
    assert repr(Cache(NullStorage(), name="users")) == (
        "<Cache 'users' over <NullStorage: 0 leases>: 0 loads>"
    )


# -- nothing is left behind ----------------------------------------------------------------------


def loading_of(function: Any) -> Any:
    return function.gecaso_function.loading


@dataclass(frozen=True)
class Named(DictStorage):
    """Equal to another of the same name."""

    name: str
    values: dict[Any, Any] = field(default_factory=dict[Any, Any], compare=False)
    sets: list[Any] = field(default_factory=list[Any], compare=False)
    threads: set[Any] = field(default_factory=set[Any], compare=False)


async def test_storages_that_are_equal_are_two_all_the_same() -> None:
    one, other = Named("users"), Named("users")
    assert one == other
    first, second = Cache(one), Cache(other)
    await first.set("k", "of the first")
    assert await second.get("k", default="none") == "none"
    await second.set("k", "of the second")
    assert (one.values, other.values) == ({"k": "of the first"}, {"k": "of the second"})


async def test_a_storage_may_be_unhashable() -> None:
    class Unhashable(DictStorage):
        __hash__ = None  # type: ignore[assignment]  # as a dataclass that can change

    storage = Unhashable()
    cache = Cache(storage)

    @cache.cached(key="user:{id}")
    async def user(id: int) -> int:
        return id

    assert await user(1) == await user(1) == 1
    assert user.stats.loads == 1
    await cache.remove("user:1")
    assert storage.values == {}


async def test_flights_and_leases_end_with_their_loads() -> None:
    storage = MemoryStorage(maxsize=10)

    @cached(storage, ttl=60)
    async def f(x: int) -> int:
        await asyncio.sleep(0)
        if x % 3 == 0:
            raise LookupError
        return x

    tasks_before = asyncio.all_tasks()
    calls = [f(x % 50) for x in range(500)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, LookupError) for result in results) == 170
    waiting = [asyncio.create_task(f(x + 1000)) for x in range(100)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.sleep(0)
    assert len(loading_of(f).flights) == len(storage.leases) == 0
    assert asyncio.all_tasks() == tasks_before
    assert len(storage) == 10
