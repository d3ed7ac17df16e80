"""What a process knows of a storage's trouble: reads go on, invalidations are not forgotten."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest

from gecaso import (
    Cache,
    InvalidationFailed,
    LRUStorage,
    StorageError,
    StorageTimeout,
    events,
)
from gecaso.guard import Guard, guard_of
from gecaso.keys import Key, as_key
from gecaso.storage import adapt
from tests.doubles import DictStorage
from tests.scenes import Distant, Process, Truth, patience

KEY, OTHER = as_key("a key"), as_key("another")


@pytest.fixture
def storage() -> Distant:
    return Distant()


@pytest.fixture
def guard(storage: Distant) -> Guard:
    return guard_of(storage)


def in_trouble(storage: Distant) -> StorageError:
    storage.trouble = StorageError("the server is gone")
    return storage.trouble


async def until(condition: Callable[[], object]) -> None:
    async with patience():
        while not condition():  # noqa: ASYNC110 - tasks of the guard tell nobody
            await asyncio.sleep(0.001)


async def invalidate(storage: Distant, guard: Guard, *, timeout: float = 0.0) -> None:
    async def apply() -> None:
        await storage.discard([KEY])

    await guard.invalidate([KEY], apply, timeout=timeout, journal=False)


def test_a_storage_has_one_guard(storage: Distant, guard: Guard) -> None:
    assert guard_of(storage) is guard
    assert guard_of(Distant()) is not guard
    assert guard.is_quiet


def test_what_wraps_a_storage_shares_its_guard(storage: Distant, guard: Guard) -> None:
    assert guard_of(LRUStorage(storage, 2)) is guard
    assert guard_of(LRUStorage(LRUStorage(storage, 4), 2)) is guard
    base = DictStorage()
    assert guard_of(LRUStorage(base, 2)) is guard_of(adapt(base))


async def test_what_fails_through_a_wrapper_is_not_read_past_it(storage: Distant) -> None:
    bounded = Cache(LRUStorage(storage, 9), invalidate_timeout=0.01)
    plain = Cache(storage)
    await plain.set("k", "old")
    in_trouble(storage)
    with pytest.raises(InvalidationFailed):
        await bounded.invalidate("k")
    storage.trouble = None
    assert await plain.get_or_create("k", lambda: "new") == "new"
    await plain.aclose()


def test_a_guard_goes_with_its_storage() -> None:
    storage = Distant()
    guard = weakref.ref(guard_of(storage))
    del storage
    gc.collect()
    assert guard() is None


# -- reads -----------------------------------------------------------------------------------------


def test_a_failure_is_no_quiet_and_three_are_a_bypass(storage: Distant, guard: Guard) -> None:
    error = StorageError("gone")
    guard.failed("lookup", error)
    assert not guard.is_quiet
    assert not guard.bypasses(KEY)
    guard.failed("lookup", error)
    guard.failed("lookup", error)
    assert guard.bypasses(KEY)


def test_a_failure_is_told_and_the_bypass_is_logged_once(
    storage: Distant, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    error = StorageError("gone")
    seen = list[events.Event]()
    with events.listening(seen.append):
        for _ in range(5):
            guard.failed("lease", error, KEY)
    assert [type(event) for event in seen] == [events.StorageFailed] * 5
    assert isinstance(seen[0], events.StorageFailed)
    assert (seen[0].operation, seen[0].error, seen[0].key) == ("lease", error, KEY)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1


async def test_what_the_methods_of_a_storage_meet_counts_for_its_health(
    storage: Distant, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gecaso")
    error = in_trouble(storage)
    tries: list[Callable[[], Awaitable[object]]] = [
        lambda: storage.get("a key"),
        lambda: storage.set("a key", 1),
        lambda: storage.remove("a key"),
        lambda: storage.get_many(["a key"]),
        lambda: storage.set_many({"a key": 1}),
    ]
    seen = list[events.Event]()
    with events.listening(seen.append):
        for number, attempt in enumerate(tries, 1):
            with pytest.raises(StorageError):
                await attempt()  # at once, whatever the breaker says
            assert storage.health().failures == number
    told = [event.operation for event in seen if isinstance(event, events.StorageFailed)]
    assert told == ["get", "set", "remove", "get_many", "set_many"]
    assert (storage.health().state, storage.health().last_error) == ("down", str(error))
    assert guard.bypasses(KEY)
    storage.trouble = None
    await storage.set("a key", 1)
    assert storage.health().ok
    assert not guard.bypasses(KEY)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_miss_is_no_trouble_and_ends_one(storage: Distant) -> None:
    in_trouble(storage)
    with pytest.raises(StorageError):
        await storage.get("a key")
    assert storage.health().state == "failing"
    storage.trouble = None
    with pytest.raises(KeyError):
        await storage.get("a key")
    assert storage.health().ok


async def test_trouble_costs_a_call_one_failure_and_three_calls_the_storage(
    storage: Distant,
) -> None:
    process = Process(storage, Truth())
    in_trouble(storage)
    for i in range(3):
        assert await process.thing(i) == f"{i} in version 0"
        assert storage.asked.total() == i + 1
    for i in range(3, 10):
        assert await process.thing(i) == f"{i} in version 0"
    assert storage.asked.total() == 3
    assert process.thing.stats.storage_errors == 3


async def test_a_probe_in_the_background_ends_the_bypass(storage: Distant, guard: Guard) -> None:
    process = Process(storage, Truth())
    in_trouble(storage)
    for i in range(3):
        await process.thing(i)
    assert guard.breaker.is_open
    storage.trouble = None

    async with patience():
        while guard.breaker.is_open:
            assert await process.thing(0) == "0 in version 0"
            await asyncio.sleep(0.005)
    await process.thing(0)
    loads = process.truth.loads
    await process.thing(0)
    assert process.truth.loads == loads


async def test_who_wants_errors_is_told_of_the_bypass(storage: Distant) -> None:
    process = Process(storage, Truth(), on_storage_error="raise")
    in_trouble(storage)
    for _ in range(3):
        with pytest.raises(StorageError, match="gone"):
            await process.thing(0)
    with pytest.raises(StorageError, match="left alone"):
        await process.thing(0)
    assert process.truth.loads == 0


def test_a_probe_of_a_closed_loop_does_not_bar_the_storage_for_ever(
    storage: Distant, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gecaso.breaker.LOST_PROBE", 0.05)
    process = Process(storage, Truth())

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    async def get_into_trouble() -> None:
        in_trouble(storage)
        for i in range(3):
            await process.thing(i)
        storage.trouble = None
        monkeypatch.setattr(storage, "ping", hang)
        while not guard._tasks:  # pyright: ignore[reportPrivateUsage] - the probe is under way
            await process.thing(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(get_into_trouble())
    loop.close()  # nobody cancels the probe
    monkeypatch.undo()
    monkeypatch.setattr("gecaso.breaker.LOST_PROBE", 0.05)

    async def come_back() -> None:
        async with patience():
            while guard.breaker.is_open:
                await process.thing(0)
                await asyncio.sleep(0.005)

    asyncio.run(come_back())
    assert not guard._tasks  # pyright: ignore[reportPrivateUsage] - nor are its tasks held


# -- invalidations ---------------------------------------------------------------------------------


async def test_an_invalidation_that_works_leaves_nothing(storage: Distant, guard: Guard) -> None:
    await invalidate(storage, guard)
    assert guard.is_quiet
    assert storage.asked == {"discard": 1}


async def test_an_invalidation_is_tried_while_the_breaker_is_open(
    storage: Distant, guard: Guard
) -> None:
    for _ in range(3):
        guard.failed("lookup", StorageError("gone"))
    await invalidate(storage, guard)
    assert guard.is_quiet  # the storage has answered: it is back


async def test_an_invalidation_is_tried_again_until_its_time_is_over(
    storage: Distant, guard: Guard
) -> None:
    error = in_trouble(storage)
    with pytest.raises(InvalidationFailed, match="the server is gone") as caught:
        await invalidate(storage, guard, timeout=0.3)
    assert caught.value.__cause__ is error
    assert caught.value.keys == (KEY,)
    assert storage.asked["discard"] >= 3
    await guard.aclose()


async def test_an_invalidation_that_works_at_the_second_attempt_does_not_raise(
    storage: Distant, guard: Guard
) -> None:
    in_trouble(storage)
    asking = asyncio.create_task(invalidate(storage, guard, timeout=2.0))
    await until(lambda: storage.asked["discard"])
    storage.trouble = None
    await asking
    assert guard.is_quiet


async def test_a_failed_invalidation_is_pending_for_its_keys_alone(
    storage: Distant, guard: Guard
) -> None:
    in_trouble(storage)
    with pytest.raises(InvalidationFailed):
        await invalidate(storage, guard)
    assert guard.bypasses(KEY)
    assert not guard.bypasses(OTHER)
    assert repr(guard) == "<Guard: <Breaker: closed, 0 failures>, 1 invalidations pending>"
    await guard.aclose()


async def test_what_is_pending_is_tried_in_the_background(storage: Distant, guard: Guard) -> None:
    in_trouble(storage)
    with pytest.raises(InvalidationFailed):
        await invalidate(storage, guard)
    await until(lambda: storage.asked["discard"] >= 3)
    assert guard.bypasses(KEY)
    storage.trouble = None
    await until(lambda: guard.is_quiet)
    assert not guard.bypasses(KEY)


async def test_what_is_invalidated_again_during_a_retry_stays_pending(
    storage: Distant, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_trouble(storage)
    with pytest.raises(InvalidationFailed):
        await invalidate(storage, guard)
    retrying, go = asyncio.Event(), asyncio.Event()
    inner = storage.discard

    async def held(keys: dict[object, object]) -> None:
        retrying.set()
        await go.wait()
        monkeypatch.setattr(storage, "discard", inner)

    monkeypatch.setattr(storage, "discard", held)
    async with patience():
        await retrying.wait()

    async def failing() -> None:
        raise StorageTimeout("once more")

    with pytest.raises(InvalidationFailed):
        await guard.invalidate([KEY], failing, timeout=0.0, journal=False)
    go.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert guard.bypasses(KEY)  # the retry was of the first
    storage.trouble = None
    await until(lambda: guard.is_quiet)


async def test_a_late_success_does_not_settle_a_later_failure(
    storage: Distant, guard: Guard
) -> None:
    sent, go = asyncio.Event(), asyncio.Event()

    async def early() -> None:
        sent.set()
        await go.wait()

    earlier = asyncio.create_task(guard.invalidate([KEY], early, timeout=0.0, journal=False))
    await sent.wait()
    in_trouble(storage)
    with pytest.raises(InvalidationFailed):
        await invalidate(storage, guard)
    go.set()
    await earlier
    assert guard.bypasses(KEY)
    await guard.aclose()


async def fail_to_put(storage: Distant, guard: Guard) -> None:
    async def put() -> None:
        await storage.store({KEY: storage.new_entry("late")})

    in_trouble(storage)
    with pytest.raises(InvalidationFailed):
        await guard.invalidate([KEY], put, timeout=0.0, journal=False, is_put=True)
    storage.trouble = None


async def test_a_put_that_failed_is_removed_again_if_it_arrives_late(
    storage: Distant, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gecaso.guard.SETTLING", 0.01)
    await fail_to_put(storage, guard)
    inner = storage.discard
    bypassed = list[bool]()

    async def discard(keys: dict[Key, object]) -> None:
        await inner(keys)
        if not bypassed:
            await storage.inner.store({KEY: storage.new_entry("late")})
        bypassed.append(guard.bypasses(KEY))

    monkeypatch.setattr(storage, "discard", discard)
    await until(lambda: guard.is_quiet)
    assert bypassed == [True, True]
    assert await storage.fetch([KEY]) == {}


async def test_an_invalidation_that_works_does_not_settle_a_put_that_may_arrive_late(
    storage: Distant, guard: Guard
) -> None:
    await fail_to_put(storage, guard)
    await invalidate(storage, guard)
    assert guard.bypasses(KEY)
    await guard.aclose()


async def test_a_journalled_invalidation_does_not_raise(storage: Distant, guard: Guard) -> None:
    in_trouble(storage)

    async def apply() -> None:
        await storage.discard([KEY])

    seen = list[events.Event]()
    with events.listening(seen.append):
        await guard.invalidate([KEY], apply, timeout=0.0, journal=True)
    assert guard.bypasses(KEY)
    assert [getattr(event, "confirmed", None) for event in seen] == [False]
    await guard.aclose()


async def test_a_cancelled_invalidation_is_pending(storage: Distant, guard: Guard) -> None:
    in_trouble(storage)
    asking = asyncio.create_task(invalidate(storage, guard, timeout=5.0))
    await until(lambda: storage.asked["discard"])
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert guard.bypasses(KEY)
    storage.trouble = None
    await until(lambda: guard.is_quiet)


async def test_closing_ends_the_retries_and_the_next_call_takes_them_up(
    storage: Distant, guard: Guard
) -> None:
    process = Process(storage, Truth())
    await process.thing(1)
    in_trouble(storage)
    process.truth.version = 1
    before = asyncio.all_tasks()
    with pytest.raises(InvalidationFailed):
        async with asyncio.timeout(5):
            await process.cache.cached(key="thing:{i}", invalidate_timeout=0.01)(
                process.thing.uncached
            ).invalidate(1)
    await process.cache.aclose()
    assert asyncio.all_tasks() == before
    storage.trouble = None
    assert await process.thing(1) == "1 in version 1"
    await until(lambda: guard.is_quiet)
    assert await process.thing(1) == "1 in version 1"


def test_what_is_pending_outlives_its_loop(storage: Distant, guard: Guard) -> None:
    in_trouble(storage)

    async def fail() -> None:
        with pytest.raises(InvalidationFailed):
            await invalidate(storage, guard)

    asyncio.run(fail())
    assert guard.bypasses(KEY)
    storage.trouble = None
    process = Process(storage, Truth())

    async def another_loop() -> None:
        assert await process.cache.get_or_create("a key", lambda: "new") == "new"
        await until(lambda: guard.is_quiet)

    asyncio.run(another_loop())


async def test_a_refresh_without_a_lease_is_not_joined_after_an_invalidation(
    storage: Distant,
) -> None:
    process = Process(storage, Truth())
    gate = process.truth.close_gate()
    in_trouble(storage)
    early = asyncio.create_task(process.thing.refresh(1))
    await process.truth.asked(1)
    storage.trouble = None
    process.truth.version = 1
    await process.thing.invalidate(1)
    late = asyncio.create_task(process.thing.refresh(1))
    await process.truth.asked(2)
    gate.set()
    assert await early == "1 in version 0"
    assert await late == "1 in version 1"


async def test_flights_of_every_cache_over_the_storage_are_detached(storage: Distant) -> None:
    truth = Truth()
    one, two = Process(storage, truth), Cache(storage, invalidate_timeout=0.01)
    in_trouble(storage)
    gate = truth.close_gate()
    early = one.call()  # without a lease: what it brings is for all who join
    await truth.asked(1)
    truth.version = 1
    with pytest.raises(InvalidationFailed):
        await two.invalidate("thing:1")
    late = one.call()
    await truth.asked(2)
    gate.set()
    async with patience():
        assert await early == "1 in version 0"
        assert await late == "1 in version 1"
    await two.aclose()
