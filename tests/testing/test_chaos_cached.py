"""Cached functions over a storage in which everything goes wrong: what is promised still holds."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gecaso import (
    Cache,
    EntryStorage,
    InvalidationFailed,
    MemoryStorage,
    StorageError,
)
from gecaso.guard import guard_of
from gecaso.storages.redis import RedisStorage
from gecaso.testing import (
    ChaosStorage,
    Faults,
    History,
    ScheduleFailed,
    StaleRead,
    choose,
    explore,
)
from gecaso.testing.faults import (
    OPERATIONS,
    Delay,
    Disconnect,
    EvictLeases,
    FailOver,
    Fault,
    Flush,
    Hang,
    Late,
    Lose,
    RaiseAfter,
    RaiseBefore,
    Reorder,
    Repeat,
)
from tests.scenes import Process, Truth, hold, patience


@pytest.fixture(params=["memory", "redis"])
def inner(request: pytest.FixtureRequest) -> EntryStorage:
    if request.param == "memory":
        return MemoryStorage()
    return RedisStorage(request.getfixturevalue("redis_url"), namespace="chaos")


# -- G5: reads fail open ---------------------------------------------------------------------------

TROUBLE: list[Fault] = [
    *(RaiseBefore(), RaiseAfter(), Hang(), Hang(applied=True), Delay(60), Disconnect(1)),
]
OF_WRITES: list[Fault] = [*TROUBLE, Late(0.01)]


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        *(("fetch", fault) for fault in TROUBLE),
        *(("lease", fault) for fault in OF_WRITES),
        *(("commit", fault) for fault in OF_WRITES),
    ],
    ids=repr,
)
async def test_a_call_goes_on_without_a_storage_in_trouble(
    inner: EntryStorage, operation: str, fault: Fault
) -> None:
    chaos = ChaosStorage(inner, timeout=0.05)
    process = Process(chaos, Truth())
    chaos.next(operation, fault)
    async with patience():
        assert await process.thing(1) == "1 in version 0"
    assert process.thing.stats.storage_errors == 1
    assert process.truth.loads == 1
    await chaos.aclose()


@pytest.mark.parametrize("fault", [Lose(), Repeat(), Reorder(0.01), RaiseBefore()], ids=repr)
async def test_who_waits_for_another_process_gets_its_value_in_the_end(
    monkeypatch: pytest.MonkeyPatch, inner: EntryStorage, fault: Fault
) -> None:
    monkeypatch.setattr("gecaso.waiting.LOOK_ANYWAY", 0.2)
    truth = Truth()
    chaos = ChaosStorage(inner)
    here, there = Process(chaos, truth), Process(ChaosStorage(inner), truth)
    gate = truth.close_gate()
    loading = there.call()
    await truth.asked(1)
    waits = hold(monkeypatch, inner, "wait")
    waits.go.set()
    chaos.next("wait", fault)
    waiting = here.call()
    async with patience():
        while not chaos.injected:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
    if isinstance(fault, RaiseBefore):  # it goes on alone
        await truth.asked(2)
    gate.set()
    assert [await loading, await waiting] == ["1 in version 0"] * 2
    await chaos.aclose()


async def test_a_storage_that_is_away_is_left_alone_and_used_again_when_it_is_back(
    inner: EntryStorage,
) -> None:
    chaos = ChaosStorage(inner)
    process = Process(chaos, Truth())
    assert await process.thing(1) == "1 in version 0"
    chaos.disconnect()
    for number in range(30):
        await process.thing(number)
    assert guard_of(chaos).breaker.is_open
    assert chaos.injected["disconnected"] < 6
    assert process.truth.loads == 31
    chaos.heal()
    async with patience():
        while guard_of(chaos).breaker.is_open:
            await process.thing(1)
            await asyncio.sleep(0.01)
    loads = process.truth.loads
    assert await process.thing(1) == "1 in version 0"
    assert process.truth.loads == loads
    await guard_of(chaos).aclose()
    await chaos.aclose()


async def test_a_lease_that_was_evicted_leaves_its_value_unstored(inner: EntryStorage) -> None:
    chaos = ChaosStorage(inner)
    process = Process(chaos, Truth())
    chaos.next("commit", EvictLeases())
    assert [await process.thing(1), await process.thing(1)] == ["1 in version 0"] * 2
    assert process.truth.loads == 2
    assert process.thing.stats.fenced == 1


async def test_a_storage_that_was_flushed_is_filled_again(inner: EntryStorage) -> None:
    chaos = ChaosStorage(inner)
    process = Process(chaos, Truth())
    await process.thing(1)
    chaos.next("fetch", None, Flush())
    for _ in range(3):
        assert await process.thing(1) == "1 in version 0"
    assert process.truth.loads == 2


# -- G5b: invalidations do not ---------------------------------------------------------------------


@pytest.mark.parametrize("fault", OF_WRITES, ids=repr)
async def test_an_invalidation_is_tried_again(inner: EntryStorage, fault: Fault) -> None:
    chaos = ChaosStorage(inner, timeout=0.05)
    process = Process(chaos, Truth())
    await process.thing(1)
    process.truth.version = 1
    chaos.next("discard", fault)
    await process.thing.invalidate(1)
    assert await process.thing(1) == "1 in version 1"
    await chaos.aclose()


@pytest.mark.parametrize("is_put", [False, True])
@pytest.mark.parametrize("after", [False, True])
async def test_an_invalidation_that_never_succeeds_says_so_and_is_caught_up_with(
    monkeypatch: pytest.MonkeyPatch, inner: EntryStorage, is_put: bool, after: bool
) -> None:
    monkeypatch.setattr("gecaso.guard.SETTLING", 0.02)
    chaos = ChaosStorage(inner)
    process = Process(chaos, Truth(), invalidate_timeout=0.1)
    await process.thing(1)
    process.truth.version = 1
    chaos.faults = Faults(raise_after=1.0) if after else Faults(raise_before=1.0)
    writing = process.thing.put("put", 1) if is_put else process.thing.invalidate(1)
    with pytest.raises(InvalidationFailed) as caught:
        await writing
    assert caught.value.keys == (process.thing.key(1),)
    assert await process.thing(1) == "1 in version 1"
    chaos.heal()
    guard = guard_of(chaos)
    async with patience():
        while guard.pending:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert await process.thing(1) == "1 in version 1"
    await chaos.aclose()


# -- G2: no stale fill, whatever happens -----------------------------------------------------------


@dataclass
class Play:
    """Processes over one storage, two readers and a writer in each."""

    seed: int
    faults: Faults
    processes: int = 2
    chance: random.Random = field(init=False)
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.history = History()
        self.source = {key: f"{key}, version 0" for key in range(3)}
        below = MemoryStorage()
        self.storages = [
            ChaosStorage(below, self.faults, seed=1000 * number + self.seed, timeout=0.02)
            for number in range(self.processes)
        ]

    async def pause(self) -> None:
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)

    async def run(self) -> History:
        async with patience():
            await asyncio.gather(*[self.process(storage) for storage in self.storages])
        for storage in self.storages:
            storage.heal()
            await guard_of(storage).aclose()
            await storage.aclose()
        return self.history

    async def process(self, storage: ChaosStorage) -> None:
        history, chance = self.history, self.chance
        cache = Cache(storage, ttl=60, invalidate_timeout=0.06, lease_seconds=0.2)

        async def load(key: int) -> str:
            value = self.source[key]
            await self.pause()
            return f"{value}, load {len(history)}"

        thing: Any = history.watch(
            cache.cached(key="thing:{key}")(history.loading(load, key=int)), key=int
        )

        async def reader() -> None:
            for _ in range(20):
                await thing(chance.randrange(3))
                await self.pause()

        async def writer() -> None:
            for number in range(6):
                key = chance.randrange(3)
                self.source[key] = f"{key}, version {number} of {self.storages.index(storage)}"
                try:
                    if chance.random() < 0.2:
                        await thing.put(f"put {len(history)}", key)
                    else:
                        await thing.invalidate(key)
                except InvalidationFailed:
                    pass
                await self.pause()

        await asyncio.gather(reader(), reader(), writer())


MIX = Faults(
    raise_before=0.03,
    raise_after=0.03,
    delay=(0.1, 0.002),
    hang=0.01,
    evict=0.02,
    evict_leases=0.03,
    flush=0.005,
    disconnect=(0.01, 4),
    lose=0.1,
    reorder=0.1,
    repeat=0.1,
)


# A process whose lookup or lease fails loads without a lease, and whoever joins that load gets its
# value: it is cut off from the invalidations of others. Two processes keep those operations.
APART = replace(MIX, disconnect=(0.0, 0), on=OPERATIONS - {"fetch", "lease"})


@pytest.mark.parametrize(("processes", "faults"), [(1, MIX), (2, APART)])
async def test_whatever_goes_wrong_no_read_is_stale(
    monkeypatch: pytest.MonkeyPatch, processes: int, faults: Faults
) -> None:
    monkeypatch.setattr("gecaso.waiting.LOOK_ANYWAY", 0.05)
    injected = Counter[str]()
    reads = 0
    for seed in range(12):
        play = Play(seed, faults, processes)
        history = await play.run()
        history.check()
        reads += len([one for one in history.operations if one.kind == "read"])
        injected += sum((storage.injected for storage in play.storages), Counter[str]())
    assert reads == 12 * 40 * processes
    assert injected.keys() >= {"raise_before", "raise_after", "delay", "hang", "evict"}
    assert injected.keys() >= {"evict_leases", "flush"}


async def test_a_fail_over_that_loses_an_invalidation_shows() -> None:
    below = MemoryStorage()
    chaos = ChaosStorage(below, remember=10)
    history = History()
    process = Process(chaos, Truth())
    thing = history.watch(process.thing)
    with history.load(thing.key(1)) as load:
        load.returns(await process.thing(1))
    process.truth.version = 1
    await thing.invalidate(1)
    chaos.next("fetch", FailOver(1))
    assert await thing(1) == "1 in version 0"
    with pytest.raises(StaleRead):
        history.check()


async def test_without_the_guard_for_invalidations_a_stale_read_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plays do find something where there is something to find."""

    async def invalidate(self: Any, keys: Any, apply: Any, **options: Any) -> None:
        try:
            await apply()
        except StorageError:
            pass  # as if it had been done

    monkeypatch.setattr("gecaso.guard.Guard.invalidate", invalidate)
    stale = 0
    for seed in range(6):
        play = Play(seed, Faults(raise_before=0.2, on=("discard",)))
        try:
            (await play.run()).check()
        except StaleRead:
            stale += 1
    assert stale > 1


# -- explored --------------------------------------------------------------------------------------


def test_explore_searches_for_the_fault_that_breaks_something() -> None:
    async def scenario() -> None:
        faults = Faults(raise_after=0.5, hang=0.5)
        chaos = ChaosStorage(MemoryStorage(), faults, choose=choose, timeout=600)
        process = Process(chaos, Truth())
        await process.thing(1)
        assert chaos.injected != {"raise_after": 1, "hang": 1}, "one of each"
        await guard_of(chaos).aclose()

    started = time.monotonic()
    with pytest.raises(ScheduleFailed, match="one of each"):
        explore(scenario)
    assert time.monotonic() - started < 60, "what hangs for ten minutes takes no time"
