"""Each fault, by script and by probability: it is injected, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import pytest

from gecaso import (
    Busy,
    ConfigurationError,
    Entry,
    EntryStorage,
    Key,
    Lease,
    MemoryStorage,
    StorageError,
    StorageTimeout,
)
from gecaso.keys import as_key
from gecaso.storages.redis import RedisStorage
from gecaso.testing import ChaosStorage, FakeClock, Faults
from gecaso.testing.faults import (
    Delay,
    Disconnect,
    Evict,
    EvictLeases,
    FailOver,
    Fault,
    Flush,
    Hang,
    Jump,
    Late,
    Lose,
    RaiseAfter,
    RaiseBefore,
    Reorder,
    Repeat,
)
from tests.doubles import DictStorage
from tests.scenes import patience

A, B = as_key("a"), as_key("b")


@pytest.fixture(params=["memory", "redis"])
def inner(request: pytest.FixtureRequest) -> EntryStorage:
    if request.param == "memory":
        return MemoryStorage()
    return RedisStorage(request.getfixturevalue("redis_url"), namespace="chaos")


@pytest.fixture
def chaos(inner: EntryStorage) -> ChaosStorage:
    return ChaosStorage(inner, remember=10)


async def held(storage: EntryStorage, key: Key = A, seconds: float = 10.0) -> Lease:
    got = (await storage.lease((key,), seconds))[key]
    assert isinstance(got, Lease)
    return got


async def values(storage: EntryStorage) -> dict[str, Any]:
    return await storage.get_many(["a", "b"])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with patience():
        while not await condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.002)


# -- without faults --------------------------------------------------------------------------------


async def test_without_faults_it_is_the_storage_below(
    chaos: ChaosStorage, inner: EntryStorage
) -> None:
    await chaos.set("a", 1, ttl=60)
    await chaos.set_many({"b": 2})
    assert await inner.get("a") == await chaos.get("a") == 1
    assert await chaos.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
    await chaos.evict((B,))
    lease = await held(chaos, B)
    assert isinstance((await inner.lease((B,), 10))[B], Busy)
    assert await chaos.renew((lease,), 20) == {B}
    assert await chaos.commit({lease: chaos.new_entry(3)}) == {B}
    await chaos.discard((A,))
    assert await values(inner) == {"b": 3}
    lease = await held(chaos)
    await chaos.release((lease,))
    async with chaos.leased("work") as work:
        assert isinstance((await inner.lease((work.key,), 10))[work.key], Busy)
    await chaos.ping()
    await chaos.clear()
    with pytest.raises(KeyError):
        await chaos.get("b")
    await chaos.remove("b")
    assert chaos.injected.total() == 0
    assert repr(chaos) == f"<ChaosStorage over {inner!r}: 0 faults>"
    await chaos.aclose()


async def test_what_a_storage_says_of_itself_is_passed_on() -> None:
    below = MemoryStorage(clock=FakeClock(7.0))
    below.default_ttl = 30.0
    chaos = ChaosStorage(below, timeout=0.5)
    assert (chaos.now(), chaos.shared, chaos.notifies) == (7.0, False, True)
    assert (chaos.timeout, chaos.default_ttl) == (0.5, 30.0)
    assert ChaosStorage(below).timeout == below.timeout
    assert chaos.guarded is chaos
    adapted = ChaosStorage(DictStorage())
    assert (adapted.shared, adapted.timeout) == (True, 2.0)


async def test_a_storage_of_three_methods_is_adapted() -> None:
    below = DictStorage()
    chaos = ChaosStorage(below)
    assert chaos.takes == below.set
    await chaos.set("a", 1)
    chaos.next("store", RaiseBefore())
    with pytest.raises(StorageError):
        await chaos.set("a", 2)
    assert await chaos.get("a") == 1


# -- the reply, the time it takes ------------------------------------------------------------------


@pytest.mark.parametrize("error", [StorageError, StorageTimeout])
async def test_raise_before(
    chaos: ChaosStorage, inner: EntryStorage, error: type[StorageError]
) -> None:
    chaos.next("store", RaiseBefore(error))
    with pytest.raises(error, match="not applied"):
        await chaos.set("a", 1)
    assert await values(inner) == {}
    await chaos.set("a", 2)
    assert await values(inner) == {"a": 2}
    assert chaos.injected == {"raise_before": 1}


@pytest.mark.parametrize("error", [StorageError, StorageTimeout])
async def test_raise_after(
    chaos: ChaosStorage, inner: EntryStorage, error: type[StorageError]
) -> None:
    chaos.next("store", RaiseAfter(error))
    with pytest.raises(error, match="though applied"):
        await chaos.set("a", 1)
    assert await values(inner) == {"a": 1}
    assert chaos.injected == {"raise_after": 1}


Ask = Callable[[ChaosStorage, Lease], Awaitable[object]]
EVERY: dict[str, Ask] = {
    "fetch": lambda chaos, lease: chaos.fetch((A,)),
    "lease": lambda chaos, lease: chaos.lease((A,), 10),
    "renew": lambda chaos, lease: chaos.renew((lease,), 10),
    "commit": lambda chaos, lease: chaos.commit({lease: chaos.new_entry(1)}),
    "release": lambda chaos, lease: chaos.release((lease,)),
    "store": lambda chaos, lease: chaos.store({A: chaos.new_entry(1)}),
    "discard": lambda chaos, lease: chaos.discard((A,)),
    "evict": lambda chaos, lease: chaos.evict((A,)),
    "clear": lambda chaos, lease: chaos.clear(),
    "ping": lambda chaos, lease: chaos.ping(),
    "wait": lambda chaos, lease: chaos.wait(Busy(A, b"of nobody", 1.0), 0.001),
}


@pytest.mark.parametrize("name", EVERY)
async def test_every_operation_can_fail_and_works_after_that(name: str) -> None:
    chaos = ChaosStorage(MemoryStorage())
    lease = await held(chaos)
    chaos.next(name, RaiseBefore(), None, RaiseBefore())
    with pytest.raises(StorageError):
        await EVERY[name](chaos, lease)
    await EVERY[name](chaos, lease)
    with pytest.raises(StorageError):
        await EVERY[name](chaos, lease)
    await EVERY[name](chaos, lease)
    assert chaos.injected == {"raise_before": 2}


async def test_a_lookup_is_a_fetch() -> None:
    chaos = ChaosStorage(MemoryStorage())
    chaos.next("fetch", RaiseBefore())
    with pytest.raises(StorageError):
        await chaos.lookup(A)
    assert await chaos.lookup(A) is None


async def test_delay(chaos: ChaosStorage, inner: EntryStorage) -> None:
    loop = asyncio.get_running_loop()
    chaos.next("store", Delay(0.05))
    started = loop.time()
    storing = asyncio.create_task(chaos.set("a", 1))
    await asyncio.sleep(0.01)
    assert await values(inner) == {}
    await storing
    assert loop.time() - started >= 0.05
    assert await values(inner) == {"a": 1}
    assert chaos.injected == {"delay": 1}


async def test_a_delay_beyond_the_timeout_is_a_timeout_and_the_operation_is_not_applied() -> None:
    chaos = ChaosStorage(MemoryStorage(), timeout=0.02)
    chaos.next("store", Delay(10))
    with pytest.raises(StorageTimeout):
        await chaos.set("a", 1)
    assert await values(chaos.inner) == {}


async def test_late(chaos: ChaosStorage, inner: EntryStorage) -> None:
    chaos.next("store", Late(0.02))
    with pytest.raises(StorageTimeout, match="no answer in time"):
        await chaos.set("a", 1)
    await chaos.remove("a")
    assert await values(inner) == {}

    async def has_arrived() -> bool:
        return await values(inner) == {"a": 1}

    await until(has_arrived)
    assert chaos.injected == {"late": 1}


async def test_what_is_on_its_way_when_it_is_closed_never_arrives() -> None:
    tasks = asyncio.all_tasks()
    chaos = ChaosStorage(MemoryStorage())
    chaos.next("store", Late(3600))
    with pytest.raises(StorageTimeout):
        await chaos.set("a", 1)
    assert len(asyncio.all_tasks() - tasks) == 1
    async with patience():
        await chaos.aclose()
    assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("applied", [False, True])
async def test_hang_until_it_is_healed(inner: EntryStorage, applied: bool) -> None:
    chaos = ChaosStorage(inner, timeout=10)
    chaos.next("store", Hang(applied))
    storing = asyncio.create_task(chaos.set("a", 1))
    await asyncio.sleep(0.05)
    assert not storing.done()
    assert await values(inner) == ({"a": 1} if applied else {})
    chaos.heal()
    await storing
    assert await values(inner) == {"a": 1}
    assert chaos.injected == {"hang": 1}


@pytest.mark.parametrize("applied", [False, True])
async def test_hang_until_the_timeout(inner: EntryStorage, applied: bool) -> None:
    chaos = ChaosStorage(inner, timeout=0.03)
    chaos.next("store", Hang(applied))
    with pytest.raises(StorageTimeout, match=r"within 0\.03 s"):
        await chaos.set("a", 1)
    assert await values(inner) == ({"a": 1} if applied else {})


async def test_it_may_be_healed_from_another_thread() -> None:
    chaos = ChaosStorage(MemoryStorage())
    chaos.next("store", Hang())
    storing = asyncio.create_task(chaos.set("a", 1))
    await asyncio.sleep(0)
    async with patience():
        await asyncio.to_thread(chaos.heal)
        await storing
    assert await values(chaos.inner) == {"a": 1}
    assert chaos.faults == Faults()


async def test_hang_until_it_is_cancelled() -> None:
    chaos = ChaosStorage(MemoryStorage())
    chaos.next("store", Hang())
    storing = asyncio.create_task(chaos.set("a", 1))
    await asyncio.sleep(0)
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    assert await values(chaos.inner) == {}
    chaos.heal()


# -- the connection --------------------------------------------------------------------------------


async def test_disconnect_for_some_operations(chaos: ChaosStorage, inner: EntryStorage) -> None:
    chaos.next("store", Disconnect(3))
    for operation in (chaos.set("a", 1), chaos.get("a"), chaos.remove("a")):
        with pytest.raises(StorageError, match="no connection"):
            await operation
    assert not chaos.is_disconnected
    await chaos.set("a", 2)
    assert await values(inner) == {"a": 2}
    assert chaos.injected == {"disconnect": 1, "disconnected": 3}


async def test_disconnect_until_it_is_connected_again() -> None:
    chaos = ChaosStorage(MemoryStorage())
    chaos.disconnect()
    assert "disconnected" in repr(chaos)
    for _ in range(20):
        with pytest.raises(StorageError):
            await chaos.ping()
    chaos.reconnect()
    await chaos.ping()
    assert chaos.injected == {"disconnect": 1, "disconnected": 20}


async def test_another_process_over_the_same_storage_stays_connected() -> None:
    below = MemoryStorage()
    here, there = ChaosStorage(below), ChaosStorage(below)
    here.disconnect()
    await there.set("a", 1)
    with pytest.raises(StorageError):
        await here.get("a")


# -- what the storage loses ------------------------------------------------------------------------


async def test_evict(chaos: ChaosStorage, inner: EntryStorage) -> None:
    await chaos.set_many({"a": 1, "b": 2})
    lease = await held(chaos)
    chaos.next("ping", Evict(2))
    await chaos.ping()
    assert await values(inner) == {}
    assert await chaos.commit({lease: chaos.new_entry(3)}) == {A}, "evicting ends no lease"
    assert chaos.injected == {"evict": 1}


async def test_evict_leases(chaos: ChaosStorage, inner: EntryStorage) -> None:
    await chaos.set("a", 1)
    lease = await held(chaos)
    chaos.next("commit", EvictLeases())
    assert await chaos.commit({lease: chaos.new_entry(2)}) == set()
    assert await values(inner) == {"a": 1}
    assert isinstance((await inner.lease((A,), 10))[A], Lease)
    assert chaos.injected == {"evict_leases": 1}


async def test_only_leases_that_are_out_are_evicted() -> None:
    below = MemoryStorage()
    chaos, other = ChaosStorage(below), ChaosStorage(below)
    c, d = as_key("c"), as_key("d")
    committed, released, put, kept = [await held(other, key) for key in (A, B, c, d)]
    await other.commit({committed: other.new_entry(1)})
    await other.release((released,))
    await chaos.set("c", 1)
    await chaos.evict_leases()
    assert await other.renew((kept,), 10) == set()
    assert await other.renew((put,), 10) == set()


async def test_flush(chaos: ChaosStorage, inner: EntryStorage) -> None:
    await chaos.set_many({"a": 1, "b": 2})
    lease = await held(chaos)
    chaos.next("commit", Flush())
    assert await chaos.commit({lease: chaos.new_entry(3)}) == set()
    assert await values(inner) == {}
    assert chaos.injected == {"flush": 1}


async def test_a_storage_that_cannot_be_cleared_loses_the_keys_seen(redis_url: str) -> None:
    chaos = ChaosStorage(RedisStorage(redis_url))
    await chaos.set("a", 1)
    await chaos.inner.set("b", 2)
    await chaos.flush()
    assert await values(chaos.inner) == {"b": 2}
    await chaos.aclose()


# -- the clock -------------------------------------------------------------------------------------


async def test_jump() -> None:
    clock = FakeClock()
    chaos = ChaosStorage(MemoryStorage(clock=clock))
    chaos.next("ping", Jump(-3600))
    await chaos.ping()
    assert (chaos.now(), chaos.inner.now()) == (clock.now - 3600, clock.now)
    await chaos.set("a", 1, ttl=60)
    with pytest.raises(KeyError):
        await chaos.inner.get("a")  # it was dead when it was born
    chaos.jump(7200)
    assert chaos.now() == clock.now + 3600
    chaos.heal()
    assert chaos.now() == clock.now
    assert chaos.injected == {"jump": 2}


# -- fail-over -------------------------------------------------------------------------------------


async def test_a_fail_over_loses_a_delete(chaos: ChaosStorage, inner: EntryStorage) -> None:
    await chaos.set("a", "old", ttl=60)
    await chaos.remove("a")
    chaos.next("fetch", FailOver(1))
    assert await chaos.get("a") == "old"
    assert await inner.get("a") == "old"
    assert chaos.injected == {"fail_over": 1}


async def test_a_fail_over_loses_what_was_stored(chaos: ChaosStorage, inner: EntryStorage) -> None:
    await chaos.set("a", 1)
    await chaos.set("a", 2)
    await chaos.set("b", 3)
    await chaos.fail_over(2)
    assert await values(inner) == {"a": 1}
    await chaos.fail_over(1)
    assert await values(inner) == {}
    await chaos.fail_over(5)  # there is nothing left to lose


async def test_a_fail_over_loses_a_lease(chaos: ChaosStorage, inner: EntryStorage) -> None:
    await chaos.set("a", 1)
    lease = await held(chaos)
    await chaos.fail_over(1)
    assert await chaos.commit({lease: chaos.new_entry(2)}) == set()
    assert await values(inner) == {"a": 1}


async def test_in_memory_a_fail_over_revives_a_lease() -> None:
    chaos = ChaosStorage(MemoryStorage(), remember=1)
    lease = await held(chaos)
    await chaos.discard((A,))
    await chaos.fail_over(1)
    assert await chaos.commit({lease: chaos.new_entry("stale")}) == {A}


async def test_in_memory_a_fail_over_loses_a_renewal() -> None:
    clock = FakeClock()
    chaos = ChaosStorage(MemoryStorage(clock=clock), remember=1)
    lease = await held(chaos)
    assert await chaos.renew((lease,), 60) == {A}
    await chaos.fail_over(1)
    clock.advance(11)
    assert await chaos.commit({lease: chaos.new_entry("late")}) == set()


async def test_a_fail_over_loses_the_writes_of_every_process() -> None:
    below = MemoryStorage()
    here, there = ChaosStorage(below, remember=2), ChaosStorage(below)
    await here.set("a", 1)
    await there.set("a", 2)
    await there.set("b", 3)
    await here.fail_over(2)
    assert await values(below) == {"a": 1}


async def test_more_than_is_remembered_cannot_be_lost() -> None:
    below = MemoryStorage()
    chaos = ChaosStorage(below)
    await chaos.set("a", 1)
    with pytest.raises(ConfigurationError, match=r"ChaosStorage\(…, remember=1\)"):
        await chaos.fail_over(1)
    with pytest.raises(ConfigurationError, match="remember=3"):
        ChaosStorage(below, Faults(fail_over=(0.1, 3)), remember=2)
    with pytest.raises(ConfigurationError, match="remember=3"):
        chaos.faults = Faults(fail_over=(0.1, 3))


# -- messages --------------------------------------------------------------------------------------


async def told(chaos: ChaosStorage, timeout: float = 5.0) -> tuple[float, float]:
    """Return after how many seconds a waiter came back, and when the lease had gone."""
    loop = asyncio.get_running_loop()
    lease = await held(chaos)
    busy = (await chaos.inner.lease((A,), 10))[A]
    assert isinstance(busy, Busy)
    started = loop.time()
    waiting = asyncio.create_task(chaos.wait(busy, timeout))
    await asyncio.sleep(0.05)
    early = waiting.done()
    await chaos.inner.release((lease,))
    gone = loop.time() - started
    async with patience():
        await waiting
    return (0.0 if early else loop.time() - started), gone


async def test_a_message_arrives(chaos: ChaosStorage) -> None:
    back, gone = await told(chaos)
    assert gone <= back < 2


async def test_a_lost_message(chaos: ChaosStorage) -> None:
    chaos.next("wait", Lose())
    back, _ = await told(chaos, 0.2)
    assert back >= 0.2
    assert chaos.injected == {"lose": 1}


async def test_a_message_that_comes_twice_wakes_too_early(chaos: ChaosStorage) -> None:
    chaos.next("wait", Repeat())
    back, _ = await told(chaos)
    assert back == 0
    assert chaos.injected == {"repeat": 1}


async def test_a_message_out_of_order_is_late(chaos: ChaosStorage) -> None:
    chaos.next("wait", Reorder(0.1))
    back, gone = await told(chaos)
    assert gone + 0.09 <= back < 3
    assert chaos.injected == {"reorder": 1}
    chaos.next("wait", Reorder(60))
    back, _ = await told(chaos, 0.2)
    assert 0.2 <= back < 3, "no later than the timeout"


async def test_a_waiter_without_a_connection_is_told_so(chaos: ChaosStorage) -> None:
    chaos.next("wait", Disconnect(1))
    with pytest.raises(StorageError, match="no connection"):
        await chaos.wait(Busy(A, b"of nobody", 1.0), 5)
    await chaos.aclose()


# -- scripts and dice ------------------------------------------------------------------------------


async def test_a_script_of_many_operations() -> None:
    chaos = ChaosStorage(MemoryStorage())
    chaos.script([("store", None), ("fetch", RaiseBefore()), ("store", RaiseAfter())])
    await chaos.set("a", 1)
    with pytest.raises(StorageError):
        await chaos.get("a")
    with pytest.raises(StorageError):
        await chaos.set("a", 2)
    assert await chaos.get("a") == 2


async def test_nothing_is_drawn_where_there_is_a_script() -> None:
    chaos = ChaosStorage(MemoryStorage(), Faults(raise_before=1.0))
    chaos.next("ping", None)
    await chaos.ping()
    with pytest.raises(StorageError):
        await chaos.ping()


def test_a_script_names_operations_that_there_are() -> None:
    chaos = ChaosStorage(MemoryStorage())
    with pytest.raises(ConfigurationError, match=r"comit.*commit"):
        chaos.next("comit", RaiseBefore())


@pytest.mark.parametrize(
    ("operation", "fault"),
    [("fetch", Lose()), ("store", Repeat()), ("changes", RaiseBefore()), ("fetch", Late(1))],
)
def test_what_an_operation_cannot_have_is_refused(operation: str, fault: Fault) -> None:
    with pytest.raises(ConfigurationError, match=type(fault).__name__):
        ChaosStorage(MemoryStorage()).next(operation, fault)


@pytest.mark.parametrize("fault", [RaiseAfter(), Hang(applied=True), Hang()])
async def test_waiting_fails_and_hangs_like_everything_else(fault: Fault) -> None:
    chaos = ChaosStorage(MemoryStorage(), timeout=0.01)
    chaos.next("wait", fault)
    with pytest.raises(StorageError):
        await chaos.wait(Busy(A, b"of nobody", 1.0), 0.001)


async def test_nothing_is_counted_where_there_is_nothing_to_lose() -> None:
    chaos = ChaosStorage(MemoryStorage())
    await chaos.evict_some()
    await chaos.evict_leases()
    with pytest.raises(ConfigurationError):
        await chaos.fail_over(1)
    assert chaos.injected == {}


async def outcomes(chaos: ChaosStorage, times: int = 300) -> list[str]:
    """Ask again and again; return what came of it."""
    seen = list[str]()
    for number in range(times):
        try:
            await chaos.set("a", number)
            seen.append("ok")
        except StorageError as error:
            applied = await values(chaos.inner) == {"a": number}
            seen.append(f"{type(error).__name__}, applied: {applied}")
    return seen


@pytest.mark.parametrize(
    ("faults", "kind", "outcome"),
    [
        (Faults(raise_before=0.3), "raise_before", "StorageError, applied: False"),
        (Faults(raise_after=0.3), "raise_after", "StorageError, applied: True"),
        (Faults(late=(0.3, 60)), "late", "StorageTimeout, applied: False"),
    ],
)
async def test_by_probability_as_many_fail_as_were_injected(
    faults: Faults, kind: str, outcome: str
) -> None:
    chaos = ChaosStorage(MemoryStorage(), faults, seed=1)
    seen = await outcomes(chaos)
    assert set(seen) == {"ok", outcome}
    assert seen.count(outcome) == chaos.injected[kind]
    assert 60 < chaos.injected[kind] < 120
    await chaos.aclose()


async def test_by_probability_it_hangs_before_or_after() -> None:
    chaos = ChaosStorage(MemoryStorage(), Faults(hang=0.5), timeout=0.001)
    seen = await outcomes(chaos, 60)
    before = seen.count("StorageTimeout, applied: False")
    after = seen.count("StorageTimeout, applied: True")
    assert before + after == chaos.injected["hang"]
    assert min(before, after, seen.count("ok")) > 5


async def test_by_probability_connections_break() -> None:
    chaos = ChaosStorage(MemoryStorage(), Faults(disconnect=(0.02, 5)), seed=2)
    failed = len([one for one in await outcomes(chaos) if one != "ok"])
    assert failed == chaos.injected["disconnected"]
    assert chaos.injected["disconnect"] < failed <= 5 * chaos.injected["disconnect"]


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        (Faults(evict=0.3), "evict"),
        (Faults(flush=0.3), "flush"),
        (Faults(fail_over=(0.3, 2)), "fail_over"),
    ],
)
async def test_by_probability_values_are_lost(faults: Faults, kind: str) -> None:
    chaos = ChaosStorage(MemoryStorage(), seed=3, remember=2)
    lost = 0
    for number in range(100):
        await chaos.inner.clear()
        chaos.faults = Faults()
        await chaos.set("a", number)
        chaos.faults = faults
        lost += await chaos.get_many(["a"]) == {}
    assert lost == chaos.injected[kind]
    assert 15 < lost < 50


async def test_by_probability_leases_are_lost() -> None:
    chaos = ChaosStorage(MemoryStorage(), Faults(evict_leases=0.3, on=("commit",)), seed=3)
    lost = 0
    for number in range(100):
        lease = await held(chaos)
        lost += await chaos.commit({lease: chaos.new_entry(number)}) == set()
    assert lost == chaos.injected["evict_leases"]
    assert 15 < lost < 50


async def test_by_probability_the_clock_jumps_both_ways() -> None:
    clock = FakeClock()
    chaos = ChaosStorage(MemoryStorage(clock=clock), Faults(jump=(0.5, 10)))
    jumps = list[float]()
    for _ in range(100):
        before = chaos.now()
        await chaos.ping()
        jumps.append(chaos.now() - before)
    assert 30 < chaos.injected["jump"] < 70
    assert -10 <= min(jumps) < 0 < max(jumps) <= 10


async def test_by_probability_it_takes_longer() -> None:
    loop = asyncio.get_running_loop()
    chaos = ChaosStorage(MemoryStorage(), Faults(delay=(1.0, 0.004)))
    started = loop.time()
    for _ in range(20):
        await chaos.ping()
    assert chaos.injected == {"delay": 20}
    assert loop.time() - started >= 20 * 0.004 / 8


@pytest.mark.parametrize(
    ("kind", "faults"),
    [
        ("lose", Faults(lose=0.5)),
        ("repeat", Faults(repeat=0.5)),
        ("reorder", Faults(reorder=0.5)),
    ],
)
async def test_by_probability_messages_go_astray(kind: str, faults: Faults) -> None:
    chaos = ChaosStorage(MemoryStorage(), faults)
    for _ in range(60):
        await chaos.wait(Busy(A, b"of nobody", 1.0), 0.0001)
    assert 15 < chaos.injected[kind] < 45
    assert chaos.injected.total() == chaos.injected[kind]


async def test_a_seed_repeats_itself() -> None:
    faults = Faults(raise_before=0.2, raise_after=0.2, disconnect=(0.05, 3))
    first = await outcomes(ChaosStorage(MemoryStorage(), faults, seed=5))
    assert await outcomes(ChaosStorage(MemoryStorage(), faults, seed=5)) == first
    assert await outcomes(ChaosStorage(MemoryStorage(), faults, seed=6)) != first


async def test_somebody_else_may_choose() -> None:
    asked = list[int]()

    def tame(n: int) -> int:
        asked.append(n)
        return 0

    chaos = ChaosStorage(MemoryStorage(), Faults(raise_before=0.1, hang=0.25), choose=tame)
    await chaos.ping()
    assert (asked, chaos.injected.total()) == ([10, 4], 0)
    wild = ChaosStorage(MemoryStorage(), Faults(raise_before=0.1), choose=lambda n: n - 1)
    with pytest.raises(StorageError):
        await wild.ping()


async def test_only_the_operations_named_are_concerned() -> None:
    chaos = ChaosStorage(MemoryStorage(), Faults(raise_before=1.0, on=("store",)))
    await chaos.ping()
    assert await chaos.get_many(["a"]) == {}
    with pytest.raises(StorageError):
        await chaos.set("a", 1)


async def test_healed_it_does_no_harm() -> None:
    chaos = ChaosStorage(MemoryStorage(), Faults(raise_before=1.0))
    chaos.next("store", RaiseAfter())
    chaos.disconnect()
    chaos.heal()
    await chaos.set("a", 1)
    assert await chaos.get("a") == 1
    assert chaos.injected == {"disconnect": 1}


class Slow(MemoryStorage):
    """A storage that is itself in trouble."""

    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        raise StorageError("the real one")

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        raise StorageError("the real one")


async def test_trouble_of_the_storage_itself_is_passed_on() -> None:
    chaos = ChaosStorage(Slow())
    with pytest.raises(StorageError, match="the real one"):
        await chaos.set("a", 1)
    chaos.next("store", Late(0.0))
    with pytest.raises(StorageTimeout):
        await chaos.set("a", 1)
    await asyncio.sleep(0.01)  # it fails where nobody hears of it
    assert chaos.injected == {"late": 1}


def test_every_fault_is_counted_by_the_name_of_its_probability() -> None:
    from gecaso.testing.faults import PROBABILITIES, kind_of

    scripted: list[Fault] = [
        *(RaiseBefore(), RaiseAfter(), Delay(1), Late(1), Hang(), Evict(), EvictLeases(), Flush()),
        *(Disconnect(1), FailOver(1), Jump(1), Lose(), Reorder(), Repeat()),
    ]
    assert sorted(map(kind_of, scripted)) == sorted(PROBABILITIES)


@pytest.mark.parametrize(
    "options",
    [
        {"raise_before": 1.5},
        {"hang": -0.1},
        {"delay": (0.5, -1)},
        {"late": (2, 1)},
        {"on": "store"},
    ],
)
def test_faults_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Faults(**options)
