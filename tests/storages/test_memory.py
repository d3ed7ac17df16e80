"""`MemoryStorage`: bounds, copies, and entries that leave by themselves."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gecaso import Entry, Lease, LRUStorage, MemoryStorage, PackError, ValueTooLarge, cached
from gecaso.entry import Busy
from gecaso.errors import WaitTimeout
from gecaso.keys import Key, as_key
from tests.doubles import FakeClock


class Thing:
    """A value that can be seen to go."""


def keys(storage: MemoryStorage, names: str) -> str:
    return "".join(name for name in names if storage.fetch_now((as_key(name),)))


def put(storage: MemoryStorage, key: object, value: object, ttl: float | None = None) -> None:
    storage.store_now({as_key(key): storage.new_entry(value, ttl)})


def value_of(storage: MemoryStorage, key: object) -> Any:
    return storage.fetch_now((as_key(key),))[as_key(key)].value


# -- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["maxsize", "maxbytes"])
@pytest.mark.parametrize("bound", [0, -1])
def test_a_bound_below_one_is_refused_with_the_ways_out(option: str, bound: int) -> None:
    options: Any = {option: bound}
    with pytest.raises(ValueError, match=f"{option} must be above zero.*NullStorage"):
        MemoryStorage(**options)


@pytest.mark.parametrize("bound", ["10", 1.5, True, float("inf")])
def test_a_bound_that_is_no_whole_number_is_refused(bound: Any) -> None:
    with pytest.raises(TypeError, match="maxsize must be a whole number"):
        MemoryStorage(bound)
    with pytest.raises(TypeError, match="maxsize must be a whole number"):
        LRUStorage(maxsize=bound)


def test_the_entry_used_longest_ago_leaves_first() -> None:
    storage = MemoryStorage(maxsize=3, policy="lru")
    for name in "abc":
        put(storage, name, name)
    value_of(storage, "a")
    put(storage, "d", "d")
    assert keys(storage, "abcd") == "acd"
    put(storage, "a", "again")  # is a use, and no growth
    assert keys(storage, "abcd") == "acd"
    assert len(storage) == 3


def test_a_hit_of_a_function_is_a_use() -> None:
    storage = MemoryStorage(maxsize=2)

    @cached(storage)
    def f(x: int) -> int:
        return x

    f(1)
    f(2)
    f(1)
    f(3)
    assert f.peek(1) == 1
    with pytest.raises(KeyError):
        f.peek(2)


def test_a_bound_of_one_keeps_the_newest() -> None:
    storage = MemoryStorage(maxsize=1)
    for name in "abab":
        put(storage, name, name)
        assert (keys(storage, "ab"), len(storage)) == (name, 1)
    storage.discard_now([as_key("b")])
    assert len(storage) == 0
    put(storage, "a", 1)
    put(storage, "a", 2)
    assert (value_of(storage, "a"), len(storage)) == (2, 1)


def test_the_newest_may_be_removed_and_set_again() -> None:
    storage = MemoryStorage(maxsize=3, policy="lru")
    for name in "abcdc":
        put(storage, name, name)
        storage.discard_now([as_key(name)])
        put(storage, name, name)
        assert keys(storage, name) == name
    assert keys(storage, "abcd") == "bcd"


def test_bytes_are_bounded() -> None:
    storage = MemoryStorage(maxbytes=10_000)
    for number in range(100):
        put(storage, number, b"x" * 1000)
    assert 5 <= len(storage) <= 10
    assert value_of(storage, 99) == b"x" * 1000
    with pytest.raises(ValueTooLarge, match="maxbytes=10000") as caught:
        put(storage, "large", b"x" * 20_000)
    assert caught.value.limit == 10_000
    assert caught.value.size >= 20_000
    put(storage, 99, b"y")  # replaces: what was there no longer counts
    for number in range(9):
        put(storage, number, b"x" * 1000)
    assert value_of(storage, 99) == b"y"


@pytest.mark.parametrize("maxbytes", [1, 10, 100])
def test_a_value_that_is_too_large_is_returned_and_not_stored(
    maxbytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage(maxbytes=maxbytes)

    @cached(storage)
    def f(x: int) -> bytes:
        return b"x" * 1000

    for x in range(3):
        assert f(x) == b"x" * 1000
    assert f.stats.uncacheable == 3
    assert len([r for r in caplog.records if r.name == "gecaso"]) == 1
    with pytest.raises(KeyError):
        f.peek(1)


# -- copies --------------------------------------------------------------------------------------


def test_values_are_kept_by_reference() -> None:
    @cached(MemoryStorage())
    def f() -> list[int]:
        return [1]

    f().append(2)
    assert f() == [1, 2]
    assert f() is f()


def test_isolated_values_are_copies_of_the_same_types() -> None:
    storage = MemoryStorage(isolate=True)

    @cached(storage)
    def f() -> dict[str, Any]:
        return {"a": (1, [2]), "b": {3}}

    first = f()
    first["a"][1].append("changed by a caller")
    second = f()
    assert second == {"a": (1, [2]), "b": {3}}
    assert second is not f()
    assert f.stats.loads == 1
    given = [1]
    put(storage, "k", given)
    given.append(2)
    assert value_of(storage, "k") == [1]


def test_what_cannot_be_copied_is_returned_and_not_stored(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    storage = MemoryStorage(isolate=True, clock=clock)

    @cached(storage)
    def f(x: int) -> Thing:
        return Thing()

    assert f(1) is not f(1)
    f(2)
    assert (f.stats.loads, f.stats.uncacheable) == (3, 2)
    warnings = [record for record in caplog.records if record.name == "gecaso"]
    assert len(warnings) == 1
    assert "returned and not stored" in warnings[0].getMessage()
    clock.advance(1.0)
    f(1)
    assert f.stats.uncacheable == 3
    with pytest.raises(PackError, match="Thing"):
        put(storage, "k", Thing())


# -- who leaves by himself -----------------------------------------------------------------------


@pytest.mark.every_loop
async def test_in_a_loop_dead_entries_leave_without_being_asked_for() -> None:
    gone = asyncio.Event()
    storage = MemoryStorage()
    thing = Thing()
    weakref.finalize(thing, gone.set)
    await storage.set("a", thing, ttl=0.01)
    await storage.set("b", 1)
    del thing
    async with asyncio.timeout(5):
        await gone.wait()
    assert len(storage) == 1


def test_without_a_loop_dead_entries_leave_when_others_are_written() -> None:
    clock = FakeClock()
    storage = MemoryStorage(clock=clock)
    for number in range(1000):
        put(storage, number, number, ttl=1 + number / 1000)
    clock.advance(2)
    assert len(storage) == 1000
    for number in range(20):
        put(storage, ("other", number), 1)
    assert len(storage) == 20


async def test_timers_do_not_pile_up() -> None:
    storage = MemoryStorage(clock=FakeClock())
    for number in range(50):
        await storage.set(number, 1, ttl=1000 - 10 * number)  # each is due before the others
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled")  # noqa: B009 - asyncio's own
    timers = [repr(timer) for timer in scheduled if not timer.cancelled()]
    assert len([timer for timer in timers if "_timer_sweep" in timer]) == 1


def test_a_dead_entry_that_has_not_left_yet_is_not_found() -> None:
    clock = FakeClock()
    storage = MemoryStorage(clock=clock)
    put(storage, "k", 1, ttl=10)
    assert storage.fetch_one(as_key("k")) is not None
    clock.advance(10)
    assert len(storage) == 1
    assert storage.fetch_one(as_key("k")) is None
    assert storage.fetch_now([as_key("k")]) == {}
    assert (storage.info().hits, storage.info().misses) == (1, 2)


def test_entries_of_any_order_of_ttls_leave_when_they_are_dead() -> None:
    clock = FakeClock()
    storage = MemoryStorage(clock=clock)
    started = clock()
    ttls = [30.0, 10.0, 20.0, 40.0, 5.0, 40.0, 35.0]
    for number, ttl in enumerate(ttls):
        put(storage, number, number, ttl)
    for now in (5.0, 10.0, 20.0, 30.0, 35.0, 40.0):
        clock.advance(started + now - clock())
        put(storage, "another", 1)  # each write takes out the dead
        assert len(storage) == 1 + sum(ttl > now for ttl in ttls)


def test_what_is_set_and_removed_leaves_nothing() -> None:
    clock = FakeClock()
    storage = MemoryStorage(clock=clock)
    for number in range(20_000):
        put(storage, number, Thing(), ttl=60)
        storage.discard_now([as_key(number)])
    gc.collect()
    assert sum(type(one) is Thing for one in gc.get_objects()) == 0
    assert len(storage) == len(storage.leases) == 0
    queue: Any = getattr(storage, "_expiry")  # noqa: B009 - what must not grow is its own
    assert len(queue) < 200


def test_a_key_that_is_written_again_and_again_leaves_nothing() -> None:
    clock = FakeClock()
    storage = MemoryStorage(clock=clock)
    for number in range(20_000):
        put(storage, "k", number, ttl=60)
        clock.advance(0.001)
    assert len(storage) == 1
    assert len(getattr(storage, "_expiry")) < 200  # noqa: B009 - likewise
    clock.advance(59.99)
    assert value_of(storage, "k") == 19_999


def test_a_function_that_goes_takes_its_entries_along() -> None:
    for storage in (MemoryStorage(), MemoryStorage(maxsize=9), MemoryStorage(isolate=True)):

        def use(storage: MemoryStorage = storage) -> None:
            @cached(storage, ttl=60)
            def f(x: int) -> int:
                return x

            f(1)

        use()
        gc.collect()
        assert len(storage) == 0


# -- entries and leases --------------------------------------------------------------------------


async def test_an_entry_may_be_in_two_storages() -> None:
    one, two = MemoryStorage(maxsize=5), MemoryStorage(maxsize=5)
    await one.set("a", 1)
    key = as_key("a")
    await two.store(await one.fetch([key]))
    await two.store({as_key("b"): (await one.fetch([key]))[key]})
    await one.remove("a")
    assert (len(one), len(two)) == (0, 2)
    assert await one.get_many(["a"]) == {}
    assert await two.get_many("ab") == {"a": 1, "b": 1}
    await two.remove("b")
    assert await two.get_many("ab") == {"a": 1}


async def test_compare_and_set_by_version() -> None:
    storage = MemoryStorage()
    key = as_key("k")
    first, second = storage.new_entry(1), storage.new_entry(2)
    assert await storage.store({key: first}, expect={key: b"wrong"}) == set()
    assert await storage.store({key: first}, expect={key: None}) == {key}
    assert await storage.store({key: second}, expect={key: None}) == set()
    assert await storage.store({key: second}, expect={key: first.version}) == {key}
    assert await storage.get("k") == 2


async def test_expiring_keeps_a_stale_entry() -> None:
    storage = MemoryStorage(clock=FakeClock())
    await storage.set("k", 1, ttl=60)
    await storage.discard([as_key("k")], keep_stale=True)
    with pytest.raises(KeyError):
        await storage.get("k")
    assert (await storage.fetch([as_key("k")]))[as_key("k")].value == 1


async def test_evicting_kills_no_lease_and_invalidating_does() -> None:
    storage = MemoryStorage()
    key = as_key("k")
    lease = (await storage.lease([key], 10))[key]
    assert isinstance(lease, Lease)
    await storage.evict([key])
    assert await storage.renew([lease], 10) == {key}
    assert isinstance((await storage.lease([key], 10))[key], Busy)
    await storage.discard([key])
    assert await storage.commit({lease: Entry(1, storage.now())}) == set()


async def test_clearing_keeps_the_locks() -> None:
    storage = MemoryStorage()
    async with storage.leased("job"):
        await storage.clear()
        with pytest.raises(WaitTimeout):
            async with storage.leased("job", wait_timeout=0.01):
                raise AssertionError("two hold one lock")


async def test_leased_is_the_lock_alone() -> None:
    storage = MemoryStorage()
    running = 0

    async def once() -> None:
        nonlocal running
        async with storage.leased("job"):
            running += 1
            assert running == 1
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*[once() for _ in range(10)])
    async with storage.leased("job"):
        with pytest.raises(TimeoutError, match=r"was not free within 0\.01 s"):
            async with storage.leased("job", wait_timeout=0.01):
                raise AssertionError("two at once")
        async with storage.leased("other job"):
            await storage.set("job", "a value is apart")
    assert len(storage.leases) == 0


def test_threads_may_write_and_read_at_once() -> None:
    storage = MemoryStorage(maxsize=50)
    start = threading.Barrier(4)

    @cached(storage, ttl=60)
    def f(x: int) -> int:
        return x

    def work(seed: int) -> None:
        start.wait()
        for number in range(3000):
            x = (number * (seed + 7)) % 100
            assert f(x) == x
            if number % 10 == 0:
                f.invalidate(x)
            assert len(storage) <= 50

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(storage.leases) == 0


def test_the_clock_is_a_parameter_and_the_repr_counts() -> None:
    clock = FakeClock(5.0)
    storage = MemoryStorage(maxsize=3, clock=clock)
    assert storage.now() == 5.0
    put(storage, "a", 1)
    storage.lease_now([Key(as_key("x").owner, "x")], 10)
    assert repr(storage) == "<MemoryStorage: 1 of 3 entries, 1 leases>"
