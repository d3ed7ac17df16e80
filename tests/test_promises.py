"""One load, nobody pays for another, errors are not kept: in memory and over real servers."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, TypeVar

import pytest

from gecaso import Cache, EntryStorage, RecursiveLoad, cached
from gecaso.keys import as_key
from gecaso.storages.redis import RedisStorage
from tests.scenes import KINDS, Place, Process, Truth, patience, place_for
from tests.servers import RedisServer

T = TypeVar("T")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    return place_for(request)


@pytest.fixture
def storage(place: Place) -> EntryStorage:
    return place.open()


# -- G1: one load ----------------------------------------------------------------------------------


@pytest.mark.every_loop
@pytest.mark.smoke
async def test_a_thousand_callers_make_one_load(storage: EntryStorage) -> None:
    truth = Truth(seconds=0.05)
    process = Process(storage, truth)
    async with patience():
        values = await asyncio.gather(*[process.thing(7) for _ in range(1000)])
    assert set(values) == {"7 in version 0"}
    assert truth.loads == 1
    assert process.thing.stats.joined == 999


@pytest.mark.every_loop
async def test_each_key_has_a_load_of_its_own(storage: EntryStorage) -> None:
    truth = Truth(seconds=0.05)
    process = Process(storage, truth)
    async with patience():
        values = await asyncio.gather(*[process.thing(i % 20) for i in range(400)])
    assert values == [f"{i % 20} in version 0" for i in range(400)]
    assert truth.loads == truth.most == 20


def side_by_side(*mains: Callable[[], T]) -> list[T]:
    """Run plain functions at once, each in a thread of its own."""
    together = threading.Barrier(len(mains))

    def run(main: Callable[[], T]) -> T:
        together.wait(10)
        return main()

    with ThreadPoolExecutor(len(mains)) as pool:
        return [done.result(20) for done in [pool.submit(run, main) for main in mains]]


@pytest.mark.smoke
def test_two_loops_and_plain_threads_make_one_load(storage: EntryStorage) -> None:
    cache = Cache(storage, ttl=60)
    loads = list[int]()

    @cache.cached(key="shared:{i}")
    async def by_coroutines(i: int) -> str:
        loads.append(i)
        await asyncio.sleep(0.3)
        return f"value of {i}"

    def by_threads(i: int) -> str:
        loads.append(i)
        time.sleep(0.3)  # a plain load takes its time in its thread
        return f"value of {i}"

    with pytest.warns(UserWarning, match="both use key="):
        plain = cache.cached(key="shared:{i}")(by_threads)

    async def ask() -> None:
        assert set(await asyncio.gather(*[by_coroutines(1) for _ in range(484)])) == {"value of 1"}

    def loop() -> None:
        asyncio.run(ask())

    def thread() -> None:
        assert plain(1) == "value of 1"

    side_by_side(loop, loop, *[thread] * 32)
    assert loads == [1]


def test_a_function_of_one_loop_serves_another_loop(storage: EntryStorage) -> None:
    truth = Truth(seconds=0.3)
    process = Process(storage, truth)

    async def ask() -> list[str]:
        return list(await asyncio.gather(*[process.thing(1) for _ in range(100)]))

    def loop() -> None:
        assert set(asyncio.run(ask())) == {"1 in version 0"}

    def thread() -> None:
        assert process.thing.future(1).result(10) == "1 in version 0"

    side_by_side(loop, loop, thread)
    assert truth.loads == 1


@pytest.mark.every_loop
async def test_an_invalidation_during_a_load_makes_one_new_load(storage: EntryStorage) -> None:
    truth = Truth()
    process = Process(storage, truth)
    gate = truth.close_gate()
    before = [process.call() for _ in range(50)]
    await truth.asked(1)
    truth.version = 1
    await process.thing.invalidate(1)
    after = [process.call() for _ in range(50)]
    await truth.asked(2)
    gate.set()
    async with patience():
        # Who joined after the lease was taken may get either: the old was true when they asked.
        assert await before[0] == "1 in version 0"
        assert set(await asyncio.gather(*before)) <= {"1 in version 0", "1 in version 1"}
        assert set(await asyncio.gather(*after)) == {"1 in version 1"}
    assert truth.loads == 2
    assert await process.thing(1) == "1 in version 1"
    assert truth.loads == 2


def test_a_plain_function_is_loaded_once_by_many_threads(storage: EntryStorage) -> None:
    loads = list[int]()

    @cached(storage, ttl=60)
    def slow(i: int) -> int:
        loads.append(threading.get_ident())
        time.sleep(0.1)
        return i * 2

    assert side_by_side(*[lambda: slow(4)] * 30) == [8] * 30
    assert len(loads) == 1


def test_an_invalidation_during_a_plain_load_makes_a_new_load(storage: EntryStorage) -> None:
    truth = 0
    begun, go = threading.Event(), threading.Event()

    def read() -> int:
        value = truth
        if not begun.is_set():
            begun.set()
            assert go.wait(10)
        return value

    plain = cached(storage, ttl=60, key="plain")(read)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(plain)
        assert begun.wait(10)
        truth = 1
        plain.invalidate()
        assert plain() == 1
        go.set()
        assert first.result(10) == 0
    assert plain() == 1
    assert plain.stats.loads == 2


# -- G6: errors ------------------------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code


@pytest.mark.every_loop
async def test_an_error_reaches_every_caller_and_is_not_kept(storage: EntryStorage) -> None:
    cache = Cache(storage, ttl=60)
    loads = 0

    @cache.cached(key="error")
    async def refusing() -> int:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0.02)
        if loads == 1:
            raise Refused(7)
        return loads

    async with patience():
        errors = await asyncio.gather(*[refusing() for _ in range(50)], return_exceptions=True)
    assert loads == 1
    assert [error.code for error in errors if isinstance(error, Refused)] == [7] * 50
    assert len({id(error) for error in errors}) == 50
    assert await refusing() == 2
    assert await refusing() == 2


def test_an_error_in_a_thread_reaches_every_thread_and_is_not_kept(storage: EntryStorage) -> None:
    loads = 0

    @cached(storage, ttl=60, key="error")
    def refusing() -> int:
        nonlocal loads
        loads += 1
        time.sleep(0.1)
        if loads == 1:
            raise Refused(7)
        return loads

    def ask() -> BaseException:
        with pytest.raises(Refused) as caught:
            refusing()
        return caught.value

    errors = side_by_side(*[ask] * 20)
    assert len({id(error) for error in errors}) == 20
    assert refusing() == 2


async def test_an_error_leaves_no_lease_behind(place: Place, storage: EntryStorage) -> None:
    @cached(storage, ttl=60, key="error", lease_seconds=60)
    async def refusing() -> int:
        raise Refused(1)

    with pytest.raises(Refused):
        await refusing()
    async with asyncio.timeout(1):
        assert await Cache(place.beside(storage)).get_or_create("error", lambda: 1) == 1


# -- G3: nobody pays for another's cancellation ----------------------------------------------------


@pytest.mark.every_loop
async def test_the_first_caller_cancelled_does_not_disturb_the_others(
    storage: EntryStorage,
) -> None:
    truth = Truth()
    process = Process(storage, truth)
    gate = truth.close_gate()
    calls = [process.call() for _ in range(10)]
    await truth.asked(1)
    calls[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
    gate.set()
    async with patience():
        assert set(await asyncio.gather(*calls[1:])) == {"1 in version 0"}
    assert (truth.loads, truth.cancelled) == (1, 0)


@pytest.mark.every_loop
async def test_when_the_last_caller_leaves_the_load_is_cancelled(storage: EntryStorage) -> None:
    truth = Truth()
    process = Process(storage, truth)
    gate = truth.close_gate()
    calls = [process.call() for _ in range(10)]
    await truth.asked(1)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    async with patience():
        gate.set()
        assert await process.thing(1) == "1 in version 0"
    assert (truth.loads, truth.cancelled) == (2, 1)
    assert len(process.cache._loading.flights) == 0  # pyright: ignore[reportPrivateUsage] - nothing is left


@pytest.mark.every_loop
async def test_a_storm_of_cancellations_changes_nothing_for_the_rest(
    storage: EntryStorage,
) -> None:
    truth = Truth()
    gate = truth.close_gate()
    process = Process(storage, truth)
    chance = random.Random(7)
    calls = [process.call() for _ in range(500)]
    doomed = set(chance.sample(calls, 400))
    for call in chance.sample(calls, len(calls)):
        if call in doomed:
            call.cancel()
        if chance.random() < 0.1:
            await asyncio.sleep(0)
    gate.set()
    async with patience():
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [call.cancelled() for call in calls] == [call in doomed for call in calls]
    values = {end for end in ends if not isinstance(end, asyncio.CancelledError)}
    assert values == {"1 in version 0"}
    assert truth.loads - truth.cancelled == 1


async def test_a_caller_that_runs_out_of_time_gets_a_timeout_alone(storage: EntryStorage) -> None:
    truth = Truth(seconds=0.1)
    process = Process(storage, truth)
    patient = process.call()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.03):
            await process.thing(1)
    assert await patient == "1 in version 0"
    assert truth.loads == 1


async def test_a_load_that_cancels_itself_cancels_its_callers_only_once(
    storage: EntryStorage,
) -> None:
    loads = 0

    @cached(storage, ttl=60, key="self")
    async def giving_up() -> int:
        nonlocal loads
        loads += 1
        if loads == 1:
            raise asyncio.CancelledError
        return loads

    ends = await asyncio.gather(*[giving_up() for _ in range(5)], return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert await giving_up() == 2


async def test_the_lease_of_a_cancelled_load_is_handed_back(
    place: Place, storage: EntryStorage
) -> None:
    truth = Truth()
    first = Process(storage, truth, lease_seconds=60)
    second = Cache(place.beside(storage))
    truth.close_gate()
    call = first.call()
    await truth.asked(1)
    call.cancel()
    async with asyncio.timeout(1):
        assert await second.get_or_create("thing:1", lambda: "new") == "new"


# -- circles ---------------------------------------------------------------------------------------


@pytest.mark.every_loop
async def test_loads_that_wait_for_each_other_are_told_so(storage: EntryStorage) -> None:
    cache = Cache(storage, ttl=60)

    @cache.cached(key="chicken")
    async def chicken() -> str:
        return await egg()

    @cache.cached(key="egg")
    async def egg() -> str:
        return await chicken()

    async with patience():
        with pytest.raises(RecursiveLoad, match="uncached"):
            await chicken()
        ends = await asyncio.gather(chicken(), egg(), return_exceptions=True)
    assert all(isinstance(end, RecursiveLoad) for end in ends)


def test_a_plain_load_that_waits_for_itself_is_told_so(storage: EntryStorage) -> None:
    @cached(storage, ttl=60, key="self")
    def itself() -> int:
        return itself() + 1

    with pytest.raises(RecursiveLoad):
        itself()


# -- what is not stored ----------------------------------------------------------------------------


def never(value: object) -> bool:
    return False


async def test_values_that_are_not_to_be_stored_are_loaded_side_by_side(
    storage: EntryStorage,
) -> None:
    truth = Truth(seconds=0.2)
    process = Process(storage, truth, condition=never)
    started = time.monotonic()
    async with patience():
        await process.thing(1)
        await asyncio.gather(*[process.thing(1) for _ in range(10)])
    assert time.monotonic() - started < 0.2 * 4
    assert truth.most == 10
    assert process.thing.stats.uncacheable >= 1


# -- G9: what was needed for a while goes again ----------------------------------------------------


async def test_flights_and_leases_shrink_again(storage: EntryStorage) -> None:
    truth = Truth(seconds=0.001)
    process = Process(storage, truth)
    async with asyncio.timeout(20):
        for start in range(0, 1000, 250):
            await asyncio.gather(*[process.thing(start + i) for i in range(250)])
            await asyncio.gather(*[process.thing.invalidate(start + i) for i in range(250)])
    loading = process.cache._loading  # pyright: ignore[reportPrivateUsage] - what is counted
    assert len(loading.flights) == 0
    assert not loading.flights._tasks  # pyright: ignore[reportPrivateUsage] - likewise
    if loading.local is not None:
        assert len(loading.local.leases) == 0
    if loading.guard is not None:
        assert loading.guard.is_quiet
        assert not loading.guard._tasks  # pyright: ignore[reportPrivateUsage] - likewise
    leased = await storage.lease([as_key(f"thing:{i}") for i in range(1000)], 3)
    assert all(getattr(got, "seen", got) is None for got in leased.values())


# -- round trips -----------------------------------------------------------------------------------


async def test_redis_hits_of_one_tick_are_one_command(redis_server: RedisServer) -> None:
    redis_server.flush()
    process = Process(RedisStorage(redis_server.url), Truth())
    await asyncio.gather(*[process.thing(i) for i in range(100)])
    before = redis_server.commands()
    await process.thing(0)
    assert (redis_server.commands() - before).total() == 1
    before = redis_server.commands()
    await asyncio.gather(*[process.thing(i) for i in range(100)])
    assert (redis_server.commands() - before).total() <= 3
    assert process.thing.stats.hits == 101


class CountingWrites:
    """Counts the times that something was written to servers from this loop: round trips begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        # Where all that asyncio sends goes through.
        transport: Any = import_module("asyncio.selector_events")._SelectorSocketTransport
        inner: Callable[[object, bytes], None] = transport.write

        def write(own: object, data: bytes) -> None:
            self.count += 1
            inner(own, data)

        monkeypatch.setattr(transport, "write", write)


@pytest.mark.parametrize(("place", "most"), [("redis", 3), ("memcached", 4)], indirect=["place"])
async def test_a_miss_takes_few_round_trips(
    place: Place, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(place.open(), Truth())
    await asyncio.gather(process.thing(0), process.thing(1))  # connected
    writes = CountingWrites(monkeypatch)
    await process.thing(2)
    assert 1 <= writes.count <= most
    writes.count = 0
    await process.thing(2)
    assert writes.count == 1
    assert process.thing.stats.loads == 3
