"""The operations on a cached function, in its colour."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from gecaso import BaseStorage, CacheInfo, LRUStorage, MemoryStorage, NullStorage, Stats, cached
from gecaso.errors import UnkeyableArgument, Unsupported
from tests.doubles import DictStorage, FakeClock, Loads, in_thread, portal_threads


class Colour:
    """Makes cached functions of one colour, and gives what their operations give."""

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async

    def make(self, storage: Any, loads: Loads, **options: Any) -> Any:
        async def later(x: int, y: int = 2) -> Any:
            return loads((x, y, len(loads)))

        def at_once(x: int, y: int = 2) -> Any:
            return loads((x, y, len(loads)))

        return cached(storage, **options)(later if self.is_async else at_once)

    async def __call__(self, result: Any) -> Any:
        return await result if self.is_async else result


@pytest.fixture(params=[True, False], ids=["coroutine", "plain"])
def colour(request: pytest.FixtureRequest) -> Colour:
    return Colour(request.param)


STORAGES = [
    MemoryStorage,
    lambda: MemoryStorage(maxsize=9, isolate=True),
    lambda: LRUStorage(maxsize=9),
    lambda: LRUStorage(MemoryStorage(), maxsize=9),
    lambda: LRUStorage(DictStorage(), maxsize=9),
    DictStorage,
]


@pytest.fixture(params=STORAGES, ids=["memory", "isolate", "lru", "lru-memory", "lru-dict", "dict"])
def storage(request: pytest.FixtureRequest) -> Any:
    return request.param()


async def test_peek_never_loads(colour: Colour, storage: Any) -> None:
    loads = Loads()
    f = colour.make(storage, loads)
    with pytest.raises(KeyError):
        await colour(f.peek(1))
    assert len(loads) == 0
    await colour(f(1))
    assert await colour(f.peek(x=1)) == (1, 2, 0)
    assert len(loads) == 1


async def test_refresh_loads_stores_and_returns(colour: Colour, storage: Any) -> None:
    loads = Loads()
    f = colour.make(storage, loads)
    assert await colour(f.refresh(1)) == (1, 2, 0)
    assert await colour(f(1)) == (1, 2, 0)
    assert await colour(f.refresh(1, y=2)) == (1, 2, 1)
    assert await colour(f(1)) == await colour(f.peek(1)) == (1, 2, 1)
    assert len(loads) == 2


async def test_put_stores_for_the_arguments(colour: Colour, storage: Any) -> None:
    loads = Loads()
    f = colour.make(storage, loads)
    assert await colour(f.put("put", 1)) is None
    assert await colour(f(1, 2)) == "put"
    await colour(f.put(None, x=1, y=3))
    assert await colour(f(1, 3)) is None
    assert len(loads) == 0


async def test_invalidate_removes_one_key(colour: Colour, storage: Any) -> None:
    loads = Loads()
    f = colour.make(storage, loads)
    await colour(f.invalidate(1))
    await colour(f(1))
    await colour(f(2))
    assert await colour(f.invalidate(x=1)) is None
    with pytest.raises(KeyError):
        await colour(f.peek(1))
    assert await colour(f.peek(2)) == (2, 2, 1)
    assert await colour(f(1)) == (1, 2, 2)


async def test_operations_raise_for_what_can_be_no_key(colour: Colour) -> None:
    f = colour.make(MemoryStorage(), Loads(), on_key_error="call")
    calls: list[Callable[[], Any]] = [
        lambda: f.peek(object()),
        lambda: f.refresh(object()),
        lambda: f.put(1, object()),
        lambda: f.invalidate(object()),
    ]
    for call in calls:
        with pytest.raises(UnkeyableArgument):
            await colour(call())
    with pytest.raises(TypeError, match="argument"):
        await colour(f.peek(1, 2, 3))
    with pytest.raises(TypeError, match="argument"):
        await colour(f.invalidate(z=1))


async def test_the_uncached_function_is_the_users_own(colour: Colour) -> None:
    loads = Loads()
    f = colour.make(MemoryStorage(), loads)
    await colour(f(1))
    assert await colour(f.uncached(1)) == await colour(f.__wrapped__(1)) or len(loads) == 3
    assert f.uncached is f.__wrapped__
    assert len(loads) == 3


async def test_put_keeps_a_value_for_the_ttl(colour: Colour) -> None:
    clock = FakeClock()
    f = colour.make(MemoryStorage(clock=clock), Loads(), ttl=10)
    await colour(f.put("put", 1))
    clock.advance(9.9)
    assert await colour(f.peek(1)) == "put"
    clock.advance(0.1)
    with pytest.raises(KeyError):
        await colour(f.peek(1))


# -- clear ---------------------------------------------------------------------------------------


async def test_clear_removes_what_this_function_has(colour: Colour) -> None:
    storage = MemoryStorage()
    f, g = colour.make(storage, Loads()), colour.make(storage, Loads())
    for x in range(3):
        await colour(f(x))
        await colour(g(x))
    await colour(f.clear())
    assert len(storage) == 3
    with pytest.raises(KeyError):
        await colour(f.peek(1))
    assert await colour(g.peek(1)) == (1, 2, 1)


async def test_clear_is_refused_on_shared_storages_and_for_keys_of_ones_own(colour: Colour) -> None:
    for f, reason in [
        (colour.make(DictStorage(), Loads()), "its storage is shared"),
        (colour.make(MemoryStorage(), Loads(), key="it:{x}"), "invalidate them one by one"),
    ]:
        with pytest.raises(Unsupported, match=reason):
            await colour(f.clear())
        with pytest.raises(Unsupported, match=reason):
            f.cache_clear()


async def test_a_load_under_way_is_not_stored_after_clear() -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    loads = Loads()

    @cached(MemoryStorage())
    async def f() -> object:
        loads(1)
        if len(loads) == 1:
            started.set()
            await gate.wait()
        return len(loads)

    first = asyncio.create_task(f())
    await started.wait()
    await f.clear()
    assert await f() == 2
    gate.set()
    await first
    assert await f() == 2
    assert f.stats.fenced == 1


async def test_after_an_invalidation_nobody_waits_for_the_load_from_before_it() -> None:
    gate, started = asyncio.Event(), asyncio.Event()

    @cached(MemoryStorage())
    async def f() -> int:
        number = f.stats.loads
        if number == 1:
            started.set()
            await gate.wait()
        return number

    first = asyncio.create_task(f())
    await started.wait()
    await f.invalidate()
    async with asyncio.timeout(5):
        assert await f() == 2
    await f.put(7)
    gate.set()
    assert (await first, await f()) == (1, 7)


# -- refresh -------------------------------------------------------------------------------------


async def test_others_get_the_old_value_during_a_refresh_and_refreshes_share() -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    loads = Loads()

    @cached(MemoryStorage())
    async def f() -> int:
        loads(1)
        if len(loads) > 1:
            started.set()
            await gate.wait()
        return len(loads)

    assert await f() == 1
    refreshes = [asyncio.create_task(f.refresh()) for _ in range(5)]
    await started.wait()
    assert await f() == await f.peek() == 1
    gate.set()
    assert await asyncio.gather(*refreshes) == [2] * 5
    assert await f() == 2
    assert len(loads) == 2


async def test_a_refresh_that_fails_leaves_the_old_value() -> None:
    loads = Loads()

    @cached(MemoryStorage())
    async def f() -> int:
        if loads(len(loads)):
            raise LookupError("no more")
        return 1

    assert await f() == 1
    with pytest.raises(LookupError):
        await f.refresh()
    assert await f() == 1


async def test_a_refresh_under_way_is_not_stored_after_an_invalidation() -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    loads = Loads()

    @cached(MemoryStorage())
    async def f() -> int:
        number = len(loads)
        loads(number)
        if number == 1:
            started.set()
            await gate.wait()
        return number

    assert await f() == 0
    refresh = asyncio.create_task(f.refresh())
    await started.wait()
    await f.invalidate()
    late = asyncio.create_task(f.refresh())
    assert await f() == 2
    gate.set()
    assert await refresh == 1  # it began before the invalidation
    assert await late >= 2
    assert await f() >= 2


# -- future --------------------------------------------------------------------------------------


async def test_a_future_in_a_loop_runs_there() -> None:
    @cached(MemoryStorage())
    async def f(x: int) -> object:
        return x, asyncio.get_running_loop()

    before = len(portal_threads())
    assert await asyncio.wrap_future(f.future(1)) == (1, asyncio.get_running_loop())
    assert f.stats.loads == 1
    assert len(portal_threads()) == before


def test_a_future_without_a_loop_runs_in_the_background() -> None:
    @cached(MemoryStorage())
    async def f(x: int) -> int:
        return x

    @cached(MemoryStorage())
    def g(x: int) -> tuple[int, threading.Thread]:
        return x, threading.current_thread()

    assert f.future(1).result(10) == 1
    value, thread = g.future(1).result(10)
    assert value == 1
    assert thread not in (threading.main_thread(), *portal_threads())
    assert g(1) == (1, thread)
    assert isinstance(f.future("a", 2, 3).exception(10), TypeError)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType] - meant to be wrong


# -- what is counted -----------------------------------------------------------------------------


async def test_stats_count_calls_and_loads(colour: Colour) -> None:
    f = colour.make(MemoryStorage(), Loads())
    for x in (1, 1, 2, 1):
        await colour(f(x))
    assert f.stats == Stats(
        hits=2,
        misses=2,
        loads=2,
        joined=0,
        errors=0,
        fenced=0,
        lost=0,
        uncacheable=0,
        storage_errors=0,
    )
    assert f.stats != Stats(*[0] * 9)
    assert repr(f.stats).startswith("Stats(hits=2, misses=2")


async def test_a_call_that_starts_over_is_one_miss() -> None:
    storage = MemoryStorage()
    gate, started = asyncio.Event(), asyncio.Event()

    @cached(storage)
    async def f() -> int:
        started.set()
        await gate.wait()
        return 1

    first = asyncio.create_task(f())
    await started.wait()
    storage.discard_now([f.key()])  # the second joins a load that is fenced
    second = asyncio.create_task(f())
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, second)
    assert (f.stats.misses, f.stats.loads, f.stats.joined) == (2, 2, 1)


async def test_the_functools_names_tell_the_same(colour: Colour) -> None:
    f = colour.make(MemoryStorage(maxsize=3), Loads(), ttl=5)
    for x in (1, 1, 2, 3, 4, 5):
        await colour(f(x))
    assert f.cache_info() == CacheInfo(hits=1, misses=5, maxsize=3, currsize=3)
    assert f.cache_parameters() == {"maxsize": 3, "typed": True, "ttl": 5.0}
    f.cache_clear()
    assert f.cache_info() == (0, 0, 3, 0)
    assert f.stats == Stats(*[0] * 9)
    await colour(f(5))
    assert f.cache_info() == (0, 1, 3, 1)


@pytest.mark.parametrize(
    "make", [lambda: MemoryStorage(isolate=True), lambda: LRUStorage(MemoryStorage()), NullStorage]
)
def test_the_size_is_known_on_every_storage_in_memory(make: Callable[[], BaseStorage]) -> None:
    storage = make()

    @cached(storage)
    def f(x: int) -> int:
        return x

    f(1)
    f(2)
    assert f.cache_info().currsize == (0 if isinstance(storage, NullStorage) else 2)


def test_hits_over_a_storage_without_a_short_path_are_counted() -> None:
    for storage in (MemoryStorage(isolate=True), LRUStorage(MemoryStorage())):

        @cached(storage)
        def f(x: int) -> int:
            return x

        f(1)
        f(1)
        f(1)
        assert (f.stats.hits, f.stats.misses) == (2, 1)


def test_operations_work_from_any_thread() -> None:
    f = Colour(False).make(MemoryStorage(), Loads())
    assert in_thread(lambda: f(1)) == f(1) == (1, 2, 0)
    in_thread(lambda: f.invalidate(1))
    assert f(1) == (1, 2, 1)
