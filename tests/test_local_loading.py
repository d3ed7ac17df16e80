"""Loads over a storage in this process: what crosses between the look, the lease and the commit."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from gecaso import Entry, MemoryStorage, RecursiveLoad, cached
from gecaso.entry import new_token
from tests.doubles import FakeClock
from tests.scenes import Process, Truth, patience


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


async def looked(process: Process) -> asyncio.Task[str]:
    """Call: when this returns the caller has looked in vain, and its flight has no lease yet."""
    call = process.call()
    await asyncio.sleep(0)
    assert process.thing.stats.misses == 1
    assert process.truth.loads == 0
    return call


async def test_what_is_stored_between_the_look_and_the_lease_is_served(
    storage: MemoryStorage,
) -> None:
    process = Process(storage, Truth())
    call = await looked(process)
    storage.store_now({process.thing.key(1): storage.new_entry("stored meanwhile", 60)})
    assert await call == "stored meanwhile"
    assert process.truth.loads == 0
    assert len(storage.leases) == 0


async def test_who_finds_a_mark_after_the_lease_loads_for_himself(storage: MemoryStorage) -> None:
    truth = Truth()
    process = Process(storage, truth)
    calls = [await looked(process), process.call()]
    now = storage.now()
    mark = Entry(None, now, -inf, now + 60, kind="uncacheable", version=new_token())
    storage.store_now({process.thing.key(1): mark})
    gate = truth.close_gate()
    await truth.asked(2)  # side by side: nobody waits for another's load
    gate.set()
    assert await asyncio.gather(*calls) == ["1 in version 0"] * 2


async def test_the_error_of_a_load_that_was_fenced_is_not_for_who_came_after_that(
    storage: MemoryStorage,
) -> None:
    truth = Truth()
    process = Process(storage, truth)
    truth.error = LookupError("as it was before")
    gate = truth.close_gate()
    early = process.call()
    await truth.asked(1)
    storage.discard_now([process.thing.key(1)])  # by who knows nothing of the flight
    truth.error = None
    late = process.call()
    await process.joined(1)
    gate.set()
    with pytest.raises(LookupError, match="as it was before"):
        await early
    assert await late == "1 in version 0"
    assert truth.loads == 2


async def test_a_load_cancelled_from_outside_is_started_over_for_those_who_wait(
    storage: MemoryStorage,
) -> None:
    truth = Truth()
    process = Process(storage, truth)
    gate = truth.close_gate()
    others = asyncio.all_tasks()
    calls = [process.call() for _ in range(3)]
    await truth.asked(1)
    (flying,) = asyncio.all_tasks() - others - set(calls)
    flying.cancel()
    await truth.asked(2)
    gate.set()
    async with patience():
        assert await asyncio.gather(*calls) == ["1 in version 0"] * 3
    assert truth.cancelled == 1


async def test_an_old_value_does_not_hide_a_load_that_waits_for_itself() -> None:
    clock = FakeClock()
    is_circular = False

    @cached(MemoryStorage(clock=clock), ttl=1, stale_if_error=60)
    async def function(x: int) -> str:
        return await function(x) if is_circular else "old"

    assert await function(1) == "old"
    clock.advance(2)
    is_circular = True
    with pytest.raises(RecursiveLoad):
        await function(1)
