"""Old values: when they are served, what is loaded meanwhile, and when they are not."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from math import inf
from pathlib import Path
from typing import Any

import anyio
import pytest

import gecaso
from gecaso import Cache, Entry, EntryStorage, MemoryStorage, events
from gecaso.entry import new_token
from gecaso.freshness import Verdict
from gecaso.testing import FakeClock
from tests.scenes import KINDS, Place, Truth, patience, place_for


@pytest.fixture(params=[*KINDS, "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place("sqlite", f"sqlite://{tmp_path}/cache.db")
    return place_for(request)


class Source:
    """A function to cache, its storage, and what it loads."""

    def __init__(self, storage: EntryStorage, **policy: Any) -> None:
        self.truth = truth = Truth()
        self.storage = storage
        policy.setdefault("ttl", 10)
        self.cache = Cache(storage, **policy)

        @self.cache.cached(key="thing:{i}")
        async def thing(i: int) -> str:
            return await truth.load(i)

        self.thing = thing

    async def keep_old(self, *, fresh_for: float, kept_for: float, age: float = 20.0) -> None:
        """Store a value of the past."""
        now = self.storage.now()
        old = Entry("old", now - age, now + fresh_for, now + kept_for, 0.01, version=new_token())
        await self.storage.store({self.thing.key(1): old})

    async def settle(self) -> None:
        """Wait until nothing is loaded in the background."""
        async with patience():
            while self.cache.info().background:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)


NEW = "1 in version 0"


# -- the table, over every kind of storage ---------------------------------------------------------

WINDOWS: dict[str, Any] = {"stale_while_revalidate": 30, "stale_if_error": 60}


@pytest.mark.parametrize(
    ("fresh_for", "verdict"),
    [(5.0, Verdict.FRESH), (-5.0, Verdict.REFRESH), (-40.0, Verdict.TRY), (-70.0, Verdict.LOAD)],
)
async def test_the_table_holds_over_this_storage(
    place: Place, fresh_for: float, verdict: Verdict
) -> None:
    source = Source(place.open(), **WINDOWS)
    async with source.cache:
        await source.keep_old(fresh_for=fresh_for, kept_for=100, age=80)
        explained = await source.thing.explain(1)
        assert explained.verdict.startswith(verdict.name)
        served = await source.thing(1)
        assert served == ("old" if verdict in (Verdict.FRESH, Verdict.REFRESH) else NEW)
        await source.settle()
        assert source.truth.loads == (0 if verdict is Verdict.FRESH else 1)
        if verdict is not Verdict.FRESH:
            assert await source.thing.peek(1) == NEW


async def test_an_old_value_is_served_at_once_and_replaced_behind_it(place: Place) -> None:
    source = Source(place.open(), **WINDOWS)
    async with source.cache:
        await source.keep_old(fresh_for=-1, kept_for=100)
        gate = source.truth.close_gate()
        assert [await source.thing(1) for _ in range(5)] == ["old"] * 5
        await source.truth.asked(1)
        gate.set()
        await source.settle()
        assert await source.thing(1) == NEW
        assert source.truth.loads == 1
        assert source.thing.stats.stale == 5
        assert source.thing.stats.refreshes == 1


async def test_one_process_refreshes(place: Place) -> None:
    if place.kind == "memory":
        pytest.skip("one process has it")
    one, other = Source(place.open(), **WINDOWS), Source(place.open(), **WINDOWS)
    async with one.cache, other.cache:
        await one.keep_old(fresh_for=-1, kept_for=100)
        gate = one.truth.close_gate()
        assert await one.thing(1) == "old"
        await one.truth.asked(1)
        assert await other.thing(1) == "old"
        await other.settle()  # it finds that the other one is at it
        gate.set()
        await one.settle()
        assert (one.truth.loads, other.truth.loads) == (1, 0)
        assert await other.thing(1) == NEW


async def test_wait_false_loads_beside_another_process(place: Place) -> None:
    if place.kind == "memory":
        pytest.skip("one process has it")
    one, other = Source(place.open()), Source(place.open(), wait=False)
    async with one.cache, other.cache:
        gate = one.truth.close_gate()
        first = asyncio.create_task(one.thing(1))
        await one.truth.asked(1)
        async with patience():
            assert await other.thing(1) == NEW
        gate.set()
        assert await first == NEW


async def test_a_failure_is_made_up_for_by_the_old_value(place: Place) -> None:
    source = Source(place.open(), stale_if_error=60)
    async with source.cache:
        await source.keep_old(fresh_for=-1, kept_for=100)
        source.truth.error = OSError("the database is down")
        assert [await source.thing(1) for _ in range(5)] == ["old"] * 5
        assert source.truth.loads == 1  # the next attempt comes 30 seconds later
        assert await source.thing.peek(1, stale=True) == "old"
        with pytest.raises(KeyError):
            await source.thing.peek(1)
        await source.thing.invalidate(1)
        with pytest.raises(OSError, match="down"):
            await source.thing(1)


async def test_expire_allows_the_old_value_and_remove_does_not(place: Place) -> None:
    source = Source(place.open(), stale_if_error=60)
    async with source.cache:
        assert await source.thing(1) == NEW
        source.truth.error = OSError("down")
        await source.thing.expire(1)
        assert await source.thing(1) == NEW
        assert source.truth.loads == 2
        await source.thing.expire(1)  # asks for a new attempt
        assert await source.thing(1) == NEW
        assert source.truth.loads == 3
        await source.thing.invalidate(1)
        with pytest.raises(OSError, match="down"):
            await source.thing(1)


async def test_a_value_removed_while_its_load_fails_is_not_served(place: Place) -> None:
    source = Source(place.open(), stale_if_error=60)
    async with source.cache:
        await source.keep_old(fresh_for=-1, kept_for=100)
        gate = source.truth.close_gate()
        source.truth.error = OSError("down")
        call = asyncio.create_task(source.thing(1))
        await source.truth.asked(1)
        await source.thing.invalidate(1)
        gate.set()
        with pytest.raises(OSError, match="down"):
            await call


async def test_a_value_put_while_a_load_fails_is_served_instead(place: Place) -> None:
    source = Source(place.open(), stale_if_error=60)
    async with source.cache:
        await source.keep_old(fresh_for=-1, kept_for=100)
        gate = source.truth.close_gate()
        source.truth.error = OSError("down")
        call = asyncio.create_task(source.thing(1))
        await source.truth.asked(1)
        await source.thing.put("put", 1)
        gate.set()
        assert await call == "put"


async def test_a_refresh_that_was_invalidated_is_not_stored(place: Place) -> None:
    source = Source(place.open(), **WINDOWS)
    async with source.cache:
        await source.keep_old(fresh_for=-1, kept_for=100)
        gate = source.truth.close_gate()
        assert await source.thing(1) == "old"
        await source.truth.asked(1)
        source.truth.version = 1
        await source.thing.invalidate(1)
        gate.set()
        await source.settle()
        assert await source.thing(1) == "1 in version 1"


async def test_a_slow_load_goes_on_and_is_stored(place: Place) -> None:
    source = Source(place.open(), stale_if_error=60, soft_timeout=0.05)
    async with source.cache:
        await source.keep_old(fresh_for=-1, kept_for=100)
        gate = source.truth.close_gate()
        assert await source.thing(1) == "old"
        assert source.truth.loads == 1
        gate.set()
        await source.settle()
        assert await source.thing(1) == NEW
        assert source.truth.cancelled == 0


async def test_what_was_removed_is_not_served_in_place_of_a_slow_load(place: Place) -> None:
    source = Source(place.open(), stale_if_error=60, soft_timeout=0.3)
    async with source.cache:
        await source.keep_old(fresh_for=-1, kept_for=100)
        gate = source.truth.close_gate()
        call = asyncio.create_task(source.thing(1))
        await source.truth.asked(1)
        source.truth.gate = None
        source.truth.version = 1
        await source.thing.invalidate(1)
        assert await call == "1 in version 1"
        gate.set()


async def test_errors_by_type_are_kept_and_raised_anew(place: Place) -> None:
    source = Source(place.open(), error_ttl={LookupError: 60})
    async with source.cache:
        source.truth.error = KeyError("no such user", 7)
        raised: list[KeyError] = []
        for _ in range(3):
            with pytest.raises(KeyError) as caught:
                await source.thing(1)
            raised.append(caught.value)
        assert [error.args for error in raised] == [("no such user", 7)] * 3
        assert source.truth.loads == 1
        assert len({id(error) for error in raised}) == 3
        frames: list[str] = []
        at = raised[-1].__traceback__
        while at is not None:
            frames.append(at.tb_frame.f_code.co_name)
            at = at.tb_next
        assert "load" not in frames  # no frame of the load that raised it
        await source.thing.invalidate(1)
        source.truth.error = None
        assert await source.thing(1) == NEW


async def test_other_errors_are_not_kept(place: Place) -> None:
    source = Source(place.open(), error_ttl={LookupError: 60})
    async with source.cache:
        source.truth.error = OSError("down")
        for _ in range(2):
            with pytest.raises(OSError, match="down"):
                await source.thing(1)
        assert source.truth.loads == 2


# -- with a clock ----------------------------------------------------------------------------------


async def test_a_source_that_fails_for_an_hour_is_asked_every_half_minute() -> None:
    clock = FakeClock()
    source = Source(MemoryStorage(clock=clock), ttl=10, stale_if_error=7200)
    assert await source.thing(1) == NEW
    source.truth.error = OSError("down")
    clock.advance(10)
    for _ in range(3600):
        assert await source.thing(1) == NEW
        clock.advance(1)
    assert source.truth.loads - 1 == 3600 / 30
    source.truth.error = None
    clock.advance(30)
    source.truth.version = 1
    assert await source.thing(1) == "1 in version 1"


async def test_what_was_removed_before_its_refresh_began_is_not_loaded() -> None:
    storage = MemoryStorage()
    source = Source(storage, **WINDOWS)
    async with source.cache:
        await source.keep_old(fresh_for=-1, kept_for=100)
        assert await source.thing(1) == "old"
        assert source.cache.info().background == 1  # a task that has not run yet
        storage.discard_now([source.thing.key(1)])  # by somebody else
        await source.settle()
    assert source.truth.loads == 0


async def test_a_hit_of_some_age_starts_a_refresh() -> None:
    clock = FakeClock()
    source = Source(MemoryStorage(clock=clock), refresh_after=6)
    await source.thing(1)
    clock.advance(5.9)
    await source.thing(1)
    assert source.truth.loads == 1
    clock.advance(0.1)
    source.truth.version = 1
    assert await source.thing(1) == NEW
    await source.settle()
    assert await source.thing(1) == "1 in version 1"
    assert source.truth.loads == 2
    assert source.thing.stats.stale == 0


async def test_a_refresh_that_fails_keeps_the_value_and_says_so() -> None:
    clock = FakeClock()
    source = Source(MemoryStorage(clock=clock), refresh_after=6)
    await source.thing(1)
    clock.advance(6)
    source.truth.error = OSError("down")
    seen: list[Any] = []
    with events.listening(seen.append):
        for _ in range(3):
            assert await source.thing(1) == NEW
            await source.settle()
    assert [type(event.error) for event in seen if isinstance(event, events.RefreshFailed)] == [
        OSError
    ]
    assert source.truth.loads == 2


async def test_max_age_of_one_call_asks_for_something_newer() -> None:
    clock = FakeClock()
    cache = Cache(MemoryStorage(clock=clock), ttl=100)
    made: list[int] = []

    def create() -> int:
        made.append(1)
        return len(made)

    assert await cache.get_or_create("n", create) == 1
    clock.advance(20)
    assert await cache.get("n", max_age=30) == 1
    with pytest.raises(KeyError):
        await cache.get("n", max_age=10)
    assert await cache.get_or_create("n", create, max_age=30) == 1
    assert await cache.get_or_create("n", create, max_age=10) == 2
    assert await cache.get("n", max_age=10) == 2


async def test_storages_give_old_values_to_who_asks_for_them() -> None:
    clock = FakeClock()
    source = Source(MemoryStorage(clock=clock), stale_if_error=60)
    await source.thing(1)
    key = source.thing.key(1)
    clock.advance(11)
    with pytest.raises(KeyError):
        await source.storage.get(key)
    assert await source.storage.get(key, stale=True) == NEW
    assert await source.cache.get(key, stale=True) == NEW
    clock.advance(60)
    with pytest.raises(KeyError):
        await source.storage.get(key, stale=True)


async def test_jitter_spreads_the_ends_of_what_is_stored_together() -> None:
    clock = FakeClock()
    source = Source(MemoryStorage(clock=clock), ttl=100, jitter=0.2)
    await asyncio.gather(*[source.thing(i) for i in range(200)])
    ends = [await source.thing.ttl(i) for i in range(200)]
    assert min(ends) >= 80
    assert max(ends) <= 100
    assert max(ends) - min(ends) > 15


@pytest.mark.parametrize("zone", [None, UTC])
async def test_a_ttl_may_be_a_moment(zone: tzinfo | None) -> None:
    moment = datetime.now(zone) + timedelta(seconds=50)
    past = datetime.now(zone) - timedelta(seconds=1)
    storage = MemoryStorage()

    @gecaso.cached(storage, ttl=lambda value: past if value == 0 else moment)
    async def by_value(i: int) -> int:
        return i

    @gecaso.cached(storage, ttl=moment)
    async def fixed(i: int) -> int:
        if i == 2:
            gecaso.current_load().set_ttl(moment - timedelta(seconds=30))
        return i

    for function, i, ttl in [(by_value, 0, 0), (by_value, 1, 50), (fixed, 1, 50), (fixed, 2, 20)]:
        assert await function(i) == i
        if ttl:
            assert ttl - 5 < await function.ttl(i) <= ttl
    with pytest.raises(KeyError):
        await by_value.peek(0)


# -- time limits -----------------------------------------------------------------------------------


async def test_a_hung_load_is_cancelled_and_the_key_is_free(place: Place) -> None:
    source = Source(place.open(), timeout=0.1)
    async with source.cache:
        source.truth.close_gate()
        calls = [asyncio.create_task(source.thing(1)) for _ in range(3)]
        async with patience():
            for call in calls:
                with pytest.raises(gecaso.LoadTimeout, match=r"timeout=0.1"):
                    await call
            while not source.truth.cancelled:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
        assert source.truth.loads == source.truth.cancelled == 1
        source.truth.gate = None
        started = time.monotonic()
        assert await source.thing(1) == NEW
        assert time.monotonic() - started < 2  # it need not wait for the lease to run out


async def test_who_came_later_has_his_own_time() -> None:
    source = Source(MemoryStorage(), timeout=0.3)
    source.truth.close_gate()
    first = asyncio.create_task(source.thing(1))
    await asyncio.sleep(0.2)
    later = asyncio.create_task(source.thing(1))
    with pytest.raises(gecaso.LoadTimeout):
        await first
    source.truth.gate = None
    assert await later == NEW
    assert source.truth.cancelled == 1


async def test_a_deadline_turns_the_old_value_on(place: Place) -> None:
    source = Source(place.open(), stale_if_error=60)
    async with source.cache:
        await source.keep_old(fresh_for=-1, kept_for=100)
        gate = source.truth.close_gate()
        async with asyncio.timeout(0.3):
            assert await source.thing(1) == "old"
        gate.set()
        await source.settle()
        assert await source.thing(1) == NEW


async def test_a_deadline_of_anyio_does_so_too() -> None:
    source = Source(MemoryStorage(), stale_if_error=60)
    await source.keep_old(fresh_for=-1, kept_for=100)
    source.truth.close_gate()
    with anyio.fail_after(0.2):
        assert await source.thing(1) == "old"
    source.truth.gate.set()  # type: ignore[union-attr]  # it was closed above
    await source.settle()


def test_a_plain_function_has_no_timeout() -> None:
    with pytest.raises(gecaso.ConfigurationError, match="async def"):

        @gecaso.cached(timeout=1)
        def f() -> int:
            return 1


# -- loads in the background -----------------------------------------------------------------------

request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


class Session:
    """What belongs to a request, and is closed with it."""

    def __init__(self) -> None:
        self.is_open = True


async def test_a_background_load_knows_nothing_of_the_request_that_set_it_off() -> None:
    clock = FakeClock()
    seen: list[tuple[str, bool]] = []
    current: contextvars.ContextVar[Session | None] = contextvars.ContextVar("s", default=None)

    @asynccontextmanager
    async def scope() -> AsyncGenerator[None]:
        session = Session()
        token = current.set(session)
        yield
        current.reset(token)
        session.is_open = False

    @gecaso.cached(
        MemoryStorage(clock=clock),
        ttl=10,
        stale_while_revalidate=60,
        stale_if_error=60,
        scope=scope,
    )
    async def load(i: int) -> int:
        session = current.get()
        await asyncio.sleep(0)
        seen.append((request.get(), session is not None and session.is_open))
        return i

    async def handle(name: str) -> None:
        request.set(name)
        session = Session()
        current.set(session)
        await load(1)
        session.is_open = False

    await asyncio.create_task(handle("first"))
    clock.advance(11)
    await asyncio.create_task(handle("second"))
    async with patience():
        while len(seen) < 2:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    assert seen == [("first", True), ("none", True)]


async def test_a_hung_background_load_ends_at_its_time(place: Place) -> None:
    source = Source(place.open(), **WINDOWS, max_load_time=0.1)
    async with source.cache:
        await source.keep_old(fresh_for=-1, kept_for=100)
        source.truth.close_gate()
        seen: list[Any] = []
        with events.listening(seen.append):
            assert await source.thing(1) == "old"
            await source.settle()
        (failed,) = [event for event in seen if isinstance(event, events.RefreshFailed)]
        assert isinstance(failed.error, gecaso.LoadTimeout)
        assert source.truth.cancelled == 1


async def test_so_many_loads_in_the_background_and_no_more() -> None:
    clock = FakeClock()
    source = Source(MemoryStorage(clock=clock), **WINDOWS, max_background=3)
    for i in range(6):
        await source.thing(i)
    clock.advance(11)
    gate = source.truth.close_gate()
    assert [await source.thing(i) for i in range(6)] == [source.truth.told(i) for i in range(6)]
    await source.truth.asked(9)
    assert source.cache.info().background == 3
    gate.set()
    await source.settle()
    assert source.truth.loads == 9


async def test_closing_a_cache_gives_its_background_loads_time_and_then_ends_them() -> None:
    clock = FakeClock()
    source = Source(MemoryStorage(clock=clock), **WINDOWS)
    for i in range(2):
        await source.thing(i)
    clock.advance(11)
    gate = source.truth.close_gate()
    await source.thing(0)
    await source.truth.asked(3)
    asyncio.get_running_loop().call_later(0.05, gate.set)
    await source.cache.aclose(timeout=10)
    assert source.truth.cancelled == 0
    source.truth.close_gate()
    await source.thing(1)
    await source.truth.asked(4)
    await source.cache.aclose(timeout=0.01)
    assert source.truth.cancelled == 1
    assert source.cache.info().background == 0


@pytest.mark.parametrize("make", [asyncio.TaskGroup, anyio.create_task_group])
async def test_a_task_group_of_ones_own_runs_the_background_loads(make: Callable[[], Any]) -> None:
    clock = FakeClock()
    group = make()
    source = Source(MemoryStorage(clock=clock), **WINDOWS, background=group)
    async with group:
        await source.thing(1)
        clock.advance(11)
        source.truth.version = 1
        await source.thing(1)
    assert await source.thing(1) == "1 in version 1"


# -- how many loads --------------------------------------------------------------------------------


async def test_max_loads_bounds_the_loads_of_a_cache() -> None:
    source = Source(MemoryStorage(), max_loads=3)
    source.truth.seconds = 0.01
    await asyncio.gather(*[source.thing(i) for i in range(20)])
    assert source.truth.loads == 20
    assert source.truth.most == 3


async def test_a_load_inside_a_load_needs_no_room() -> None:
    cache = Cache(MemoryStorage(), max_loads=1)

    @cache.cached()
    async def inner(i: int) -> int:
        return i

    @cache.cached()
    async def outer(i: int) -> int:
        return await inner(i) + 1

    async with patience():
        assert await asyncio.gather(*[outer(i) for i in range(5)]) == [1, 2, 3, 4, 5]


async def test_beyond_max_loads_callers_may_be_refused() -> None:
    source = Source(MemoryStorage(), max_loads=1, overload="raise")
    gate = source.truth.close_gate()
    first = asyncio.create_task(source.thing(1))
    await source.truth.asked(1)
    with pytest.raises(gecaso.Overloaded, match="1 loads"):
        await source.thing(2)
    joined = asyncio.create_task(source.thing(1))  # which is a load that runs
    await asyncio.sleep(0)
    gate.set()
    assert await first == await joined == NEW


def test_max_loads_bounds_the_loads_of_threads() -> None:
    cache = Cache(MemoryStorage(), max_loads=3)
    gate, lock = threading.Event(), threading.Lock()
    now = most = 0

    @cache.cached()
    def load(i: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        assert gate.wait(10)
        with lock:
            now -= 1
        return i

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(load, i) for i in range(8)]
        end = time.monotonic() + 10
        while now < 3 and time.monotonic() < end:
            time.sleep(0.001)
        gate.set()
        assert [call.result(10) for call in calls] == list(range(8))
    assert most == 3


def test_beyond_max_loads_threads_may_be_refused() -> None:
    cache = Cache(MemoryStorage(), max_loads=1, overload="raise")
    begun, gate = threading.Event(), threading.Event()

    @cache.cached()
    def load(i: int) -> int:
        begun.set()
        assert gate.wait(10)
        return i

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(load, 1)
        assert begun.wait(10)
        with pytest.raises(gecaso.Overloaded):
            load(2)
        gate.set()
        assert first.result(10) == 1
    assert load(2) == 2


async def test_beyond_max_loads_callers_may_get_the_old_value() -> None:
    clock = FakeClock()
    source = Source(MemoryStorage(clock=clock), max_loads=1, overload="stale", stale_if_error=60)
    await source.thing(2)
    clock.advance(11)
    gate = source.truth.close_gate()
    first = asyncio.create_task(source.thing(1))
    await source.truth.asked(2)
    assert await source.thing(2) == "2 in version 0"
    assert source.truth.loads == 2
    gate.set()
    await first


# -- what a load says of itself --------------------------------------------------------------------


async def test_a_load_may_set_the_time_of_its_value(place: Place) -> None:
    cache = Cache(place.open(), ttl=10)

    @cache.cached(key="n:{i}")
    async def n(i: int) -> int:
        gecaso.current_load().set_ttl(None if i == 0 else i)
        return i

    async with cache:
        await asyncio.gather(*[n(i) for i in (0, 5, 500)])
        assert await n.ttl(0) == inf
        assert 3 < await n.ttl(5) <= 5
        assert 490 < await n.ttl(500) <= 500


async def test_a_load_may_tag_its_result(place: Place) -> None:
    cache = Cache(place.open(), ttl=10)

    @cache.cached(key="n:{i}")
    async def n(i: int) -> int:
        gecaso.current_load().add_tags("numbers", f"number {i}")
        return i

    async with cache:
        assert await n(1) == 1
        assert set((await n.entry(1)).tags) == {"numbers", "number 1"}


async def test_a_load_may_keep_its_result_out_of_the_storage(place: Place) -> None:
    cache = Cache(place.open(), ttl=10)
    loads = 0

    @cache.cached(key="n:{i}")
    async def n(i: int) -> int:
        nonlocal loads
        loads += 1
        gecaso.current_load().skip()
        await asyncio.sleep(0)
        return i

    async with cache:
        assert await n(1) == 1
        assert await asyncio.gather(*[n(1) for _ in range(10)]) == [1] * 10
        assert loads == 11  # side by side: nobody queues behind another
        with pytest.raises(KeyError):
            await n.peek(1)


async def test_a_load_may_find_that_nothing_has_changed(place: Place) -> None:
    cache = Cache(place.open(), ttl=10, stale_if_error=60)
    seen: list[tuple[Any, Any]] = []

    @cache.cached(key="page:{i}")
    async def page(i: int) -> str:
        load = gecaso.current_load()
        seen.append((load.stale_value, load.etag))
        if load.etag == "v1":
            return str(load.not_modified())
        load.etag = "v1"
        return "text"

    async with cache:
        assert await page(1) == "text"
        await page.expire(1)
        assert await page(1) == "text"
        assert await page.ttl(1) > 5
        await page.expire(1)
        assert await page(1) == "text"
        assert seen == [(None, None), ("text", "v1"), ("text", "v1")]


async def test_nothing_can_be_unchanged_without_an_old_value() -> None:
    @gecaso.cached(ttl=10)
    async def f(i: int) -> Any:
        return gecaso.current_load().not_modified()

    with pytest.raises(gecaso.LoadFailed, match="no old value"):
        await f(1)


async def test_a_load_may_give_up(place: Place) -> None:
    cache = Cache(place.open(), ttl=10, stale_if_error=60)

    @cache.cached(key="thing:{i}")
    async def thing(i: int) -> str:
        gecaso.current_load().fail("the answer makes no sense")

    async with cache:
        with pytest.raises(gecaso.LoadFailed, match="makes no sense"):
            await thing(1)
        await thing.put("old", 1)
        await thing.expire(1)
        assert await thing(1) == "old"


def test_there_is_no_current_load_outside_of_one() -> None:
    with pytest.raises(LookupError, match="no load is running"):
        gecaso.current_load()


async def test_the_load_of_a_caller_is_not_that_of_the_function_it_calls() -> None:
    @gecaso.cached
    async def inner() -> str:
        return str(gecaso.current_load().key)

    @gecaso.cached
    async def outer() -> tuple[str, str, str]:
        before = str(gecaso.current_load().key)
        return before, await inner(), str(gecaso.current_load().key)

    before, between, after = await outer()
    assert before == after == str(outer.key())
    assert between == str(inner.key())
    with pytest.raises(LookupError):
        gecaso.current_load()
